//! Group normalisation (Wu & He 2018, arXiv 1803.08494).

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::silu;

/// Normalises each image's groups of channels to mean 0 and (biased) variance 1, then applies a weight
/// and a bias per channel. Statistics are computed in `f32`, whatever the type of the input.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    /// Takes `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// Channels that do not divide into `groups`, or a weight and bias of different lengths.
    pub fn new(groups: usize, eps: f64, weight: Tensor, bias: Tensor) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{channels} channels do not divide into {groups} groups");
        }
        if bias.dims() != [channels] {
            bail!("bias is {:?}, expected [{channels}]", bias.dims());
        }
        Ok(Self {
            groups,
            eps,
            weight,
            bias,
        })
    }

    /// Reads `weight` and `bias`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; channels that do not divide into `groups`.
    pub fn load(groups: usize, channels: usize, eps: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::new(
            groups,
            eps,
            vb.get(channels, "weight")?,
            vb.get(channels, "bias")?,
        )
    }

    /// `norm(x)` for `x [n, channels, h, w]`.
    ///
    /// # Errors
    /// An input with other channels, and whatever candle reports.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, false)
    }

    /// `silu(norm(x))`.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, true)
    }

    /// `silu(norm(x) · (1 + scale) + shift)` with `scale` and `shift` of `[n, channels]`.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`], and a scale or shift of another shape.
    pub fn forward_scale_shift_silu(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
    ) -> Result<Tensor> {
        self.run(x, Some((scale, shift)), true)
    }

    fn run(
        &self,
        x: &Tensor,
        scale_shift: Option<(&Tensor, &Tensor)>,
        activate: bool,
    ) -> Result<Tensor> {
        let (n, channels, _, _) = x.dims4()?;
        if self.weight.dims() != [channels] {
            bail!(
                "input {:?} does not fit a group norm of {:?} channels",
                x.dims(),
                self.weight.dims()
            );
        }
        if let Some((scale, shift)) = scale_shift
            && (scale.dims() != [n, channels] || shift.dims() != [n, channels])
        {
            bail!(
                "scale {:?} and shift {:?} are not [{n}, {channels}]",
                scale.dims(),
                shift.dims()
            );
        }
        self.run_plain(x, scale_shift, activate)
    }

    /// candle's operators, on any device and in any type.
    fn run_plain(
        &self,
        x: &Tensor,
        scale_shift: Option<(&Tensor, &Tensor)>,
        activate: bool,
    ) -> Result<Tensor> {
        let (n, channels, _, _) = x.dims4()?;
        let grouped = x.to_dtype(DType::F32)?.reshape((n, self.groups, ()))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .reshape(x.shape())?;
        let per_channel = |t: &Tensor| t.to_dtype(DType::F32)?.reshape((1, channels, 1, 1));
        let mut y = normal
            .broadcast_mul(&per_channel(&self.weight)?)?
            .broadcast_add(&per_channel(&self.bias)?)?
            .to_dtype(x.dtype())?;
        if let Some((scale, shift)) = scale_shift {
            let scale = (scale + 1.0)?.reshape((n, channels, 1, 1))?;
            let shift = shift.reshape((n, channels, 1, 1))?;
            y = y.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        }
        if activate { silu(&y) } else { Ok(y) }
    }
}
