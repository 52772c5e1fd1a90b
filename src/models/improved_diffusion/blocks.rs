//! The UNet's building blocks.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::GROUPS;
use crate::kernels::{Conv2d, Conv2dShape, GroupNorm, Linear, self_attention, upsample_nearest_2x};

/// The network's normalization layer. As in the original, its weights stay `f32` in any network.
pub(super) fn norm(channels: usize, vb: &VarBuilder<'_>) -> Result<GroupNorm> {
    GroupNorm::load(GROUPS, channels, 1e-5, &vb.to_dtype(DType::F32))
}

/// Layers applied one after another (`TimestepEmbedSequential`).
#[derive(Debug, Clone)]
pub(super) struct Block(Vec<Layer>);

#[derive(Debug, Clone)]
pub(super) enum Layer {
    Conv(Conv2d),
    Res(Box<ResBlock>),
    Attention(AttentionBlock),
    Upsample(Conv2d),
}

impl Block {
    pub fn new(layers: Vec<Layer>) -> Self {
        Self(layers)
    }

    /// `emb` is the activated embedding, `f32 [n, time_embed_dim]`.
    pub fn forward(&self, x: &Tensor, emb: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        for layer in &self.0 {
            h = match layer {
                Layer::Conv(conv) => conv.forward(&h)?,
                Layer::Res(block) => block.forward(&h, emb)?,
                Layer::Attention(block) => block.forward(&h)?,
                Layer::Upsample(conv) => conv.forward(&upsample_nearest_2x(&h)?)?,
            };
        }
        Ok(h)
    }
}

/// Two convolutions around the embedding, and a shortcut.
#[derive(Debug, Clone)]
pub(super) struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv2d,
    emb: Linear,
    out_norm: GroupNorm,
    out_conv: Conv2d,
    shortcut: Option<Conv2d>,
    out_channels: usize,
    scale_shift: bool,
}

impl ResBlock {
    /// `side`: rows and columns of its feature maps in images of the size the network is meant for.
    pub fn load(
        (in_channels, out_channels): (usize, usize),
        side: usize,
        emb_channels: usize,
        scale_shift: bool,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let shortcut = if in_channels == out_channels {
            None
        } else {
            let shape = Conv2dShape::same(in_channels, out_channels, 1);
            Some(Conv2d::load(shape, true, &vb.pp("skip_connection"))?)
        };
        let emb_outputs = if scale_shift {
            2 * out_channels
        } else {
            out_channels
        };
        Ok(Self {
            in_norm: norm(in_channels, &vb.pp("in_layers.0"))?,
            in_conv: Conv2d::load(
                Conv2dShape::same(in_channels, out_channels, 3).giving(side),
                true,
                &vb.pp("in_layers.2"),
            )?,
            emb: Linear::load(
                emb_channels,
                emb_outputs,
                true,
                &vb.pp("emb_layers.1").to_dtype(DType::F32),
            )?,
            out_norm: norm(out_channels, &vb.pp("out_layers.0"))?,
            out_conv: Conv2d::load(
                Conv2dShape::same(out_channels, out_channels, 3).giving(side),
                true,
                &vb.pp("out_layers.3"),
            )?,
            shortcut,
            out_channels,
            scale_shift,
        })
    }

    fn forward(&self, x: &Tensor, emb: &Tensor) -> Result<Tensor> {
        let h = self.in_conv.forward(&self.in_norm.forward_silu(x)?)?;
        let emb = self.emb.forward(emb)?;
        let h = if self.scale_shift {
            let scale = emb.narrow(1, 0, self.out_channels)?;
            let shift = emb.narrow(1, self.out_channels, self.out_channels)?;
            self.out_norm.forward_scale_shift_silu(&h, &scale, &shift)?
        } else {
            let emb = emb
                .reshape(((), self.out_channels, 1, 1))?
                .to_dtype(h.dtype())?;
            self.out_norm.forward_silu(&h.broadcast_add(&emb)?)?
        };
        match &self.shortcut {
            Some(conv) => self.out_conv.forward_add(&h, &conv.forward(x)?),
            None => self.out_conv.forward_add(&h, x),
        }
    }
}

/// Self-attention among all pixels of a feature map.
#[derive(Debug, Clone)]
pub(super) struct AttentionBlock {
    heads: usize,
    norm: GroupNorm,
    qkv: Conv2d,
    proj_out: Conv2d,
}

impl AttentionBlock {
    pub fn load(channels: usize, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            heads,
            norm: norm(channels, &vb.pp("norm"))?,
            qkv: Conv2d::load_pointwise_1d(channels, 3 * channels, &vb.pp("qkv"))?,
            proj_out: Conv2d::load_pointwise_1d(channels, channels, &vb.pp("proj_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let head = x.dim(1)? / self.heads;
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let h = self_attention(&qkv, self.heads, 1.0 / (head as f64).sqrt())?;
        self.proj_out.forward_add(&h, x)
    }
}
