//! Group normalization (Wu & He 2018, arXiv 1803.08494).

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{cpu, silu};

/// Normalizes each image's groups of channels to mean 0 and (biased) variance 1, then applies a
/// weight and a bias per channel. Statistics are computed in `f32`, whatever the type of the input.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    weight: Tensor,
    bias: Tensor,
    /// Weight and bias for the operator of this project, where it exists.
    table: Option<Arc<[Vec<f32>; 2]>>,
}

impl GroupNorm {
    /// Takes `weight` and `bias`, both `[channels]`.
    ///
    /// # Errors
    /// `groups` does not divide the channels; `weight` and `bias` have different lengths.
    pub fn new(groups: usize, eps: f64, weight: Tensor, bias: Tensor) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{channels} channels do not divide into {groups} groups");
        }
        if bias.dims() != [channels] {
            bail!("bias is {:?}, expected [{channels}]", bias.dims());
        }
        let table = if cpu::supports(&weight) && cpu::supports(&bias) {
            let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.to_vec1();
            Some(Arc::new([numbers(&weight)?, numbers(&bias)?]))
        } else {
            None
        };
        // Composed layers compute in f32, whatever the type of the weights.
        let wide = |t: Tensor| t.to_dtype(DType::F32)?.contiguous();
        let (weight, bias) = (wide(weight)?, wide(bias)?);
        Ok(Self {
            groups,
            eps,
            weight,
            bias,
            table,
        })
    }

    /// Reads `weight` and `bias`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; `groups` does not divide the channels.
    pub fn load(groups: usize, channels: usize, eps: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::new(
            groups,
            eps,
            vb.get(channels, "weight")?,
            vb.get(channels, "bias")?,
        )
    }

    /// Computes `norm(x)` for `x [n, channels, h, w]`.
    ///
    /// # Errors
    /// `x` has other channels; errors of candle.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, false)
    }

    /// Computes `silu(norm(x))`.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, true)
    }

    /// Computes `silu(norm(x) · (1 + scale) + shift)` with `scale` and `shift` of `[n, channels]`.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`]; `scale` or `shift` has another shape.
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
        if let Some(table) = &self.table
            && cpu::supports(x)
            && scale_shift.is_none_or(|(scale, shift)| cpu::supports(scale) && cpu::supports(shift))
        {
            return self.run_fused(x, scale_shift, activate, table);
        }
        #[cfg(feature = "cuda")]
        if super::cuda::supports(x) {
            let op = super::cuda::GroupNormOp {
                groups: self.groups,
                eps: self.eps,
                weight: &self.weight,
                bias: &self.bias,
                silu: activate,
            };
            let x = x.contiguous()?;
            return match scale_shift {
                Some((scale, shift)) => {
                    // The kernel takes one stride for both: halves of one matrix are passed as they
                    // are, anything else is copied.
                    let (scale, shift) = (scale.to_dtype(DType::F32)?, shift.to_dtype(DType::F32)?);
                    if scale.stride() == shift.stride() && scale.stride().last() == Some(&1) {
                        x.apply_op3_no_bwd(&scale, &shift, &op)
                    } else {
                        x.apply_op3_no_bwd(&scale.contiguous()?, &shift.contiguous()?, &op)
                    }
                }
                None => x.apply_op1_no_bwd(&op),
            };
        }
        self.run_plain(x, scale_shift, activate)
    }

    /// Runs the operator of this project.
    fn run_fused(
        &self,
        x: &Tensor,
        scale_shift: Option<(&Tensor, &Tensor)>,
        activate: bool,
        table: &[Vec<f32>; 2],
    ) -> Result<Tensor> {
        let [weight, bias] = table;
        let op = cpu::GroupNormOp {
            groups: self.groups,
            eps: self.eps,
            weight,
            bias,
            silu: activate,
        };
        let x = cpu::channels_last(x)?;
        let y = match scale_shift {
            Some((scale, shift)) => x.apply_op3_no_bwd(scale, shift, &op)?,
            None => x.apply_op1_no_bwd(&op)?,
        };
        cpu::channels_first(&y)
    }

    /// Composes the layer of candle's operators, on any device and in any type.
    fn run_plain(
        &self,
        x: &Tensor,
        scale_shift: Option<(&Tensor, &Tensor)>,
        activate: bool,
    ) -> Result<Tensor> {
        let (n, channels, _, _) = x.dims4()?;
        let grouped = x.to_dtype(DType::F32)?.reshape((n, self.groups, ()))?;
        let centered = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centered
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .reshape(x.shape())?;
        let per_channel = |t: &Tensor| t.reshape((1, channels, 1, 1));
        let mut y = normal
            .broadcast_mul(&per_channel(&self.weight)?)?
            .broadcast_add(&per_channel(&self.bias)?)?;
        if let Some((scale, shift)) = scale_shift {
            let wide = |t: &Tensor| t.to_dtype(DType::F32)?.reshape((n, channels, 1, 1));
            let scale = (wide(scale)? + 1.0)?;
            y = y.broadcast_mul(&scale)?.broadcast_add(&wide(shift)?)?;
        }
        y = y.to_dtype(x.dtype())?;
        if activate { silu(&y) } else { Ok(y) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    fn layer(groups: usize, channels: usize) -> GroupNorm {
        let (weight, bias) = (uniform(&[channels], 1), uniform(&[channels], 2));
        GroupNorm::new(groups, 1e-5, weight, bias).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_candle(
            groups in 1usize..9,
            per_group in 1usize..9,
            n in 1usize..4,
            (height, width) in (1usize..20, 1usize..20),
        ) {
            let channels = groups * per_group;
            let norm = layer(groups, channels);
            // Far from 0, where a variance computed as a difference of means would lose its digits.
            let x = (uniform(&[n, channels, height, width], 3) + 10.0).unwrap();
            let (scale, shift) = (uniform(&[n, channels], 4), uniform(&[n, channels], 5));
            for activate in [false, true] {
                for modulation in [None, Some((&scale, &shift))] {
                    let expected = norm.run_plain(&x, modulation, activate).unwrap();
                    // In a group of equal pixels only rounding is left, amplified by 1/√eps.
                    let tolerance = if per_group * height * width < 4 { 2e-3 } else { 5e-5 };
                    for isa in Isa::all() {
                        let found = isa.within(|| norm.run(&x, modulation, activate)).unwrap();
                        assert_close(&found, &expected, tolerance);
                    }
                }
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (channels, side) in [(64, 9), (96, 40)] {
            let norm = layer(32, channels);
            let x = uniform(&[7, channels, side, side], 3);
            for isa in Isa::all() {
                isa.within(|| assert_batch_independent(&x, |x| norm.forward_silu(x).unwrap()));
            }
        }
    }

    #[test]
    fn more_channels_than_numbers_in_a_chunk() {
        let norm = layer(40, 40_000);
        let x = uniform(&[2, 40_000, 1, 2], 3);
        let expected = norm.run_plain(&x, None, true).unwrap();
        assert_close(&norm.forward_silu(&x).unwrap(), &expected, 5e-5);
    }

    #[test]
    fn scale_and_shift_belong_to_their_image() {
        let norm = layer(2, 4);
        let x = uniform(&[3, 4, 5, 5], 3);
        let (scale, shift) = (uniform(&[3, 4], 4), uniform(&[3, 4], 5));
        let together = norm.forward_scale_shift_silu(&x, &scale, &shift).unwrap();
        let one = |t: &Tensor| t.narrow(0, 2, 1).unwrap();
        let alone = norm
            .forward_scale_shift_silu(&one(&x), &one(&scale), &one(&shift))
            .unwrap();
        assert_close(&alone, &one(&together), 0.0);
        assert!(
            norm.forward_scale_shift_silu(&x, &one(&scale), &shift)
                .is_err()
        );
        assert!(norm.forward(&uniform(&[1, 6, 2, 2], 3)).is_err());
    }
}
