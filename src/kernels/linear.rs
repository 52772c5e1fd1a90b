//! Fully connected layer.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu;

/// `y = x Wᵀ + b` over the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[in, out]`: transposed once, not at every call.
    transposed: Tensor,
    /// Zeros when the layer has none.
    bias: Tensor,
}

impl Linear {
    /// Takes `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// A weight that is no matrix, or a bias of another length.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [outputs]
        {
            bail!("bias is {:?}, expected [{outputs}]", bias.dims());
        }
        Ok(Self {
            transposed: weight.t()?.contiguous()?,
            bias: match bias {
                Some(bias) => bias.contiguous()?,
                None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
            },
        })
    }

    /// Reads `weight [outputs, inputs]` and, with `bias`, `bias [outputs]`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, bias: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = if bias {
            Some(vb.get(outputs, "bias")?)
        } else {
            None
        };
        Self::new(&weight, bias)
    }

    /// `[…, in]` to `[…, out]`.
    ///
    /// # Errors
    /// An input whose last dimension is another, and whatever candle reports.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.transposed.dims2()?;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => bail!(
                "input {:?} does not fit a layer of {inputs} inputs",
                x.dims()
            ),
        }
        let rows = x.reshape(((), inputs))?;
        let y = if cpu::takes(x) && cpu::takes(&self.transposed) {
            let rows = rows.contiguous()?;
            rows.apply_op3_no_bwd(&self.transposed, &self.bias, &cpu::LinearOp)?
        } else {
            rows.matmul(&self.transposed)?.broadcast_add(&self.bias)?
        };
        y.reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let bare = Linear::new(&weight, None).unwrap();
            assert_close(&bare.forward(&x).unwrap(), &product, 1e-4);
            let layer = Linear::new(&weight, Some(bias.clone())).unwrap();
            let expected = product.broadcast_add(&bias).unwrap();
            assert_close(&layer.forward(&x).unwrap(), &expected, 1e-4);
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
            let layer = Linear::new(&uniform(&[outputs, inputs], 1), None).unwrap();
            for rows in [7, 40] {
                let x = uniform(&[rows, inputs], 2);
                assert_batch_independent(&x, |x| layer.forward(x).unwrap());
            }
        }
    }
}
