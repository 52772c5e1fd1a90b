//! Layer normalization, a row at a time.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::isa::Kernel;
use super::scratch::uninit_output;
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;

/// Layer norm operator. Argument: `x [..., size]`, contiguous. The result is
/// `(x - mean) / √(var + eps) · weight + bias`.
pub(in crate::kernels) struct LayerNormOp<'a> {
    pub eps: f64,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// Approximate numbers per task.
const CHUNK: usize = 1 << 14;

impl CustomOp1 for LayerNormOp<'_> {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let size = self.weight.len();
        if size == 0 || self.bias.len() != size || layout.dims().last() != Some(&size) {
            bail!("a layer norm of {size} does not fit {layout:?}");
        }
        match_dtype!(x, E => self.run::<E>(x, layout))
    }
}

impl LayerNormOp<'_> {
    fn run<E: Element>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let size = self.weight.len();
        let token = E::token()?;
        let x = contiguous::<E>(x, layout)?;
        let mut out = uninit_output(x.len());
        let chunk = CHUNK.div_ceil(size) * size;
        let parts = out.chunks_mut(chunk).zip(x.chunks(chunk)).collect();
        tasks::for_each(4 * x.len(), parts, |(out, x)| {
            E::run(token, Rows { x, out, op: self });
        });
        Ok((E::storage(out), layout.shape().clone()))
    }
}

struct Rows<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
    op: &'a LayerNormOp<'a>,
}

impl<E: Element> Kernel for Rows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let LayerNormOp { eps, weight, bias } = *self.op;
        let size = weight.len();
        let rows = self.x.chunks_exact(size);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(size)) {
            let mean = sum(x, 0.0, false) / size as f64;
            let mean = mean as f32;
            // The variance of the centered numbers: a large mean would cancel digits otherwise.
            let variance = sum(x, mean, true) / size as f64;
            let scale = (1.0 / (variance + eps).sqrt()) as f32;
            let table = x.iter().zip(weight).zip(bias);
            for (out, ((x, weight), bias)) in out.iter_mut().zip(table) {
                *out = E::narrow((x.widen() - mean) * scale * weight + bias);
            }
        }
    }
}

/// Returns `Σ (x - origin)`, or the sum of the squares, in `f32` lanes that are added up in `f64`.
#[inline(always)]
fn sum<E: Element>(x: &[E], origin: f32, squares: bool) -> f64 {
    const LANES: usize = 32;
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            let centered = x.widen() - origin;
            *lane += if squares {
                centered * centered
            } else {
                centered
            };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        let centered = x.widen() - origin;
        *lane += if squares {
            centered * centered
        } else {
            centered
        };
    }
    let mut total = 0.0;
    for lane in lanes {
        total += f64::from(lane);
    }
    total
}
