//! Pooling with padding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::path::{Kernel, Path};
use super::scratch::results;
use super::simd::Simd;
use super::{contiguous, tasks};
use crate::kernels::Pool;

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum PoolKind {
    /// The mean of its pixels inside the image.
    Average,
    /// The largest of them.
    Max,
}

/// Pools a contiguous `[n, h, w, c]`.
pub(in crate::kernels) struct PoolOp {
    pub pool: Pool,
    pub kind: PoolKind,
}

impl CustomOp1 for PoolOp {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        let sizes = (self.pool.output_len(height), self.pool.output_len(width));
        let (Some(out_height), Some(out_width)) = sizes else {
            bail!("{:?} does not fit {height}x{width}", self.pool);
        };
        let path = Path::current()?;
        let x = contiguous(x, layout)?;
        let mut out = results(n * out_height * out_width * channels);
        if !out.is_empty() {
            let work = out.len() * self.pool.kernel * self.pool.kernel;
            let rows = out
                .chunks_exact_mut(out_width * channels)
                .enumerate()
                .collect();
            tasks::each(work, rows, |(row, out): (usize, &mut [f32])| {
                let (image, y) = (row / out_height, row % out_height);
                let (top, bottom) = self.window(y, height);
                let start = image * height;
                let line = width * channels;
                path.run(Row {
                    op: self,
                    rows: x
                        .get((start + top) * line..(start + bottom) * line)
                        .unwrap_or_default(),
                    width,
                    channels,
                    out,
                });
            });
        }
        let shape = Shape::from((n, out_height, out_width, channels));
        Ok((CpuStorage::F32(out), shape))
    }
}

impl PoolOp {
    /// The pixels of the image that output `index` covers along one side.
    #[inline(always)]
    fn window(&self, index: usize, len: usize) -> (usize, usize) {
        let start = index * self.pool.stride;
        (
            start.saturating_sub(self.pool.padding),
            (start + self.pool.kernel - self.pool.padding).min(len),
        )
    }
}

/// One row of the result.
struct Row<'a> {
    op: &'a PoolOp,
    /// The rows of the image that its windows cover.
    rows: &'a [f32],
    width: usize,
    channels: usize,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (channels, line) = (self.channels, self.width * self.channels);
        let count = self.rows.len() / line;
        for (x, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let (left, right) = self.op.window(x, self.width);
            match self.op.kind {
                PoolKind::Average => out.fill(0.0),
                PoolKind::Max => out.fill(f32::NEG_INFINITY),
            }
            for row in self.rows.chunks_exact(line) {
                let pixels = row
                    .get(left * channels..right * channels)
                    .unwrap_or_default();
                for pixel in pixels.chunks_exact(channels) {
                    match self.op.kind {
                        PoolKind::Average => {
                            for (sum, value) in out.iter_mut().zip(pixel) {
                                *sum += value;
                            }
                        }
                        PoolKind::Max => {
                            for (max, value) in out.iter_mut().zip(pixel) {
                                *max = larger(*max, *value);
                            }
                        }
                    }
                }
            }
            if self.op.kind == PoolKind::Average {
                let pixels = (count * (right - left)) as f32;
                for sum in out {
                    *sum /= pixels;
                }
            }
        }
    }
}

/// The larger of two numbers, NaN if one is: `f32::max` would hide it.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}
