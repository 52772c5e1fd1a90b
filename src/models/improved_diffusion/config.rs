//! Hyper-parameters of the UNet.

use serde::{Deserialize, Serialize};

use crate::sections::InvalidKey;

/// Groups of every group norm.
pub(super) const GROUPS: usize = 32;

/// The UNet's hyper-parameters; the defaults are those of openai/improved-diffusion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UNetConfig {
    /// Rows and columns of the images that it was trained on.
    pub image_size: usize,
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of the first level (`num_channels` in the original).
    pub model_channels: usize,
    /// Predicts a variance as well, which doubles the channels of the result.
    pub learn_sigma: bool,
    /// Residual blocks of each level on the way down; one more on the way up.
    pub num_res_blocks: usize,
    /// Channels of each level as a multiple of `model_channels`; by default what the original has
    /// for `image_size` 32, 64 or 256.
    pub channel_mult: Option<Vec<usize>>,
    /// Sides of the feature maps on which there is attention.
    pub attention_resolutions: Vec<usize>,
    /// Attention heads.
    pub num_heads: usize,
    /// Attention heads on the way up; by default `num_heads` (-1 in the original).
    pub num_heads_upsample: Option<usize>,
    /// Scales and shifts the normalized features by the embedding instead of adding it.
    pub use_scale_shift_norm: bool,
    /// Number of classes of a class-conditional model.
    pub num_classes: Option<usize>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            in_channels: 3,
            model_channels: 128,
            learn_sigma: false,
            num_res_blocks: 2,
            channel_mult: None,
            attention_resolutions: vec![16, 8],
            num_heads: 4,
            num_heads_upsample: None,
            use_scale_shift_norm: true,
            num_classes: None,
        }
    }
}

/// One resolution of the network.
pub(super) struct Level {
    pub channels: usize,
    pub attention: bool,
}

impl UNetConfig {
    /// Channels of the result: `in_channels`, twice that with `learn_sigma`.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        if self.learn_sigma {
            2 * self.in_channels
        } else {
            self.in_channels
        }
    }

    /// Checks that a network can be built.
    ///
    /// # Errors
    /// Names the first key whose value makes no sense.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        self.layout().map(|_| ())
    }

    pub(super) fn time_embed_dim(&self) -> usize {
        4 * self.model_channels
    }

    /// Returns the divisor of the sides of every image: the network halves them between its levels.
    #[must_use]
    pub fn size_multiple(&self) -> usize {
        let levels = match &self.channel_mult {
            Some(mult) => mult.len(),
            None => default_channel_mult(self.image_size).map_or(1, <[usize]>::len),
        };
        1 << (levels.max(1) - 1)
    }

    /// The levels, the finest first.
    pub(super) fn layout(&self) -> Result<Vec<Level>, InvalidKey> {
        let positive = [
            ("image_size", self.image_size),
            ("in_channels", self.in_channels),
            ("model_channels", self.model_channels),
            ("num_heads", self.num_heads),
            ("num_heads_upsample", self.num_heads_upsample.unwrap_or(1)),
            ("num_res_blocks", self.num_res_blocks),
            ("num_classes", self.num_classes.unwrap_or(1)),
        ];
        for (key, value) in positive {
            // Far above any model, and low enough that no product overflows.
            if value == 0 || value > 1 << 16 {
                return Err(InvalidKey::new(key, format!("{value} is not in 1..=65536")));
            }
        }
        let mult: &[usize] = match &self.channel_mult {
            Some(mult) => mult,
            None => default_channel_mult(self.image_size).ok_or_else(|| {
                InvalidKey::new(
                    "channel_mult",
                    format!(
                        "has no default for image_size {}: only 32, 64 and 256 have one",
                        self.image_size
                    ),
                )
            })?,
        };
        if mult.is_empty() || mult.len() > 16 || mult.iter().any(|m| *m == 0 || *m > 1 << 10) {
            return Err(InvalidKey::new(
                "channel_mult",
                format!("{mult:?} is not a list of 1 to 16 multiples between 1 and 1024"),
            ));
        }
        let multiple = 1 << (mult.len() - 1);
        if !self.image_size.is_multiple_of(multiple) {
            return Err(InvalidKey::new(
                "image_size",
                format!(
                    "{} cannot be halved between the {} levels of channel_mult: expected a multiple of {multiple}",
                    self.image_size,
                    mult.len()
                ),
            ));
        }
        let rates = self.attention_rates(mult.len())?;
        let levels = mult
            .iter()
            .enumerate()
            .map(|(level, mult)| {
                self.level(mult * self.model_channels, rates.contains(&(1 << level)))
            })
            .collect::<Result<Vec<Level>, InvalidKey>>()?;
        if !self.model_channels.is_multiple_of(GROUPS) {
            return Err(InvalidKey::new(
                "model_channels",
                format!("{} is not a multiple of {GROUPS}", self.model_channels),
            ));
        }
        // The middle block has attention at the coarsest level, whatever the resolutions say.
        if let Some(last) = levels.last() {
            check_heads("num_heads", self.num_heads, last.channels)?;
        }
        Ok(levels)
    }

    fn level(&self, channels: usize, attention: bool) -> Result<Level, InvalidKey> {
        if attention {
            check_heads("num_heads", self.num_heads, channels)?;
            if let Some(heads) = self.num_heads_upsample {
                check_heads("num_heads_upsample", heads, channels)?;
            }
        }
        Ok(Level {
            channels,
            attention,
        })
    }

    /// By how much images are scaled down where there is attention: `image_size // resolution`,
    /// which the original computes without asking whether it exists.
    fn attention_rates(&self, levels: usize) -> Result<Vec<usize>, InvalidKey> {
        self.attention_resolutions
            .iter()
            .map(|resolution| {
                let rate = self.image_size.checked_div(*resolution).unwrap_or(0);
                let exact = rate > 0 && rate * resolution == self.image_size;
                if exact && (0..levels).any(|level| 1 << level == rate) {
                    return Ok(rate);
                }
                let sides: Vec<usize> = (0..levels).map(|level| self.image_size >> level).collect();
                Err(InvalidKey::new(
                    "attention_resolutions",
                    format!(
                        "{resolution} is not the side of a feature map: expected among {sides:?}"
                    ),
                ))
            })
            .collect()
    }
}

