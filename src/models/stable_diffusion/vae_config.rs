//! `vae/config.json`.

use serde_json::Value;

use super::fields::{Fields, check_channels, in_range};
use crate::sections::InvalidKey;

/// The autoencoder's hyper-parameters, under the names of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderKlConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, the finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// The factor of the latents before noise is added.
    pub scaling_factor: f64,
}

impl AutoencoderKlConfig {
    /// Reads a `config.json` of diffusers. Missing keys have the values that diffusers gives them,
    /// but for the channels, which every file of SD gives.
    ///
    /// # Errors
    /// [`InvalidKey`] naming a key that is wrong, or that this network does not have.
    pub fn from_json(value: &Value) -> Result<Self, InvalidKey> {
        let mut fields = Fields::new(value)?;
        fields.only("act_fn", "silu")?;
        fields.only("use_quant_conv", true)?;
        fields.only("use_post_quant_conv", true)?;
        fields.only("mid_block_add_attention", true)?;
        // The size trained on, and advice on half precision.
        fields.ignore(&["sample_size", "force_upcast"]);
        let config = Self {
            in_channels: fields.or("in_channels", 3)?,
            out_channels: fields.or("out_channels", 3)?,
            latent_channels: fields.or("latent_channels", 4)?,
            block_out_channels: fields.need("block_out_channels")?,
            layers_per_block: fields.or("layers_per_block", 1)?,
            norm_num_groups: fields.or("norm_num_groups", 32)?,
            scaling_factor: fields.or("scaling_factor", 0.18215)?,
        };
        let levels = config.block_out_channels.len();
        for (key, name) in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ] {
            let Some(blocks) = fields.take::<Vec<String>>(key)? else {
                continue;
            };
            if blocks.len() != levels || blocks.iter().any(|block| block != name) {
                let message =
                    format!("is {blocks:?}: expected \"{name}\" for each of {levels} levels");
                return Err(InvalidKey::new(key, message));
            }
        }
        fields.finish()?;
        config.validate()?;
        Ok(config)
    }

    /// Checks everything that the network's shape rests on.
    ///
    /// # Errors
    /// [`InvalidKey`] naming the key.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        in_range(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
        ])?;
        check_channels(&self.block_out_channels, self.norm_num_groups)?;
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            let message = format!("is {}: expected a number above 0", self.scaling_factor);
            return Err(InvalidKey::new("scaling_factor", message));
        }
        Ok(())
    }

    /// Pixels of an image for each pixel of its latents, in each direction.
    #[must_use]
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_file_is_read_and_others_are_refused() {
        let published = json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.2.2", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D",
                "DownEncoderBlock2D"],
            "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "out_channels": 3,
            "sample_size": 512,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D",
                "UpDecoderBlock2D"]
        });
        let config = AutoencoderKlConfig::from_json(&published).unwrap();
        assert_eq!((config.downsampling(), config.scaling_factor), (8, 0.18215));
        for (key, value) in [
            ("up_block_types", json!(["UpDecoderBlock2D"])),
            ("scaling_factor", json!(0)),
            ("shift_factor", json!(0.1)),
            ("block_out_channels", json!(null)),
            ("layers_per_block", json!(0)),
        ] {
            let mut other = published.clone();
            other[key] = value;
            let error = AutoencoderKlConfig::from_json(&other).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
