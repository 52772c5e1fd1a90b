//! Pooling with padding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::isa::Kernel;
use super::scratch::{Scratch, uninit_output};
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;
use crate::kernels::shapes::Pool;

/// The function of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum PoolKind {
    /// Mean of its pixels inside the image.
    Average,
    /// Maximum of its pixels inside the image.
    Max,
}

/// Operator that pools a contiguous `[n, h, w, c]`.
pub(in crate::kernels) struct PoolOp {
    pub pool: Pool,
    pub kind: PoolKind,
}

impl CustomOp1 for PoolOp {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match_dtype!(x, E => self.run::<E>(x, layout))
    }
}

impl PoolOp {
    fn run<E: Element>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        let sizes = (self.pool.output_len(height), self.pool.output_len(width));
        let (Some(out_height), Some(out_width)) = sizes else {
            bail!("{:?} does not fit {height}x{width}", self.pool);
        };
        let token = E::token()?;
        let x = contiguous::<E>(x, layout)?;
        let mut out = uninit_output(n * out_height * out_width * channels);
        if !out.is_empty() {
            let work = out.len() * self.pool.kernel * self.pool.kernel;
            let rows = out
                .chunks_exact_mut(out_width * channels)
                .enumerate()
                .collect();
            tasks::for_each(work, rows, |(row, out): (usize, &mut [E])| {
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
                E::run(token, row);
            });
        }
        let shape = Shape::from((n, out_height, out_width, channels));
        Ok((E::storage(out), shape))
    }

    /// Returns the range of the image's pixels that output `index` covers along one side.
    #[inline(always)]
    fn window(&self, index: usize, len: usize) -> (usize, usize) {
        let start = index * self.pool.stride;
        (
            start.saturating_sub(self.pool.padding),
            (start + self.pool.kernel - self.pool.padding).min(len),
        )
    }
}

/// Kernel that computes one row of the result.
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
        match self.op.kind {
            PoolKind::Average => self.fold(|a, b| a + b, |sum, pixels| sum / pixels),
            PoolKind::Max => self.fold(larger, |max, _| max),
        }
    }
}

impl<E: Element> Row<'_, E> {
    /// Combines the rows into one, then the pixels of each window in that row: few long loops over
    /// contiguous numbers.
    #[inline(always)]
    fn fold(self, combine: impl Fn(f32, f32) -> f32 + Copy, finish: impl Fn(f32, f32) -> f32) {
        let (channels, line) = (self.channels, self.width * self.channels);
        let count = self.rows.len() / line;
        let mut folded = Scratch::<f32>::new(line);
        fold(self.rows, line, &mut folded, combine, |value| value);
        for (x, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let (left, right) = self.op.window(x, self.width);
            let pixels = (count * (right - left)) as f32;
            let window = folded.get(left * channels..right * channels);
            let put = |value| E::narrow(finish(value, pixels));
            fold(window.unwrap_or_default(), channels, out, combine, put);
        }
    }
}

/// Combines the parts of `from`, each of length `len` as `to` is, element by element.
#[inline(always)]
fn fold<E: Element, O>(
    from: &[E],
    len: usize,
    to: &mut [O],
    combine: impl Fn(f32, f32) -> f32,
    put: impl Fn(f32) -> O,
) {
    let mut parts = from.chunks_exact(len);
    match (parts.len(), parts.next(), parts.next(), parts.next()) {
        (3, Some(a), Some(b), Some(c)) => {
            for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
                *to = put(combine(combine(a.widen(), b.widen()), c.widen()));
            }
        }
        (2, Some(a), Some(b), None) => {
            for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
                *to = put(combine(a.widen(), b.widen()));
            }
        }
        (_, Some(first), ..) => {
            for (index, (to, value)) in to.iter_mut().zip(first).enumerate() {
                let others = from.iter().skip(len + index).step_by(len);
                let all = others.fold(value.widen(), |all, value| combine(all, value.widen()));
                *to = put(all);
            }
        }
        _ => {}
    }
}

/// Returns the larger of two numbers, or NaN if one is NaN; `f32::max` would ignore the NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}
