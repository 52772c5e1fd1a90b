//! Unfolding an image so that a convolution becomes a matrix product.

use std::ops::Range;

use super::window::{Taps, zip_strided};
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
    let keeps_width = shape.stride == 1 && out_width == width;
    for (plane, channel) in planes.zip(channels) {
        for (tap, out) in channel.chunks_exact_mut(block.len()).enumerate() {
            let tap = (tap / columns, tap % columns);
            if keeps_width {
                shift(shape, plane, width, block.start, tap, out);
            } else {
                gather(shape, plane, width, out_width, block.clone(), tap, out);
            }
        }
    }
}

/// Unfolds one tap where rows of the output are as long as the image's: the block is a shifted copy
/// of the plane, but for the columns that the shift carried into the next row.
fn shift(
    shape: &Conv2dShape,
    plane: &[f32],
    width: usize,
    start: usize,
    (ky, kx): (usize, usize),
    out: &mut [f32],
) {
    // Output `start + i` reads pixel `start + i + forward - back`, if there is one.
    let forward = start + ky * width + kx;
    let back = shape.padding.0 * width + shape.padding.1;
    let before = back.saturating_sub(forward).min(out.len());
    let (above, rest) = out.split_at_mut(before);
    above.fill(0.0);
    let source = plane.get((forward + before).saturating_sub(back)..);
    let source = source.unwrap_or_default();
    let (inside, below) = rest.split_at_mut(source.len().min(rest.len()));
    inside.copy_from_slice(source.get(..inside.len()).unwrap_or_default());
    below.fill(0.0);

    let (left, right) = (
        shape.padding.1.saturating_sub(kx),
        kx.saturating_sub(shape.padding.1),
    );
    for column in (0..left.min(width)).chain(width.saturating_sub(right)..width) {
        // The first output at or after `start` in this column.
        let first = (column + width - start % width) % width;
        for value in out.iter_mut().skip(first).step_by(width) {
            *value = 0.0;
        }
    }
}

/// Unfolds one tap in general, output row by output row.
fn gather(
    shape: &Conv2dShape,
    plane: &[f32],
    width: usize,
    out_width: usize,
    block: Range<usize>,
    (ky, kx): (usize, usize),
    out: &mut [f32],
) {
    let mut rest = out;
    let mut at = block.start;
    while at < block.end {
        let (y, x) = (at / out_width, at % out_width);
        let len = (out_width - x).min(block.end - at);
        let (part, remaining) = rest.split_at_mut(len.min(rest.len()));
        // In padded coordinates, the image's first row is `padding`.
        let row = (y * shape.stride + ky)
            .checked_sub(shape.padding.0)
            .and_then(|row| plane.get(row * width..(row + 1) * width));
        match row {
            Some(row) => {
                let taps = Taps::new(x * shape.stride + kx, shape.stride, shape.padding.1);
                let (before, source, count) = taps.inside(row, part.len());
                let (left, inside) = part.split_at_mut(before);
                let (inside, right) = inside.split_at_mut(count);
                left.fill(0.0);
                zip_strided(inside, source, shape.stride, |to, from| *to = from);
                right.fill(0.0);
            }
            None => part.fill(0.0),
        }
        rest = remaining;
        at += len;
    }
}
