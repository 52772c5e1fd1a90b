//! The residual block of the UNet and of the autoencoder.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::kernels::{Conv2d, Conv2dShape, GroupNorm, Linear, add_channels};

/// The hyper-parameters that all residual blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResnetShape {
    pub groups: usize,
    pub eps: f64,
    /// Channels of the time embedding, if there is one.
    pub time: Option<usize>,
}

/// Two convolutions around the time embedding, and a shortcut (`ResnetBlock2D`).
#[derive(Debug, Clone)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// `side`: rows and columns of its feature maps in images of the size the network is meant for,
    /// where they may be few.
    pub fn load(
        shape: ResnetShape,
        (inputs, outputs): (usize, usize),
        side: Option<usize>,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let norm =
            |channels, name| GroupNorm::load(shape.groups, channels, shape.eps, &vb.pp(name));
        let conv = |inputs, name| {
            let same = Conv2dShape::same(inputs, outputs, 3);
            let same = side.map_or(same, |side| same.giving(side));
            Conv2d::load(same, true, &vb.pp(name))
        };
        let time_emb_proj = match shape.time {
            Some(width) => Some(Linear::load(width, outputs, true, &vb.pp("time_emb_proj"))?),
            None => None,
        };
        let conv_shortcut = if inputs == outputs {
            None
        } else {
            let pointwise = Conv2dShape::same(inputs, outputs, 1);
            Some(Conv2d::load(pointwise, true, &vb.pp("conv_shortcut"))?)
        };
        Ok(Self {
            norm1: norm(inputs, "norm1")?,
            conv1: conv(inputs, "conv1")?,
            time_emb_proj,
            norm2: norm(outputs, "norm2")?,
            conv2: conv(outputs, "conv2")?,
            conv_shortcut,
        })
    }

    /// `time` is the activated embedding, `[n, time channels]`, if and only if the network has one.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        match (&self.time_emb_proj, time) {
            (Some(proj), Some(time)) => h = add_channels(&h, &proj.forward(time)?)?,
            (None, None) => {}
            _ => bail!("a time embedding where there is none, or none where there is one"),
        }
        let h = self.norm2.forward_silu(&h)?;
        match &self.conv_shortcut {
            Some(conv) => self.conv2.forward_add(&h, &conv.forward(x)?),
            None => self.conv2.forward_add(&h, x),
        }
    }
}
