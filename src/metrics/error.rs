//! Errors of the metrics.

use std::path::PathBuf;

use thiserror::Error;

use super::downstream::DownstreamError;
use super::memorization::MemorizationError;
use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::NpzError;
use crate::progress::Cancelled;
use crate::sections::InvalidKey;
use crate::voting::NearestError;

/// Reason why a metric could not be computed. No message contains anything derived from the images
/// of either set but their number and their shape.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// A configured value is invalid.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// A set is too small.
    #[error("{metric} needs at least {needed} {what}, there are {found}")]
    TooFew {
        /// The metric.
        metric: &'static str,
        /// Name of the set.
        what: &'static str,
        /// Smallest number of images.
        needed: usize,
        /// Number of images in the set.
        found: usize,
    },
    /// The two sets have features of different dimensions.
    #[error("samples have {samples} features where the reference has {reference}")]
    Dimension {
        /// Features of a sample.
        samples: usize,
        /// Features of a reference image.
        reference: usize,
    },
    /// A feature is a NaN or an infinity.
    #[error("the features of the {what} are not all finite")]
    NotFinite {
        /// Name of the set.
        what: &'static str,
    },
    /// A matrix is not a covariance.
    #[error("`sigma` is not a covariance: {message}")]
    Covariance {
        /// The fault.
        message: String,
    },
    /// The computation of eigenvalues did not converge.
    #[error("the eigenvalues of a {dimension}x{dimension} covariance did not converge")]
    Eigenvalues {
        /// Features of an image.
        dimension: usize,
    },
    /// The weights have no classifier.
    #[error(
        "{}: the inception score needs the classifier `fc.weight` [classes, {features}], but the weights \
         {found}",
        path.display()
    )]
    Classifier {
        /// File of the weights.
        path: PathBuf,
        /// Features that the classifier takes.
        features: usize,
        /// Content of the file.
        found: String,
    },
    /// A file of statistics cannot be read.
    #[error("{}: {cause}", path.display())]
    Statistics {
        /// File of the statistics.
        path: PathBuf,
        /// Error of the reader.
        cause: NpzError,
    },
    /// A file of statistics belongs to other images or to another embedder than the samples.
    #[error("{}: {message}", path.display())]
    StatisticsMismatch {
        /// File of the statistics.
        path: PathBuf,
        /// The difference.
        message: String,
    },
    /// The nearest-neighbor search failed.
    #[error(transparent)]
    Nearest(NearestError),
    /// The embedder failed.
    #[error("the embedder of the evaluation failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// The check for memorization failed.
    #[error("memorization: {0}")]
    Memorization(MemorizationError),
    /// Training or testing a downstream classifier failed.
    #[error("downstream: {0}")]
    Downstream(DownstreamError),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ExitCode for MetricsError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit_code::USAGE,
            Self::TooFew { .. }
            | Self::Covariance { .. }
            | Self::Statistics { .. }
            | Self::StatisticsMismatch { .. } => exit_code::DATA,
            Self::Classifier { .. } => exit_code::WEIGHTS,
            Self::Embedder(error) => error.exit_code(),
            Self::Memorization(error) => error.exit_code(),
            Self::Downstream(error) => error.exit_code(),
            Self::Dimension { .. }
            | Self::NotFinite { .. }
            | Self::Eigenvalues { .. }
            | Self::Nearest(_) => exit_code::COMPUTE,
            Self::Cancelled(_) => exit_code::INTERRUPTED,
        }
    }
}

impl From<NearestError> for MetricsError {
    fn from(error: NearestError) -> Self {
        match error {
            NearestError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Nearest(other),
        }
    }
}

impl From<MemorizationError> for MetricsError {
    fn from(error: MemorizationError) -> Self {
        match error {
            MemorizationError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Memorization(other),
        }
    }
}

impl From<DownstreamError> for MetricsError {
    fn from(error: DownstreamError) -> Self {
        match error {
            DownstreamError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Downstream(other),
        }
    }
}
