//! Convolution as a product of the image, which is its own unfolding, and the packed weight.

use super::conv_call::ConvCall;
use super::dispatch::Element;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::gemm_element::GemmElement;
use super::panels::{Panel, Panels};
use super::scratch::Scratch;
use super::tasks;
use crate::kernels::shapes::Conv2dShape;

/// Largest panel, in bytes, that stays in a core's second-level cache while rows of an image pass
/// by.
const PANEL_CACHE: usize = 640 << 10;

/// Output pixels per task: enough that a panel, once in the cache, is used often.
const PIXELS_PER_TASK: usize = 128;

/// The packed weight; its depth runs over the kernel's rows, its columns and the channels.
#[derive(Debug)]
pub(super) struct Direct<T: GemmElement>(Panels<T>);

/// Returns true if each output pixel depends on the pixel at its own position only.
pub(super) fn is_pointwise(shape: &Conv2dShape) -> bool {
    shape.kernel == (1, 1) && shape.stride == 1 && shape.padding == (0, 0)
}

/// Some rows of one image's result.
struct RowBlock<'a, T> {
    image: usize,
    /// First of the rows.
    y: usize,
    /// Offset of the rows in the whole result.
    offset: usize,
    out: &'a mut [T],
}

impl<T: Element + GemmElement> Direct<T> {
    /// Packs `weight [out, in, rows, columns]`.
    pub fn new(token: T::Token, shape: &Conv2dShape, weight: &[f32]) -> Self {
        let (rows, columns) = shape.kernel;
        let (taps, channels) = (rows * columns, shape.in_channels);
        let depth = taps * channels;
        let row = |k: usize| k % channels * taps + k / channels;
        let size = (depth, shape.out_channels);
        let segment_len = columns * channels;
        Self(Panels::new(token, size, segment_len, weight, depth, row))
    }

    /// Runs a [pointwise](is_pointwise) convolution: every pixel of all images is a row of one
    /// product.
    pub fn run_pointwise(&self, call: &ConvCall<'_, T>, out: &mut [T]) {
        let (inputs, outputs) = (self.0.depth(), self.0.columns());
        let work = call.x.len() * outputs;
        let blocks = out.chunks_mut(PIXELS_PER_TASK * outputs).enumerate();
        let blocks = blocks.collect();
        tasks::for_each(work, blocks, |(block, out): (usize, &mut [T])| {
            let first = block * PIXELS_PER_TASK;
            let rows = out.len() / outputs;
            let x = call.x.get(first * inputs..(first + rows) * inputs);
            let lhs = Lhs::rows(x.unwrap_or_default(), inputs, inputs);
            let residual = call
                .residual
                .and_then(|r| r.get(first * outputs..first * outputs + out.len()));
            for panel in self.0.iter() {
                let epilogue = Epilogue {
                    partial: None,
                    bias: call.bias.get(panel.first..panel.first + panel.columns),
                    residual,
                    relu: call.relu,
                };
                let mut dst = Dst {
                    data: out,
                    offset: panel.first,
                    row_stride: outputs,
                };
                multiply(self.0.token(), rows, lhs, panel, &mut dst, epilogue);
            }
        });
    }

    /// Runs a convolution of any shape.
    pub fn run(&self, call: &ConvCall<'_, T>, out: &mut [T]) {
        let (out_height, out_width) = call.output;
        let row = out_width * self.0.columns();
        // At most eight tasks per image, which keep a few cores busy even with one image.
        let rows = PIXELS_PER_TASK
            .div_ceil(out_width)
            .max(out_height.div_ceil(8));
        let work = out.len() * self.0.depth();
        let mut blocks = Vec::new();
        let mut offset = 0;
        for (image, out) in out.chunks_exact_mut(out_height * row).enumerate() {
            for (block, out) in out.chunks_mut(rows * row).enumerate() {
                let (y, len) = (block * rows, out.len());
                blocks.push(RowBlock {
                    image,
                    y,
                    offset,
                    out,
                });
                offset += len;
            }
        }
        tasks::for_each(work, blocks, |block| self.run_block(call, block));
    }

