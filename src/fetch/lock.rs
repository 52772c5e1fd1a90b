//! Locks, so that only one process fetches an item at a time.

use std::fs::File;
use std::path::Path;

use super::error::FetchError;
use super::record::hidden;
use crate::locking;

/// Lock of a path, held while its item is fetched and unpacked. The lock file is empty, hidden and
/// never removed: another process could lock a removed file while a third one creates a new file.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Locks `path`; creates its folder if necessary.
    ///
    /// # Errors
    /// [`FetchError::Busy`] if another process holds the lock.
    pub(super) fn take(path: &Path) -> Result<Self, FetchError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(FetchError::io(folder))?;
        }
        let lock = hidden(path, ".lock");
        match locking::lock(&lock).map_err(FetchError::io(&lock))? {
            Some(file) => Ok(Self(file)),
            None => Err(FetchError::Busy {
                path: path.to_owned(),
                lock,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cannot_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.pt");
        let first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(
            error.contains("another process") && error.contains("a.pt"),
            "{error}"
        );
        assert!(Lock::take(&path.with_file_name("b.pt")).is_ok());
        drop(first);
        assert!(Lock::take(&path).is_ok());
    }
}
