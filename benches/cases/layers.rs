//! The layers that the networks are made of.

use std::hint::black_box;

use candle_core::Tensor;
use dpsyn::kernels::{self, Conv2d, Conv2dShape, GroupNorm, Linear};

use super::Work;
use super::weights::tensor;

/// `[n, channels, side, side]` with the channels last in memory, as the layers hand maps to each other.
fn maps(n: usize, channels: usize, side: usize) -> Tensor {
    let pixels = tensor((n, side, side, channels), 1.0);
    pixels.permute((0, 3, 1, 2)).unwrap()
}

/// `kernel` keeps the size of `[n, from, side, side]`.
pub fn conv(n: usize, from: usize, to: usize, kernel: (usize, usize), side: usize) -> Work {
    let shape = Conv2dShape {
        kernel,
        padding: (kernel.0 / 2, kernel.1 / 2),
        ..Conv2dShape::same(from, to, 1)
    };
    let shape = shape.giving(side);
    let weight = tensor((to, from, kernel.0, kernel.1), 0.05);
    let layer = Conv2d::new(shape, weight, Some(tensor(to, 0.1))).unwrap();
    let x = maps(n, from, side);
    Box::new(move || {
        black_box(layer.forward(&x).unwrap());
    })
}

/// Group norm of 32 groups, scale and shift, SiLU.
pub fn norm(n: usize, channels: usize, side: usize) -> Work {
    let (weight, bias) = (tensor(channels, 1.0), tensor(channels, 1.0));
    let layer = GroupNorm::new(32, 1e-5, weight, bias).unwrap();
    let (scale, shift) = (tensor((n, channels), 0.1), tensor((n, channels), 0.1));
    let x = maps(n, channels, side);
    Box::new(move || {
        black_box(layer.forward_scale_shift_silu(&x, &scale, &shift).unwrap());
    })
}

/// `n` images of `positions` positions, `heads` heads of `width` channels.
pub fn attention(n: usize, heads: usize, positions: usize, width: usize) -> Work {
    let [q, k, v] = [(); 3].map(|()| tensor((n, heads, positions, width), 1.0));
    let scale = 1.0 / (width as f64).sqrt();
    Box::new(move || {
        black_box(kernels::attention(&q, &k, &v, scale).unwrap());
    })
}

/// `rows` vectors.
pub fn linear(rows: usize, from: usize, to: usize) -> Work {
    let layer = Linear::new(&tensor((to, from), 0.05), Some(tensor(to, 0.1))).unwrap();
    let x = tensor((rows, from), 1.0);
    Box::new(move || {
        black_box(layer.forward(&x).unwrap());
    })
}
