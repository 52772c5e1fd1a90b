//! Hyper-parameters of the towers, under the keys of Hugging Face's `config.json`.

use serde::{Deserialize, Serialize};

use crate::models::transformer::Activation;
use crate::sections::InvalidKey;

/// The activation between a layer's two projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`: OpenAI's models and Stable Diffusion 1.
    #[default]
    QuickGelu,
    /// `x · Φ(x)`: OpenCLIP's models and Stable Diffusion 2.
    Gelu,
}

impl HiddenAct {
    pub(super) fn activation(self) -> Activation {
        match self {
            Self::QuickGelu => Activation::QuickGelu,
            Self::Gelu => Activation::Gelu,
        }
    }
}

/// The text tower's hyper-parameters; the defaults are those of the class in transformers. Other
/// keys of a `config.json` say nothing about the network and are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels between a layer's two projections.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// The most tokens of a text.
    pub max_position_embeddings: usize,
    /// The activation.
    pub hidden_act: HiddenAct,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipTextConfig {
    /// Checks that a network can be built.
    ///
    /// # Errors
    /// Names the first key whose value makes no sense.
    pub fn validate(&self) -> std::result::Result<(), InvalidKey> {
        at_least_one("vocab_size", self.vocab_size)?;
        at_least_one("max_position_embeddings", self.max_position_embeddings)?;
        self.shape().validate()
    }

    pub(super) fn shape(&self) -> EncoderShape {
        EncoderShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }
}

/// The vision tower's hyper-parameters; the defaults are those of ViT-B/32. Other keys of a
/// `config.json` are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Channels.
    pub hidden_size: usize,
    /// Channels between a layer's two projections.
    pub intermediate_size: usize,
    /// Numbers in an image's embedding.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Rows and columns of an image.
    pub image_size: usize,
    /// Rows and columns of a patch.
    pub patch_size: usize,
    /// The activation.
    pub hidden_act: HiddenAct,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// Checks that a network can be built.
    ///
    /// # Errors
    /// Names the first key whose value makes no sense.
    pub fn validate(&self) -> std::result::Result<(), InvalidKey> {
        at_least_one("projection_dim", self.projection_dim)?;
        at_least_one("patch_size", self.patch_size)?;
        if self.image_size < self.patch_size {
            let message = format!(
                "{} is smaller than a patch of {}",
                self.image_size, self.patch_size
            );
            return Err(InvalidKey::new("image_size", message));
        }
        self.shape().validate()
    }

    /// Patches along a side. A rest that is no whole patch is not looked at.
    pub(super) fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn shape(&self) -> EncoderShape {
        EncoderShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }
}

/// The hyper-parameters of the layers of either tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncoderShape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
}

impl EncoderShape {
    pub fn validate(&self) -> std::result::Result<(), InvalidKey> {
        at_least_one("hidden_size", self.hidden_size)?;
        at_least_one("intermediate_size", self.intermediate_size)?;
        at_least_one("num_attention_heads", self.num_attention_heads)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let message = format!(
                "{} heads do not divide {} channels",
                self.num_attention_heads, self.hidden_size
            );
            return Err(InvalidKey::new("num_attention_heads", message));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            let message = format!(
                "is {}: expected a small positive number",
                self.layer_norm_eps
            );
            return Err(InvalidKey::new("layer_norm_eps", message));
        }
        Ok(())
    }
}

pub(super) fn at_least_one(key: &'static str, value: usize) -> std::result::Result<(), InvalidKey> {
    if value == 0 {
        return Err(InvalidKey::new(key, "is 0: expected at least 1"));
    }
    Ok(())
}
