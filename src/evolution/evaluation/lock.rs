//! One process at a time writes figures into a folder.

use std::fs::File;
use std::path::Path;

use crate::evolution::EvolutionError;
use crate::locking;

/// The file that is locked. It stays, for removing it would let two processes lock two files of this name.
const NAME: &str = ".evaluation.lock";

/// The right to write figures into a folder, and to remove unfinished files that another process left there;
/// until it is dropped or the process ends.
pub(in crate::evolution) struct FiguresLock {
    _file: File,
}

impl FiguresLock {
    /// # Errors
    /// [`EvolutionError::State`] when another process has it.
    pub(super) fn take(root: &Path) -> Result<Self, EvolutionError> {
        let path = root.join(NAME);
        match locking::lock(&path).map_err(EvolutionError::io(&path))? {
            Some(file) => Ok(Self { _file: file }),
            None => Err(EvolutionError::State(format!(
                "another process is writing figures into {}: wait for it, or choose another folder",
                root.display()
            ))),
        }
    }

    /// Whether another process has it.
    ///
    /// # Errors
    /// [`EvolutionError::Io`].
    pub(in crate::evolution) fn is_taken(root: &Path) -> Result<bool, EvolutionError> {
        let path = root.join(NAME);
        locking::is_locked(&path).map_err(EvolutionError::io(&path))
    }
}