    fn run_block(&self, call: &ConvCall<'_, T>, block: RowBlock<'_, T>) {
        let Conv2dShape {
            kernel,
            stride,
            padding,
            ..
        } = *call.shape;
        let rows = block.out.len() / (call.output.1 * self.0.columns());
        let row = (call.input.1 + 2 * padding.1) * call.shape.in_channels;
        let image = call.input.0 * call.input.1 * call.shape.in_channels;
        let image = call.x.get(block.image * image..(block.image + 1) * image);
        let image = image.unwrap_or_default();

        // The rows of the image that this block reads, with their padding.
        let first = block.y * stride;
        let count = (rows - 1) * stride + kernel.0;
        let padded;
        let window = if padding == (0, 0) {
            image
                .get(first * row..(first + count) * row)
                .unwrap_or_default()
        } else {
            padded = padded_rows(call, image, first, count);
            &padded
        };

        // A panel that does not fit the cache is multiplied in parts, one per row of the kernel.
        let widest = self.0.iter().map(|panel| panel.data.len()).max();
        let parts = if widest.unwrap_or(0) * size_of::<T>() > PANEL_CACHE {
            kernel.0
        } else {
            1
        };
        // Sums of the parts so far. Each part reads one buffer and writes the other.
        let mut sums = [(); 2].map(|()| {
            let width = self.0.iter().map(|panel| panel.width).max().unwrap_or(0);
            Scratch::<f32>::new(if parts > 1 {
                rows * call.output.1 * width
            } else {
                0
            })
        });
        let mut block = block;
        for panel in self.0.iter() {
            for part in 0..parts {
                let part = PanelPart { panel, part, parts };
                self.multiply_part(call, &part, (window, row), &mut sums, &mut block);
                sums.reverse();
            }
        }
    }

    /// Multiplies the rows of a block with one part of a panel. The last part applies the bias and
    /// what follows it, and stores the result; those before add to `sums[0]` and store in
    /// `sums[1]`.
    fn multiply_part(
        &self,
        call: &ConvCall<'_, T>,
        part: &PanelPart<'_, T>,
        (window, window_row): (&[T], usize),
        sums: &mut [Scratch<f32>; 2],
        block: &mut RowBlock<'_, T>,
    ) {
        let &PanelPart { panel, part, parts } = part;
        let (outputs, out_width) = (self.0.columns(), call.output.1);
        let (channels, stride) = (call.shape.in_channels, call.shape.stride);
        let out_row = out_width * outputs;
        let residual = call
            .residual
            .and_then(|r| r.get(block.offset..block.offset + block.out.len()));
        let of_part = panel.part(part, parts);
        let strip = out_width * panel.width;
        let [before, after] = sums;
        for y in 0..block.out.len() / out_row {
            let from = (y * stride + part) * window_row;
            let lhs = Lhs {
                data: window.get(from..).unwrap_or_default(),
                row_stride: stride * channels,
                segments: call.shape.kernel.0 / parts,
                segment_stride: window_row,
                segment_len: call.shape.kernel.1 * channels,
            };
            let partial = before.get(y * strip..(y + 1) * strip);
            let partial = if part > 0 { partial } else { None };
            if part + 1 < parts {
                let epilogue = Epilogue {
                    partial,
                    ..Epilogue::default()
                };
                let mut dst = Dst {
                    data: after,
                    offset: y * strip,
                    row_stride: panel.width,
                };
                multiply(self.0.token(), out_width, lhs, of_part, &mut dst, epilogue);
            } else {
                let epilogue = Epilogue {
                    partial,
                    bias: call.bias.get(panel.first..panel.first + panel.columns),
                    residual,
                    relu: call.relu,
                };
                let mut dst = Dst {
                    data: &mut *block.out,
                    offset: y * out_row + panel.first,
                    row_stride: outputs,
                };
                multiply(self.0.token(), out_width, lhs, of_part, &mut dst, epilogue);
            }
        }
    }
}

/// Part `part` of `parts` of a panel, split by the rows of the kernel.
struct PanelPart<'a, T> {
    panel: Panel<'a, T>,
    part: usize,
    parts: usize,
}

/// Copies rows `first` to `first + count` of an image, counted from its padded top, with zeros
/// around the image.
fn padded_rows<T: Element>(
    call: &ConvCall<'_, T>,
    image: &[T],
    first: usize,
    count: usize,
) -> Scratch<T> {
    let (channels, padding) = (call.shape.in_channels, call.shape.padding);
    let width = call.input.1;
    let row = (width + 2 * padding.1) * channels;
    let zero = T::narrow(0.0);
    let mut rows = Scratch::new(count * row);
    let inside = width * channels;
    for (y, to) in rows.chunks_exact_mut(row).enumerate() {
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
    rows
}
