//! Why a figure cannot be computed.

use std::path::PathBuf;

use thiserror::Error;

use super::downstream::DownstreamError;
use super::memorization::MemorizationError;
use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::NpzError;
use crate::voting::NearestError;

/// Why a figure cannot be computed. No message contains anything derived from the images of either set
/// but their number and their shape.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// A configured value is out of range, or does not fit another; names the key.
    #[error("{key}: {message}")]
    Config {
        /// The key below `[evaluation]`.
        key: &'static str,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A set is too small.
    #[error("{metric} needs at least {needed} {what}, there are {found}")]
    TooFew {
        /// The metric.
        metric: &'static str,
        /// Of which set.
        what: &'static str,
        /// How many it takes.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The two sets are not embedded in one space.
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
        /// Of which set.
        what: &'static str,
    },
    /// Statistics that are no mean and covariance.
    #[error("`sigma` is no covariance: {message}")]
    Covariance {
        /// What is wrong with it.
        message: String,
    },
    /// The eigenvalues did not converge.
    #[error("the eigenvalues of a {dimension}x{dimension} covariance did not converge")]
    Eigenvalues {
        /// Features of an image.
        dimension: usize,
    },
    /// The weights have no classifier.
    #[error("{}: the inception score needs the classifier, `fc.weight` [classes, {features}], and the weights {found}", path.display())]
    Classifier {
        /// The weights.
        path: PathBuf,
        /// Features that the classifier takes.
        features: usize,
        /// What there is instead.
        found: String,
    },
    /// A file of statistics cannot be used.
    #[error("{}: {source}", path.display())]
    Statistics {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NpzError,
    },
    /// A file of statistics was made of other images or by another embedder than it is compared with.
    #[error("{}: {message}", path.display())]
    StatisticsMismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// The search for neighbours failed.
    #[error(transparent)]
    Nearest(#[from] NearestError),
    /// Embedding failed.
    #[error("the evaluation's embedder failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// The check for memorisation failed.
    #[error("memorisation: {0}")]
    Memorization(MemorizationError),
    /// A classifier was not trained or not tested.
    #[error("downstream: {0}")]
    Downstream(DownstreamError),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<MemorizationError> for MetricsError {
    fn from(error: MemorizationError) -> Self {
        match error {
            MemorizationError::Nearest(NearestError::Interrupted) => Self::Interrupted,
            other => Self::Memorization(other),
        }
    }
}

impl From<DownstreamError> for MetricsError {
    fn from(error: DownstreamError) -> Self {
        match error {
            DownstreamError::Interrupted => Self::Interrupted,
            other => Self::Downstream(other),
        }
    }
}

impl ExitCode for MetricsError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => exit_code::USAGE,
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
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}
