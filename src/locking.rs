//! Files that one process at a time may hold.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Opens a file, making it if it is absent, and locks it until it is dropped or the process ends; `None` when another
/// process has it. What is in it stays.
///
/// # Errors
/// Whatever the file system reports.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    try_lock(path, true)
}

/// Whether another process has locked a file. One that is absent nobody has.
///
/// # Errors
/// Whatever the file system reports.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    match try_lock(path, false) {
        Ok(file) => Ok(file.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn try_lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    // For writing, which a lock needs where the network file system makes it of byte ranges (NFS).
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
