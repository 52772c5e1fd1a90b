//! The two schemes of names under which DINOv2 is published, and reading a block under either.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::Dinov2Config;
use crate::kernels::{LayerNorm, Linear};
use crate::models::transformer::{Activation, Block, FeedForward, joined_qkv};

/// Naming scheme of a checkpoint's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// `state_dict` of facebookresearch/dinov2.
    Meta,
    /// `Dinov2Model` of transformers.
    HuggingFace,
}

impl Names {
    /// The tensor by which a scheme is recognized: the patch embedding.
    pub const fn patches(self) -> &'static str {
        match self {
            Self::Meta => "patch_embed.proj.weight",
            Self::HuggingFace => "embeddings.patch_embeddings.projection.weight",
        }
    }

    /// Full name of the position embedding.
    pub const fn positions(self) -> &'static str {
        match self {
            Self::Meta => "pos_embed",
            Self::HuggingFace => "embeddings.position_embeddings",
        }
    }

    /// Full name of the register tokens, which some sizes have.
    pub const fn registers(self) -> &'static str {
        match self {
            Self::Meta => "register_tokens",
            Self::HuggingFace => "embeddings.register_tokens",
        }
    }

    /// Prefix of the blocks, before their number.
    pub const fn block_prefix(self) -> &'static str {
        match self {
            Self::Meta => "blocks.",
            Self::HuggingFace => "encoder.layer.",
        }
    }

    /// Name within a block of the tensor that only a multi-layer perceptron has.
    pub const fn mlp(self) -> &'static str {
        "mlp.fc1.weight"
    }

    /// Name within a block of the joined gate and value of SwiGLU.
    pub const fn swiglu(self) -> &'static str {
        match self {
            Self::Meta => "mlp.w12.weight",
            Self::HuggingFace => "mlp.weights_in.weight",
        }
    }

    /// The scheme of the checkpoint behind `vb`.
    pub fn of(vb: &VarBuilder<'_>) -> Self {
        if vb.contains_tensor(Self::HuggingFace.patches()) {
            Self::HuggingFace
        } else {
            Self::Meta
        }
    }

    pub fn embeddings<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.clone(),
            Self::HuggingFace => vb.pp("embeddings"),
        }
    }

    /// Name below [`Names::embeddings`].
    pub const fn position_embedding(self) -> &'static str {
        match self {
            Self::Meta => "pos_embed",
            Self::HuggingFace => "position_embeddings",
        }
    }

    pub fn patch_embedding<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.pp("patch_embed.proj"),
            Self::HuggingFace => vb.pp("embeddings.patch_embeddings.projection"),
        }
    }

    pub fn blocks<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        match self {
            Self::Meta => vb.pp("blocks"),
            Self::HuggingFace => vb.pp("encoder.layer"),
        }
    }

    pub const fn norm(self) -> &'static str {
        match self {
            Self::Meta => "norm",
            Self::HuggingFace => "layernorm",
        }
    }

    /// Reads the block below `vb`. LayerScale, a factor for each channel after either half of the
    /// block, is multiplied into the last matrix of that half, in `f32`: the same function, less
    /// one pass over the activations.
    pub fn block(self, config: &Dinov2Config, vb: &VarBuilder<'_>) -> Result<Block> {
        let hidden = config.hidden_size;
        let norm = |name| LayerNorm::load(hidden, config.layer_norm_eps, &vb.pp(name));
        let [attention, projection, scale1, scale2] = match self {
            Self::Meta => ["attn", "attn.proj", "ls1.gamma", "ls2.gamma"],
            Self::HuggingFace => [
                "attention.attention",
                "attention.output.dense",
                "layer_scale1.lambda1",
                "layer_scale2.lambda1",
            ],
        };
        let attention = vb.pp(attention);
        let (weight, bias) = match self {
            Self::Meta => (
                attention.get((3 * hidden, hidden), "qkv.weight")?,
                attention.get(3 * hidden, "qkv.bias")?,
            ),
            Self::HuggingFace => joined_qkv(hidden, ["query", "key", "value"], &attention)?,
        };
        Ok(Block {
            heads: config.num_attention_heads,
            norm1: norm("norm1")?,
            qkv: Linear::new(&weight, Some(bias))?,
            out: scaled_linear((hidden, hidden), &vb.pp(projection), scale1, vb)?,
            norm2: norm("norm2")?,
            feed_forward: self.feed_forward(config, scale2, vb)?,
        })
    }

    fn feed_forward(
        self,
        config: &Dinov2Config,
        scale: &str,
        vb: &VarBuilder<'_>,
    ) -> Result<FeedForward> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size());
        let mlp = vb.pp("mlp");
        if !config.use_swiglu_ffn {
            return Ok(FeedForward::Mlp {
                fc1: Linear::load(hidden, inner, true, &mlp.pp("fc1"))?,
                act: Activation::Gelu,
                fc2: scaled_linear((inner, hidden), &mlp.pp("fc2"), scale, vb)?,
            });
        }
        let [joined, last] = match self {
            Self::Meta => ["w12", "w3"],
            Self::HuggingFace => ["weights_in", "weights_out"],
        };
        let joined = mlp.pp(joined);
        let weight = joined.get((2 * inner, hidden), "weight")?;
        let bias = joined.get(2 * inner, "bias")?;
        // Two products instead of one and a split: the activations of each then lie side by side.
        let half = |index: usize| -> Result<Linear> {
            let weight = weight.narrow(0, index * inner, inner)?.contiguous()?;
            let bias = bias.narrow(0, index * inner, inner)?.contiguous()?;
            Linear::new(&weight, Some(bias))
        };
        Ok(FeedForward::SwiGlu {
            gate: half(0)?,
            value: half(1)?,
            out: scaled_linear((inner, hidden), &mlp.pp(last), scale, vb)?,
        })
    }
}

/// Reads a layer of `(inputs, outputs)` below `vb` and multiplies its results by the tensor `scale`
/// below `block`.
fn scaled_linear(
    (inputs, outputs): (usize, usize),
    vb: &VarBuilder<'_>,
    scale: &str,
    block: &VarBuilder<'_>,
) -> Result<Linear> {
    let (wide, dtype) = (vb.to_dtype(DType::F32), vb.dtype());
    let scale = block.to_dtype(DType::F32).get(outputs, scale)?;
    let weight = wide.get((outputs, inputs), "weight")?;
    let weight = weight.broadcast_mul(&scale.reshape((outputs, 1))?)?;
    let bias: Tensor = (wide.get(outputs, "bias")? * scale)?;
    Linear::new(&weight.to_dtype(dtype)?, Some(bias.to_dtype(dtype)?))
}
