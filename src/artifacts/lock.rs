//! The lock of a folder into which metrics are written.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::{atomic, locking};

/// Name of the lock file. The file is never removed: if it were, two processes could hold locks
/// on two different files of this name.
const NAME: &str = ".evaluation.lock";

/// The right to write metrics into a folder, and to remove unfinished files that another process
/// left there; held until it is dropped or the process ends.
pub(crate) struct MetricsLock {
    _file: File,
}

impl MetricsLock {
    /// Takes the lock of the folder `root`; `None` when another process holds it.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub(crate) fn acquire(root: &Path) -> io::Result<Option<Self>> {
        let file = locking::lock(&root.join(NAME))?;
        if let Some(file) = &file {
            // It may be new.
            atomic::set_time(file)?;
            atomic::set_time_of(root)?;
        }
        Ok(file.map(|file| Self { _file: file }))
    }

    /// Returns whether another process holds the lock.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub(crate) fn is_held(root: &Path) -> io::Result<bool> {
        locking::is_locked(&root.join(NAME))
    }
}
