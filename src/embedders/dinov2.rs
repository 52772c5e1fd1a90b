//! DINOv2's image embeddings, prepared as dgm-eval prepares images for FD-DINOv2.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::network::{NetworkInput, normalized};
use super::{BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, Embeddings};
use crate::images::{Filter, ImageBatch, Resampler};
use crate::models::Precision;
use crate::models::dinov2::Dinov2;
use crate::sections::{InvalidKey, Section};

/// Mean and standard deviation of ImageNet's red, green and blue channels
/// (`make_normalize_transform` in `dinov2/data/transforms.py` of facebookresearch/dinov2).
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Configuration of the DINOv2 embedder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dinov2EmbedderConfig {
    /// File of the weights, as Meta or the hub publish them, or the folder of a hub repository.
    pub weights: PathBuf,
    /// Rows and columns of the private images: everything is first brought to this size.
    pub resolution: usize,
    /// Rows and columns that the network sees, a multiple of its patch size.
    #[serde(default = "default_input_size")]
    pub input_size: usize,
    /// Images that go through the network at once.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// The number type of the network: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16,
    /// `"f16"` on a GPU.
    #[serde(default)]
    pub dtype: Precision,
}

/// The size at which FD-DINOv2 is defined (Stein et al. 2023, arXiv 2306.04675).
fn default_input_size() -> usize {
    224
}

fn default_batch_size() -> usize {
    50
}

impl Dinov2EmbedderConfig {
    /// These weights at CIFAR-10's resolution, everything else by default.
    #[must_use]
    pub fn of(weights: PathBuf) -> Self {
        Self {
            weights,
            resolution: 32,
            input_size: default_input_size(),
            batch_size: default_batch_size(),
            dtype: Precision::default(),
        }
    }
}

impl Section for Dinov2EmbedderConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["weights", "batch_size"];
}

impl EmbedderSection for Dinov2EmbedderConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        NetworkInput::check(self.resolution, self.batch_size)?;
        super::network::at_least_one("input_size", self.input_size)
    }

    fn name(&self) -> &'static str {
        "dinov2"
    }

    fn weights(&self) -> Option<PathBuf> {
        Some(Dinov2::weights_in(&self.weights))
    }

    fn resolution(&self) -> Option<usize> {
        Some(self.resolution)
    }

    fn dtype(&self) -> Precision {
        self.dtype
    }

    fn open_on(&self, _: (usize, usize), device: &Device) -> Result<BoxedEmbedder, EmbedderError> {
        Ok(Box::new(Dinov2Embedder::open(self, device)?))
    }
}

/// Embeds images as DINOv2 does: `float32[images, 768]` for the base size, the class token after
/// the final norm.
#[derive(Debug)]
pub struct Dinov2Embedder {
    network: Dinov2,
    input: NetworkInput,
}

impl Dinov2Embedder {
    /// Reads the weights.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when a value is out of range or the device lacks `dtype`,
    /// [`EmbedderError::Checkpoint`] when the weights cannot be read or are others.
    pub fn open(config: &Dinov2EmbedderConfig, device: &Device) -> Result<Self, EmbedderError> {
        config.validate()?;
        let dtype = config.dtype.on(device)?;
        let path: &Path = &config.weights;
        let network = Dinov2::open(path, config.input_size, dtype, device)?;
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
        network: Dinov2,
        resolution: usize,
        batch_size: usize,
        device: Device,
    ) -> Result<Self, EmbedderError> {
        let input = NetworkInput::new(resolution, batch_size, device)?;
        Ok(Self { network, input })
    }

    /// Returns the network's input for images of any size, `f32[images, 3, input_size,
    /// input_size]`: dgm-eval's default transform, which is `T.Resize` to a square (Pillow's
    /// bicubic filter on 8 bits, whatever the aspect ratio) and a normalization of each channel.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled, [`EmbedderError::Network`]
    /// when the device fails.
    pub fn network_input(&self, images: &ImageBatch) -> Result<Tensor, EmbedderError> {
        let resized = Self::resized(images, self.network.input_size())?;
        normalized(&resized, MEAN, STD, self.input.device())
    }

    /// Resizes to `side` × `side` pixels by Pillow's bicubic filter on 8 bits.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when a side is zero or an image becomes too large.
    pub fn resized(images: &ImageBatch, side: usize) -> Result<ImageBatch, EmbedderError> {
        let from = (images.height(), images.width());
        if from == (side, side) {
            return Ok(images.clone());
        }
        let resampler = Resampler::new(Filter::Bicubic, from, (side, side))?;
        Ok(resampler.batch_bytes(images)?)
    }
}

impl Embedder for Dinov2Embedder {
    fn dimension(&self) -> usize {
        self.network.config().hidden_size
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
            self.dimension(),
            |images| self.network_input(images),
            |input| self.network.forward(input),
        )
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::models::dinov2::Dinov2Config;
    use crate::models::testing::any_weights;

    fn embedder(batch_size: usize) -> Dinov2Embedder {
        let config = Dinov2Config {
            hidden_size: 64,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            image_size: 70,
            ..Dinov2Config::default()
        };
        let network = Dinov2::new(&config, 28, &any_weights()).unwrap();
        Dinov2Embedder::new(network, 10, batch_size, Device::Cpu).unwrap()
    }

    #[test]
    fn a_vector_does_not_depend_on_the_batch() {
        let level = |i: usize| (i * i * 7 % 256) as u8;
        let data = (0..5 * 8 * 9 * 3).map(level).collect();
        let images = ImageBatch::new(data, 5, 8, 9).unwrap();
        let of_two = embedder(2).embed(&images).unwrap();
        assert_eq!((of_two.len(), of_two.dimension()), (5, 64));
        assert!(of_two == embedder(7).embed(&images).unwrap());
        assert_ne!(of_two.rows(0..1), of_two.rows(1..2));
        assert!(embedder(2).embed(&images.slice(0..0)).unwrap().is_empty());
    }

    #[test]
    fn any_aspect_ratio_becomes_a_square_in_the_channels_order() {
        let red = [255u8, 0, 0].repeat(8 * 12);
        let images = ImageBatch::new(red, 1, 8, 12).unwrap();
        let input = embedder(1).network_input(&images).unwrap();
        assert_eq!(
            (input.dims(), input.dtype()),
            (&[1, 3, 28, 28][..], DType::F32)
        );
        let values: Vec<f32> = input.flatten_all().unwrap().to_vec1().unwrap();
        for (channel, plane) in values.chunks(28 * 28).enumerate() {
            let level = if channel == 0 { 1.0 } else { 0.0 };
            let expected = (level - MEAN[channel]) / STD[channel];
            assert!(plane.iter().all(|v| *v == expected));
        }
    }

    #[test]
    fn configurations_are_checked() {
        let parse = |text: &str| toml::from_str::<Dinov2EmbedderConfig>(text);
        let text = "weights = \"w.pth\"\nresolution = 32\n";
        let config = parse(text).unwrap();
        assert_eq!((config.batch_size, config.input_size), (50, 224));
        assert_eq!(config.dtype, Precision::F32);
        assert!(config.validate().is_ok());
        for key in ["input_size", "batch_size"] {
            let zero = parse(&format!("{text}{key} = 0")).unwrap();
            let message = zero.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert!(parse(&format!("{text}hidden_act = \"gelu\"")).is_err());
    }
}
