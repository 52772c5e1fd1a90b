//! The pixels themselves as an embedding (`original` in the paper's code).

use std::path::PathBuf;

use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::network::resize_rounded;
use super::{BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, Embeddings};
use crate::images::{BatchError, ImageBatch};
use crate::sections::{InvalidKey, Section};

/// Configuration of the pixel embedder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PixelsConfig {
    /// Images are first resized to so many rows and columns, by clean-fid's bicubic filter.
    pub size: Option<usize>,
    /// Replaces the three channels by their mean.
    // Written under the older spelling, which is part of the identity of runs begun before.
    #[serde(rename = "greyscale", alias = "grayscale")]
    pub grayscale: bool,
}

impl Section for PixelsConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[];
}

impl EmbedderSection for PixelsConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        if self.size == Some(0) {
            let message = "is 0: expected at least 1, or no value to keep the size of the images";
            return Err(InvalidKey::new("size", message));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        if self.grayscale {
            // As in the rows that earlier versions wrote.
            "grey pixels"
        } else {
            "pixels"
        }
    }

    fn weights(&self) -> Option<PathBuf> {
        None
    }

    fn resolution(&self) -> Option<usize> {
        self.size
    }

    fn open_on(
        &self,
        image_size: (usize, usize),
        _: &Device,
    ) -> Result<BoxedEmbedder, EmbedderError> {
        Ok(Box::new(PixelsEmbedder::new(self, image_size)?))
    }
}

/// Embeds an image as its levels, 0 to 255, row by row.
#[derive(Debug)]
pub struct PixelsEmbedder {
    height: usize,
    width: usize,
    resize: Option<usize>,
    grayscale: bool,
}

impl PixelsEmbedder {
    /// `image_size` is the rows and columns of all images; it does not matter when `config.size` is
    /// set.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when a size is zero.
    pub fn new(config: &PixelsConfig, image_size: (usize, usize)) -> Result<Self, EmbedderError> {
        let (height, width) = config.size.map_or(image_size, |size| (size, size));
        if height == 0 || width == 0 {
            return Err(InvalidKey::new("size", format!("{height}x{width} is no image")).into());
        }
        Ok(Self {
            height,
            width,
            resize: config.size,
            grayscale: config.grayscale,
        })
    }
}

impl Embedder for PixelsEmbedder {
    fn dimension(&self) -> usize {
        self.height * self.width * if self.grayscale { 1 } else { 3 }
    }

    fn batch_size(&self) -> usize {
        1000
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let resized = match self.resize {
            Some(size) => &resize_rounded(images, size)?,
            None => images,
        };
        if (resized.height(), resized.width()) != (self.height, self.width) {
            return Err(BatchError::Size {
                expected_height: self.height,
                expected_width: self.width,
                found_height: resized.height(),
                found_width: resized.width(),
            }
            .into());
        }
        let bytes = resized.data();
        let data: Vec<f32> = if self.grayscale {
            // Thirds of integers up to 765 are rounded once, so equal sums stay equal.
            let (pixels, _) = bytes.as_chunks::<3>();
            let sum = |pixel: &[u8; 3]| pixel.iter().map(|v| f32::from(*v)).sum::<f32>();
            pixels.par_iter().map(|pixel| sum(pixel) / 3.0).collect()
        } else {
            bytes.par_iter().map(|v| f32::from(*v)).collect()
        };
        Embeddings::new(data, self.dimension()).ok_or_else(|| {
            let message = format!("{}x{} is no image", self.height, self.width);
            InvalidKey::new("size", message).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_images() -> ImageBatch {
        ImageBatch::new((0..24).map(|v| v * 10).collect(), 2, 2, 2).unwrap()
    }

    fn embed(config: &PixelsConfig) -> Embeddings {
        let embedder = PixelsEmbedder::new(config, (2, 2)).unwrap();
        let embeddings = embedder.embed(&two_images()).unwrap();
        assert_eq!(embeddings.dimension(), embedder.dimension());
        embeddings
    }

    #[test]
    fn levels_are_kept_in_order() {
        let embeddings = embed(&PixelsConfig::default());
        assert_eq!(embeddings.len(), 2);
        let levels: Vec<f32> = (12..24).map(|v| (v * 10) as f32).collect();
        assert_eq!(embeddings.rows(1..2), levels);
    }

    #[test]
    fn grayscale_is_the_mean_of_the_channels() {
        let embeddings = embed(&PixelsConfig {
            grayscale: true,
            size: None,
        });
        assert_eq!(embeddings.rows(0..1), [10.0, 40.0, 70.0, 100.0]);
    }

    #[test]
    fn resizing_decides_the_dimension() {
        let embeddings = embed(&PixelsConfig {
            grayscale: false,
            size: Some(1),
        });
        assert_eq!((embeddings.len(), embeddings.dimension()), (2, 3));
        assert_eq!(embeddings.rows(0..1), [45.0, 55.0, 65.0]);
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let embedder = PixelsEmbedder::new(&PixelsConfig::default(), (4, 4)).unwrap();
        let message = embedder.embed(&two_images()).err().unwrap().to_string();
        assert!(
            message.contains("2x2") && message.contains("4x4"),
            "{message}"
        );
        assert!(PixelsEmbedder::new(&PixelsConfig::default(), (0, 4)).is_err());
    }
}
