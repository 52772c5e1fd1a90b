//! Upsampling of feature maps.

use candle_core::{Result, Tensor};

use super::cpu;
use super::limits::check_element_count;

/// Repeats every pixel twice in both directions: `[n, c, h, w]` to `[n, c, 2h, 2w]`.
///
/// # Errors
/// Errors of candle.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if cpu::supports(x) {
        let y = cpu::channels_last(x)?.apply_op1_no_bwd(&cpu::UpsampleOp)?;
        return cpu::channels_first(&y);
    }
    check_element_count(x.device(), 4 * x.elem_count())?;
    x.upsample_nearest2d(2 * height, 2 * width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, uniform};

    #[test]
    fn agrees_with_candle() {
        let x = uniform(&[2, 3, 5, 4], 1);
        let expected = x.upsample_nearest2d(10, 8).unwrap();
        assert_close(&upsample_nearest_2x(&x).unwrap(), &expected, 0.0);
    }
}
