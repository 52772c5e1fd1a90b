//! Errors of the network environment and of downloads.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An environment variable that configures the network has an unusable value.
#[derive(Debug, Error)]
#[error("environment variable {variable} {problem}")]
pub struct EnvironmentError {
    /// Name of the variable.
    pub variable: String,
    /// Description of the fault. The value itself may hold a password and is not included.
    pub problem: String,
}

/// A download failed. Bytes received so far are kept.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The server refused the request with an error that a retry does not change.
    #[error("{url}: {message}")]
    Refused {
        /// Address of the file.
        url: String,
        /// HTTP status, if the refusal came with one.
        status: Option<u16>,
        /// Status and message of the server.
        message: String,
    },
    /// All attempts failed with retryable errors.
    #[error(
        "{url}: {attempts} attempts failed, the last one with: {message}; run the same command again \
         to resume the download"
    )]
    GaveUp {
        /// Address of the file.
        url: String,
        /// Number of consecutive failures.
        attempts: u32,
        /// Last failure.
        message: String,
    },
    /// The file on the server has another length than expected.
    #[error("{url} has {found} bytes, expected {expected}: it is a different file")]
    Length {
        /// Address of the file.
        url: String,
        /// Expected length in bytes.
        expected: u64,
        /// Length on the server in bytes.
        found: u64,
    },
    /// A file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl TransferError {
    /// For `map_err`: a [`TransferError::Io`] about `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            cause: source,
        }
    }

    /// Creates a [`TransferError::Refused`] without an HTTP status.
    pub(crate) fn refused(url: &str, message: impl Into<String>) -> Self {
        Self::Refused {
            url: url.to_owned(),
            status: None,
            message: message.into(),
        }
    }
}
