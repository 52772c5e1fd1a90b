//! [`PrivacyError`]: every failure of the privacy core.

use std::io;
use std::path::{Path, PathBuf};

use crate::exit_code::{self, ExitCode};
use crate::sections::InvalidKey;
use thiserror::Error;

/// The reason why the privacy core refused or failed. No message contains anything that is derived
/// from private images.
#[derive(Debug, Error)]
pub enum PrivacyError {
    /// A configured value is out of range.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// The operating system supplied no random bytes.
    #[error("the operating system's random generator failed: {cause}")]
    Randomness {
        /// The error of the operating system.
        cause: getrandom::Error,
    },
    /// A file operation failed.
    #[error("failed to {action} {}: {cause}", path.display())]
    Io {
        /// The attempted action, as a verb: `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the file system.
        cause: io::Error,
    },
    /// The private folder is not a folder of mode 0700.
    #[error("private folder {}: {message}", path.display())]
    PrivateFolder {
        /// The folder.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// A file in the private folder cannot be read back. The message does not quote its content.
    #[error(
        "{} is damaged or has another format ({kind}): delete it, and dpsyn creates it again",
        path.display()
    )]
    PrivateFile {
        /// The file.
        path: PathBuf,
        /// The kind of failure.
        kind: io::ErrorKind,
    },
    /// Another process holds the ledger.
    #[error(
        "{} is in use by another process: only one run at a time may write to a result folder",
        path.display()
    )]
    LedgerLocked {
        /// The ledger.
        path: PathBuf,
    },
    /// A line of the ledger differs from the one that this program writes at that position.
    #[error("{}, line {line}: {message}", path.display())]
    LedgerLine {
        /// The ledger.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The fault.
        message: String,
    },
    /// The ledger belongs to a run with other terms.
    #[error(
        "{}: `{key}` was {ledger} at the start of the run and is {present} now: \
         restore the value to resume the run, or use another output folder",
        path.display()
    )]
    LedgerTerms {
        /// The ledger.
        path: PathBuf,
        /// The key of the header with different values.
        key: String,
        /// The value in the ledger, as JSON.
        ledger: String,
        /// The value of the present command, as JSON.
        present: String,
    },
    /// A ledger of a version that drew its noise in another way.
    #[error(
        "{} was written by an earlier version of dpsyn, whose noise this version cannot continue: \
         finish the run with that version, or start a new run in another output folder, whose \
         `evolution.initial_samples` may be the samples of this one",
        path.display()
    )]
    LedgerVersion {
        /// The ledger.
        path: PathBuf,
    },
    /// A charge or a release out of order.
    #[error("iteration {iteration}: {message}")]
    Order {
        /// The requested iteration.
        iteration: u32,
        /// The reason for the refusal.
        message: String,
    },
    /// An earlier write to the ledger failed, so its content on disk is unknown.
    #[error(
        "{}: an earlier write failed, so its content on disk is unknown: run the command again",
        path.display()
    )]
    LedgerBroken {
        /// The ledger.
        path: PathBuf,
    },
    /// The budget of the data set refuses, or its file cannot be used.
    #[error("the privacy budget {} {message}", path.display())]
    Budget {
        /// The file.
        path: PathBuf,
        /// The reason, and how to proceed.
        message: String,
    },
    /// The private data differ from those at the start of the run.
    #[error("{message}")]
    PrivateData {
        /// The mismatch, and how to proceed.
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
            | Self::LedgerVersion { .. }
            | Self::Order { .. }
            | Self::Budget { .. }
            | Self::LedgerBroken { .. }
            | Self::PrivateData { .. } => exit_code::PRIVACY,
        }
    }
}

impl PrivacyError {
    /// Returns a [`PrivacyError::Config`].
    pub(super) fn config(key: &'static str, message: impl Into<String>) -> Self {
        Self::Config(InvalidKey::new(key, message))
    }

    /// Returns a closure for `map_err` that creates a [`PrivacyError::Io`] about `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            cause: source,
        }
    }
}
