//! [`ConfigError`]: the reasons for which a configuration is refused.

use std::io;
use std::path::PathBuf;

use crate::exit_code::{self, ExitCode};
use thiserror::Error;

/// The reason why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read the configuration {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        cause: io::Error,
    },
    /// The text is not TOML, a key is unknown or missing, or a value has the wrong type.
    #[error("{place}: {message}")]
    Text {
        /// The file, line and column, and the text of the line.
        place: String,
        /// The fault, and the expected value.
        message: String,
    },
    /// A value has the right type, but is out of range or contradicts another value.
    #[error("{place}: {key}: {message}")]
    Value {
        /// The file, line and column, or the file alone if the value is a default.
        place: String,
        /// The path of the key, such as `evolution.threshold`.
        key: String,
        /// The fault, and the expected value.
        message: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {text}: expected key=value, such as evolution.threshold=4")]
    Override {
        /// The given text.
        text: String,
    },
}

impl ExitCode for ConfigError {
    fn exit_code(&self) -> u8 {
        exit_code::USAGE
    }
}
