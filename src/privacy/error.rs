//! Everything that can go wrong in this module.

use std::io;
use std::path::{Path, PathBuf};

use crate::exit_code::{self, ExitCode};
use thiserror::Error;

/// Why the privacy machinery refused or failed. No message contains anything derived from private
/// images.
#[derive(Debug, Error)]
pub enum PrivacyError {
    /// A configured value is out of range; names the key.
    #[error("{key}: {message}")]
    Config {
        /// The configuration key, as in `delta`.
        key: &'static str,
        /// What is wrong and what was expected.
        message: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system's random generator failed: {source}")]
    Randomness {
        /// What it reported.
        source: getrandom::Error,
    },
    /// A file operation failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the file system reported.
        source: io::Error,
    },
    /// The private folder is not what it has to be.
    #[error("private folder {}: {message}", path.display())]
    PrivateFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file in the private folder cannot be read back. Says nothing about its content.
    #[error(
        "{} is damaged or in another format ({kind}): delete it to have it made again",
        path.display()
    )]
    PrivateFile {
        /// The file.
        path: PathBuf,
        /// The kind of failure.
        kind: io::ErrorKind,
    },
    /// Another process works in the same folder.
    #[error("{} is in use by another process: only one run may write to a folder", path.display())]
    LedgerLocked {
        /// The ledger.
        path: PathBuf,
    },
    /// A line of the ledger is not what this program would have written there.
    #[error("{}, line {line}: {message}", path.display())]
    LedgerLine {
        /// The ledger.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The ledger belongs to a run with other parameters.
    #[error(
        "{}: `{key}` is {ledger} in the ledger and {present} now: \
         a run continues only under the terms that it began with; use another output folder",
        path.display()
    )]
    LedgerTerms {
        /// The ledger.
        path: PathBuf,
        /// The header's key that differs.
        key: String,
        /// Its value in the ledger.
        ledger: String,
        /// Its value in the present run.
        present: String,
    },
    /// A charge or a release out of turn.
    #[error("iteration {iteration}: {message}")]
    Order {
        /// The iteration asked for.
        iteration: u32,
        /// Why not.
        message: String,
    },
    /// An earlier write to the ledger failed, so its state on disk is unknown.
    #[error(
        "{}: an earlier write failed, so what is on disk is unknown: run the command again",
        path.display()
    )]
    LedgerBroken {
        /// The ledger.
        path: PathBuf,
    },
    /// The private data are not those that the run began with.
    #[error("{message}")]
    PrivateData {
        /// What does not match.
        message: String,
    },
}

impl ExitCode for PrivacyError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => exit_code::USAGE,
            Self::Io { .. } | Self::PrivateFolder { .. } => exit_code::OUTPUT,
            Self::Randomness { .. }
            | Self::PrivateFile { .. }
            | Self::LedgerLocked { .. }
            | Self::LedgerLine { .. }
            | Self::LedgerTerms { .. }
            | Self::Order { .. }
            | Self::LedgerBroken { .. }
            | Self::PrivateData { .. } => exit_code::PRIVACY,
        }
    }
}

impl PrivacyError {
    /// A configuration error.
    pub(super) fn config(key: &'static str, message: impl Into<String>) -> Self {
        Self::Config {
            key,
            message: message.into(),
        }
    }

    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
