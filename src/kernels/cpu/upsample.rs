//! Doubling feature maps.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::contiguous;

/// Repeats every pixel of a contiguous `[n, c, h, w]` twice in both directions.
pub(in crate::kernels) struct UpsampleOp;

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "nearest upsampling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, channels, height, width) = layout.shape().dims4()?;
        let x = contiguous(x, layout)?;
        let mut out = vec![0f32; 4 * x.len()];
        if !out.is_empty() {
            x.par_chunks_exact(height * width)
                .zip(out.par_chunks_exact_mut(4 * height * width))
                .for_each(|(plane, out)| {
                    let rows = plane.chunks_exact(width);
                    for (row, out) in rows.zip(out.chunks_exact_mut(4 * width)) {
                        let (upper, lower) = out.split_at_mut(2 * width);
                        for (pair, value) in upper.chunks_exact_mut(2).zip(row) {
                            pair.fill(*value);
                        }
                        lower.copy_from_slice(upper);
                    }
                });
        }
        Ok((
            CpuStorage::F32(out),
            Shape::from((n, channels, 2 * height, 2 * width)),
        ))
    }
}
