//! One process at a time writes figures into a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::evolution::EvolutionError;

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
        let io = EvolutionError::io(&path);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(&io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(EvolutionError::State(format!(
                "another process is writing figures into {}: wait for it, or choose another folder",
                root.display()
            ))),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Whether another process has it.
    ///
    /// # Errors
    /// [`EvolutionError::Io`].
    pub(in crate::evolution) fn is_taken(root: &Path) -> Result<bool, EvolutionError> {
        let path = root.join(NAME);
        let io = EvolutionError::io(&path);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}
