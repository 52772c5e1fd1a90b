//! Gated activations.

use candle_core::{Result, Tensor, bail};

use super::{cpu, gelu};

/// Computes `value · gelu(gate)` of every element, with the exact GELU (GEGLU: Shazeer 2020, arXiv
/// 2002.05202). Both have the same shape.
///
/// # Errors
/// Different shapes; errors of candle.
pub fn geglu(value: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if value.shape() != gate.shape() {
        bail!("{:?} cannot be gated by {:?}", value.dims(), gate.dims());
    }
    let gate = gelu(gate)?;
    if cpu::supports_all(&[value, &gate]) {
        return value
            .contiguous()?
            .apply_op2_no_bwd(&gate.contiguous()?, &cpu::PairwiseOp::Product);
    }
    value * gate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, uniform};

    #[test]
    fn agrees_with_candle() {
        let (value, gate) = (uniform(&[3, 20_000], 1), uniform(&[3, 20_000], 2));
        let gate = (gate * 5.0).unwrap();
        let expected = (&value * gate.gelu_erf().unwrap()).unwrap();
        assert_close(&geglu(&value, &gate).unwrap(), &expected, 5e-6);
        assert!(geglu(&value, &uniform(&[3, 1], 3)).is_err());
    }
}
