//! Principal components of public images as an embedding.
//!
//! The vector of an image is the projection of its pixels, less the mean of the public images, on
//! their first principal components. It has far fewer numbers than the pixels, and those in which
//! such images differ most, so that noise and details of single pixels count less in a vote.
//!
//! Mean and components come from images that are declared public, never from private ones.

mod components;
mod config;
mod covariance;

pub use components::Components;
pub use config::PcaConfig;
pub use covariance::Covariance;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Embedder, EmbedderError, Embeddings, PixelsEmbedder};
use crate::images::ImageBatch;
use crate::kernels::Linear;

/// Embeds an image as its projection on principal components.
pub struct PcaEmbedder {
    pixels: PixelsEmbedder,
    mean: Arc<[f32]>,
    /// `[components, numbers of an image]`. Each image is multiplied by itself, whatever its batch
    /// is.
    projection: Linear,
    dimension: usize,
}

impl PcaEmbedder {
    /// Creates the embedder of images whose pixels `pixels` takes, with components of the same
    /// number of pixels. With `whiten`, each number is divided by its standard deviation over the
    /// public images.
    ///
    /// # Errors
    /// [`EmbedderError::Dimension`] if the components are of another number of pixels;
    /// [`EmbedderError::Network`].
    pub fn new(
        pixels: PixelsEmbedder,
        components: &Components,
        whiten: bool,
    ) -> Result<Self, EmbedderError> {
        let width = pixels.dimension();
        let dimension = components.count();
        if components.mean().len() != width || dimension == 0 {
            return Err(EmbedderError::Dimension);
        }
        let mut weight = Vec::with_capacity(dimension * width);
        for (direction, variance) in components.iter() {
            let scale = if whiten { variance.sqrt().recip() } else { 1.0 };
            weight.extend(direction.iter().map(|value| (value * scale) as f32));
        }
        let weight = Tensor::from_vec(weight, (dimension, width), &Device::Cpu)?;
        Ok(Self {
            pixels,
            mean: components
                .mean()
                .iter()
                .map(|value| *value as f32)
                .collect(),
            projection: Linear::new(&weight, None)?,
            dimension,
        })
    }
}

impl Embedder for PcaEmbedder {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn batch_size(&self) -> usize {
        self.pixels.batch_size()
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let pixels = self.pixels.embed(images)?;
        let (count, width) = (pixels.len(), pixels.dimension());
        if count == 0 {
            return Ok(Embeddings::empty(self.dimension));
        }
        let mut centered = pixels.into_data();
        centered.par_chunks_exact_mut(width).for_each(|image| {
            for (value, mean) in image.iter_mut().zip(&*self.mean) {
                *value -= mean;
            }
        });
        let centered = Tensor::from_vec(centered, (count, width), &Device::Cpu)?;
        let vectors = self.projection.forward(&centered)?;
        let vectors = vectors.flatten_all()?.to_vec1::<f32>()?;
        Embeddings::new(vectors, self.dimension).ok_or(EmbedderError::Dimension)
    }
}

#[cfg(test)]
mod tests;
