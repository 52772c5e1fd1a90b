//! What can go wrong with a hosted model.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::net::{EnvironmentError, Offline};

/// Why a hosted model did not give what the run needs. Whatever it gave is on disk, and `--resume` uses it.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The key is missing or cannot be one.
    #[error(
        "the key: environment variable {variable} {problem} (api_key_env names another, \"\" sends none)"
    )]
    Key {
        /// The variable.
        variable: String,
        /// What is wrong with its value, which is not repeated.
        problem: &'static str,
    },
    /// An environment variable of the network is unusable.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The network may not be used.
    #[error("{host} cannot be asked, as {by} forbids it")]
    Offline {
        /// The server.
        host: String,
        /// What forbids it.
        by: Offline,
    },
    /// The server said no, in a way that asking again does not change.
    #[error("{host} refused {what}: {status}, {message}")]
    Refused {
        /// The server.
        host: String,
        /// What was asked.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The server's message, bounded and without the key.
        message: String,
    },
    /// The server failed again and again.
    #[error("{host} failed {attempts} times in a row at {what}, the last time: {message}")]
    GaveUp {
        /// The server.
        host: String,
        /// What was asked.
        what: &'static str,
        /// Failures.
        attempts: u32,
        /// The last one.
        message: String,
    },
    /// The server wants a longer wait than is allowed.
    #[error("{host} asks to wait {seconds:.0} s, longer than max_retry_after: {message}")]
    Wait {
        /// The server.
        host: String,
        /// How long.
        seconds: f64,
        /// The server's message.
        message: String,
    },
    /// The server answered, for money, with nothing that can be used, several times in a row.
    #[error(
        "{host} answered {attempts} times in a row without one usable image, the last time: {message}"
    )]
    Unusable {
        /// The server.
        host: String,
        /// Answers.
        attempts: u32,
        /// What was wrong with the last one.
        message: String,
    },
    /// A cap is reached; the call was not made.
    #[error(
        "{key} = {cap} is reached after {requests} requests and up to {images} paid images: raise it and --resume"
    )]
    Cap {
        /// The key.
        key: &'static str,
        /// Its value.
        cap: f64,
        /// Requests sent.
        requests: u64,
        /// Images that were or may have been paid.
        images: u64,
    },
    /// An image to be sent is larger than the protocol allows.
    #[error(
        "an image to vary takes {bytes} bytes as PNG where the protocol allows {limit}: a smaller image_size helps"
    )]
    Upload {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An image could not be encoded or resized.
    #[error("{0}")]
    Image(String),
    /// A file of the result folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal of requests is not one.
    #[error("{path}: line {line} is no record of a request")]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Another request failed, so this one was not made.
    #[error("stopped because another request failed")]
    Stopped,
    /// The generator was used before it was given a place for what it buys.
    #[error("a hosted model needs a place to keep what it buys")]
    Unattached,
}

impl ServiceError {
    /// For `map_err`: a [`ServiceError::Io`] about `path`.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
