//! The UNet's transformer: self-attention, attention to the text, and a gated feed-forward layer.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernels::{Conv2d, Conv2dShape, GroupNorm, LayerNorm, Linear, add, attention, geglu};

/// A transformer over the pixels of a feature map (`Transformer2DModel` with one
/// `BasicTransformerBlock`).
#[derive(Debug, Clone)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Conv2d,
    norm1: LayerNorm,
    attn1: CrossAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
    proj_out: Conv2d,
}

impl Transformer {
    /// `text`: width of the text encoder's states.
    pub fn load(
        channels: usize,
        heads: usize,
        text: usize,
        groups: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let block = vb.pp("transformer_blocks.0");
        let pointwise = Conv2dShape::same(channels, channels, 1);
        let norm = |name| LayerNorm::load(channels, 1e-5, &block.pp(name));
        Ok(Self {
            norm: GroupNorm::load(groups, channels, 1e-6, &vb.pp("norm"))?,
            proj_in: Conv2d::load(pointwise, true, &vb.pp("proj_in"))?,
            norm1: norm("norm1")?,
            attn1: CrossAttention::load(channels, channels, heads, &block.pp("attn1"))?,
            norm2: norm("norm2")?,
            attn2: CrossAttention::load(channels, text, heads, &block.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff: FeedForward::load(channels, &block.pp("ff.net"))?,
            proj_out: Conv2d::load(pointwise, true, &vb.pp("proj_out"))?,
        })
    }

    /// `x [n, channels, h, w]`, `text [n, tokens, text]`.
    pub fn forward(&self, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        let (n, channels, height, width) = x.dims4()?;
        let h = self.proj_in.forward(&self.norm.forward(x)?)?;
        let h = h
            .permute((0, 2, 3, 1))?
            .reshape((n, height * width, channels))?;
        let normal = self.norm1.forward(&h)?;
        let h = add(&self.attn1.forward(&normal, &normal)?, &h)?;
        let h = add(&self.attn2.forward(&self.norm2.forward(&h)?, text)?, &h)?;
        let h = add(&self.ff.forward(&self.norm3.forward(&h)?)?, &h)?;
        let h = h
            .reshape((n, height, width, channels))?
            .permute((0, 3, 1, 2))?;
        self.proj_out.forward_add(&h, x)
    }
}

/// Attention with several heads (`Attention`).
#[derive(Debug, Clone)]
struct CrossAttention {
    heads: usize,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl CrossAttention {
    fn load(channels: usize, context: usize, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            heads,
            to_q: Linear::load(channels, channels, false, &vb.pp("to_q"))?,
            to_k: Linear::load(context, channels, false, &vb.pp("to_k"))?,
            to_v: Linear::load(context, channels, false, &vb.pp("to_v"))?,
            to_out: Linear::load(channels, channels, true, &vb.pp("to_out.0"))?,
        })
    }

    /// `x [n, pixels, channels]`, `context [n, tokens, width]`.
    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (n, pixels, channels) = x.dims3()?;
        let head = channels / self.heads;
        let split = |t: Tensor| {
            let tokens = t.dim(1)?;
            t.reshape((n, tokens, self.heads, head))?.transpose(1, 2)
        };
        let q = split(self.to_q.forward(x)?)?;
        let k = split(self.to_k.forward(context)?)?;
        let v = split(self.to_v.forward(context)?)?;
        let h = attention(&q, &k, &v, 1.0 / (head as f64).sqrt())?;
        let h = h.transpose(1, 2)?.reshape((n, pixels, channels))?;
        self.to_out.forward(&h)
    }
}

/// A feed-forward layer with a gate (GEGLU: Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone)]
struct FeedForward {
    /// The two halves of `net.0.proj`.
    value: Linear,
    gate: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(channels: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let inner = 4 * channels;
        let proj = vb.pp("0.proj");
        let weight = proj.get((2 * inner, channels), "weight")?;
        let bias = proj.get(2 * inner, "bias")?;
        let half = |index: usize| {
            let weight = weight.narrow(0, index * inner, inner)?;
            Linear::new(&weight, Some(bias.narrow(0, index * inner, inner)?))
        };
        Ok(Self {
            value: half(0)?,
            gate: half(1)?,
            out: Linear::load(inner, channels, true, &vb.pp("2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = geglu(&self.value.forward(x)?, &self.gate.forward(x)?)?;
        self.out.forward(&h)
    }
}
