//! Both passes in floating point, one plane per channel.
//!
//! Lines are stored as `f64`, in which Pillow sums, so that a line that contributes to several
//! output lines is converted once; every value is an `f32`. Results are passed on line by line, so
//! that any layout can be written without another pass over memory.
//!
//! Everything is inlined into one [`ScalarLoop`], which is compiled for each set of vector
//! instructions.

use super::super::filter::Axis;
use crate::kernels::ScalarLoop;

/// Buffers that are reused from image to image.
#[derive(Default)]
pub(super) struct Scratch {
    /// Planes, `[channels, height, width]`.
    planes: Vec<f64>,
    /// Transposed planes, `[width, channels · height]`.
    columns: Vec<f64>,
    line: Vec<f32>,
}

/// Writes the lines of a result.
pub(super) trait Write<T> {
    /// Writes line `y` of a channel to the image `out`. Must be `#[inline(always)]`.
    fn line(&self, out: &mut [T], channel: usize, y: usize, values: &[f32]);
}

/// Passes of a resampler: the axes whose size changes, and their order.
#[derive(Clone, Copy)]
pub(super) struct Passes<'a> {
    pub horizontal: Option<&'a Axis>,
    pub vertical: Option<&'a Axis>,
    pub vertical_first: bool,
    /// Rows and columns of the input.
    pub input: (usize, usize),
}

/// Resamples one image.
pub(super) struct Resample<'a, P, W, T> {
    pub passes: Passes<'a>,
    /// `[height, width, channels]`.
    pub pixels: &'a [P],
    pub channels: usize,
    pub scratch: &'a mut Scratch,
    pub write: &'a W,
    /// Output image.
    pub out: &'a mut [T],
}

impl<P: Copy + Into<f64>, W: Write<T>, T> ScalarLoop for Resample<'_, P, W, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (mut height, width) = self.passes.input;
        let Scratch {
            planes,
            columns,
            line: buffer,
        } = self.scratch;
        planes.clear();
        for channel in 0..self.channels {
            let values = self.pixels.iter().skip(channel).step_by(self.channels);
            planes.extend(values.map(|value| -> f64 { (*value).into() }));
        }
        let mut vertical = self.passes.vertical;
        if self.passes.vertical_first {
            // The lines of a plane that shrinks are written over what was read before.
            columns.clear();
            let kept = Kept(columns);
            down(vertical.take(), planes, (height, width), buffer, kept);
            std::mem::swap(planes, columns);
            height = planes.len() / (self.channels * width);
        }
        let width = across(self.passes.horizontal, planes, width, columns, buffer);
        let written = Written {
            write: self.write,
            out: self.out,
        };
        down(vertical, planes, (height, width), buffer, written);
    }
}

/// Destination of the lines of a pass. A trait, because a closure cannot be marked
/// `inline(always)`.
trait Lines {
    fn take(&mut self, channel: usize, y: usize, values: &[f32]);
}

/// Keeps lines for the next pass.
struct Kept<'a>(&'a mut Vec<f64>);

impl Lines for Kept<'_> {
    #[inline(always)]
    fn take(&mut self, _: usize, _: usize, values: &[f32]) {
        self.0.extend(values.iter().map(|value| f64::from(*value)));
    }
}

/// Writes lines to the result.
struct Written<'a, W, T> {
    write: &'a W,
    out: &'a mut [T],
}

impl<W: Write<T>, T> Lines for Written<'_, W, T> {
    #[inline(always)]
    fn take(&mut self, channel: usize, y: usize, values: &[f32]) {
        self.write.line(self.out, channel, y, values);
    }
}

/// Resamples columns: lines of `width` values become lines of the returned width.
#[inline(always)]
fn across(
    axis: Option<&Axis>,
    planes: &mut Vec<f64>,
    width: usize,
    columns: &mut Vec<f64>,
    buffer: &mut Vec<f32>,
) -> usize {
    let Some(axis) = axis else { return width };
    let lines = planes.len() / width;
    columns.clear();
    for x in 0..width {
        columns.extend(planes.iter().skip(x).step_by(width));
    }
    let out_width = axis.windows().len();
    planes.clear();
    planes.resize(lines * out_width, 0.0);
    buffer.resize(lines, 0.0);
    for (x, (first, weights)) in axis.windows().enumerate() {
        blend(&columns[first * lines..], weights, buffer);
        let column = planes.iter_mut().skip(x).step_by(out_width);
        for (to, value) in column.zip(&*buffer) {
            *to = f64::from(*value);
        }
    }
    out_width
}

/// Resamples the rows of each plane; without an axis, lines are passed on unchanged.
#[inline(always)]
fn down(
    axis: Option<&Axis>,
    planes: &[f64],
    (height, width): (usize, usize),
    buffer: &mut Vec<f32>,
    mut lines: impl Lines,
) {
    buffer.resize(width, 0.0);
    let count = axis.map_or(height, |axis| axis.windows().len());
    for (channel, plane) in planes.chunks_exact(height * width).enumerate() {
        for y in 0..count {
            match axis {
                None => {
                    for (to, value) in buffer.iter_mut().zip(&plane[y * width..]) {
                        *to = *value as f32;
                    }
                }
                Some(axis) => {
                    let (first, weights) = axis.window(y);
                    blend(&plane[first * width..], weights, buffer);
                }
            }
            lines.take(channel, y, buffer);
        }
    }
}

/// Values that are summed in registers at a time.
const LANES: usize = 16;

/// Computes `out[i] = Σ_k weights[k] rows[k][i]`, summed in `f64` in the order of `k` as Pillow
/// does.
#[inline(always)]
fn blend(rows: &[f64], weights: &[f64], out: &mut [f32]) {
    let row_len = out.len();
    if let [w0, w1, w2, w3] = weights {
        // Every cubic enlargement, but for its edges.
        let (r0, rest) = rows.split_at(row_len);
        let (r1, rest) = rest.split_at(row_len);
        let (r2, r3) = rest.split_at(row_len);
        let columns = out.iter_mut().zip(r0).zip(r1).zip(r2).zip(r3);
        for ((((out, v0), v1), v2), v3) in columns {
            *out = (0.0 + v0 * w0 + v1 * w1 + v2 * w2 + v3 * w3) as f32;
        }
        return;
    }
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sums = [0f64; LANES];
        for (tap, weight) in weights.iter().enumerate() {
            let row = &rows[tap * row_len + index * LANES..][..LANES];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value * weight;
            }
        }
        for (out, sum) in block.iter_mut().zip(sums) {
            *out = sum as f32;
        }
    }
    let start = row_len - rest.len();
    for (index, out) in rest.iter_mut().enumerate() {
        let column = rows[start + index..].iter().step_by(row_len);
        let products = column.zip(weights).map(|(value, weight)| value * weight);
        *out = products.fold(0f64, |sum, product| sum + product) as f32;
    }
}
