//! Layers of a network in training: differentiable, on maps `[n, h, w, channels]`.

use candle_core::{D, DType, Result, Tensor, bail};

use super::cpu;
use super::shapes::Conv2dShape;

/// Returns true if the operators of this project can take all of `parts`.
fn is_own(parts: &[&Tensor]) -> bool {
    parts.iter().all(|part| part.dtype() == DType::F32) && cpu::supports_all(parts)
}

/// Convolves `x [n, h, w, in]` by `weight [out, in, rows, columns]`, without a bias.
///
/// On the CPU in `f32` by this project's operator, elsewhere by candle's, whose gradient is an
/// error where rows and columns have different remainders under the stride.
///
/// # Errors
/// Shapes do not fit; errors of candle.
pub fn trained_conv2d(shape: Conv2dShape, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, columns) = shape.kernel;
    let expected = [shape.out_channels, shape.in_channels, rows, columns];
    if weight.dims() != expected || x.dim(D::Minus1)? != shape.in_channels {
        bail!(
            "{:?} and {:?} do not fit {shape:?}",
            x.dims(),
            weight.dims()
        );
    }
    if is_own(&[x, weight]) {
        let op = cpu::TrainedConvOp(shape);
        return x.contiguous()?.apply_op2(&weight.contiguous()?, op);
    }
    if shape.padding.0 != shape.padding.1 {
        bail!("candle has one padding for both directions, not {shape:?}");
    }
    let planes = x.permute((0, 3, 1, 2))?.contiguous()?;
    let y = planes.conv2d(weight, shape.padding.0, shape.stride, 1, 1)?;
    y.permute((0, 2, 3, 1))?.contiguous()
}

/// Mean and variance of each channel, `[channels]`. The variance is divided by the number of
/// pixels.
#[derive(Debug, Clone)]
pub struct BatchMoments {
    /// Mean.
    pub mean: Tensor,
    /// Variance.
    pub variance: Tensor,
}

/// Normalizes each channel of `x [n, h, w, channels]` by the moments of the batch, multiplies by
/// `gain [channels]`, adds `bias [channels]`, and replaces negative results by 0. Returns the
/// moments as well, detached.
///
/// # Errors
/// Shapes do not fit, `x` is empty; errors of candle.
pub fn batch_norm_relu(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, BatchMoments)> {
    if is_own(&[x, gain, bias]) {
        let x = x.contiguous()?;
        let moments = cpu::Moments::of(&x)?;
        let op = cpu::TrainedNormOp::new(&moments, eps as f32);
        let y = x.apply_op3(&gain.contiguous()?, &bias.contiguous()?, op)?;
        let channels = moments.mean.len();
        let tensor = |numbers| Tensor::from_vec(numbers, channels, x.device());
        let moments = BatchMoments {
            mean: tensor(moments.mean)?,
            variance: tensor(moments.variance)?,
        };
        return Ok((y, moments));
    }
    let rows = x.reshape(((), x.dim(D::Minus1)?))?;
    let mean = rows.mean(0)?;
    let centered = rows.broadcast_sub(&mean)?;
    let variance = centered.sqr()?.mean(0)?;
    let factor = gain.div(&(&variance + eps)?.sqrt()?)?;
    let y = centered.broadcast_mul(&factor)?.broadcast_add(bias)?;
    let moments = BatchMoments {
        mean: mean.detach(),
        variance: variance.detach(),
    };
    Ok((y.relu()?.reshape(x.shape())?, moments))
}

/// Normalizes as [`batch_norm_relu`] does, by given moments and without a gradient.
///
/// # Errors
/// Shapes do not fit; errors of candle.
pub fn fixed_norm_relu(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    moments: &BatchMoments,
    eps: f64,
) -> Result<Tensor> {
    let (gain, bias) = (gain.detach(), bias.detach());
    if is_own(&[x, &gain, &bias, &moments.mean]) {
        let moments = cpu::Moments {
            mean: moments.mean.to_vec1()?,
            variance: moments.variance.to_vec1()?,
        };
        let op = cpu::TrainedNormOp::new(&moments, eps as f32);
        return x
            .contiguous()?
            .apply_op3_no_bwd(&gain.contiguous()?, &bias.contiguous()?, &op);
    }
    let factor = gain.div(&(&moments.variance + eps)?.sqrt()?)?;
    let y = x.broadcast_sub(&moments.mean)?.broadcast_mul(&factor)?;
    y.broadcast_add(&bias)?.relu()
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::kernels::testing::composed;
    use crate::models::testing::uniform;

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A block of a network; returns its result, its result by fixed moments and its gradients.
    fn block() -> Vec<Vec<f32>> {
        let x = Var::from_tensor(&uniform(&[4, 6, 6, 3], 1)).unwrap();
        let weight = Var::from_tensor(&uniform(&[5, 3, 3, 3], 2)).unwrap();
        let gain = Var::from_tensor(&(uniform(&[5], 3) + 1.5).unwrap()).unwrap();
        let bias = Var::from_tensor(&uniform(&[5], 4)).unwrap();
        let shape = Conv2dShape::same(3, 5, 3).with_stride(2);
        let y = trained_conv2d(shape, &x, &weight).unwrap();
        let (y, moments) = batch_norm_relu(&y, &gain, &bias, 1e-5).unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let fixed = trained_conv2d(shape, &x, &weight).unwrap();
        let fixed = fixed_norm_relu(&fixed, &gain, &bias, &moments, 1e-5).unwrap();
        let gradients = [&x, &weight, &gain, &bias].map(|of| numbers(gradients.get(of).unwrap()));
        [numbers(&y), numbers(&fixed)]
            .into_iter()
            .chain(gradients)
            .collect()
    }

    #[test]
    fn own_operators_agree_with_composed_ones() {
        let own = block();
        let composed = composed(block);
        assert_eq!(own.len(), composed.len());
        for (own, composed) in own.iter().zip(&composed) {
            assert_eq!(own.len(), composed.len());
            for (a, b) in own.iter().zip(composed) {
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a}, {b}");
            }
        }
    }

    #[test]
    fn fixed_moments_of_the_batch_give_its_result() {
        let results = block();
        for (trained, fixed) in results[0].iter().zip(&results[1]) {
            assert!((trained - fixed).abs() < 1e-5);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = uniform(&[1, 4, 4, 3], 1);
        let weight = uniform(&[5, 2, 3, 3], 2);
        assert!(trained_conv2d(Conv2dShape::same(2, 5, 3), &x, &weight).is_err());
        assert!(trained_conv2d(Conv2dShape::same(3, 5, 3), &x, &weight).is_err());
    }
}
