//! Errors of fetching and verifying.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::hub::FilesError;
use crate::net::{EnvironmentError, Offline, TransferError};

/// An item could not be fetched or verified. Received bytes are kept, and the same command resumes.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The catalogue has no item of this name.
    #[error("`{name}` is not in the catalogue: expected one of {}", known.join(", "))]
    Unknown {
        /// Requested name.
        name: String,
        /// Names in the catalogue.
        known: Vec<String>,
    },
    /// A catalogue is invalid.
    #[error("{place}: {message}")]
    Catalogue {
        /// Path or description of the catalogue.
        place: String,
        /// Description of the fault.
        message: String,
    },
    /// An environment variable of the network has an unusable value.
    #[error(transparent)]
    HubEnvironment(#[from] EnvironmentError),
    /// A file is missing, and downloads are disabled.
    #[error("{} is missing, and {by} disables downloads", path.display())]
    Offline {
        /// Missing file or folder.
        path: PathBuf,
        /// Setting that disables downloads.
        by: Offline,
    },
    /// Another process is fetching the same item.
    #[error(
        "another process is fetching {}: wait until it has finished (it holds {})",
        path.display(),
        lock.display()
    )]
    Busy {
        /// Destination of the item.
        path: PathBuf,
        /// Lock file.
        lock: PathBuf,
    },
    /// A download failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The checksum of a downloaded file is wrong. The file has been removed.
    #[error(
        "the file from {url} has the SHA-256 {found}, expected {expected}: it has been removed"
    )]
    Checksum {
        /// The address.
        url: String,
        /// SHA-256 in the catalogue.
        expected: String,
        /// SHA-256 of the file.
        found: String,
    },
    /// The destination holds something else.
    #[error("{} {message}: move it away, then run the same command again", path.display())]
    Occupied {
        /// The file or folder.
        path: PathBuf,
        /// Description of the fault.
        message: String,
    },
    /// An archive is truncated.
    #[error(
        "{} ends too early: the archive is truncated; run the same command again to download the rest",
        path.display()
    )]
    Truncated {
        /// The archive.
        path: PathBuf,
    },
    /// An archive is damaged, hostile or has unexpected content.
    #[error("{}: {message}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Description of the fault.
        message: String,
    },
    /// The user has to download the archive.
    #[error(
        "{name} requires a login at its vendor, so you have to download it:\n  1. open {page}\n  2. \
         download the archive and put it at {}\n  3. run `dpsyn fetch {name}` again: it checks the \
         archive and unpacks it",
        to.display()
    )]
    Manual {
        /// The item.
        name: String,
        /// Page with the download.
        page: String,
        /// Path at which to save the archive.
        to: PathBuf,
    },
    /// A configuration names a path that neither exists nor is in the catalogue.
    #[error(
        "{} is missing, and no item of the catalogue provides it: see `dpsyn fetch --list`",
        path.display()
    )]
    Nowhere {
        /// Missing file or folder.
        path: PathBuf,
    },
    /// Some items failed; each failure has been printed.
    #[error("{failed} of {asked} could not be fetched")]
    Some {
        /// Number of failed items.
        failed: usize,
        /// Number of requested items.
        asked: usize,
    },
    /// Some files are damaged or missing; each has been printed.
    #[error("{count} of what was checked {}", if *count == 1 { "is damaged or missing" } else { "are damaged or missing" })]
    Damaged {
        /// Number of files and folders.
        count: usize,
    },
    /// A file of a repository of the hub failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
}

impl ExitCode for FetchError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Unknown { .. } | Self::Catalogue { .. } => exit_code::USAGE,
            _ => exit_code::FETCH,
        }
    }
}

impl FetchError {
    /// For `map_err`: a [`FetchError::Io`] about `path`.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            cause: source,
        }
    }

    /// For `map_err`: a [`FetchError::Archive`] about `path`.
    pub(super) fn archive(path: &Path, message: impl Into<String>) -> Self {
        Self::Archive {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
