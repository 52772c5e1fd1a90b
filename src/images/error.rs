//! Errors of reading private images. The messages name files and keys; they never include pixel
//! values.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::sections::InvalidKey;

use super::batch::BatchError;
use super::decode::DecodeError;
use super::name::shown;
use super::npz::NpzError;
use super::resize::ResizeError;
use crate::exit_code::{self, ExitCode};

/// Images could not be read.
#[derive(Debug, Error)]
pub enum ImagesError {
    /// A file or folder cannot be opened or read.
    #[error("cannot read {}: {cause}", shown(path))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        cause: io::Error,
    },
    /// A file that should be an image is damaged, truncated, too large or of another kind.
    #[error("{image}: {cause}")]
    Decode {
        /// The image, by [`shown`] names.
        image: String,
        /// Cause.
        cause: DecodeError,
    },
    /// An image has an impossible shape.
    #[error("{image}: {cause}")]
    Resize {
        /// The image, by [`shown`] names.
        image: String,
        /// Cause.
        cause: ResizeError,
    },
    /// No image was found, or none is left.
    #[error("{} has no images: expected {expected}{}", shown(path), .passed_over.as_deref().unwrap_or(""))]
    Empty {
        /// The source.
        path: PathBuf,
        /// Description of what was expected.
        expected: String,
        /// A sentence about what the source has instead.
        passed_over: Option<String>,
    },
    /// The source is not of the kind that the configuration states or its name implies.
    #[error("{} is {found}: expected {expected}", shown(path))]
    Kind {
        /// The source.
        path: PathBuf,
        /// Description of what it is.
        found: &'static str,
        /// Description of what was expected.
        expected: &'static str,
    },
    /// The name of a file has no class, in a class-conditional run.
    #[error("{image} has no class: expected {expected}")]
    Class {
        /// The image, by [`shown`] names.
        image: String,
        /// Description of what was expected.
        expected: &'static str,
    },
    /// An image belongs to a class that is not declared, in a class-conditional run.
    #[error(
        "{image}: its class `{class}` is not declared: {hint}add it to data.classes (or to the table \
         by class that names the classes), or leave such images out with data.undeclared_class = \
         \"leave-out\""
    )]
    Undeclared {
        /// The file, or the `.npz` file with the index of the image.
        image: String,
        /// The class of the image.
        class: String,
        /// A setting that would give the image another class; empty, or it ends with a space.
        hint: String,
    },
    /// The client of an image is unknown, in a run that protects clients.
    #[error("{image}: its client is unknown: {expected}")]
    Client {
        /// The image, by [`shown`] names.
        image: String,
        /// Description of what was expected.
        expected: String,
    },
    /// A CSV file that names images, their classes or their clients cannot be used.
    #[error("{}: line {line}: {message}", shown(path))]
    Table {
        /// The CSV file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: u64,
        /// The fault, and what was expected.
        message: String,
    },
    /// The same file is reached twice, so that one image would count twice.
    #[error(
        "{} and {} are the same file, and one image may count only once",
        shown(first),
        shown(second)
    )]
    Duplicate {
        /// One path of the file.
        first: PathBuf,
        /// Other path of the file.
        second: PathBuf,
    },
    /// An `.npz` file cannot be used.
    #[error("{}: {cause}", shown(path))]
    Npz {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        cause: NpzError,
    },
    /// A container of images cannot be used.
    #[error("{}: {message}", shown(path))]
    Container {
        /// The file.
        path: PathBuf,
        /// The fault, and what was expected.
        message: String,
    },
    /// A key of `[data]` is missing or out of range.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// A batch could not be formed.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl ExitCode for ImagesError {
    fn exit_code(&self) -> u8 {
        exit_code::DATA
    }
}

impl ImagesError {
    /// Returns true if the message tells something about single images below `source` or their
    /// classes. About private images, such a message is for their owner only.
    #[must_use]
    pub fn tells_of_images(&self, source: &Path) -> bool {
        match self {
            Self::Read { path, .. } => path != source,
            Self::Decode { .. }
            | Self::Resize { .. }
            | Self::Class { .. }
            | Self::Undeclared { .. }
            | Self::Client { .. }
            | Self::Table { .. }
            | Self::Duplicate { .. }
            | Self::Container { .. }
            | Self::Npz { .. } => true,
            Self::Empty { passed_over, .. } => passed_over.is_some(),
            Self::Kind { .. } | Self::Config(_) | Self::Batch(_) => false,
        }
    }

    /// Formats the error without the name of the image.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Decode { cause, .. } => cause.to_string(),
            Self::Resize { cause, .. } => cause.to_string(),
            other => other.to_string(),
        }
    }

    /// Returns true if the file was read and is not a usable image; other errors may be temporary.
    pub(super) fn is_of_the_image(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Resize { .. })
    }
}
