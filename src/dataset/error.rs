//! Errors of reading and embedding private images. No message tells what an image shows.

use thiserror::Error;

use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::ImagesError;
use crate::metrics::MetricsError;
use crate::privacy::PrivacyError;
use crate::progress::Cancelled;

/// The private images could not be read or embedded.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// An image cannot be read; names the file.
    #[error(transparent)]
    Images(#[from] ImagesError),
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
            Self::Images(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Metrics(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}
