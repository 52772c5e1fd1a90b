//! Sums and products of feature maps, element by element.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};

use super::dispatch::{Element, match_dtype};
use super::isa::Kernel;
use super::scratch::uninit_output;
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;

/// Operator that combines two contiguous arguments of the same shape. candle's own operators would
/// wake a second thread pool, whose threads then spin while this one's work.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) enum PairwiseOp {
    Sum,
    Product,
}

impl CustomOp2 for PairwiseOp {
    fn name(&self) -> &'static str {
        match self {
            Self::Sum => "add",
            Self::Product => "product",
        }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if x_layout.shape() != y_layout.shape() {
            bail!(
                "{}: {x_layout:?} and {y_layout:?} have different shapes",
                self.name()
            );
        }
        let (x, y) = ((x, x_layout), (y, y_layout));
        match self {
            Self::Sum => match_dtype!(x.0, E => combine::<E, _>(x, y, |x, y| x + y)),
            Self::Product => match_dtype!(x.0, E => combine::<E, _>(x, y, |x, y| x * y)),
        }
    }
}

fn combine<E: Element, F: Fn(f32, f32) -> f32 + Copy + Send + Sync>(
    (x, x_layout): (&CpuStorage, &Layout),
    (y, y_layout): (&CpuStorage, &Layout),
    f: F,
) -> Result<(CpuStorage, Shape)> {
    // Elements per task.
    const CHUNK: usize = 1 << 15;
    let token = E::token()?;
    let x = contiguous::<E>(x, x_layout)?;
    let y = contiguous::<E>(y, y_layout)?;
    let mut out = uninit_output(x.len());
    let from = x.chunks(CHUNK).zip(y.chunks(CHUNK));
    let parts = out.chunks_mut(CHUNK).zip(from).collect();
    tasks::for_each(2 * x.len(), parts, |(out, (x, y))| {
        E::run(token, Combine { x, y, out, f });
    });
    Ok((E::storage(out), x_layout.shape().clone()))
}

struct Combine<'a, E, F> {
    x: &'a [E],
    y: &'a [E],
    out: &'a mut [E],
    f: F,
}

impl<E: Element, F: Fn(f32, f32) -> f32> Kernel for Combine<'_, E, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, (x, y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *out = E::narrow((self.f)(x.widen(), y.widen()));
        }
    }
}