fn check_heads(key: &'static str, heads: usize, channels: usize) -> Result<(), InvalidKey> {
    if channels.is_multiple_of(heads) {
        return Ok(());
    }
    Err(InvalidKey::new(
        key,
        format!("{channels} channels do not divide into {heads} heads"),
    ))
}

/// `create_model`'s multiples.
fn default_channel_mult(image_size: usize) -> Option<&'static [usize]> {
    match image_size {
        32 => Some(&[1, 2, 2, 2]),
        64 => Some(&[1, 2, 3, 4]),
        256 => Some(&[1, 1, 2, 2, 4, 4]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: UNetConfig) -> String {
        let error = config.validate().expect_err("an invalid configuration");
        error.to_string()
    }

    #[test]
    fn invalid_configurations_name_their_key() {
        // One table: a row for each key.
        let base = UNetConfig::default();
        assert!(base.validate().is_ok());
        let cases = [
            (
                UNetConfig {
                    image_size: 48,
                    ..base.clone()
                },
                "channel_mult: has no default for image_size 48",
            ),
            (
                UNetConfig {
                    attention_resolutions: vec![12],
                    ..base.clone()
                },
                "attention_resolutions: 12 is not the side of a feature map: expected among [64, 32, 16, 8]",
            ),
            (
                UNetConfig {
                    attention_resolutions: vec![4],
                    ..base.clone()
                },
                "attention_resolutions: 4 is not",
            ),
            (
                UNetConfig {
                    attention_resolutions: vec![0],
                    ..base.clone()
                },
                "attention_resolutions: 0 is not",
            ),
            (
                UNetConfig {
                    num_heads: 5,
                    ..base.clone()
                },
                "num_heads: 384 channels do not divide into 5 heads",
            ),
            (
                UNetConfig {
                    num_heads_upsample: Some(7),
                    ..base.clone()
                },
                "num_heads_upsample: 384 channels",
            ),
            (
                UNetConfig {
                    model_channels: 40,
                    ..base.clone()
                },
                "model_channels: 40 is not a multiple of 32",
            ),
            (
                UNetConfig {
                    image_size: 36,
                    channel_mult: Some(vec![1, 2, 2, 2]),
                    ..base.clone()
                },
                "image_size: 36 cannot be halved",
            ),
            (
                UNetConfig {
                    channel_mult: Some(vec![]),
                    ..base.clone()
                },
                "channel_mult: [] is not",
            ),
            (
                UNetConfig {
                    num_classes: Some(0),
                    ..base.clone()
                },
                "num_classes: 0 is not",
            ),
            (
                UNetConfig {
                    model_channels: usize::MAX,
                    ..base.clone()
                },
                "model_channels: ",
            ),
        ];
        for (config, expected) in cases {
            let message = refused(config);
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn other_sizes_work_with_their_own_multiples() {
        let config = UNetConfig {
            image_size: 48,
            channel_mult: Some(vec![1, 2]),
            attention_resolutions: vec![24],
            ..UNetConfig::default()
        };
        assert!(config.validate().is_ok());
        assert_eq!(config.size_multiple(), 2);
    }
}
