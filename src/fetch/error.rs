//! Errors of downloads and of checks of downloaded files.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::hub::FilesError;
use crate::net::{EnvironmentError, Offline, TransferError};

/// Error of a download, or of a check of downloaded files. Received data are kept, and the same
/// command goes on from it.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is nothing of this name.
    #[error("`{name}` is not in the catalogue: expected one of {}", known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// The available names.
        known: Vec<String>,
    },
    /// A catalogue is wrong.
    #[error("{place}: {message}")]
    Catalogue {
        /// Which.
        place: String,
        /// Description of the fault.
        message: String,
    },
    /// An environment variable of the network is unusable.
    #[error(transparent)]
    HubEnvironment(#[from] EnvironmentError),
    /// Something is missing, and nobody may be asked.
    #[error("{} is not here, and {by} forbids to download it", path.display())]
    Offline {
        /// The missing item.
        path: PathBuf,
        /// The option or variable that disables the network.
        by: Offline,
    },
    /// Another process is at it.
    #[error(
        "another process is fetching {}: wait until it is done (it holds {})",
        path.display(),
        lock.display()
    )]
    Busy {
        /// The item that the process downloads.
        path: PathBuf,
        /// Its lock.
        lock: PathBuf,
    },
    /// Not all bytes of a file could be had.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The downloaded file does not match its description. It has been removed.
    #[error(
        "{url} gave a file with the SHA-256 {found} where {expected} was expected: it has been removed"
    )]
    Checksum {
        /// The address.
        url: String,
        /// From the catalogue.
        expected: String,
        /// Of what came.
        found: String,
    },
    /// Something else is where the file or folder should be.
    #[error("{} {message}: move it away, and the same command gets the right one", path.display())]
    Occupied {
        /// The file or folder.
        path: PathBuf,
        /// Description of the fault.
        message: String,
    },
    /// An archive ends too early.
    #[error(
        "{} ends too early: it is a truncated archive; the same command gets the rest",
        path.display()
    )]
    Truncated {
        /// The archive.
        path: PathBuf,
    },
    /// An archive is damaged, or not what it should be, or tries something.
    #[error("{}: {message}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Description of the fault.
        message: String,
    },
    /// The user has to download it.
    #[error(
        "{name} wants a login at its vendor, so you have to download it:\n  1. open {page}\n  2. \
         download the archive and put it at {}\n  3. run `dpsyn fetch {name}` again: it checks the \
         archive and unpacks it",
        to.display()
    )]
    Manual {
        /// The item.
        name: String,
        /// The page to visit.
        page: String,
        /// Path for the archive.
        to: PathBuf,
    },
    /// A configuration names something that is neither here nor in the catalogue.
    #[error(
        "{} is not here, and the catalogue does not have it: see `dpsyn fetch --list`",
        path.display()
    )]
    Nowhere {
        /// The missing item.
        path: PathBuf,
    },
    /// Some of what was asked for could not be had; each has been told.
    #[error("{failed} of {asked} could not be fetched")]
    Some {
        /// Number of failures.
        failed: usize,
        /// Number of requested items.
        asked: usize,
    },
    /// Something is not what it was; each has been told.
    #[error("{count} of what was checked {}", if *count == 1 { "is damaged or missing" } else { "are damaged or missing" })]
    Damaged {
        /// Number of bytes.
        count: usize,
    },
    /// Files of the hub.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
            source,
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
