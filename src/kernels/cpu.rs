//! The layers' operators on the CPU, in `f32`.
//!
//! Each cuts its work into tasks by the shape of one image alone, never by the size of the batch or
//! the number of threads, and a task's arithmetic has a fixed order. That is what makes an image's
//! result the same to the bit in any batch and on any number of cores.

mod add;
mod attention;
mod conv;
mod exp;
mod gemm;
mod im2col;
mod linear;
mod norm;
mod pool;
mod upsample;
mod window;

pub(super) use add::AddOp;
pub(super) use attention::AttentionOp;
pub(super) use conv::ConvOp;
pub(super) use exp::SiluOp;
pub(crate) use gemm::{Matrix, multiply};
pub(super) use linear::LinearOp;
pub(super) use norm::NormOp;
pub(super) use pool::{PoolKind, PoolOp};
pub(super) use upsample::UpsampleOp;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

/// Whether these operators can take `x`.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous argument.
fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| data.get(start..end))
    {
        Some(elements) => Ok(elements),
        None => bail!("an argument with layout {layout:?} is not contiguous"),
    }
}
