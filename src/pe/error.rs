//! What can stop a run.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::ConfigError;
use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::generators::GeneratorError;
use crate::images::{ImagesError, NpzError};
use crate::metrics::MetricsError;
use crate::privacy::PrivacyError;
use crate::progress::Cancelled;
use crate::voting::VotingError;

/// Why a run ended early. What was finished by then is on disk.
#[derive(Debug, Error)]
pub enum PeError {
    /// The configuration does not fit the data or the model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The private images, or a samples file, could not be read or written.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// The foundation model failed.
    #[error("the foundation model failed: {0}")]
    Generator(#[from] GeneratorError),
    /// The embedder failed.
    #[error("the embedder failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// Voting failed.
    #[error(transparent)]
    Voting(#[from] VotingError),
    /// A figure of quality could not be computed.
    #[error("evaluation: {0}")]
    Metrics(MetricsError),
    /// The privacy core refused.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// An `.npz` of the result folder could not be read or written.
    #[error("{path}: {source}")]
    Npz {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NpzError,
    },
    /// A file of the result folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The result folder is not what this run expects.
    #[error("{0}")]
    State(String),
    /// The user asked to stop; everything finished is kept.
    #[error("interrupted; `--resume` goes on from here")]
    Interrupted,
}

impl From<MetricsError> for PeError {
    fn from(error: MetricsError) -> Self {
        match error {
            MetricsError::Cancelled(_) => Self::Interrupted,
            other => Self::Metrics(other),
        }
    }
}

impl ExitCode for PeError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Images(error) => error.exit_code(),
            Self::Generator(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Metrics(error) => error.exit_code(),
            Self::Voting(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::Npz { .. } | Self::Io { .. } | Self::State(_) => exit_code::OUTPUT,
            Self::Interrupted => exit_code::INTERRUPTED,
        }
    }
}

impl From<Cancelled> for PeError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl PeError {
    /// For `map_err`: an [`PeError::Io`] about `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
