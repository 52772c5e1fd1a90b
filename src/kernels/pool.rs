//! Pooling with padding, which candle's own pools lack.

use candle_core::{Result, Tensor};

use super::cpu::{self, PoolKind, PoolOp};
use super::shapes::Pool;

/// Averages each window, without the padding (`count_include_pad=False`): `[n, c, h, w]` to
/// `[n, c, h', w']`.
///
/// # Errors
/// The window does not fit the input; errors of candle.
pub fn avg_pool(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool.check(x)?;
    if cpu::supports(x) {
        return fused(x, pool, PoolKind::Average);
    }
    avg_pool_plain(x, pool)
}

fn fused(x: &Tensor, pool: Pool, kind: PoolKind) -> Result<Tensor> {
    let y = cpu::channels_last(x)?.apply_op1_no_bwd(&PoolOp { pool, kind })?;
    cpu::channels_first(&y)
}

/// Composes the layer of candle's operators, on any device and in any type.
fn avg_pool_plain(x: &Tensor, pool: Pool) -> Result<Tensor> {
    let Pool {
        kernel,
        stride,
        padding,
    } = pool;
    let pad = |t: &Tensor| {
        t.pad_with_zeros(2, padding, padding)?
            .pad_with_zeros(3, padding, padding)
    };
    let mean = pad(x)?.avg_pool2d_with_stride(kernel, stride)?;
    if padding == 0 {
        return Ok(mean);
    }
    // Dividing by the mean of ones removes the padding from the count.
    let (_, _, height, width) = x.dims4()?;
    let ones = Tensor::ones((1, 1, height, width), x.dtype(), x.device())?;
    mean.broadcast_div(&pad(&ones)?.avg_pool2d_with_stride(kernel, stride)?)
}

/// Returns the largest value in each window: `[n, c, h, w]` to `[n, c, h', w']`.
///
/// # Errors
/// The window does not fit the input; errors of candle.
pub fn max_pool(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool.check(x)?;
    if cpu::supports(x) {
        return fused(x, pool, PoolKind::Max);
    }
    max_pool_plain(x, pool)
}

/// Composes the layer of candle's operators, on any device and in any type.
fn max_pool_plain(x: &Tensor, pool: Pool) -> Result<Tensor> {
    let Pool {
        kernel,
        stride,
        padding,
    } = pool;
    // Padding repeats border pixels, which changes no maximum: a window that reaches into the
    // padding contains the border pixel itself.
    let padded = x
        .pad_with_same(2, padding, padding)?
        .pad_with_same(3, padding, padding)?;
    padded.max_pool2d_with_stride(kernel, stride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_candle(
            channels in 1usize..40,
            kernel in 1usize..5,
            stride in 1usize..4,
            padding in 0usize..3,
            (height, width) in (1usize..15, 1usize..15),
        ) {
            let pool = Pool { kernel, stride, padding };
            prop_assume!(pool.output_len(height).is_some() && pool.output_len(width).is_some());
            let x = uniform(&[2, channels, height, width], 1);
            let max = max_pool_plain(&x, pool).unwrap();
            let mean = avg_pool_plain(&x, pool).unwrap();
            for isa in Isa::all() {
                assert_close(&isa.within(|| max_pool(&x, pool)).unwrap(), &max, 0.0);
                assert_close(&isa.within(|| avg_pool(&x, pool)).unwrap(), &mean, 1e-6);
            }
        }
    }

    #[test]
    fn padding_does_not_count() {
        let pool = Pool {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let x = (uniform(&[1, 1, 4, 4], 2) - 5.0).unwrap();
        let largest: f32 = max_pool(&x, pool)
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar()
            .unwrap();
        assert!(largest < -4.0, "{largest}");
        let ones = Tensor::ones((1, 2, 4, 4), candle_core::DType::F32, x.device()).unwrap();
        assert_close(&avg_pool(&ones, pool).unwrap(), &ones, 0.0);
    }

    #[test]
    fn a_maximum_does_not_hide_nan() {
        let pool = Pool {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        for place in 0..9 {
            let mut pixels = vec![1.0f32; 9];
            pixels[place] = f32::NAN;
            let x = Tensor::from_vec(pixels, (1, 1, 3, 3), &candle_core::Device::Cpu).unwrap();
            let y = max_pool(&x, pool).unwrap();
            let center: f32 = y
                .flatten_all()
                .unwrap()
                .get(4)
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(center.is_nan(), "{place}");
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let pool = Pool {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        assert_batch_independent(&uniform(&[7, 5, 9, 9], 3), |x| avg_pool(x, pool).unwrap());
    }

    #[test]
    fn windows_without_a_value_are_refused() {
        let x = uniform(&[1, 1, 4, 4], 4);
        for (kernel, stride, padding) in [(5, 1, 0), (2, 0, 0), (2, 1, 2), (0, 1, 0)] {
            let pool = Pool {
                kernel,
                stride,
                padding,
            };
            assert!(
                avg_pool(&x, pool).is_err() && max_pool(&x, pool).is_err(),
                "{pool:?}"
            );
        }
    }
}
