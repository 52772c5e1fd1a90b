//! The ledger of a run that will not go on, locked while the budget counts its charges.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::earlier::{EarlierRun, LEDGER};
use super::error::PrivacyError;
use crate::locking;

/// A run whose ledger is locked, so that it is not going on and cannot be resumed.
#[derive(Debug)]
pub struct AbandonedRun {
    _lock: File,
    run: EarlierRun,
}

impl AbandonedRun {
    /// Locks and reads the ledger in `folder`, whose private folder is `private`; `None` if there
    /// is none, or one without a header, whose run was not admitted to a budget.
    ///
    /// # Errors
    /// Returns [`PrivacyError::LedgerLocked`] if the run is going on, [`PrivacyError::LedgerLine`]
    /// if the file is not a ledger, [`PrivacyError::PrivateData`] if it lacks lines of its copy in
    /// the private folder, and [`PrivacyError::Io`].
    pub fn open(folder: &Path, private: &Path) -> Result<Option<Self>, PrivacyError> {
        let path = folder.join(LEDGER);
        let mut file = match locking::lock_existing(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(PrivacyError::LedgerLocked { path }),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
                _ => return Err(PrivacyError::io("open and lock", &path)(error)),
            },
        };
        // Through the locked handle: on Windows, no other one may read the file.
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(PrivacyError::io("read", &path))?;
        let Some((_, run)) = EarlierRun::of_ledger(&path, &text)? else {
            return Ok(None);
        };
        check_copy(&path, &text, &private.join(LEDGER))?;
        Ok(Some(Self { _lock: file, run }))
    }

    /// Returns the id of the run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run.run_id
    }

    /// Returns the number of its own charges, without those that it carries.
    #[must_use]
    pub fn charged(&self) -> u32 {
        self.run.releases
    }
}

/// Checks that the ledger begins with its copy, if there is one: the copy never has more lines than
/// the ledger that the run wrote.
fn check_copy(path: &Path, ledger: &str, copy: &Path) -> Result<(), PrivacyError> {
    match fs::read(copy) {
        Ok(bytes) if ledger.as_bytes().starts_with(&bytes) => Ok(()),
        Ok(_) => Err(PrivacyError::PrivateData {
            message: format!(
                "{} lacks lines of its copy {}, or differs from it, so the charges of the run are \
                 unknown: expected the ledger as the run left it",
                path.display(),
                copy.display()
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PrivacyError::io("read", copy)(error)),
    }
}
