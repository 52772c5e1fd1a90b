//! Convolution as a product of the image, which is its own unfolding, and the packed weight.

use super::conv::Call;
use super::micro::{Dst, Epilogue, GemmElement, Lhs, multiply};
use super::panels::Panels;
use super::scratch::Scratch;
use super::tasks;
use crate::kernels::Conv2dShape;

/// Bytes of a panel that stay in a core's second-level cache while rows of an image pass by.
const CACHED: usize = 640 << 10;

/// Output pixels of a task: enough that a panel that was brought into the cache is used often.
const PIXELS: usize = 128;

/// The weight: depth runs over the kernel's rows, its columns and the channels.
#[derive(Debug)]
pub(super) struct Direct<T: GemmElement>(Panels<T>);

/// Whether each output pixel depends on the pixel in its own place only.
pub(super) fn is_pointwise(shape: &Conv2dShape) -> bool {
    shape.kernel == (1, 1) && shape.stride == 1 && shape.padding == (0, 0)
}

/// Some rows of one image's result.
struct Task<'a, T> {
    image: usize,
    /// First of the rows.
    y: usize,
    /// Where they begin in the whole result.
    at: usize,
    out: &'a mut [T],
}

impl<T: GemmElement> Direct<T> {
    pub fn new(token: T::Token, shape: &Conv2dShape, weight: &[f32]) -> Self {
        let (rows, columns) = shape.kernel;
        let (taps, channels) = (rows * columns, shape.in_channels);
        let depth = taps * channels;
        let row = |k: usize| k % channels * taps + k / channels;
        let size = (depth, shape.out_channels);
        Self(Panels::new(
            token,
            size,
            columns * channels,
            weight,
            depth,
            row,
        ))
    }

    /// Every pixel of all images is a row of one product.
    pub fn run_pointwise(&self, call: &Call<'_, T>, out: &mut [T]) {
        let (inputs, outputs) = (self.0.depth(), self.0.columns());
        let work = call.x.len() * outputs;
        let blocks = out.chunks_mut(PIXELS * outputs).enumerate().collect();
        tasks::each(work, blocks, |(block, out): (usize, &mut [T])| {
            let at = block * PIXELS;
            let rows = out.len() / outputs;
            let x = call.x.get(at * inputs..(at + rows) * inputs);
            let lhs = Lhs::rows(x.unwrap_or_default(), inputs, inputs);
            let residual = call
                .residual
                .and_then(|r| r.get(at * outputs..at * outputs + out.len()));
            for panel in self.0.iter() {
                let finish = Epilogue {
                    partial: None,
                    bias: call.bias.get(panel.first..panel.first + panel.columns),
                    residual,
                    relu: call.relu,
                };
                let mut out = Dst {
                    data: out,
                    at: panel.first,
                    row: outputs,
                };
                multiply(self.0.token(), rows, lhs, panel, &mut out, finish);
            }
        });
    }

    pub fn run(&self, call: &Call<'_, T>, out: &mut [T]) {
        let (out_height, out_width) = call.output;
        let row = out_width * self.0.columns();
        // Eight tasks an image keep a few cores busy even with one image.
        let rows = PIXELS.div_ceil(out_width).max(out_height.div_ceil(8));
        let work = out.len() * self.0.depth();
        let mut blocks = Vec::new();
        let mut at = 0;
        for (image, out) in out.chunks_exact_mut(out_height * row).enumerate() {
            for (block, out) in out.chunks_mut(rows * row).enumerate() {
                let (y, len) = (block * rows, out.len());
                blocks.push(Task { image, y, at, out });
                at += len;
            }
        }
        tasks::each(work, blocks, |task| self.block(call, task));
    }

    fn block(&self, call: &Call<'_, T>, task: Task<'_, T>) {
        let Conv2dShape {
            in_channels: channels,
            kernel,
            stride,
            padding,
            ..
        } = *call.shape;
        let (height, width) = call.input;
        let out_width = call.output.1;
        let out_row = out_width * self.0.columns();
        let rows = task.out.len() / out_row;
        let image = height * width * channels;
        let image = call.x.get(task.image * image..(task.image + 1) * image);
        let image = image.unwrap_or_default();

        // The rows of the image that are read, with their padding.
        let first = task.y * stride;
        let count = (rows - 1) * stride + kernel.0;
        let row = (width + 2 * padding.1) * channels;
        let padded;
        let window = if padding == (0, 0) {
            image
                .get(first * row..(first + count) * row)
                .unwrap_or_default()
        } else {
            let zero = T::of(0.0);
            let mut scratch = Scratch::new(count * row);
            let inside = width * channels;
            for (y, to) in scratch.chunks_exact_mut(row).enumerate() {
                let from = (first + y)
                    .checked_sub(padding.0)
                    .and_then(|y| image.get(y * inside..(y + 1) * inside));
                match (from, to.get_mut(padding.1 * channels..)) {
                    (Some(from), Some(middle)) => {
                        let (middle, right) = middle.split_at_mut(inside);
                        middle.copy_from_slice(from);
                        right.fill(zero);
                        to.iter_mut()
                            .take(padding.1 * channels)
                            .for_each(|v| *v = zero);
                    }
                    _ => to.fill(zero),
                }
            }
            padded = scratch;
            &padded
        };

        let residual = call
            .residual
            .and_then(|r| r.get(task.at..task.at + task.out.len()));
        // A panel that does not fit the cache is taken in parts, one for each row of the kernel.
        let panels = self.0.iter();
        let widest = panels.map(|panel| panel.data.len()).max().unwrap_or(0);
        let parts = if widest * size_of::<T>() > CACHED {
            kernel.0
        } else {
            1
        };
        // Sums of the earlier parts, in turns those before and those with the latest.
        let mut sums = [(); 2].map(|()| {
            let most = self.0.iter().map(|panel| panel.width).max();
            Scratch::<f32>::new(if parts > 1 {
                rows * out_width * most.unwrap_or(0)
            } else {
                0
            })
        });
        let run = kernel.1 * channels;
        for panel in self.0.iter() {
            let strip = out_width * panel.width;
            for part in 0..parts {
                let segments = kernel.0 / parts;
                let of_part = panel.part(part, parts);
                let [before, after] = &mut sums;
                for y in 0..rows {
                    let lhs = Lhs {
                        data: window.get((y * stride + part) * row..).unwrap_or_default(),
                        row: stride * channels,
                        segments,
                        segment: row,
                        run,
                    };
                    let partial = before.get(y * strip..(y + 1) * strip);
                    let partial = if part > 0 { partial } else { None };
                    if part + 1 < parts {
                        let finish = Epilogue {
                            partial,
                            ..Epilogue::default()
                        };
                        let mut out = Dst {
                            data: after,
                            at: y * strip,
                            row: panel.width,
                        };
                        multiply(self.0.token(), out_width, lhs, of_part, &mut out, finish);
                    } else {
                        let finish = Epilogue {
                            partial,
                            bias: call.bias.get(panel.first..panel.first + panel.columns),
                            residual,
                            relu: call.relu,
                        };
                        let mut out = Dst {
                            data: &mut *task.out,
                            at: y * out_row + panel.first,
                            row: self.0.columns(),
                        };
                        multiply(self.0.token(), out_width, lhs, of_part, &mut out, finish);
                    }
                }
                sums.reverse();
            }
        }
    }
}
