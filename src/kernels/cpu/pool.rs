//! Pooling with padding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::element::{Element, of_type};
use super::path::Kernel;
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
        of_type!(x, E => self.run::<E>(x, layout))
    }
}

impl PoolOp {
    fn run<E: Element>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        let sizes = (self.pool.output_len(height), self.pool.output_len(width));
        let (Some(out_height), Some(out_width)) = sizes else {
            bail!("{:?} does not fit {height}x{width}", self.pool);
        };
        let path = E::path()?;
        let x = contiguous::<E>(x, layout)?;
        let mut out = results(n * out_height * out_width * channels);
        if !out.is_empty() {
            let work = out.len() * self.pool.kernel * self.pool.kernel;
            let rows = out
                .chunks_exact_mut(out_width * channels)
                .enumerate()
                .collect();
            tasks::each(work, rows, |(row, out): (usize, &mut [E])| {
                let (image, y) = (row / out_height, row % out_height);
                let (top, bottom) = self.window(y, height);
                let start = image * height;
                let line = width * channels;
                let row = Row {
                    op: self,
                    rows: x
                        .get((start + top) * line..(start + bottom) * line)
                        .unwrap_or_default(),
                    width,
                    channels,
                    out,
                };
                E::run(path, row);
            });
        }
        let shape = Shape::from((n, out_height, out_width, channels));
        Ok((E::storage(out), shape))
    }

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
struct Row<'a, E> {
    op: &'a PoolOp,
    /// The rows of the image that its windows cover.
    rows: &'a [E],
    width: usize,
    channels: usize,
    out: &'a mut [E],
}

impl<E: Element> Kernel for Row<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const BLOCK: usize = 32;
        let (channels, line) = (self.channels, self.width * self.channels);
        let count = self.rows.len() / line;
        let start = match self.op.kind {
            PoolKind::Average => 0.0,
            PoolKind::Max => f32::NEG_INFINITY,
        };
        for (x, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let (left, right) = self.op.window(x, self.width);
            let pixels = (count * (right - left)) as f32;
            // Blocks of channels, whose results stay in registers.
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let channel = block * BLOCK;
                let mut results = [start; BLOCK];
                for row in self.rows.chunks_exact(line) {
                    let pixels = row.get(left * channels..right * channels);
                    for pixel in pixels.unwrap_or_default().chunks_exact(channels) {
                        let pixel = pixel.get(channel..).unwrap_or_default();
                        match (pixel.first_chunk::<BLOCK>(), self.op.kind) {
                            (Some(pixel), PoolKind::Average) => {
                                for (sum, value) in results.iter_mut().zip(pixel) {
                                    *sum += value.get();
                                }
                            }
                            (Some(pixel), PoolKind::Max) => {
                                for (max, value) in results.iter_mut().zip(pixel) {
                                    *max = larger(*max, value.get());
                                }
                            }
                            (None, PoolKind::Average) => {
                                for (sum, value) in results.iter_mut().zip(pixel) {
                                    *sum += value.get();
                                }
                            }
                            (None, PoolKind::Max) => {
                                for (max, value) in results.iter_mut().zip(pixel) {
                                    *max = larger(*max, value.get());
                                }
                            }
                        }
                    }
                }
                if self.op.kind == PoolKind::Average {
                    for sum in &mut results {
                        *sum /= pixels;
                    }
                }
                for (out, result) in out.iter_mut().zip(results) {
                    *out = E::of(result);
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
