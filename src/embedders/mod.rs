//! Images to vectors: the space in which private images vote.

mod batching;
mod clip;
mod dinov2;
mod embeddings;
#[cfg(test)]
mod example;
mod inception;
mod network;
mod open;
pub mod pca;
mod pipeline;
mod pixels;
mod position_check;
mod private_device;
mod replicated;
mod section;

pub use batching::embed_all;
pub use clip::{ClipConfig, ClipEmbedder};
pub use dinov2::{Dinov2Embedder, Dinov2EmbedderConfig};
pub use embeddings::Embeddings;
pub use inception::{InceptionConfig, InceptionEmbedder};
pub use open::{EmbedderConfig, OpenedEmbedder};
pub use pca::PcaConfig;
pub use pipeline::EmbedPipeline;
pub use pixels::{PixelsConfig, PixelsEmbedder};
pub use private_device::{PrivateEmbedder, VoteEmbedderConfig};
pub use replicated::{BoxedEmbedder, ReplicatedEmbedder};
pub use section::{EmbedderSection, FittedEmbedder};

use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::images::{BatchError, ImageBatch, ResizeError};
use crate::sections::InvalidKey;

/// An error of an embedder.
#[derive(Debug, Error)]
pub enum EmbedderError {
    /// A value of the embedder's section is out of range.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::hub::CheckpointError),
    /// The network failed.
    #[error("network evaluation failed: {0}")]
    Network(#[from] candle_core::Error),
    /// The images could not be resampled.
    #[error("failed to resize images: {0}")]
    Resize(#[from] ResizeError),
    /// The images have another size than the embedder was made for.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The embedder returned vectors of another dimension than it declared.
    #[error("the embedder returned vectors of another dimension than it declared")]
    Dimension,
    /// Public images that the embedder is fitted to could not be read.
    #[error(transparent)]
    Public(#[from] crate::public_images::PublicImagesError),
    /// The principal components of the public images could not be computed.
    #[error("the principal components of the public images could not be computed")]
    Components,
    /// The pipeline has no images to embed, or its thread ended.
    #[error("the embedding pipeline stopped: {0}")]
    Pipeline(&'static str),
}

impl ExitCode for EmbedderError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => exit_code::USAGE,
            Self::Checkpoint(_) => exit_code::WEIGHTS,
            Self::Public(error) => error.exit_code(),
            Self::Network(_)
            | Self::Components
            | Self::Resize(_)
            | Self::Batch(_)
            | Self::Dimension
            | Self::Pipeline(_) => exit_code::COMPUTE,
        }
    }
}

/// A map from images to vectors, each image by itself.
pub trait Embedder: Sync {
    /// Numbers in one vector.
    fn dimension(&self) -> usize;

    /// Number of images per batch at which the embedder is efficient.
    fn batch_size(&self) -> usize;

    /// Returns true if the embedder does not occupy the CPU, so that host work may run meanwhile.
    fn overlaps_host_work(&self) -> bool {
        false
    }

    /// Embeds every image: `float32[images, dimension]`. An image's vector does not depend on the
    /// others in the batch.
    ///
    /// # Errors
    /// [`EmbedderError::Network`] when the network fails, [`EmbedderError::Resize`] or
    /// [`EmbedderError::Batch`] when the images have an impossible size.
    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError>;
}
