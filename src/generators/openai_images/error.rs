//! Errors of a hosted model.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::net::{EnvironmentError, Offline};

/// An error of a hosted model. Images received before it are on disk, and `--resume` uses them.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The access key is missing or malformed.
    #[error(
        "the access key: environment variable {variable} {problem} (set model.api_key_env to another variable, or to \"\" for a server without keys)"
    )]
    Key {
        /// The environment variable.
        variable: String,
        /// The problem, without the value of the variable.
        problem: &'static str,
    },
    /// An environment variable of the network configuration is invalid.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The network is disabled.
    #[error("{host} cannot be reached: {by} disables the network")]
    Offline {
        /// The server.
        host: String,
        /// The option or variable that disables the network.
        by: Offline,
    },
    /// The server refused a request permanently: a repetition would be refused, too.
    #[error("{host} refused {what}: {status}, {message}")]
    Refused {
        /// The server.
        host: String,
        /// The requested operation.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The server's message, of bounded length and without the access key.
        message: String,
    },
    /// The server failed `max_attempts` times in a row.
    #[error("{host} failed {attempts} consecutive requests for {what}; last error: {message}")]
    GaveUp {
        /// The server.
        host: String,
        /// The requested operation.
        what: &'static str,
        /// Number of consecutive failures.
        attempts: u32,
        /// The last failure.
        message: String,
    },
    /// The server's `Retry-After` exceeds `max_retry_after`.
    #[error(
        "{host} requires a wait of {seconds:.0} s, longer than model.max_retry_after: {message}"
    )]
    Wait {
        /// The server.
        host: String,
        /// The requested wait in seconds.
        seconds: f64,
        /// The server's message.
        message: String,
    },
    /// Several consecutive responses, each of which may have been charged, had no usable image.
    #[error(
        "{host} returned {attempts} consecutive responses without a usable image; last problem: {message}"
    )]
    Unusable {
        /// The server.
        host: String,
        /// Number of consecutive responses.
        attempts: u32,
        /// The problem of the last response.
        message: String,
    },
    /// A spending limit is reached. The request was not sent.
    #[error(
        "{key} = {limit} is reached after {requests} requests and up to {images} paid images: increase it and use --resume"
    )]
    LimitReached {
        /// The configuration key of the limit.
        key: &'static str,
        /// Its value.
        limit: f64,
        /// Number of requests sent.
        requests: u64,
        /// Number of images that were or may have been paid for.
        images: u64,
    },
    /// An image to be sent is larger than the protocol allows.
    #[error(
        "an image to vary has {bytes} bytes as PNG, expected less than {limit}: reduce model.image_size"
    )]
    Upload {
        /// Size of the PNG in bytes.
        bytes: usize,
        /// The protocol's limit in bytes.
        limit: usize,
    },
    /// An image could not be encoded, decoded or resized.
    #[error("{0}")]
    Image(String),
    /// A file of the result folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The journal of requests has an invalid line.
    #[error("{}: line {line} is not a record of a request", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The request was not sent because another request failed.
    #[error("stopped because another request failed")]
    Stopped,
    /// Images were requested before [`begin_run`](crate::generators::Generator::begin_run).
    #[error("a hosted model needs a run folder before it can generate images")]
    NotBegun,
}

impl ServiceError {
    /// Returns a function for `map_err` that makes a [`ServiceError::Io`] about `path`.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
