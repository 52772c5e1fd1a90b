//! [`AuditError`]: every failure of an audit. All of its images are public, so messages may contain
//! anything.

use std::io;

use thiserror::Error;

use crate::dataset::DatasetError;
use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::{BatchError, PictureError};
use crate::privacy::PrivacyError;
use crate::progress::Cancelled;
use crate::sections::InvalidKey;
use crate::voting::{NearestError, VotingError};

/// The reason why an audit gave no result.
#[derive(Debug, Error)]
pub enum AuditError {
    /// An option is out of range.
    #[error(transparent)]
    Option(#[from] InvalidKey),
    /// The images of the audit could not be written to a temporary folder.
    #[error("failed to write the images of the audit to a temporary folder: {0}")]
    Temporary(#[from] io::Error),
    /// An image of the audit could not be encoded.
    #[error("failed to write an image of the audit: {0}")]
    Picture(#[from] PictureError),
    /// The images of the audit do not form a batch.
    #[error("images of the audit: {0}")]
    Batch(#[from] BatchError),
    /// The images of the audit could not be read back.
    #[error("images of the audit: {0}")]
    Dataset(#[from] DatasetError),
    /// The embedder failed.
    #[error("the embedder failed: {0}")]
    Embedder(#[from] EmbedderError),
    /// The vote failed.
    #[error(transparent)]
    Voting(#[from] VotingError),
    /// The search for the votes that the auditor expects failed.
    #[error("expected votes: {0}")]
    Nearest(#[from] NearestError),
    /// The privacy core refused or failed.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ExitCode for AuditError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Option(_) => exit_code::USAGE,
            Self::Temporary(_) | Self::Picture(_) => exit_code::OUTPUT,
            Self::Batch(_) | Self::Nearest(_) => exit_code::COMPUTE,
            Self::Dataset(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Voting(error) => error.exit_code(),
            Self::Privacy(error) => error.exit_code(),
            Self::Cancelled(_) => exit_code::INTERRUPTED,
        }
    }
}
