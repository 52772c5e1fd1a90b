//! Exit codes, and which error gets which.

use thiserror::Error;

use super::DeviceError;
use super::missing::MissingArtifacts;
use crate::config::ConfigError;
use crate::embedders::EmbedderError;
use crate::evolution::EvolutionError;
use crate::fetch::FetchError;
use crate::generators::GeneratorError;
use crate::images::ImagesError;
use crate::metrics::MetricsError;
use crate::metrics::downstream::DownstreamError;
use crate::metrics::memorization::MemorizationError;
use crate::privacy::PrivacyError;

/// The documented exit codes. 0 is success; anything else leaves what was finished on disk.
pub mod codes {
    /// The command line or the configuration is wrong; nothing was started.
    pub const USAGE: u8 = 2;
    /// The private images, or a samples file, cannot be read.
    pub const DATA: u8 = 3;
    /// A checkpoint is missing, incomplete or of another shape.
    pub const WEIGHTS: u8 = 4;
    /// The privacy core refused: the ledger does not match, the data changed, the budget is spent.
    pub const PRIVACY: u8 = 5;
    /// The result folder cannot be used, or a file in it cannot be read or written.
    pub const OUTPUT: u8 = 6;
    /// The device that was asked for cannot be used.
    pub const DEVICE: u8 = 7;
    /// A network failed while running.
    pub const COMPUTE: u8 = 8;
    /// A hosted model failed or refused, or a cap on what it may cost is reached; `--resume` goes on.
    pub const SERVICE: u8 = 9;
    /// Something could not be downloaded, or what was fetched is damaged; the same command goes on.
    pub const FETCH: u8 = 10;
    /// Stopped by Ctrl-C; `--resume` goes on.
    pub const INTERRUPTED: u8 = 130;
}

/// Any error that reaches the command line.
#[derive(Debug, Error)]
pub enum CliError {
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Everything else.
    #[error(transparent)]
    Run(#[from] EvolutionError),
    /// `dpsyn fetch`.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Files that `dpsyn fetch` can get are missing.
    #[error(transparent)]
    Missing(#[from] MissingArtifacts),
    /// Something that `dpsyn fetch` could have got.
    #[error("{error}: `{command}` gets it")]
    Fetchable {
        /// What is wrong.
        error: Box<CliError>,
        /// What to type.
        command: String,
    },
    /// Ctrl-C where there is nothing to resume.
    #[error("interrupted")]
    Stopped,
    /// The signal handler.
    #[error("failed to set the Ctrl-C handler: {0}")]
    Signals(#[from] ctrlc::Error),
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
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
        Self::Run(error.into())
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

impl CliError {
    /// The exit code of this error.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Device(_) => codes::DEVICE,
            Self::Signals(_) => codes::COMPUTE,
            Self::Stopped => codes::INTERRUPTED,
            Self::Missing(missing) => missing.code,
            Self::Fetchable { error, .. } => error.code(),
            Self::Fetch(FetchError::Unknown { .. } | FetchError::Catalogue { .. }) => codes::USAGE,
            Self::Fetch(_) => codes::FETCH,
            Self::Run(error) => match error {
                EvolutionError::Config(_) => codes::USAGE,
                EvolutionError::Images(_) => codes::DATA,
                EvolutionError::Generator(
                    GeneratorError::Checkpoint(_) | GeneratorError::Files(_),
                )
                | EvolutionError::Embedder(EmbedderError::Checkpoint(_)) => codes::WEIGHTS,
                EvolutionError::Generator(
                    GeneratorError::Config { .. } | GeneratorError::Degree { .. },
                )
                | EvolutionError::Embedder(EmbedderError::Config { .. }) => codes::USAGE,
                EvolutionError::Generator(GeneratorError::Service(_)) => codes::SERVICE,
                EvolutionError::Metrics(error) => metrics(error),
                EvolutionError::Generator(_)
                | EvolutionError::Embedder(_)
                | EvolutionError::Voting(_) => codes::COMPUTE,
                EvolutionError::Privacy(PrivacyError::Config { .. }) => codes::USAGE,
                EvolutionError::Privacy(
                    PrivacyError::Io { .. } | PrivacyError::PrivateFolder { .. },
                )
                | EvolutionError::Npz { .. }
                | EvolutionError::Io { .. }
                | EvolutionError::State(_) => codes::OUTPUT,
                EvolutionError::Privacy(_) => codes::PRIVACY,
                EvolutionError::Interrupted => codes::INTERRUPTED,
            },
        }
    }
}

fn metrics(error: &MetricsError) -> u8 {
    match error {
        MetricsError::Config { .. } => codes::USAGE,
        MetricsError::Downstream(DownstreamError::Config { .. }) => codes::USAGE,
        MetricsError::TooFew { .. }
        | MetricsError::Memorization(MemorizationError::TooFew { .. })
        | MetricsError::Downstream(DownstreamError::Classes { .. })
        | MetricsError::Covariance { .. }
        | MetricsError::Statistics { .. }
        | MetricsError::StatisticsMismatch { .. } => codes::DATA,
        MetricsError::Classifier { .. } | MetricsError::Embedder(EmbedderError::Checkpoint(_)) => {
            codes::WEIGHTS
        }
        MetricsError::Embedder(EmbedderError::Config { .. }) => codes::USAGE,
        MetricsError::Dimension { .. }
        | MetricsError::NotFinite { .. }
        | MetricsError::Eigenvalues { .. }
        | MetricsError::Nearest(_)
        | MetricsError::Memorization(_)
        | MetricsError::Downstream(_)
        | MetricsError::Embedder(_) => codes::COMPUTE,
        MetricsError::Interrupted => codes::INTERRUPTED,
    }
}
