//! The transformer that both towers are made of.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::EncoderShape;
use crate::kernels::{LayerNorm, Linear};
use crate::models::transformer::{Block, FeedForward, joined_qkv};

/// Naming scheme of a checkpoint's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    HuggingFace,
    OpenAi,
}

/// The layers of a tower.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    layers: Vec<Block>,
    causal: bool,
}

impl Encoder {
    /// Reads the layers `0`, `1`, … below `vb`.
    pub fn load(
        shape: &EncoderShape,
        causal: bool,
        names: Names,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let layers = (0..shape.num_hidden_layers)
            .map(|index| load_block(shape, names, &vb.pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self { layers, causal })
    }

    /// `[n, tokens, hidden_size]` to the same; `observe` sees what comes out of layer `1`, `2`, ….
    pub fn forward(
        &self,
        x: Tensor,
        mut observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut h = x;
        for (index, layer) in self.layers.iter().enumerate() {
            h = layer.forward(&h, self.causal)?;
            observe(index + 1, &h)?;
        }
        Ok(h)
    }
}

fn load_block(shape: &EncoderShape, names: Names, vb: &VarBuilder<'_>) -> Result<Block> {
    let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
    let [norm1, attn, norm2, fc1, fc2] = match names {
        Names::HuggingFace => [
            "layer_norm1",
            "self_attn",
            "layer_norm2",
            "mlp.fc1",
            "mlp.fc2",
        ],
        Names::OpenAi => ["ln_1", "attn", "ln_2", "mlp.c_fc", "mlp.c_proj"],
    };
    let norm = |name| LayerNorm::load(hidden, shape.layer_norm_eps, &vb.pp(name));
    let attn = vb.pp(attn);
    let (weight, bias) = match names {
        Names::HuggingFace => joined_qkv(hidden, ["q_proj", "k_proj", "v_proj"], &attn)?,
        Names::OpenAi => (
            attn.get((3 * hidden, hidden), "in_proj_weight")?,
            attn.get(3 * hidden, "in_proj_bias")?,
        ),
    };
    Ok(Block {
        heads: shape.num_attention_heads,
        norm1: norm(norm1)?,
        qkv: Linear::new(&weight, Some(bias))?,
        out: Linear::load(hidden, hidden, true, &attn.pp("out_proj"))?,
        norm2: norm(norm2)?,
        feed_forward: FeedForward::Mlp {
            fc1: Linear::load(hidden, inner, true, &vb.pp(fc1))?,
            act: shape.hidden_act.activation(),
            fc2: Linear::load(inner, hidden, true, &vb.pp(fc2))?,
        },
    })
}
