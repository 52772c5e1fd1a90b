//! Which embedder, with its configuration.

use std::path::Path;

use serde::Serialize;

use crate::models::Precision;

use super::{ClipConfig, EmbedderError, InceptionConfig, PixelsConfig};

/// `[embedder]`: a space of images, told apart by `type`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EmbedderConfig {
    /// `type = "inception"`.
    Inception(InceptionConfig),
    /// `type = "clip"`.
    Clip(ClipConfig),
    /// `type = "pixels"`.
    Pixels(PixelsConfig),
}

impl EmbedderConfig {
    /// The values of `type`.
    pub const TYPES: &[&str] = &["inception", "clip", "pixels"];

    /// Checks the values, without reading weights.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] naming the key.
    pub fn validate(&self) -> Result<(), EmbedderError> {
        match self {
            Self::Inception(config) => config.validate(),
            Self::Clip(config) => config.validate(),
            Self::Pixels(config) => config.validate(),
        }
    }

    /// The file of its weights, where it has any.
    #[must_use]
    pub fn weights(&self) -> Option<&Path> {
        match self {
            Self::Inception(config) => Some(&config.weights),
            Self::Clip(config) => Some(&config.weights),
            Self::Pixels(_) => None,
        }
    }

    /// Rows and columns that it brings images to before anything else, if it does.
    #[must_use]
    pub fn resolution(&self) -> Option<usize> {
        match self {
            Self::Inception(config) => Some(config.resolution),
            Self::Clip(config) => Some(config.resolution),
            Self::Pixels(config) => config.size,
        }
    }

    /// The type of its network's numbers.
    #[must_use]
    pub fn dtype(&self) -> Precision {
        match self {
            Self::Inception(config) => config.dtype,
            Self::Clip(_) | Self::Pixels(_) => Precision::F32,
        }
    }

    /// Its type, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Inception(_) => "inception",
            Self::Clip(_) => "clip",
            Self::Pixels(config) if config.grayscale => "gray pixels",
            Self::Pixels(_) => "pixels",
        }
    }
}
