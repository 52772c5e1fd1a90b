//! The pre-norm transformer block that CLIP's towers and DINOv2 are made of: self-attention and a
//! feed-forward network, each behind a layer norm and beside a residual connection.
//!
//! The models read the parts under their checkpoints' names and hand them to [`Block`].

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::{LayerNorm, Linear, add, attention, causal_attention, gelu, quick_gelu, silu};

/// One block: `x + out(attention(norm1(x)))`, then `x + feed_forward(norm2(x))`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub heads: usize,
    pub norm1: LayerNorm,
    /// The three projections as one product: `[3 · hidden_size, hidden_size]`.
    pub qkv: Linear,
    pub out: Linear,
    pub norm2: LayerNorm,
    pub feed_forward: FeedForward,
}

/// The second half of a block.
#[derive(Debug, Clone)]
pub(super) enum FeedForward {
    /// `fc2(act(fc1(x)))`.
    Mlp {
        fc1: Linear,
        act: Activation,
        fc2: Linear,
    },
    /// `out(silu(gate(x)) · value(x))` (Shazeer 2020, arXiv 2002.05202).
    SwiGlu {
        gate: Linear,
        value: Linear,
        out: Linear,
    },
}

/// The activation of [`FeedForward::Mlp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    QuickGelu,
    Gelu,
}

impl Block {
    /// Applies the block to `[n, tokens, hidden_size]`; with `causal`, a token attends to itself
    /// and to those before it only.
    pub fn forward(&self, x: &Tensor, causal: bool) -> Result<Tensor> {
        let (n, tokens, hidden) = x.dims3()?;
        let head = hidden / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let qkv = qkv.reshape((n, tokens, 3, self.heads, head))?;
        let part = |index: usize| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / (head as f64).sqrt();
        let attended = if causal {
            causal_attention(&q, &k, &v, scale)?
        } else {
            attention(&q, &k, &v, scale)?
        };
        let attended = attended.transpose(1, 2)?.reshape((n, tokens, hidden))?;
        let x = add(&self.out.forward(&attended)?, x)?;
        let h = self.feed_forward.forward(&self.norm2.forward(&x)?)?;
        add(&h, &x)
    }
}

impl FeedForward {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mlp { fc1, act, fc2 } => fc2.forward(&act.apply(&fc1.forward(x)?)?),
            Self::SwiGlu { gate, value, out } => {
                out.forward(&(silu(&gate.forward(x)?)? * value.forward(x)?)?)
            }
        }
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::Gelu => gelu(x),
        }
    }
}

/// Reads the projections of queries, keys and values that a checkpoint stores apart, as the one
/// matrix `[3 · hidden_size, hidden_size]` and the one bias `[3 · hidden_size]`.
pub(super) fn joined_qkv(
    hidden_size: usize,
    names: [&str; 3],
    vb: &VarBuilder<'_>,
) -> Result<(Tensor, Tensor)> {
    let parts = names.map(|name| vb.pp(name));
    let weights = parts
        .iter()
        .map(|vb| vb.get((hidden_size, hidden_size), "weight"))
        .collect::<Result<Vec<_>>>()?;
    let biases = parts
        .iter()
        .map(|vb| vb.get(hidden_size, "bias"))
        .collect::<Result<Vec<_>>>()?;
    Ok((Tensor::cat(&weights, 0)?, Tensor::cat(&biases, 0)?))
}
