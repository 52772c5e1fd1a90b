//! One process at a time.

use std::fs::File;
use std::path::Path;

use super::error::FetchError;
use super::record::hidden;
use crate::locking;

/// Held while a file is fetched and what becomes of it is made. The lock itself is an empty hidden
/// file, which stays: taking it away could not be told apart from another process' taking it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Takes the lock of `path`, whose folder is made if need be.
    ///
    /// # Errors
    /// [`FetchError::Busy`] when somebody holds it.
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
