//! The mean color of an image: the worked example of `docs/adding-a-model.md`.

use std::path::PathBuf;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, Embeddings};
use crate::images::ImageBatch;
use crate::sections::{InvalidKey, Section};

/// The `[embedder]` section of the mean color. It has no keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanColorConfig {}

impl Section for MeanColorConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[];
}

impl EmbedderSection for MeanColorConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "mean color"
    }

    fn weights(&self) -> Option<PathBuf> {
        None
    }

    fn resolution(&self) -> Option<usize> {
        None
    }

    fn open_on(
        &self,
        _image_size: (usize, usize),
        _device: &Device,
    ) -> Result<BoxedEmbedder, EmbedderError> {
        Ok(Box::new(MeanColor))
    }
}

/// Embeds an image as its mean red, green and blue.
pub struct MeanColor;

impl Embedder for MeanColor {
    fn dimension(&self) -> usize {
        3
    }

    fn batch_size(&self) -> usize {
        1000
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let mut vectors = Vec::with_capacity(images.len() * 3);
        for image in images.iter() {
            for channel in 0..3 {
                let levels = image.iter().skip(channel).step_by(3);
                let sum: f64 = levels.map(|level| f64::from(*level)).sum();
                vectors.push((3.0 * sum / image.len() as f64) as f32);
            }
        }
        Embeddings::new(vectors, 3).ok_or(EmbedderError::Dimension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_is_the_mean_color() {
        let images = ImageBatch::new(vec![0, 10, 20, 100, 10, 30], 1, 1, 2).unwrap();
        let embedder = MeanColorConfig {}.open_on((1, 2), &Device::Cpu).unwrap();
        let vectors = embedder.embed(&images).unwrap();
        assert_eq!(vectors.into_data(), [50.0, 10.0, 25.0]);
    }

    #[test]
    fn the_page_shows_this_file() {
        let page = include_str!("../../docs/adding-a-model.md");
        let (shown, _) = include_str!("example.rs")
            .split_once("\n#[cfg(test)]")
            .unwrap();
        assert!(page.contains(shown));
    }
}
