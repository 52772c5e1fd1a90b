//! Exclusive locks on files.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Opens a file, creates it if it is absent, and locks it until the handle is dropped or the
/// process ends. Returns `None` if another process holds the lock. The content of the file is kept.
///
/// # Errors
/// Returns the error of the file system.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    try_lock(path, true)
}

/// Locks a file like [`lock`], but does not create it.
///
/// # Errors
/// Returns the error of the file system, of the kind `NotFound` if the file is absent.
pub(crate) fn lock_existing(path: &Path) -> io::Result<Option<File>> {
    try_lock(path, false)
}

/// Returns true if another process has locked the file; an absent file is not locked.
///
/// # Errors
/// Returns the error of the file system.
pub(crate) fn is_locked(path: &Path) -> io::Result<bool> {
    match try_lock(path, false) {
        Ok(file) => Ok(file.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn try_lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    // NFS implements locks as byte ranges, which require a handle for writing.
    let file = OpenOptions::new()
        .create(create)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
