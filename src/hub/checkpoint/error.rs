//! Errors of checkpoints.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A checkpoint is not usable.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
    /// The file is not a checkpoint, or a damaged one.
    #[error("{} is not a readable checkpoint: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Description of the fault.
        message: String,
    },
    /// The tensors of the file are not those of the model.
    #[error("{} does not fit the model: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Differing tensors.
        mismatch: Box<Mismatch>,
    },
    /// The model could not be built for another reason.
    #[error("failed to build the model from {}: {cause}", path.display())]
    Build {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: candle_core::Error,
    },
}

/// Differences between a checkpoint and a model. Displays the first few of each kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that the model needs and the file lacks.
    pub missing: Vec<String>,
    /// Tensors whose shapes differ.
    pub misshapen: Vec<Misshapen>,
    /// Tensors of the file that the model does not use.
    pub unused: Vec<String>,
}

/// A tensor that has another shape than the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// Its shape in the file.
    pub found: Vec<usize>,
    /// The shape that the model needs.
    pub expected: Vec<usize>,
}

impl Mismatch {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.misshapen.is_empty() && self.unused.is_empty()
    }
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {:?} in the file and {:?} in the model",
            self.name, self.found, self.expected
        )
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.misshapen.is_empty() {
            write!(f, "other shapes: ")?;
            few(f, &self.misshapen)?;
            separator = "; ";
        }
        if !self.missing.is_empty() {
            write!(f, "{separator}missing: ")?;
            few(f, &self.missing)?;
            separator = "; ";
        }
        if !self.unused.is_empty() {
            write!(f, "{separator}unknown to the model: ")?;
            few(f, &self.unused)?;
        }
        Ok(())
    }
}

fn few(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    const SHOWN: usize = 4;
    for (index, item) in items.iter().take(SHOWN).enumerate() {
        write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
    }
    match items.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => write!(f, " and {more} more"),
        _ => Ok(()),
    }
}
