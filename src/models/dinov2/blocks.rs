//! Reading a block under either scheme of names.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::Dinov2Config;
use super::names::Names;
use crate::kernels::{LayerNorm, Linear};
use crate::models::transformer::{Activation, Block, FeedForward, joined_qkv};

/// Reads the block below `vb`. LayerScale, a factor for each channel after either half of the
/// block, is multiplied into the last matrix of that half, in `f32`: the same function, less one
/// pass over the activations.
pub(super) fn load_block(
    names: Names,
    config: &Dinov2Config,
    vb: &VarBuilder<'_>,
) -> Result<Block> {
    let hidden = config.hidden_size;
    let norm = |name| LayerNorm::load(hidden, config.layer_norm_eps, &vb.pp(name));
    let [attention, projection, scale1, scale2] = match names {
        Names::Meta => ["attn", "attn.proj", "ls1.gamma", "ls2.gamma"],
        Names::HuggingFace => [
            "attention.attention",
            "attention.output.dense",
            "layer_scale1.lambda1",
            "layer_scale2.lambda1",
        ],
    };
    let attention = vb.pp(attention);
    let (weight, bias) = match names {
        Names::Meta => (
            attention.get((3 * hidden, hidden), "qkv.weight")?,
            attention.get(3 * hidden, "qkv.bias")?,
        ),
        Names::HuggingFace => joined_qkv(hidden, ["query", "key", "value"], &attention)?,
    };
    Ok(Block {
        heads: config.num_attention_heads,
        norm1: norm("norm1")?,
        qkv: Linear::new(&weight, Some(bias))?,
        out: scaled_linear((hidden, hidden), &vb.pp(projection), scale1, vb)?,
        norm2: norm("norm2")?,
        feed_forward: load_feed_forward(names, config, scale2, vb)?,
    })
}

fn load_feed_forward(
    names: Names,
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
    let [joined, last] = match names {
        Names::Meta => ["w12", "w3"],
        Names::HuggingFace => ["weights_in", "weights_out"],
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
