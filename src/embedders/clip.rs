//! CLIP's image embeddings with clean-fid's preprocessing.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::network::{NetworkInput, at_least_one, normalized};
use super::{BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, Embeddings};
use crate::images::{
    Filter, ImageBatch, ImageSize, ResizeError, Rgb, center_crop, resize_to_cover,
};
use crate::models::clip::{ClipVision, HiddenAct};
use crate::sections::{InvalidKey, Section};

/// Mean and standard deviation of the channels red, green, blue of the images that CLIP was trained
/// on (`_transform` in `clip/clip.py` of openai/CLIP).
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Configuration of the CLIP embedder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// File of the weights, as Hugging Face or OpenAI publish them.
    pub weights: PathBuf,
    /// Rows and columns of the private images: everything is first brought to this size.
    pub resolution: usize,
    /// Images that go through the network at once.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Attention heads, which the weights do not determine; by default one for 64 channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// The activation, which the weights do not determine either.
    #[serde(default)]
    pub hidden_act: HiddenAct,
}

fn default_batch_size() -> usize {
    50
}

impl ClipConfig {
    /// These weights at CIFAR-10's resolution, everything else by default.
    #[must_use]
    pub fn of(weights: PathBuf) -> Self {
        Self {
            weights,
            resolution: 32,
            batch_size: default_batch_size(),
            num_attention_heads: None,
            hidden_act: HiddenAct::default(),
        }
    }
}

impl Section for ClipConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["weights", "batch_size"];
}

impl EmbedderSection for ClipConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        NetworkInput::check(self.resolution, self.batch_size)?;
        at_least_one("num_attention_heads", self.num_attention_heads.unwrap_or(1))
    }

    fn name(&self) -> &'static str {
        "clip"
    }

    fn weights(&self) -> Option<PathBuf> {
        Some(self.weights.clone())
    }

    fn resolution(&self) -> Option<usize> {
        Some(self.resolution)
    }

    fn open_on(&self, _: (usize, usize), device: &Device) -> Result<BoxedEmbedder, EmbedderError> {
        Ok(Box::new(ClipEmbedder::open(self, device)?))
    }
}

/// Embeds images as CLIP does: `float32[images, 512]` for ViT-B/32. The vectors are not of length
/// 1, as in clean-fid.
#[derive(Debug)]
pub struct ClipEmbedder {
    network: ClipVision,
    input: NetworkInput,
}

impl ClipEmbedder {
    /// Reads the weights.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when a value is zero, [`EmbedderError::Checkpoint`] when the
    /// weights cannot be read or are others.
    pub fn open(config: &ClipConfig, device: &Device) -> Result<Self, EmbedderError> {
        config.validate()?;
        let (heads, act) = (config.num_attention_heads, config.hidden_act);
        let network = ClipVision::open(&config.weights, heads, act, device)?;
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
        network: ClipVision,
        resolution: usize,
        batch_size: usize,
        device: Device,
    ) -> Result<Self, EmbedderError> {
        let input = NetworkInput::new(resolution, batch_size, device)?;
        Ok(Self { network, input })
    }

    /// Returns the network's input for images of any size: `f32[images, 3, side, side]`, cut out by
    /// [`ClipEmbedder::cut_out`] and normalized.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled, [`EmbedderError::Network`]
    /// when the device fails.
    pub fn network_input(&self, images: &ImageBatch) -> Result<Tensor, EmbedderError> {
        let pixels = Self::cut_out(images, self.network.config().image_size)?;
        normalized(&pixels, MEAN, STD, self.input.device())
    }

    /// `T.Resize(side, BICUBIC)` and `T.CenterCrop(side)` on 8 bits (`img_preprocess_clip` in
    /// `cleanfid/clip_features.py`): the shorter side becomes `side`, then the middle is cut out.
    ///
    /// # Errors
    /// [`ResizeError`] when a side is zero or an image becomes too large.
    pub fn cut_out(images: &ImageBatch, side: usize) -> Result<ImageBatch, ResizeError> {
        let (height, width) = (images.height(), images.width());
        let size = ImageSize::square(side);
        if (height, width) == size.pair() {
            return Ok(images.clone());
        }
        let cut = (0..images.len())
            .into_par_iter()
            .map(|index| {
                let image = Rgb {
                    pixels: images.get(index).unwrap_or_default().to_vec(),
                    height,
                    width,
                };
                center_crop(&resize_to_cover(image, size, Filter::Bicubic)?, size)
            })
            .collect::<Result<Vec<_>, ResizeError>>()?;
        Ok(ImageBatch::new(cut.concat(), images.len(), side, side)?)
    }
}

impl Embedder for ClipEmbedder {
    fn dimension(&self) -> usize {
        self.network.config().projection_dim
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
    use super::*;
    use crate::models::clip::ClipVisionConfig;
    use crate::models::testing::any_weights;

    fn embedder(batch_size: usize) -> ClipEmbedder {
        let config = ClipVisionConfig {
            hidden_size: 16,
            intermediate_size: 32,
            projection_dim: 6,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            image_size: 12,
            patch_size: 4,
            ..ClipVisionConfig::default()
        };
        let network = ClipVision::new(&config, &any_weights()).unwrap();
        ClipEmbedder::new(network, 10, batch_size, Device::Cpu).unwrap()
    }

    fn images(count: usize) -> ImageBatch {
        let level = |i: usize| (i * i * 7 % 256) as u8;
        let data = (0..count * 8 * 9 * 3).map(level).collect();
        ImageBatch::new(data, count, 8, 9).unwrap()
    }

    #[test]
    fn a_vector_does_not_depend_on_the_batch() {
        let images = images(5);
        let of_two = embedder(2).embed(&images).unwrap();
        assert_eq!((of_two.len(), of_two.dimension()), (5, 6));
        assert!(of_two == embedder(7).embed(&images).unwrap());
        assert_ne!(of_two.rows(0..1), of_two.rows(1..2));
        assert!(embedder(2).embed(&images.slice(0..0)).unwrap().is_empty());
    }

    #[test]
    fn levels_are_normalized_by_channel() {
        let white = ImageBatch::new(vec![255; 12 * 12 * 3], 1, 12, 12).unwrap();
        let input = embedder(1).network_input(&white).unwrap();
        assert_eq!(input.dims(), [1, 3, 12, 12]);
        let values: Vec<f32> = input.flatten_all().unwrap().to_vec1().unwrap();
        for (channel, plane) in values.chunks(144).enumerate() {
            let expected = (1.0 - MEAN[channel]) / STD[channel];
            assert!(plane.iter().all(|v| *v == expected));
        }
    }

    #[test]
    fn configurations_are_checked() {
        let parse = |text: &str| toml::from_str::<ClipConfig>(text);
        let text = "weights = \"w.pt\"\nresolution = 32\n";
        let config = parse(text).unwrap();
        assert_eq!(config.batch_size, 50);
        assert_eq!(config.hidden_act, HiddenAct::QuickGelu);
        assert!(config.validate().is_ok());
        let gelu = parse(&format!("{text}hidden_act = \"gelu\"")).unwrap();
        assert_eq!(gelu.hidden_act, HiddenAct::Gelu);
        let zero = parse(&format!("{text}num_attention_heads = 0")).unwrap();
        let message = zero.validate().unwrap_err().to_string();
        assert!(message.contains("num_attention_heads"), "{message}");
        assert!(parse(&format!("{text}resize = 1")).is_err());
    }
}
