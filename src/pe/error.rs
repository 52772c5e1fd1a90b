//! Errors of a run.

use std::path::PathBuf;

use thiserror::Error;

use crate::artifacts::ArtifactsError;
use crate::dataset::DatasetError;
use crate::embedders::EmbedderError;
use crate::evaluation::EvaluationError;
use crate::exit_code::{self, ExitCode};
use crate::generators::GeneratorError;
use crate::images::NpzError;
use crate::privacy::PrivacyError;
use crate::progress::Cancelled;
use crate::voting::{NearestError, VotingError};

/// A run ended early. Results that were finished by then are on disk.
#[derive(Debug, Error)]
pub enum PeError {
    /// The result folder cannot be used.
    #[error(transparent)]
    Artifacts(#[from] ArtifactsError),
    /// The private images cannot be read or embedded.
    #[error(transparent)]
    Dataset(DatasetError),
    /// The file of initial samples cannot be used.
    #[error(transparent)]
    InitialSamples(#[from] InitialSamplesError),
    /// The foundation model failed.
    #[error("the foundation model failed: {0}")]
    Generator(#[from] GeneratorError),
    /// The embedder failed.
    #[error("the embedder failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// A synthetic sample cannot take part in the vote.
    #[error(
        "the embedding of sample {sample} is not finite: embedder.dtype \"f32\" or \"bf16\" has a \
         larger range than \"f16\", and weights may be damaged"
    )]
    NotFinite {
        /// Index into the population.
        sample: usize,
    },
    /// The vote failed.
    #[error(transparent)]
    Voting(VotingError),
    /// The search for near samples failed.
    #[error("the search for near samples (evolution.class_agreement) failed: {0}")]
    Agreement(NearestError),
    /// An evaluation failed.
    #[error(transparent)]
    Evaluation(EvaluationError),
    /// The privacy core refused.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// The user requested to stop; everything finished is kept.
    #[error("interrupted; `--resume` continues the run")]
    Interrupted,
}

impl From<Cancelled> for PeError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<DatasetError> for PeError {
    fn from(error: DatasetError) -> Self {
        match error {
            DatasetError::Interrupted => Self::Interrupted,
            other => Self::Dataset(other),
        }
    }
}

impl From<EvaluationError> for PeError {
    fn from(error: EvaluationError) -> Self {
        match error {
            EvaluationError::Cancelled(_) => Self::Interrupted,
            other => Self::Evaluation(other),
        }
    }
}

impl From<VotingError> for PeError {
    fn from(error: VotingError) -> Self {
        match error {
            VotingError::Cancelled(_) => Self::Interrupted,
            other => Self::Voting(other),
        }
    }
}

impl From<NearestError> for PeError {
    fn from(error: NearestError) -> Self {
        match error {
            NearestError::Cancelled(_) => Self::Interrupted,
            other => Self::Agreement(other),
        }
    }
}

impl ExitCode for PeError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Artifacts(error) => error.exit_code(),
            Self::Dataset(error) => error.exit_code(),
            Self::InitialSamples(_) => exit_code::OUTPUT,
            Self::Generator(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::NotFinite { .. } | Self::Agreement(_) => exit_code::COMPUTE,
            Self::Voting(error) => error.exit_code(),
            Self::Evaluation(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}

/// A file of samples cannot be the initial population.
#[derive(Debug, Error)]
pub enum InitialSamplesError {
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Npz {
        /// The file.
        path: PathBuf,
        /// The error of the format.
        cause: NpzError,
    },
    /// The number of images or their size is another one.
    #[error(
        "{}: {} images of {}x{} where {} of {}x{} were expected",
        path.display(), found.0, found.1, found.2, expected.0, expected.1, expected.2
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// Images, rows, columns in the file.
        found: (u64, usize, usize),
        /// Images, rows, columns of the plan.
        expected: (u64, usize, usize),
    },
    /// The samples are marked as non-private, the run is not.
    #[error(
        "{}: made without privacy, so nothing derived from it is private (`--non-private` accepts \
         that)",
        path.display()
    )]
    NonPrivate {
        /// The file.
        path: PathBuf,
    },
    /// The samples are not ordered by class as planned.
    #[error(
        "{}: `labels` must be 0 for the samples of the first class, then 1, and so on: {expected:?} \
         of each were expected",
        path.display()
    )]
    Labels {
        /// The file.
        path: PathBuf,
        /// Samples of each class.
        expected: Vec<u64>,
    },
    /// A condition is missing or unknown.
    #[error(
        "{}: `conditions` does not give one label that the model knows for each sample",
        path.display()
    )]
    Conditions {
        /// The file.
        path: PathBuf,
    },
    /// The model varies parameters only, and not all samples have them.
    #[error(
        "{}: `parameters` does not have those of each sample, which this model varies instead of \
         pixels: expected samples that it generated",
        path.display()
    )]
    NoParameters {
        /// The file.
        path: PathBuf,
    },
    /// The parameters of the samples are damaged.
    #[error("{message}")]
    Parameters {
        /// The file, and what is wrong with it.
        message: String,
    },
}
