//! Sums of feature maps.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};

use super::element::{Element, of_type};
use super::path::Kernel;
use super::scratch::results;
use super::simd::Simd;
use super::{contiguous, tasks};

/// Adds two contiguous arguments of one shape. candle's own addition wakes a second pool of
/// threads, which then spins while ours works.
pub(in crate::kernels) struct AddOp;

impl CustomOp2 for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        of_type!(x, E => add::<E>((x, x_layout), (y, y_layout)))
    }
}

fn add<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (y, y_layout): (&CpuStorage, &Layout),
) -> Result<(CpuStorage, Shape)> {
    const PIECE: usize = 1 << 15;
    let path = E::path()?;
    let x = contiguous::<E>(x, x_layout)?;
    let y = contiguous::<E>(y, y_layout)?;
    let mut out = results(x.len());
    let from = x.chunks(PIECE).zip(y.chunks(PIECE));
    let parts = out.chunks_mut(PIECE).zip(from).collect();
    tasks::each(2 * x.len(), parts, |(out, (x, y))| {
        E::run(path, Sum { x, y, out });
    });
    Ok((E::storage(out), x_layout.shape().clone()))
}

struct Sum<'a, E> {
    x: &'a [E],
    y: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Kernel for Sum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, (x, y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *out = E::of(x.get() + y.get());
        }
    }
}
