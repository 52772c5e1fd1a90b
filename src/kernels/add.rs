//! Residual connections.

use candle_core::{Result, Tensor, bail};

use super::cpu;

/// Computes `x + y` of two tensors of the same shape.
///
/// # Errors
/// Different shapes; errors of candle.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("{:?} cannot be added to {:?}", y.dims(), x.dims());
    }
    if cpu::supports_all(&[x, y]) {
        if x.rank() == 4 {
            let y = cpu::channels_last(y)?;
            let sum = cpu::channels_last(x)?.apply_op2_no_bwd(&y, &cpu::PairwiseOp::Sum)?;
            return cpu::channels_first(&sum);
        }
        return x
            .contiguous()?
            .apply_op2_no_bwd(&y.contiguous()?, &cpu::PairwiseOp::Sum);
    }
    x + y
}

/// Adds `values [n, c]` to every pixel of `x [n, c, h, w]`.
///
/// # Errors
/// Values of another shape; errors of candle.
pub fn add_channels(x: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (n, channels, _, _) = x.dims4()?;
    if values.dims() != [n, channels] {
        bail!(
            "{:?} cannot be added to the channels of {:?}",
            values.dims(),
            x.dims()
        );
    }
    if cpu::supports_all(&[x, values]) {
        let values = values.contiguous()?;
        let sum = cpu::channels_last(x)?.apply_op2_no_bwd(&values, &cpu::AddChannelsOp)?;
        return cpu::channels_first(&sum);
    }
    x.broadcast_add(&values.reshape((n, channels, 1, 1))?)
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

    #[test]
    fn channels_agree_with_candle() {
        for (height, width) in [(1, 1), (5, 7), (60, 80)] {
            let x = uniform(&[2, 13, height, width], 1);
            let values = uniform(&[2, 13], 2);
            let expected = x.broadcast_add(&values.reshape((2, 13, 1, 1)).unwrap());
            assert_close(&add_channels(&x, &values).unwrap(), &expected.unwrap(), 0.0);
        }
        let x = uniform(&[2, 3, 4, 4], 1);
        assert!(add_channels(&x, &uniform(&[2, 4], 2)).is_err());
        assert!(add_channels(&x, &uniform(&[1, 3], 2)).is_err());
    }
}
