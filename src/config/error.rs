//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use crate::exit_code::{self, ExitCode};
use thiserror::Error;

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read config {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not TOML, a key is unknown or missing, or a value has the wrong type.
    #[error("{place}: {message}")]
    Text {
        /// File, line, column, and the line itself.
        place: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A value is of the right type but out of range, or does not fit another.
    #[error("{place}: {key}: {message}")]
    Value {
        /// File, line and column, or the file alone where a default is at fault.
        place: String,
        /// The key's path, such as `evolution.threshold`.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A `--set` that is no `key=value`.
    #[error("--set {text}: expected key=value, such as evolution.threshold=4")]
    Override {
        /// What was given.
        text: String,
    },
}

impl ExitCode for ConfigError {
    fn exit_code(&self) -> u8 {
        exit_code::USAGE
    }
}
