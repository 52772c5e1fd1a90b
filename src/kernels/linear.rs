//! Fully connected layers.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu;

/// The layer `y = x Wᵀ + b` over the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    /// Packed for the CPU operator of this project; shared by clones.
    Packed(Arc<cpu::PackedLinear>),
    /// For candle's operator: `[in, out]`, transposed once; the bias is zeros if the layer has
    /// none.
    Plain { transposed: Tensor, bias: Tensor },
}

impl Linear {
    /// Takes `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// The weight is not a matrix; the bias has another length; on the CPU, `DPSYN_CPU` names an
    /// instruction set that the CPU lacks.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [outputs]
        {
            bail!("bias is {:?}, expected [{outputs}]", bias.dims());
        }
        let bias = match bias {
            Some(bias) => bias.contiguous()?,
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        let weights = if cpu::supports_all(&[weight, &bias]) {
            let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
            let (size, dtype) = ((inputs, outputs), weight.dtype());
            let packed = cpu::PackedLinear::new(size, dtype, &numbers(weight)?, numbers(&bias)?)?;
            Weights::Packed(Arc::new(packed))
        } else {
            let transposed = weight.t()?.contiguous()?;
            Weights::Plain { transposed, bias }
        };
        Ok(Self {
            inputs,
            outputs,
            weights,
        })
    }

    /// Reads `weight [outputs, inputs]` and, with `bias`, `bias [outputs]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, bias: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = if bias {
            Some(vb.get(outputs, "bias")?)
        } else {
            None
        };
        Self::new(&weight, bias)
    }

    /// Maps `[…, in]` to `[…, out]`.
    ///
    /// # Errors
    /// The last dimension of `x` is not `in`; errors of candle.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inputs = self.inputs;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = self.outputs,
            _ => bail!(
                "input {:?} does not fit a layer of {inputs} inputs",
                x.dims()
            ),
        }
        let rows = x.reshape((x.elem_count() / inputs.max(1), inputs))?;
        let y = match &self.weights {
            Weights::Packed(packed) => rows.apply_op1_no_bwd(&cpu::LinearOp(packed))?,
            Weights::Plain { transposed, bias } => rows.matmul(transposed)?.broadcast_add(bias)?,
        };
        y.reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};

    #[test]
    fn agrees_with_candle() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 64, 7),
            (5, 3, 100),
            (33, 600, 17),
            (16, 9, 1),
        ] {
            let (weight, bias) = (uniform(&[outputs, inputs], 1), uniform(&[outputs], 2));
            let x = uniform(&[rows, inputs], 3);
            let product = x.matmul(&weight.t().unwrap()).unwrap();
            let expected = product.broadcast_add(&bias).unwrap();
            for isa in Isa::all() {
                let new = |bias| isa.within(|| Linear::new(&weight, bias)).unwrap();
                assert_close(&new(None).forward(&x).unwrap(), &product, 1e-4);
                let layer = new(Some(bias.clone()));
                assert_close(&layer.forward(&x).unwrap(), &expected, 1e-4);
            }
        }
    }

    #[test]
    fn leading_dimensions_are_kept() {
        let layer = Linear::new(&uniform(&[5, 4], 1), None).unwrap();
        let x = uniform(&[2, 3, 4], 2);
        assert_eq!(layer.forward(&x).unwrap().dims(), [2, 3, 5]);
        assert!(layer.forward(&uniform(&[2, 3], 2)).is_err());
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        for (inputs, outputs) in [(128, 512), (2000, 3), (31, 65), (1, 1), (1025, 1)] {
            for isa in Isa::all() {
                let weight = uniform(&[outputs, inputs], 1);
                let layer = isa.within(|| Linear::new(&weight, None)).unwrap();
                for rows in [7, 40] {
                    let x = uniform(&[rows, inputs], 2);
                    assert_batch_independent(&x, |x| layer.forward(x).unwrap());
                }
            }
        }
    }
}
