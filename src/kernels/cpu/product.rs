//! Products of feature maps, element by element.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};

use super::element::{Element, of_type};
use super::path::Kernel;
use super::scratch::results;
use super::simd::Simd;
use super::{contiguous, tasks};

/// Multiplies two contiguous arguments of one shape.
pub(in crate::kernels) struct ProductOp;

impl CustomOp2 for ProductOp {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if x_layout.shape() != y_layout.shape() {
            bail!("{x_layout:?} cannot be multiplied by {y_layout:?}");
        }
        of_type!(x, E => multiply::<E>((x, x_layout), (y, y_layout)))
    }
}

fn multiply<E: Element>(
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
        E::run(path, Product { x, y, out });
    });
    Ok((E::storage(out), x_layout.shape().clone()))
}

struct Product<'a, E> {
    x: &'a [E],
    y: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (out, (x, y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *out = E::of(x.get() * y.get());
        }
    }
}
