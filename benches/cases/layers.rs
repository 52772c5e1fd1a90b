//! Layers of the networks.

use std::hint::black_box;

use candle_core::{DType, Tensor};
use dpsyn::internals::kernels::{self, Conv2d, Conv2dShape, GroupNorm, Linear};

use super::Work;
use super::weights::tensor;

/// Returns `[n, channels, side, side]` with the channels last in memory, as one layer passes maps
/// to the next.
fn maps(n: usize, channels: usize, side: usize, dtype: DType) -> Tensor {
    let pixels = tensor((n, side, side, channels), 1.0)
        .to_dtype(dtype)
        .unwrap();
    pixels.permute((0, 3, 1, 2)).unwrap()
}

/// A convolution that keeps the size of `[n, from, side, side]`.
pub fn conv(
    n: usize,
    (from, to): (usize, usize),
    kernel: (usize, usize),
    side: usize,
    dtype: DType,
) -> Work {
    let shape = Conv2dShape {
        kernel,
        padding: (kernel.0 / 2, kernel.1 / 2),
        ..Conv2dShape::same(from, to, 1)
    };
    let shape = shape.giving(side);
    let weight = tensor((to, from, kernel.0, kernel.1), 0.05).to_dtype(dtype);
    let bias = tensor(to, 0.1).to_dtype(dtype);
    let layer = Conv2d::new(shape, weight.unwrap(), Some(bias.unwrap())).unwrap();
    let x = maps(n, from, side, dtype);
    Box::new(move || {
        black_box(layer.forward(&x).unwrap());
    })
}

/// Group norm of 32 groups with scale, shift and SiLU.
pub fn norm(n: usize, channels: usize, side: usize, dtype: DType) -> Work {
    let (weight, bias) = (tensor(channels, 1.0), tensor(channels, 1.0));
    let layer = GroupNorm::new(32, 1e-5, weight, bias).unwrap();
    let (scale, shift) = (tensor((n, channels), 0.1), tensor((n, channels), 0.1));
    let x = maps(n, channels, side, dtype);
    Box::new(move || {
        black_box(layer.forward_scale_shift_silu(&x, &scale, &shift).unwrap());
    })
}

/// Attention over `positions` positions of `n` images, with `heads` heads of `width` channels.
pub fn attention(n: usize, heads: usize, positions: usize, width: usize, dtype: DType) -> Work {
    let one = || tensor((n, heads, positions, width), 1.0).to_dtype(dtype);
    let [q, k, v] = [(); 3].map(|()| one().unwrap());
    let scale = 1.0 / (width as f64).sqrt();
    Box::new(move || {
        black_box(kernels::attention(&q, &k, &v, scale).unwrap());
    })
}

/// A linear layer on `rows` vectors.
pub fn linear(rows: usize, from: usize, to: usize, dtype: DType) -> Work {
    let weight = tensor((to, from), 0.05).to_dtype(dtype).unwrap();
    let bias = tensor(to, 0.1).to_dtype(dtype).unwrap();
    let layer = Linear::new(&weight, Some(bias)).unwrap();
    let x = tensor((rows, from), 1.0).to_dtype(dtype).unwrap();
    Box::new(move || {
        black_box(layer.forward(&x).unwrap());
    })
}
