//! Pooling with padding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::contiguous;
use super::window::{Taps, zip_strided};
use crate::kernels::Pool;

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum PoolKind {
    /// The mean of its pixels inside the image.
    Average,
    /// The largest of them.
    Max,
}

/// Pools a contiguous `[n, c, h, w]`.
pub(in crate::kernels) struct PoolOp {
    pub pool: Pool,
    pub kind: PoolKind,
}

impl CustomOp1 for PoolOp {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, channels, height, width) = layout.shape().dims4()?;
        let (Some(out_height), Some(out_width)) =
            (self.pool.output_len(height), self.pool.output_len(width))
        else {
            bail!("{:?} does not fit {height}x{width}", self.pool);
        };
        let x = contiguous(x, layout)?;
        let mut out = vec![0f32; n * channels * out_height * out_width];
        if !out.is_empty() {
            x.par_chunks_exact(height * width)
                .zip(out.par_chunks_exact_mut(out_height * out_width))
                .for_each(|(plane, out)| {
                    for (y, out) in out.chunks_exact_mut(out_width).enumerate() {
                        self.row(plane, (height, width), y, out);
                    }
                });
        }
        Ok((
            CpuStorage::F32(out),
            Shape::from((n, channels, out_height, out_width)),
        ))
    }
}

impl PoolOp {
    /// Output row `y`: the window's pixels are added (or compared) one after another, each for the
    /// whole row at once.
    fn row(&self, plane: &[f32], (height, width): (usize, usize), y: usize, out: &mut [f32]) {
        let Pool {
            kernel,
            stride,
            padding,
        } = self.pool;
        let (top, bottom) = self.window(y, height);
        let rows = plane.get(top * width..bottom * width).unwrap_or_default();
        match self.kind {
            PoolKind::Average => out.fill(0.0),
            PoolKind::Max => out.fill(f32::NEG_INFINITY),
        }
        for row in rows.chunks_exact(width) {
            for kx in 0..kernel {
                let (before, source, count) = Taps::new(kx, stride, padding).inside(row, out.len());
                let inside = out.get_mut(before..before + count).unwrap_or_default();
                match self.kind {
                    PoolKind::Average => {
                        zip_strided(inside, source, stride, |sum, value| *sum += value);
                    }
                    PoolKind::Max => {
                        zip_strided(inside, source, stride, |max, value| {
                            *max = larger(*max, value)
                        });
                    }
                }
            }
        }
        if self.kind == PoolKind::Average {
            for (x, sum) in out.iter_mut().enumerate() {
                let (left, right) = self.window(x, width);
                *sum /= ((bottom - top) * (right - left)) as f32;
            }
        }
    }

    /// The pixels of the image that output `index` covers along one side.
    fn window(&self, index: usize, len: usize) -> (usize, usize) {
        let start = index * self.pool.stride;
        (
            start.saturating_sub(self.pool.padding),
            (start + self.pool.kernel - self.pool.padding).min(len),
        )
    }
}

/// The larger of two numbers, NaN if one is: `f32::max` would hide it.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}
