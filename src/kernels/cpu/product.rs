//! Products of feature maps, element by element.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};

use super::scratch::results;
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
        const PIECE: usize = 1 << 15;
        if x_layout.shape() != y_layout.shape() {
            bail!("{x_layout:?} cannot be multiplied by {y_layout:?}");
        }
        let x = contiguous(x, x_layout)?;
        let y = contiguous(y, y_layout)?;
        let mut out = results(x.len());
        let from = x.chunks(PIECE).zip(y.chunks(PIECE));
        let parts = out.chunks_mut(PIECE).zip(from).collect();
        tasks::each(2 * x.len(), parts, |(out, (x, y)): (&mut [f32], _)| {
            for (out, (x, y)) in out.iter_mut().zip(Iterator::zip(<[f32]>::iter(x), y)) {
                *out = x * y;
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
