//! Errors of reading and caching public images.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::images::{BatchError, ImagesError};
use crate::progress::Cancelled;

/// Public images could not be read or kept.
#[derive(Debug, Error)]
pub enum PublicImagesError {
    /// The images cannot be read.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// A folder or file of the cache cannot be used.
    #[error("cannot use the cache {}: {cause}", path.display())]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// Cause.
        cause: io::Error,
    },
    /// The user has no folder for caches.
    #[error(
        "there is no folder for the cache, because neither XDG_CACHE_HOME nor a home folder is \
         known: expected the key `cache` with a folder"
    )]
    NoCache,
    /// A file of the cache changed after it was checked.
    #[error(
        "{} changed while it was used: do not change the cache during a run; the next one makes it \
         again",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The images changed while they were read.
    #[error(
        "the images of {} changed while they were read: do not change them during a run",
        path.display()
    )]
    ImagesChanged {
        /// The source.
        path: PathBuf,
    },
    /// A batch could not be formed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl PublicImagesError {
    /// Returns a function that makes an error of the file system one about `path`.
    pub(super) fn cache(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Cache {
            path: path.clone(),
            cause,
        }
    }
}

impl ExitCode for PublicImagesError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Images(_) | Self::ImagesChanged { .. } | Self::Batch(_) => exit_code::DATA,
            Self::Cache { .. } | Self::NoCache | Self::Changed { .. } => exit_code::OUTPUT,
            Self::Cancelled(_) => exit_code::INTERRUPTED,
        }
    }
}
