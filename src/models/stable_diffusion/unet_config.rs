//! `unet/config.json`.

use serde_json::Value;

use super::fields::{Fields, check_channels, in_range};
use crate::sections::InvalidKey;

/// The UNet's hyper-parameters, under the names of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct UNet2DConditionConfig {
    /// Rows and columns of the latents that it is meant for. Others work as well, only more slowly.
    pub sample_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each level, the finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// True for each level with attention in the down-sampling path, the finest first
    /// (`down_block_types`).
    pub down_attention: Vec<bool>,
    /// True for each level with attention in the up-sampling path, the coarsest first
    /// (`up_block_types`).
    pub up_attention: Vec<bool>,
    /// Attention heads: in files of SD 1.x, that is what `attention_head_dim` says.
    pub num_heads: usize,
    /// Width of the text encoder's states.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// ε of the residual blocks' norms; the transformers' is 1e-6.
    pub norm_eps: f64,
}

impl UNet2DConditionConfig {
    /// Reads a `config.json` of diffusers. Missing keys have the values that diffusers gives them.
    ///
    /// # Errors
    /// [`InvalidKey`] naming a key that is wrong, or that this network does not have.
    pub fn from_json(value: &Value) -> Result<Self, InvalidKey> {
        let mut fields = Fields::new(value)?;
        fields.only("act_fn", "silu")?;
        fields.only("addition_embed_type_num_heads", 64)?;
        fields.only("attention_type", "default")?;
        fields.only("conv_in_kernel", 3)?;
        fields.only("conv_out_kernel", 3)?;
        fields.only("downsample_padding", 1)?;
        fields.only("flip_sin_to_cos", true)?;
        fields.only("freq_shift", 0)?;
        fields.only("mid_block_scale_factor", 1)?;
        fields.only("mid_block_type", "UNetMidBlock2DCrossAttn")?;
        fields.only("resnet_out_scale_factor", 1)?;
        fields.only("resnet_time_scale_shift", "default")?;
        fields.only("time_embedding_type", "positional")?;
        fields.only("transformer_layers_per_block", 1)?;
        // Dropout is for training; attention here never leaves f32's range.
        fields.ignore(&["dropout", "upcast_attention"]);
        let config = Self {
            sample_size: fields.or("sample_size", 64)?,
            in_channels: fields.or("in_channels", 4)?,
            out_channels: fields.or("out_channels", 4)?,
            block_out_channels: fields.or("block_out_channels", vec![320, 640, 1280, 1280])?,
            layers_per_block: fields.or("layers_per_block", 2)?,
            down_attention: attention(
                &mut fields,
                "down_block_types",
                ["DownBlock2D", "CrossAttnDownBlock2D"],
                &[true, true, true, false],
            )?,
            up_attention: attention(
                &mut fields,
                "up_block_types",
                ["UpBlock2D", "CrossAttnUpBlock2D"],
                &[false, true, true, true],
            )?,
            num_heads: fields.or("attention_head_dim", 8)?,
            cross_attention_dim: fields.or("cross_attention_dim", 1280)?,
            norm_num_groups: fields.or("norm_num_groups", 32)?,
            norm_eps: fields.or("norm_eps", 1e-5)?,
        };
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
            ("sample_size", self.sample_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("attention_head_dim", self.num_heads),
            ("cross_attention_dim", self.cross_attention_dim),
        ])?;
        check_channels(&self.block_out_channels, self.norm_num_groups)?;
        let levels = self.block_out_channels.len();
        for (key, blocks) in [
            ("down_block_types", &self.down_attention),
            ("up_block_types", &self.up_attention),
        ] {
            if blocks.len() != levels {
                let message = format!("has {} blocks for {levels} levels", blocks.len());
                return Err(InvalidKey::new(key, message));
            }
        }
        let heads = self.num_heads;
        match self
            .block_out_channels
            .iter()
            .find(|channels| !channels.is_multiple_of(heads))
        {
            None => Ok(()),
            Some(channels) => Err(InvalidKey::new(
                "attention_head_dim",
                format!("{channels} channels do not divide into {heads} heads"),
            )),
        }
    }

    /// The divisor of the sides of all latents: the network halves them between its levels.
    #[must_use]
    pub fn size_multiple(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}

/// Returns true for each block of `key` that is the second of `names` rather than the first.
fn attention(
    fields: &mut Fields,
    key: &'static str,
    names: [&str; 2],
    default: &[bool],
) -> Result<Vec<bool>, InvalidKey> {
    let Some(blocks) = fields.take::<Vec<String>>(key)? else {
        return Ok(default.to_vec());
    };
    blocks
        .iter()
        .map(|block| match names.iter().position(|name| name == block) {
            Some(index) => Ok(index == 1),
            None => Err(InvalidKey::new(
                key,
                format!(
                    "has \"{block}\": expected \"{}\" or \"{}\"",
                    names[0], names[1]
                ),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_file_is_read() {
        let config = UNet2DConditionConfig::from_json(&json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", "act_fn": "silu",
            "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
            "center_input_sample": false, "cross_attention_dim": 768,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                "DownBlock2D"],
            "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
            "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
            "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D"]
        }))
        .unwrap();
        assert_eq!(config.cross_attention_dim, 768);
        assert_eq!(config.down_attention, [true, true, true, false]);
        assert_eq!(config.size_multiple(), 8);
        // And so is one of today's diffusers, which writes out what is switched off.
        let today = json!({"cross_attention_dim": 768, "use_linear_projection": false,
            "encoder_hid_dim": null, "dropout": 0.0, "resnet_out_scale_factor": 1.0});
        assert_eq!(UNet2DConditionConfig::from_json(&today).unwrap(), config);
    }

    #[test]
    fn other_networks_are_refused_by_the_key() {
        for (value, key) in [
            (
                json!({"use_linear_projection": true}),
                "use_linear_projection",
            ),
            (
                json!({"attention_head_dim": [5, 10, 20, 20]}),
                "attention_head_dim",
            ),
            (json!({"attention_head_dim": 7}), "attention_head_dim"),
            (
                json!({"addition_embed_type": "text_time"}),
                "addition_embed_type",
            ),
            (
                json!({"down_block_types": ["AttnDownBlock2D"]}),
                "down_block_types",
            ),
            (json!({"up_block_types": ["UpBlock2D"]}), "up_block_types"),
            (
                json!({"block_out_channels": [30, 60, 60, 60]}),
                "block_out_channels",
            ),
            (json!({"layers_per_block": 0}), "layers_per_block"),
            (json!({"freq_shift": 1}), "freq_shift"),
        ] {
            let error = UNet2DConditionConfig::from_json(&value).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
