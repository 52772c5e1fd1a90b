//! What can be wrong with the environment of the network, and with a download.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An environment variable of the network is unusable.
#[derive(Debug, Error)]
#[error("environment variable {variable} {problem}")]
pub struct EnvironmentError {
    /// The variable.
    pub variable: String,
    /// What is wrong with its value, which may hold a password and is not repeated.
    pub problem: String,
}

/// Why not all bytes of a file could be had. Those that arrived are kept.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The server said no, in a way that asking again does not change.
    #[error("{url}: {message}")]
    Refused {
        /// The address.
        url: String,
        /// The status, where it is one that says no.
        status: Option<u16>,
        /// Status and words of the server.
        message: String,
    },
    /// The server failed again and again.
    #[error(
        "{url}: failed {attempts} times, the last time: {message}; the same command goes on from \
         what is here"
    )]
    GaveUp {
        /// The address.
        url: String,
        /// Failures in a row.
        attempts: u32,
        /// The last one.
        message: String,
    },
    /// What the server has is of another length.
    #[error("{url} has {found} bytes where {expected} were expected: it is another file")]
    Length {
        /// The address.
        url: String,
        /// What was expected.
        expected: u64,
        /// What the server has.
        found: u64,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TransferError {
    /// For `map_err`: a [`TransferError::Io`] about `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// A [`TransferError::Refused`] that no status tells.
    pub(crate) fn refused(url: &str, message: impl Into<String>) -> Self {
        Self::Refused {
            url: url.to_owned(),
            status: None,
            message: message.into(),
        }
    }
}
