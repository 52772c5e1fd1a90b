//! Residual connections.

use candle_core::{Result, Tensor, bail};

use super::cpu;

/// `x + y`, which have one shape.
///
/// # Errors
/// Different shapes, and whatever candle reports.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("{:?} cannot be added to {:?}", y.dims(), x.dims());
    }
    if cpu::takes_all(&[x, y]) {
        if x.rank() == 4 {
            let y = cpu::channels_last(y)?;
            let sum = cpu::channels_last(x)?.apply_op2_no_bwd(&y, &cpu::AddOp)?;
            return cpu::channels_first(&sum);
        }
        return x
            .contiguous()?
            .apply_op2_no_bwd(&y.contiguous()?, &cpu::AddOp);
    }
    x + y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, uniform};

    #[test]
    fn agrees_with_candle() {
        let x = uniform(&[3, 20_000], 1);
        let y = uniform(&[20_000, 3], 2).t().unwrap();
        assert_close(&add(&x, &y).unwrap(), &(&x + &y).unwrap(), 0.0);
        let (x, y) = (uniform(&[2, 3, 5, 7], 4), uniform(&[2, 3, 5, 7], 5));
        assert_close(&add(&x, &y).unwrap(), &(&x + &y).unwrap(), 0.0);
        assert!(add(&x, &uniform(&[3, 1], 3)).is_err());
    }
}
