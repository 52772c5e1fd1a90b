//! Parts of the autoencoder.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::resnet::{ResnetBlock, ResnetShape};
use crate::kernels::{Conv2d, Conv2dShape, GroupNorm, Linear, attention};

/// ε of every norm of the autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// Two residual blocks around attention (`UNetMidBlock2D`).
#[derive(Debug, Clone)]
pub(super) struct Mid {
    before: ResnetBlock,
    attention: PixelAttention,
    after: ResnetBlock,
}

impl Mid {
    pub fn load(shape: ResnetShape, channels: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let resnet = |name| ResnetBlock::load(shape, (channels, channels), None, &vb.pp(name));
        Ok(Self {
            before: resnet("resnets.0")?,
            attention: PixelAttention::load(shape.groups, channels, &vb.pp("attentions.0"))?,
            after: resnet("resnets.1")?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.before.forward(x, None)?;
        let h = self.attention.forward(&h)?;
        self.after.forward(&h, None)
    }
}

/// Self-attention with one head among all pixels.
#[derive(Debug, Clone)]
struct PixelAttention {
    group_norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(groups: usize, channels: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        // Files from before 2023 have the first names, younger ones the second.
        let old = vb.contains_tensor("query.weight");
        let linear = |first: &str, second: &str| {
            let name = if old { first } else { second };
            Linear::load(channels, channels, true, &vb.pp(name))
        };
        Ok(Self {
            group_norm: GroupNorm::load(groups, channels, EPS, &vb.pp("group_norm"))?,
            query: linear("query", "to_q")?,
            key: linear("key", "to_k")?,
            value: linear("value", "to_v")?,
            out: linear("proj_attn", "to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, channels, height, width) = x.dims4()?;
        let pixels = self
            .group_norm
            .forward(x)?
            .permute((0, 2, 3, 1))?
            .reshape((n, height * width, channels))?;
        let head = |layer: &Linear| layer.forward(&pixels)?.unsqueeze(1);
        let (q, k, v) = (head(&self.query)?, head(&self.key)?, head(&self.value)?);
        let h = attention(&q, &k, &v, 1.0 / (channels as f64).sqrt())?;
        let h = self
            .out
            .forward(&h.squeeze(1)?)?
            .reshape((n, height, width, channels))?
            .permute((0, 3, 1, 2))?;
        crate::kernels::add(&h, x)
    }
}

/// Halves a feature map: 3×3 with stride 2 over an image with one row of zeros below and one column
/// to the right (`Downsample2D` with padding 0).
///
/// Kept as the same kernel with a row above and a column to the left of zeros, and with zeros on
/// all sides of the image, which is the same sum.
pub(super) fn load_downsampler(channels: usize, vb: &VarBuilder<'_>) -> Result<Conv2d> {
    let weight = vb.get((channels, channels, 3, 3), "weight")?;
    let weight = weight.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?;
    let shape = Conv2dShape {
        kernel: (4, 4),
        padding: (1, 1),
        ..Conv2dShape::same(channels, channels, 3).with_stride(2)
    };
    Conv2d::new(shape, weight, Some(vb.get(channels, "bias")?))
}
