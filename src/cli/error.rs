//! [`CliError`]: the error of a command, one type over the errors of all modules.

use thiserror::Error;

use super::core_dumps::CoreDumpError;
use super::device::DeviceError;
use super::extend_error::ExtendError;
use super::missing::MissingArtifacts;
use crate::artifacts::ArtifactsError;
use crate::audit::AuditError;
use crate::config::ConfigError;
use crate::dataset::DatasetError;
use crate::embedders::EmbedderError;
use crate::evaluation::EvaluationError;
use crate::exit_code::{self, ExitCode};
use crate::fetch::FetchError;
use crate::generators::GeneratorError;
use crate::images::ImagesError;
use crate::pe::PeError;
use crate::privacy::PrivacyError;
use crate::sections::InvalidKey;

/// Any error that reaches the command line.
#[derive(Debug, Error)]
pub enum CliError {
    /// The configuration is invalid, or does not fit the data or the model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] PeError),
    /// An evaluation failed.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Files are missing that `dpsyn fetch` can download.
    #[error(transparent)]
    Missing(#[from] MissingArtifacts),
    /// Another error that `dpsyn fetch` can resolve.
    #[error("{error}: run `{command}`")]
    Fetchable {
        /// The error.
        error: Box<CliError>,
        /// The command that resolves it.
        command: String,
    },
    /// A run cannot be extended.
    #[error(transparent)]
    Extend(#[from] ExtendError),
    /// An audit failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// An audit found a defect.
    #[error(
        "the lower bound of epsilon, {bound}, is above the claim, {claimed}: the mechanism does not \
         keep its guarantee; publish no results of this build"
    )]
    AboveClaim {
        /// The largest lower bound.
        bound: String,
        /// The claimed ε.
        claimed: String,
    },
    /// Core dumps could not be forbidden.
    #[error(transparent)]
    CoreDumps(#[from] CoreDumpError),
    /// The signal handler cannot be set.
    #[error("failed to set the Ctrl-C handler: {0}")]
    Signals(#[from] ctrlc::Error),
}

impl From<ArtifactsError> for CliError {
    fn from(error: ArtifactsError) -> Self {
        Self::Run(error.into())
    }
}

impl From<DatasetError> for CliError {
    fn from(error: DatasetError) -> Self {
        Self::Run(error.into())
    }
}

impl From<PrivacyError> for CliError {
    fn from(error: PrivacyError) -> Self {
        Self::Run(error.into())
    }
}

impl From<ImagesError> for CliError {
    fn from(error: ImagesError) -> Self {
        DatasetError::from(error).into()
    }
}

impl From<InvalidKey> for CliError {
    fn from(error: InvalidKey) -> Self {
        Self::Audit(error.into())
    }
}

impl From<GeneratorError> for CliError {
    fn from(error: GeneratorError) -> Self {
        Self::Run(error.into())
    }
}

impl From<EmbedderError> for CliError {
    fn from(error: EmbedderError) -> Self {
        Self::Run(error.into())
    }
}

impl ExitCode for CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Device(error) => error.exit_code(),
            Self::Run(error) => error.exit_code(),
            Self::Evaluation(error) => error.exit_code(),
            Self::Fetch(error) => error.exit_code(),
            Self::Missing(error) => error.exit_code(),
            Self::Fetchable { error, .. } => error.exit_code(),
            Self::Extend(error) => error.exit_code(),
            Self::Audit(error) => error.exit_code(),
            Self::AboveClaim { .. } => exit_code::AUDIT,
            Self::CoreDumps(error) => error.exit_code(),
            Self::Signals(_) => exit_code::COMPUTE,
        }
    }
}
