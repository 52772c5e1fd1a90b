//! Errors of an evaluation.

use std::path::PathBuf;

use thiserror::Error;

use crate::artifacts::ArtifactsError;
use crate::dataset::DatasetError;
use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::ImagesError;
use crate::metrics::MetricsError;
use crate::privacy::PrivacyError;
use crate::progress::Cancelled;

/// Reason why an evaluation ended early. Metrics that were finished by then are on disk.
#[derive(Debug, Error)]
pub enum EvaluationError {
    /// Samples or public reference images could not be read.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// Private reference images could not be read or embedded.
    #[error(transparent)]
    Dataset(DatasetError),
    /// A population of a run could not be read, or a file of results not be written.
    #[error(transparent)]
    Artifacts(#[from] ArtifactsError),
    /// The embedder failed.
    #[error(transparent)]
    Embedder(#[from] EmbedderError),
    /// A metric could not be computed.
    #[error("evaluation: {0}")]
    Metrics(MetricsError),
    /// The private folder could not be used.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// Another process writes metrics into the same folder.
    #[error(
        "another process is writing metrics into {}: wait for it, or choose another folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The evaluation has neither a reference nor the private images of a run.
    #[error("there is no reference to evaluate against")]
    NoReference,
    /// The file `privacy.json` beside the samples is not that of a run.
    #[error(
        "{}: expected the privacy statement of a run with declared_public.class_names",
        path.display()
    )]
    NotAStatement {
        /// The file.
        path: PathBuf,
    },
    /// The settings of the embedder could not be serialized.
    #[error("the settings of the embedder: {0}")]
    Settings(serde_json::Error),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl EvaluationError {
    /// Returns true for an error that the images of the reference may have caused: they could not
    /// be read, embedded or compared. The others are about the result folder and the samples, or
    /// are the user's wish.
    pub(super) fn may_depend_on_reference(&self) -> bool {
        match self {
            Self::Images(_) | Self::Dataset(_) | Self::Embedder(_) | Self::Metrics(_) => true,
            Self::Artifacts(_)
            | Self::Privacy(_)
            | Self::InUse { .. }
            | Self::NoReference
            | Self::NotAStatement { .. }
            | Self::Settings(_)
            | Self::Cancelled(_) => false,
        }
    }
}

impl ExitCode for EvaluationError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Images(error) => error.exit_code(),
            Self::Dataset(error) => error.exit_code(),
            Self::Artifacts(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Metrics(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::InUse { .. }
            | Self::NoReference
            | Self::NotAStatement { .. }
            | Self::Settings(_) => exit_code::OUTPUT,
            Self::Cancelled(_) => exit_code::INTERRUPTED,
        }
    }
}

impl From<DatasetError> for EvaluationError {
    fn from(error: DatasetError) -> Self {
        match error {
            DatasetError::Interrupted => Self::Cancelled(Cancelled),
            DatasetError::Metrics(error) => error.into(),
            other => Self::Dataset(other),
        }
    }
}

impl From<MetricsError> for EvaluationError {
    fn from(error: MetricsError) -> Self {
        match error {
            MetricsError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Metrics(other),
        }
    }
}
