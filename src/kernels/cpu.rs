//! The layers' operators on the CPU, in `f32`.
//!
//! Images go from one operator to the next with their channels side by side, `[n, h, w, c]`; to candle
//! and to the networks they are `[n, c, h, w]` with permuted strides ([`channels_last`],
//! [`channels_first`]).
//!
//! The algorithm of each is chosen by the shape of its layer, never by the size of the batch or the
//! number of threads, and the arithmetic that leads to one number has a fixed order. That is what
//! makes an image's result the same to the bit in any batch and on any number of cores.
//!
//! | file | job |
//! |---|---|
//! | `path` | which vector instructions there are, and running code compiled for them |
//! | `simd` | vectors |
//! | `panels`, `micro` | the product that everything rests on |
//! | `direct`, `winograd`, `conv` | convolution |
//! | `scratch`, `tasks` | memory and threads |
//! | `gemm` | any product of matrices, for the search of neighbours |

mod add;
mod attention;
mod concat;
mod conv;
mod direct;
mod exp;
mod gemm;
mod layer_norm;
mod linear;
mod micro;
mod norm;
mod panels;
mod path;
mod pool;
mod scratch;
mod simd;
mod tasks;
mod upsample;
mod winograd;

pub(super) use add::AddOp;
pub(super) use attention::AttentionOp;
pub(super) use concat::concat;
pub(super) use conv::{ConvOp, PackedConv};
pub(super) use exp::Activation;
pub(crate) use gemm::{Matrix, multiply};
pub(super) use layer_norm::LayerNormOp;
pub(super) use linear::{LinearOp, PackedLinear};
pub(super) use norm::NormOp;
#[cfg(test)]
pub(super) use path::Path;
pub(super) use pool::{PoolKind, PoolOp};
pub(super) use tasks::on_pool;
pub(super) use upsample::UpsampleOp;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

/// Whether these operators can take `x`.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// `[n, c, h, w]` as a contiguous `[n, h, w, c]`; copies unless one of these operators made it.
pub(super) fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// `[n, h, w, c]` as `[n, c, h, w]`, without a copy.
pub(super) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))
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
