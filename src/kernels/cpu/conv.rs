//! Convolution: unfolding and multiplying, block by block.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::contiguous;
use super::gemm::{Matrix, multiply};
use super::im2col::im2col;
use crate::kernels::Conv2dShape;

/// Arguments: the image, the weight and the bias, all contiguous.
pub(in crate::kernels) struct ConvOp {
    pub shape: Conv2dShape,
    pub relu: bool,
}

/// Output pixels are computed in blocks of a multiple of this.
const PIXELS: usize = 64;

/// Elements that an unfolded block should have: it is read several times and should stay in a core's
/// second-level cache.
const UNFOLDED: usize = 48 << 10;

thread_local! {
    /// Reused from task to task: the unfolded block, then the block's result.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// One image's output pixels in a block, a slice for each output channel.
struct Task<'a> {
    image: &'a [f32],
    block: Range<usize>,
    out: Vec<&'a mut [f32]>,
}

impl ConvOp {
    /// Inputs that go into one output.
    fn depth(&self) -> usize {
        self.shape.in_channels * self.shape.kernel.0 * self.shape.kernel.1
    }

    /// A function of the layer alone.
    fn block_len(&self) -> usize {
        (UNFOLDED / self.depth().max(1)).clamp(PIXELS, 16 * PIXELS) / PIXELS * PIXELS
    }

    /// Whether an image is its own unfolding.
    fn is_pointwise(&self) -> bool {
        self.shape.kernel == (1, 1) && self.shape.stride == 1 && self.shape.padding == (0, 0)
    }

    fn run(
        &self,
        task: Task<'_>,
        input: (usize, usize),
        out_width: usize,
        weight: Matrix<'_>,
        bias: &[f32],
    ) -> Result<()> {
        let depth = self.depth();
        let pixels = task.block.len();
        SCRATCH.with_borrow_mut(|(unfolded, result)| {
            let result = scratch(result, self.shape.out_channels * pixels);
            let columns = if self.is_pointwise() {
                Matrix {
                    data: task.image.get(task.block.start..).unwrap_or_default(),
                    rows: depth,
                    cols: pixels,
                    row_stride: input.0 * input.1,
                    col_stride: 1,
                }
            } else {
                let unfolded = scratch(unfolded, depth * pixels);
                im2col(
                    &self.shape,
                    task.image,
                    input,
                    out_width,
                    task.block,
                    unfolded,
                );
                Matrix::new(unfolded, depth, pixels)
            };
            multiply(result, weight, columns)?;
            let rows = result.chunks_exact(pixels);
            for ((out, row), bias) in task.out.into_iter().zip(rows).zip(bias) {
                if self.relu {
                    for (out, value) in out.iter_mut().zip(row) {
                        // Unlike `max`, this keeps NaN.
                        let value = value + bias;
                        *out = if value < 0.0 { 0.0 } else { value };
                    }
                } else {
                    for (out, value) in out.iter_mut().zip(row) {
                        *out = value + bias;
                    }
                }
            }
            Ok(())
        })
    }
}

/// The first `len` elements of a buffer that grows as needed; they hold old values.
fn scratch(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, channels, height, width) = x_layout.shape().dims4()?;
        let outputs = self.shape.out_channels;
        let Some((out_height, out_width)) = self.shape.output_size(height, width) else {
            bail!(
                "the kernel of {:?} does not fit {height}x{width}",
                self.shape
            );
        };
        let x = contiguous(x, x_layout)?;
        let weight = Matrix::new(contiguous(weight, weight_layout)?, outputs, self.depth());
        let bias = contiguous(bias, bias_layout)?;
        let area = out_height * out_width;
        let mut out = vec![0f32; n * outputs * area];
        if !out.is_empty() {
            let images = x.chunks_exact((channels * height * width).max(1));
            let block_len = self.block_len().min(area);
            let tasks: Vec<Task<'_>> = images
                .zip(out.chunks_exact_mut(outputs * area))
                .flat_map(|(image, out)| blocks(image, out, area, block_len))
                .collect();
            tasks
                .into_par_iter()
                .try_for_each(|task| self.run(task, (height, width), out_width, weight, bias))?;
        }
        let shape = Shape::from((n, outputs, out_height, out_width));
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Cuts one image's output, `[channels, area]`, into blocks of pixels.
fn blocks<'a>(
    image: &'a [f32],
    out: &'a mut [f32],
    area: usize,
    block_len: usize,
) -> Vec<Task<'a>> {
    let mut tasks: Vec<Task<'a>> = (0..area)
        .step_by(block_len)
        .map(|start| Task {
            image,
            block: start..(start + block_len).min(area),
            out: Vec::new(),
        })
        .collect();
    for plane in out.chunks_exact_mut(area) {
        for (task, part) in tasks.iter_mut().zip(plane.chunks_mut(block_len)) {
            task.out.push(part);
        }
    }
    tasks
}
