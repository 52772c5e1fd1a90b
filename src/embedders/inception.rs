//! Inception features with clean-fid's preprocessing, the paper's embedding.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, Embeddings};
use crate::hub::Checkpoint;
use crate::images::{Filter, ImageBatch, Resampler};
use crate::models::Precision;
use crate::models::inception::{FEATURES, IGNORED, INPUT_SIZE, Inception};
use crate::sections::{InvalidKey, Section};

/// Configuration of the Inception embedder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InceptionConfig {
    /// File of FID's Inception weights, as pytorch-fid publishes them.
    pub weights: PathBuf,
    /// Rows and columns of the private images: everything is first brought to this size.
    pub resolution: usize,
    /// Images that go through the network at once.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// What the network computes in: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16, `"f16"` on a GPU.
    #[serde(default)]
    pub dtype: Precision,
}

fn default_batch_size() -> usize {
    50
}

impl InceptionConfig {
    /// These weights at CIFAR-10's resolution, everything else by default.
    #[must_use]
    pub fn of(weights: PathBuf) -> Self {
        Self {
            weights,
            resolution: 32,
            batch_size: default_batch_size(),
            dtype: Precision::default(),
        }
    }
}

impl Section for InceptionConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["weights", "batch_size"];
}

impl EmbedderSection for InceptionConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        at_least_one("resolution", self.resolution)?;
        at_least_one("batch_size", self.batch_size)
    }

    fn name(&self) -> &'static str {
        "inception"
    }

    fn weights(&self) -> Option<&Path> {
        Some(&self.weights)
    }

    fn resolution(&self) -> Option<usize> {
        Some(self.resolution)
    }

    fn dtype(&self) -> Precision {
        self.dtype
    }

    fn open_on(&self, _: (usize, usize), device: &Device) -> Result<BoxedEmbedder, EmbedderError> {
        Ok(Box::new(InceptionEmbedder::open(self, device)?))
    }
}

/// Returns an error if `value`, the value of `key`, is 0.
pub(super) fn at_least_one(key: &str, value: usize) -> Result<(), InvalidKey> {
    if value == 0 {
        return Err(InvalidKey::new(key, "is 0: expected at least 1"));
    }
    Ok(())
}

/// Embeds images as FID sees them: `float32[images, 2048]`.
#[derive(Debug)]
pub struct InceptionEmbedder {
    network: Inception,
    resolution: usize,
    batch_size: usize,
    device: Device,
}

impl InceptionEmbedder {
    /// Reads the weights.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when a value is zero or the device lacks `dtype`,
    /// [`EmbedderError::Checkpoint`] when the weights cannot be read or are others.
    pub fn open(config: &InceptionConfig, device: &Device) -> Result<Self, EmbedderError> {
        config.validate()?;
        let dtype = config.dtype.on(device)?;
        let network = Checkpoint::open(&config.weights)?
            .load(dtype, device, IGNORED, |vb| Inception::new(&vb))?;
        Self::new(
            network,
            config.resolution,
            config.batch_size,
            device.clone(),
        )
    }

    /// Wraps a network that lies on `device`.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when `resolution` or `batch_size` is zero.
    pub fn new(
        network: Inception,
        resolution: usize,
        batch_size: usize,
        device: Device,
    ) -> Result<Self, EmbedderError> {
        at_least_one("resolution", resolution)?;
        at_least_one("batch_size", batch_size)?;
        Ok(Self {
            network,
            resolution,
            batch_size,
            device,
        })
    }

    /// The images at the private images' size: resampled in floating point, clipped, rounded half to
    /// even. Images that have that size already stay as they are.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled.
    pub fn at_private_size(&self, images: &ImageBatch) -> Result<ImageBatch, EmbedderError> {
        resize_rounded(images, self.resolution)
    }

    /// What the network sees of images that [`InceptionEmbedder::at_private_size`] gave:
    /// `f32[images, 3, 299, 299]`, resampled in floating point, clipped, `(x - 128) / 128`.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled, [`EmbedderError::Network`] when
    /// the device fails.
    pub fn network_input(&self, images: &ImageBatch) -> Result<Tensor, EmbedderError> {
        let side = INPUT_SIZE;
        let from = (images.height(), images.width());
        let resampler = Resampler::new(Filter::Bicubic, from, (side, side))?;
        let planes = resampler.batch_planes(images, |value| (value - 128.0) / 128.0)?;
        let shape = (images.len(), 3, side, side);
        Ok(Tensor::from_vec(planes, shape, &self.device)?)
    }
}

impl Embedder for InceptionEmbedder {
    fn dimension(&self) -> usize {
        FEATURES
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn overlaps_host_work(&self) -> bool {
        !self.device.is_cpu()
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let mut data = Vec::with_capacity(images.len() * FEATURES);
        // One chunk at 299 × 299 takes about 1 MB an image, its activations several times that.
        for start in (0..images.len()).step_by(self.batch_size) {
            let chunk = images.slice(start..start.saturating_add(self.batch_size));
            let mut input = self.network_input(&self.at_private_size(&chunk)?)?;
            if !self.device.is_cpu() && chunk.len() < self.batch_size {
                // A GPU may choose another algorithm for another batch size, and with it another
                // rounding: one private image more or less must not move the others' features.
                let rest = Tensor::zeros(
                    (self.batch_size - chunk.len(), 3, INPUT_SIZE, INPUT_SIZE),
                    DType::F32,
                    &self.device,
                )?;
                input = Tensor::cat(&[&input, &rest], 0)?;
            }
            let features = self.network.forward(&input)?.narrow(0, 0, chunk.len())?;
            data.extend(features.flatten_all()?.to_vec1::<f32>()?);
        }
        Embeddings::new(data, FEATURES).ok_or_else(|| {
            let message = format!("the features are not rows of {FEATURES}");
            candle_core::Error::Msg(message).into()
        })
    }
}

/// Resamples to `size` × `size` with clean-fid's bicubic filter and rounds half to even.
pub(super) fn resize_rounded(
    images: &ImageBatch,
    size: usize,
) -> Result<ImageBatch, EmbedderError> {
    let from = (images.height(), images.width());
    if from == (size, size) {
        return Ok(images.clone());
    }
    Ok(Resampler::new(Filter::Bicubic, from, (size, size))?.batch_rounded(images)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_follows_resampling_and_equal_sizes_are_kept() {
        let images = ImageBatch::new((0..48).map(|v| v * 5).collect(), 1, 4, 4).unwrap();
        assert!(resize_rounded(&images, 4).unwrap() == images);
        let halved = resize_rounded(&images, 2).unwrap();
        assert_eq!((halved.len(), halved.height(), halved.width()), (1, 2, 2));
        // The image is a linear ramp, 15 a column and 60 a row, and so symmetric about its middle.
        let sum = u32::from(halved.data()[0]) + u32::from(halved.data()[9]);
        assert!(sum.abs_diff(225) <= 1, "{sum}");
    }

    #[test]
    fn a_configuration_rejects_unknown_keys() {
        let parse = toml::from_str::<InceptionConfig>;
        let config = parse("weights = \"w.pt\"\nresolution = 32").unwrap();
        assert_eq!((config.batch_size, config.dtype), (50, Precision::F32));
        let error = parse("weights = \"w.pt\"\nresolution = 32\nresize = 1").unwrap_err();
        assert!(error.to_string().contains("resize"), "{error}");
    }
}
