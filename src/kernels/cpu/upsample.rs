//! Nearest-neighbor upsampling of feature maps by two.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use super::dispatch::{Element, match_dtype};
use super::scratch::uninit_output;
use super::tasks;
use super::tensors::contiguous;

/// Operator that repeats every pixel of a contiguous `[n, h, w, c]` twice in both directions.
pub(in crate::kernels) struct UpsampleOp;

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "nearest upsampling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match_dtype!(x, E => upsample::<E>(x, layout))
    }
}

fn upsample<E: Element>(x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
    let (n, height, width, channels) = layout.shape().dims4()?;
    let x = contiguous::<E>(x, layout)?;
    let mut out = uninit_output(4 * x.len());
    if !out.is_empty() {
        let row = width * channels;
        let rows = x
            .chunks_exact(row)
            .zip(out.chunks_exact_mut(4 * row))
            .collect();
        tasks::for_each(4 * x.len(), rows, |(row, out): (&[E], &mut [E])| {
            let (upper, lower) = out.split_at_mut(out.len() / 2);
            let pairs = upper.chunks_exact_mut(2 * channels);
            for (pair, pixel) in pairs.zip(row.chunks_exact(channels)) {
                let (left, right) = pair.split_at_mut(channels);
                left.copy_from_slice(pixel);
                right.copy_from_slice(pixel);
            }
            lower.copy_from_slice(upper);
        });
    }
    let shape = Shape::from((n, 2 * height, 2 * width, channels));
    Ok((E::storage(out), shape))
}
