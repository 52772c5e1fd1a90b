//! Both passes in Pillow's 8-bit fixed point, on whole pixels.
//!
//! Everything is inlined into one [`ScalarLoop`], which is compiled for each set of vector
//! instructions.

use super::super::filter::{Axis, PRECISION_BITS};
use super::float::Passes;
use crate::kernels::ScalarLoop;

/// Buffers that are reused from image to image.
#[derive(Default)]
pub(super) struct Scratch {
    /// Result of the first pass.
    between: Vec<u8>,
    /// Transposed rows: `[width, rows, channels]`.
    columns: Vec<u8>,
    /// One column of the result.
    column: Vec<u8>,
}

/// Resamples one image.
pub(super) struct Resample<'a> {
    pub passes: Passes<'a>,
    /// `[height, width, channels]`.
    pub pixels: &'a [u8],
    pub channels: usize,
    pub scratch: &'a mut Scratch,
    /// `[out_height, out_width, channels]`.
    pub out: &'a mut [u8],
}

impl ScalarLoop for Resample<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            passes,
            pixels,
            channels,
            scratch,
            out,
        } = self;
        let (height, width) = passes.input;
        match (passes.horizontal, passes.vertical) {
            (None, None) => out.copy_from_slice(pixels),
            (Some(horizontal), None) => across(horizontal, pixels, width, channels, scratch, out),
            (None, Some(vertical)) => down(vertical, pixels, width * channels, out),
            (Some(horizontal), Some(vertical)) => {
                let mut between = std::mem::take(&mut scratch.between);
                let (out_height, out_width) =
                    (vertical.windows().len(), horizontal.windows().len());
                if passes.vertical_first {
                    between.resize(out_height * width * channels, 0);
                    down(vertical, pixels, width * channels, &mut between);
                    across(horizontal, &between, width, channels, scratch, out);
                } else {
                    between.resize(height * out_width * channels, 0);
                    across(horizontal, pixels, width, channels, scratch, &mut between);
                    down(vertical, &between, out_width * channels, out);
                }
                scratch.between = between;
            }
        }
    }
}

/// Rows that are transposed together: few enough to stay in the first-level cache.
const ROWS: usize = 16;

/// Resamples columns.
#[inline(always)]
fn across(
    axis: &Axis,
    pixels: &[u8],
    width: usize,
    channels: usize,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    let Scratch {
        columns, column, ..
    } = scratch;
    let out_width = axis.windows().len();
    let blocks = pixels.chunks(ROWS * width * channels);
    for (rows, out) in blocks.zip(out.chunks_mut(ROWS * out_width * channels)) {
        let row_len = rows.len() / width;
        columns.resize(rows.len(), 0);
        column.resize(row_len, 0);
        match channels {
            1 => transpose::<1>(rows, width, columns),
            3 => transpose::<3>(rows, width, columns),
            _ => {
                let pixels = rows.chunks_exact(channels).enumerate();
                for (at, pixel) in pixels {
                    let (y, x) = (at / width, at % width);
                    columns[x * row_len + y * channels..][..channels].copy_from_slice(pixel);
                }
            }
        }
        for (x, (first, weights)) in axis.fixed_windows().enumerate() {
            blend(&columns[first * row_len..], weights, column);
            let pixels = out.chunks_exact_mut(channels).skip(x).step_by(out_width);
            for (to, from) in pixels.zip(column.chunks_exact(channels)) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// Transposes `[rows, width, C]` to `[width, rows, C]`.
#[inline(always)]
fn transpose<const C: usize>(pixels: &[u8], width: usize, out: &mut [u8]) {
    let (from, _) = pixels.as_chunks::<C>();
    let (to, _) = out.as_chunks_mut::<C>();
    let height = from.len() / width;
    for (x, column) in to.chunks_exact_mut(height).enumerate() {
        for (to, row) in column.iter_mut().zip(from.chunks_exact(width)) {
            *to = row[x];
        }
    }
}

/// Resamples rows.
#[inline(always)]
fn down(axis: &Axis, rows: &[u8], row_len: usize, out: &mut [u8]) {
    for ((first, weights), out) in axis.fixed_windows().zip(out.chunks_exact_mut(row_len)) {
        blend(&rows[first * row_len..], weights, out);
    }
}

/// Values that are summed in registers at a time.
const LANES: usize = 16;

/// Computes `out[i] = Σ_k weights[k] rows[k][i]` in 8-bit fixed point, rounded half up and clamped.
#[inline(always)]
fn blend(rows: &[u8], weights: &[i32], out: &mut [u8]) {
    const HALF: i32 = 1 << (PRECISION_BITS - 1);
    let round = |sum: i32| (sum >> PRECISION_BITS).clamp(0, 255) as u8;
    let row_len = out.len();
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sums = [HALF; LANES];
        for (tap, weight) in weights.iter().enumerate() {
            let row = &rows[tap * row_len + index * LANES..][..LANES];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (out, sum) in block.iter_mut().zip(sums) {
            *out = round(sum);
        }
    }
    let start = row_len - rest.len();
    for (index, out) in rest.iter_mut().enumerate() {
        let column = rows[start + index..].iter().step_by(row_len);
        *out = round(column.zip(weights).fold(HALF, |sum, (value, weight)| {
            sum + i32::from(*value) * weight
        }));
    }
}
