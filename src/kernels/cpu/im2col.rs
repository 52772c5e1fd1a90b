//! Unfolding an image so that a convolution becomes a matrix product.

use std::ops::Range;

use crate::kernels::Conv2dShape;

/// Writes the pixels under the kernel for the output pixels in `block` (row-major indices into
/// the output): `out[in_channels · kernel rows · kernel columns, block]`, zeros where the kernel lies
/// outside. `image` is `[in_channels, height, width]`.
pub(super) fn im2col(
    shape: &Conv2dShape,
    image: &[f32],
    (height, width): (usize, usize),
    out_width: usize,
    block: Range<usize>,
    out: &mut [f32],
) {
    let (rows, columns) = shape.kernel;
    let taps = rows * columns;
    let planes = image.chunks_exact((height * width).max(1));
    let channels = out.chunks_exact_mut((taps * block.len()).max(1));
    for (plane, channel) in planes.zip(channels) {
        for (tap, out) in channel.chunks_exact_mut(block.len()).enumerate() {
            let (ky, kx) = (tap / columns, tap % columns);
            for_each_run(out_width, block.clone(), |y, xs, at| {
                let Some(out) = out.get_mut(at..at + xs.len()) else {
                    return;
                };
                // In padded coordinates, the input row is `row + padding`.
                let row = (y * shape.stride + ky)
                    .checked_sub(shape.padding.0)
                    .and_then(|row| plane.get(row * width..(row + 1) * width));
                match row {
                    Some(row) => copy_row(row, xs.start, kx, shape.stride, shape.padding.1, out),
                    None => out.fill(0.0),
                }
            });
        }
    }
}

/// Cuts `block` at the ends of output rows: calls `run` with the row, its columns and where in the
/// block they begin.
fn for_each_run(
    out_width: usize,
    block: Range<usize>,
    mut run: impl FnMut(usize, Range<usize>, usize),
) {
    let mut at = block.start;
    while at < block.end {
        let (y, x) = (at / out_width, at % out_width);
        let len = (out_width - x).min(block.end - at);
        run(y, x..x + len, at - block.start);
        at += len;
    }
}

/// `out[i] = row[(x + i) · stride + kx - padding]`, 0 outside the row.
fn copy_row(row: &[f32], x: usize, kx: usize, stride: usize, padding: usize, out: &mut [f32]) {
    let first = x * stride + kx;
    // How many outputs lie left of the row, and where in the row the next one reads.
    let left = padding
        .saturating_sub(first)
        .div_ceil(stride)
        .min(out.len());
    let (zeros, rest) = out.split_at_mut(left);
    zeros.fill(0.0);
    let begin = (first + left * stride).saturating_sub(padding);
    let source = row.get(begin..).unwrap_or_default();
    let inside = source.len().div_ceil(stride).min(rest.len());
    let (inside, right) = rest.split_at_mut(inside);
    if stride == 1 {
        let len = inside.len();
        inside.copy_from_slice(source.get(..len).unwrap_or_default());
    } else {
        for (to, from) in inside.iter_mut().zip(source.iter().step_by(stride)) {
            *to = *from;
        }
    }
    right.fill(0.0);
}
