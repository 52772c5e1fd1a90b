//! Both passes in floating point, one channel's plane after the other.
//!
//! Lines are held in `f64`, in which Pillow sums, so that a line that several output lines use is
//! converted once; every value in them is an `f32`. The results are handed on a line at a time, to be
//! written in whatever order is wanted without another pass over memory.

use super::super::filter::Axis;

/// What is reused from image to image.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[channels, height, width]`.
    planes: Vec<f64>,
    /// The same with all lines of all planes side by side: `[width, channels · height]`.
    columns: Vec<f64>,
    line: Vec<f32>,
}

/// How an image is resampled: the axes whose size changes, and which goes first.
pub(super) struct Passes<'a> {
    pub horizontal: Option<&'a Axis>,
    pub vertical: Option<&'a Axis>,
    pub vertical_first: bool,
    /// Rows and columns of the input.
    pub input: (usize, usize),
}

impl Passes<'_> {
    /// Resamples `[height, width, channels]` and calls `line(channel, y, values)` for every line of every
    /// channel of the result.
    pub fn run<T: Copy + Into<f64>>(
        &self,
        pixels: &[T],
        channels: usize,
        scratch: &mut Scratch,
        mut line: impl FnMut(usize, usize, &[f32]),
    ) {
        let (height, width) = self.input;
        let Scratch {
            planes,
            columns,
            line: buffer,
        } = scratch;
        planes.clear();
        for channel in 0..channels {
            let values = pixels.iter().skip(channel).step_by(channels);
            planes.extend(values.map(|value| -> f64 { (*value).into() }));
        }
        if self.vertical_first {
            // The lines of a plane that shrinks are written over what was read before.
            columns.clear();
            down(
                self.vertical,
                planes,
                height,
                width,
                buffer,
                |_, _, line| {
                    columns.extend(line.iter().map(|value| f64::from(*value)));
                },
            );
            std::mem::swap(planes, columns);
            let height = planes.len() / (channels * width);
            let width = across(self.horizontal, planes, width, columns, buffer);
            down(None, planes, height, width, buffer, &mut line);
        } else {
            let width = across(self.horizontal, planes, width, columns, buffer);
            down(self.vertical, planes, height, width, buffer, &mut line);
        }
    }
}

/// The pass over the columns: lines of `width` values become lines of the returned width.
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

/// The pass over the rows of each plane; without an axis the lines are handed on as they are.
fn down(
    axis: Option<&Axis>,
    planes: &[f64],
    height: usize,
    width: usize,
    buffer: &mut Vec<f32>,
    mut line: impl FnMut(usize, usize, &[f32]),
) {
    buffer.resize(width, 0.0);
    for (channel, plane) in planes.chunks_exact(height * width).enumerate() {
        match axis {
            None => {
                for (y, values) in plane.chunks_exact(width).enumerate() {
                    for (to, value) in buffer.iter_mut().zip(values) {
                        *to = *value as f32;
                    }
                    line(channel, y, buffer);
                }
            }
            Some(axis) => {
                for (y, (first, weights)) in axis.windows().enumerate() {
                    blend(&plane[first * width..], weights, buffer);
                    line(channel, y, buffer);
                }
            }
        }
    }
}

/// Values summed at once, in registers.
const LANES: usize = 16;

/// `out[i] = Σ_k weights[k] rows[k][i]`, summed in `f64` in the order of `k` as Pillow does.
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
