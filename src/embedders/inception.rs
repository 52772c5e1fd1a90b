//! Inception features with clean-fid's preprocessing, the paper's embedding.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::network::NetworkInput;
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
    /// The number type of the network: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16,
    /// `"f16"` on a GPU.
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
        NetworkInput::check(self.resolution, self.batch_size)
    }

    fn name(&self) -> &'static str {
        "inception"
    }

    fn weights(&self) -> Option<PathBuf> {
        Some(self.weights.clone())
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

/// Embeds images as FID sees them: `float32[images, 2048]`.
#[derive(Debug)]
pub struct InceptionEmbedder {
    network: Inception,
    input: NetworkInput,
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
        let input = NetworkInput::new(resolution, batch_size, device)?;
        Ok(Self { network, input })
    }

    /// Returns the images at the private images' size: resampled in floating point, clipped,
    /// rounded half to even. Images that have that size already stay as they are.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled.
    pub fn at_private_size(&self, images: &ImageBatch) -> Result<ImageBatch, EmbedderError> {
        self.input.at_private_size(images)
    }

    /// Returns the network's input for images that [`InceptionEmbedder::at_private_size`] gave:
    /// `f32[images, 3, 299, 299]`, resampled in floating point, clipped, `(x - 128) / 128`.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled, [`EmbedderError::Network`]
    /// when the device fails.
    pub fn network_input(&self, images: &ImageBatch) -> Result<Tensor, EmbedderError> {
        let side = INPUT_SIZE;
        let from = (images.height(), images.width());
        let resampler = Resampler::new(Filter::Bicubic, from, (side, side))?;
        let planes = resampler.batch_planes(images, |value| (value - 128.0) / 128.0)?;
        let shape = (images.len(), 3, side, side);
        Ok(Tensor::from_vec(planes, shape, self.input.device())?)
    }
}

impl Embedder for InceptionEmbedder {
    fn dimension(&self) -> usize {
        FEATURES
    }

    fn batch_size(&self) -> usize {
        self.input.batch_size()
    }

    fn overlaps_host_work(&self) -> bool {
        self.input.overlaps_host_work()
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        self.input.embed(
            images,
            FEATURES,
            |images| self.network_input(images),
            |input| self.network.forward(input),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_rejects_unknown_keys() {
        let parse = toml::from_str::<InceptionConfig>;
        let config = parse("weights = \"w.pt\"\nresolution = 32").unwrap();
        assert_eq!((config.batch_size, config.dtype), (50, Precision::F32));
        let error = parse("weights = \"w.pt\"\nresolution = 32\nresize = 1").unwrap_err();
        assert!(error.to_string().contains("resize"), "{error}");
    }
}
