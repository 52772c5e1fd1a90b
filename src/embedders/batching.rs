//! Embedding of any number of images in batches of the embedder's size.

use super::{Embedder, EmbedderError, Embeddings};
use crate::images::ImageBatch;

/// Embeds any number of images in the embedder's own batches: `float32[images, dimension]`.
///
/// # Errors
/// [`EmbedderError`], also when the embedder returns vectors of another dimension than it declared.
pub fn embed_all(
    embedder: &dyn Embedder,
    images: &ImageBatch,
) -> Result<Embeddings, EmbedderError> {
    let size = embedder.batch_size().max(1);
    let mut data = Vec::with_capacity(images.len() * embedder.dimension());
    for start in (0..images.len()).step_by(size) {
        let batch = images.slice(start..start + size);
        data.extend_from_slice(embedder.embed(&batch)?.data());
    }
    Embeddings::new(data, embedder.dimension()).ok_or(EmbedderError::Dimension)
}
