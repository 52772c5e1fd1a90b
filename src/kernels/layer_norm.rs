//! Layer normalization (Ba, Kiros & Hinton 2016, arXiv 1607.06450).

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu;

/// Normalizes the last dimension to mean 0 and (biased) variance 1, then applies a weight and a
/// bias. Statistics are computed in `f32`, whatever the type of the input.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    eps: f64,
    weight: Tensor,
    bias: Tensor,
    /// Weight and bias for the operator of this project, where it exists.
    table: Option<Arc<[Vec<f32>; 2]>>,
}

impl LayerNorm {
    /// Takes `weight` and `bias`, both `[size]`.
    ///
    /// # Errors
    /// `weight` and `bias` are not vectors of the same length, at least 1.
    pub fn new(eps: f64, weight: Tensor, bias: Tensor) -> Result<Self> {
        let size = weight.dims1()?;
        if size == 0 || bias.dims() != [size] {
            bail!("weight is [{size}] and bias {:?}", bias.dims());
        }
        let table = if cpu::supports(&weight) && cpu::supports(&bias) {
            let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.to_vec1();
            Some(Arc::new([numbers(&weight)?, numbers(&bias)?]))
        } else {
            None
        };
        Ok(Self {
            eps,
            weight,
            bias,
            table,
        })
    }

    /// Reads `weight` and `bias`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(size: usize, eps: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::new(eps, vb.get(size, "weight")?, vb.get(size, "bias")?)
    }

    /// Computes `norm(x)` for `x [..., size]`.
    ///
    /// # Errors
    /// The last dimension of `x` is not `size`; errors of candle.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().last() != self.weight.dims().first() {
            bail!(
                "input {:?} does not fit a layer norm of {:?}",
                x.dims(),
                self.weight.dims()
            );
        }
        if let Some(table) = &self.table
            && cpu::supports(x)
        {
            let [weight, bias] = &**table;
            let op = cpu::LayerNormOp {
                eps: self.eps,
                weight,
                bias,
            };
            return x.contiguous()?.apply_op1_no_bwd(&op);
        }
        self.run_plain(x)
    }

    /// Composes the layer of candle's operators, on any device and in any type.
    fn run_plain(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centered = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        centered
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .broadcast_mul(&self.weight.to_dtype(DType::F32)?)?
            .broadcast_add(&self.bias.to_dtype(DType::F32)?)?
            .to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};

    fn layer(size: usize) -> LayerNorm {
        let (weight, bias) = (uniform(&[size], 1), uniform(&[size], 2));
        LayerNorm::new(1e-5, weight, bias).unwrap()
    }

    #[test]
    fn agrees_with_candle() {
        for (rows, size) in [(1, 1), (3, 7), (5, 64), (70, 768), (2, 1025)] {
            let layer = layer(size);
            // Far from zero, where a variance computed as a difference of means would lose its
            // digits.
            let x = (uniform(&[rows, size], 3) + 30.0).unwrap();
            let expected = layer.run_plain(&x).unwrap();
            for isa in Isa::all() {
                let found = isa.within(|| layer.forward(&x)).unwrap();
                assert_close(&found, &expected, 1e-4);
            }
        }
    }

    #[test]
    fn rows_get_mean_zero_and_variance_one() {
        let ones = Tensor::ones(500, DType::F32, &candle_core::Device::Cpu).unwrap();
        let layer = LayerNorm::new(0.0, ones.clone(), ones.zeros_like().unwrap()).unwrap();
        let y = layer.forward(&uniform(&[2, 2, 500], 4)).unwrap();
        assert_eq!(y.dims(), [2, 2, 500]);
        let rows: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
        for row in rows.chunks(500) {
            let mean = row.iter().sum::<f32>() / 500.0;
            let variance = row.iter().map(|v| v * v).sum::<f32>() / 500.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5);
        }
        assert!(layer.forward(&uniform(&[2, 499], 4)).is_err());
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        for size in [1, 48, 129] {
            for isa in Isa::all() {
                let layer = layer(size);
                isa.within(|| {
                    assert_batch_independent(&uniform(&[7, 40, size], 5), |x| {
                        layer.forward(x).unwrap()
                    });
                });
            }
        }
    }
}
