//! Errors of reading and embedding private images. No message tells what an image shows.

use std::path::Path;

use thiserror::Error;

use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::ImagesError;
use crate::metrics::MetricsError;
use crate::privacy::PrivacyError;
use crate::progress::{Cancelled, PRIVATE_MARK};

/// The private images could not be read or embedded.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// The images cannot be read; the message tells nothing of a single image.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// An image cannot be read, or its class is not declared. The message names the file, so it is
    /// marked, and it reaches the owner's terminal and the private log only.
    #[error("{PRIVATE_MARK} {0}")]
    OfAnImage(ImagesError),
    /// The embedder failed.
    #[error("the embedder failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// The features for the metrics could not be computed.
    #[error("evaluation: {0}")]
    Metrics(MetricsError),
    /// The images changed, or the private folder cannot be used.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// The user requested to stop.
    #[error("interrupted")]
    Interrupted,
}

impl DatasetError {
    /// Returns the error of reading private images at `path`: marked, if it tells something about
    /// single images.
    pub(super) fn of_source(error: ImagesError, path: &Path) -> Self {
        match error.tells_of_images(path) {
            true => Self::OfAnImage(error),
            false => Self::Images(error),
        }
    }
}

impl From<Cancelled> for DatasetError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<MetricsError> for DatasetError {
    fn from(error: MetricsError) -> Self {
        match error {
            MetricsError::Cancelled(_) => Self::Interrupted,
            other => Self::Metrics(other),
        }
    }
}

impl ExitCode for DatasetError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Images(error) | Self::OfAnImage(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Metrics(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}
