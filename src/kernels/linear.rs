//! Fully connected layer.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

/// `y = x Wᵀ + b` over the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[in, out]`: transposed once, not at every call.
    transposed: Tensor,
    bias: Option<Tensor>,
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
            bias,
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
        let y = rows.matmul(&self.transposed)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape(shape)
    }
}
