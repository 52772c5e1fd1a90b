//! Images to vectors: the space in which private images vote.

mod embeddings;

pub use embeddings::Embeddings;

use thiserror::Error;

use crate::images::ImageBatch;

/// Why embedding failed.
#[derive(Debug, Error)]
pub enum EmbedderError {
    /// A configured value is out of range; names the key.
    #[error("{key}: {message}")]
    Config {
        /// The configuration key below `[embedder]`.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::hub::CheckpointError),
    /// The network failed.
    #[error("network evaluation failed: {0}")]
    Network(#[from] candle_core::Error),
}

/// Something that turns images into vectors, each image by itself.
pub trait Embedder {
    /// Numbers in one vector.
    fn dimension(&self) -> usize;

    /// How many images it likes to be asked for at once.
    fn batch_size(&self) -> usize;

    /// Embeds every image: `float32[images, dimension]`. An image's vector does not depend on the
    /// others in the batch.
    ///
    /// # Errors
    /// [`EmbedderError::Network`] when the network fails.
    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError>;
}
