//! Interpolation of the position embedding from the grid of patches of the training (37 × 37 at 518
//! pixels) to that of the input (16 × 16 at 224), as `interpolate_pos_encoding` of the reference
//! does it.

use candle_core::{DType, Device, Result, Tensor};

use crate::images::{Filter, Resampler};

/// Added to the size of the target grid before the scale is computed from it (`interpolate_offset`
/// of the models without registers). The reference calls it a historical kludge; the features
/// depend on it.
const OFFSET: f64 = 0.1;

/// `a` of the cubic convolution (Keys 1981) in PyTorch's bicubic interpolation without
/// antialiasing.
const CUBIC_A: f64 = -0.75;

/// Positions `[side², channels]` of a square grid to `[grid², channels]`: PyTorch's bicubic
/// interpolation with the scale factor `(grid + 0.1) / side`. Models without registers.
pub(super) fn bicubic(positions: &Tensor, grid: usize) -> Result<Tensor> {
    let side = side(positions)?;
    if side == grid {
        return positions.contiguous();
    }
    let scale = side as f64 / (grid as f64 + OFFSET);
    let weights = cubic_weights(side, grid, scale);
    let channels = positions.dim(1)?;
    let values = numbers(positions)?;
    let mut out = Vec::with_capacity(grid * grid * channels);
    for vertical in &weights {
        for horizontal in &weights {
            let mut sums = vec![0f64; channels];
            for (y, weight_y) in vertical {
                for (x, weight_x) in horizontal {
                    let start = (y * side + x) * channels;
                    let row = values.iter().skip(start);
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += weight_y * weight_x * f64::from(*value);
                    }
                }
            }
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
    }
    restored(out, grid, positions)
}

/// [`bicubic`] with antialiasing and without an offset, which is Pillow's resampling. Models with
/// registers.
pub(super) fn antialiased(positions: &Tensor, grid: usize) -> Result<Tensor> {
    let side = side(positions)?;
    if side == grid {
        return positions.contiguous();
    }
    let resampler = Resampler::new(Filter::Bicubic, (side, side), (grid, grid))
        .map_err(candle_core::Error::wrap)?;
    let out = resampler
        .float(&numbers(positions)?, positions.dim(1)?)
        .map_err(candle_core::Error::wrap)?;
    restored(out, grid, positions)
}

fn side(positions: &Tensor) -> Result<usize> {
    Ok(positions.dim(0)?.isqrt())
}

fn numbers(positions: &Tensor) -> Result<Vec<f32>> {
    positions.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn restored(values: Vec<f32>, grid: usize, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, (grid * grid, like.dim(1)?), &Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}

/// For each of `output` points, the four input points that it is made of, with their weights;
/// `scale` is the distance of two output points in input points. Points beyond the edge repeat the
/// edge.
fn cubic_weights(input: usize, output: usize, scale: f64) -> Vec<[(usize, f64); 4]> {
    (0..output)
        .map(|index| {
            let at = (index as f64 + 0.5) * scale - 0.5;
            let below = at.floor();
            [-1.0, 0.0, 1.0, 2.0].map(|step| {
                let point = (below + step).clamp(0.0, input as f64 - 1.0);
                (point as usize, cubic(at - below - step))
            })
        })
        .collect()
}

fn cubic(distance: f64) -> f64 {
    const A: f64 = CUBIC_A;
    let x = distance.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::testing::uniform;

    #[test]
    fn an_equal_grid_is_kept_and_constants_stay_constant() {
        let positions = uniform(&[25, 3], 1);
        let constant = Tensor::full(0.5f32, (25, 3), &Device::Cpu).unwrap();
        for resize in [bicubic, antialiased] {
            let kept = resize(&positions, 5).unwrap();
            assert_eq!(
                kept.to_vec2::<f32>().unwrap(),
                positions.to_vec2::<f32>().unwrap()
            );
            for grid in [1, 3, 9] {
                let resized = resize(&constant, grid).unwrap();
                assert_eq!(resized.dims(), [grid * grid, 3]);
                let values = numbers(&resized).unwrap();
                assert!(values.iter().all(|v| (v - 0.5).abs() < 1e-6));
            }
        }
    }

    /// With `a` = -0.75 a ramp is reproduced up to 0.06, and so its values tell the coordinates.
    /// Without the offset, the last one would be 0.2 away.
    #[test]
    fn coordinates_are_scaled_with_the_offset() {
        let ramp: Vec<f32> = (0..37 * 37).map(|index| (index % 37) as f32).collect();
        let positions = Tensor::from_vec(ramp, (37 * 37, 1), &Device::Cpu).unwrap();
        let found = numbers(&bicubic(&positions, 16).unwrap()).unwrap();
        for (index, value) in found.iter().take(16).enumerate().skip(1) {
            let expected = (index as f32 + 0.5) * 37.0 / 16.1 - 0.5;
            assert!((value - expected).abs() < 0.06, "{value} for {expected}");
        }
    }
}
