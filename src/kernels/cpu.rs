//! The layers' operators on the CPU, in `f32` and, where the CPU has instructions for it, in bf16.
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
//! | `bfloat` | what the CPU must have for bf16 |
//! | `simd` | vectors |
//! | `element` | the types that numbers are kept in |
//! | `panels`, `micro` | the product that everything rests on |
//! | `direct`, `winograd`, `conv` | convolution |
//! | `scratch`, `tasks` | memory and threads |
//! | `products` | any rows with a packed matrix, for the search of neighbours |
//! | `job` | other modules' loops, compiled as these are |
//!
//! `unsafe` is in `path`, `bfloat`, `simd`, `element`, `micro`, `scratch` and `winograd` only. Their tests
//! run on every path that the machine has; `scripts/sanitize.sh` runs them under AddressSanitizer,
//! `scripts/check-aarch64.sh` on an emulated ARM processor.

mod add_channels;
mod attention;
mod avx2_madd;
mod avx512_bf16;
mod concat;
mod conv;
mod direct;
mod element;
mod exp;
mod isa;
mod layer_norm;
mod linear;
mod micro;
mod norm;
mod pairwise;
mod panels;
mod pool;
mod products;
mod scalar_loop;
mod scratch;
mod simd;
mod tasks;
mod upsample;
mod winograd;

pub(super) use add_channels::AddChannelsOp;
pub(super) use attention::AttentionOp;
pub(super) use avx512_bf16::Avx512Bf16Token;
pub(super) use concat::concat;
pub(super) use conv::{ConvOp, PackedConv};
pub(super) use exp::Activation;
pub(crate) use isa::Isa;
pub(super) use layer_norm::LayerNormOp;
pub(super) use linear::{LinearOp, PackedLinear};
pub(super) use norm::GroupNormOp;
pub(super) use pairwise::PairwiseOp;
pub(super) use pool::{PoolKind, PoolOp};
pub(crate) use products::{PackedColumns, QuantKind, QuantizedRow};
pub(crate) use scalar_loop::ScalarLoop;
pub(super) use tasks::on_pool;
pub(super) use upsample::UpsampleOp;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType, bail};

/// Whether these operators can take `x`.
pub(super) fn takes(x: &Tensor) -> bool {
    #[cfg(test)]
    if super::testing::composing() {
        return false;
    }
    let type_fits = match x.dtype() {
        DType::F32 => true,
        DType::BF16 => Avx512Bf16Token::current().is_ok(),
        _ => false,
    };
    type_fits && x.device().is_cpu()
}

/// Whether these operators can take all of `parts`, which are of one type.
pub(super) fn takes_all(parts: &[&Tensor]) -> bool {
    let one_type = parts
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.dtype() == b.dtype()));
    one_type && parts.iter().all(|part| takes(part))
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
fn contiguous<'a, E: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [E]> {
    let data = storage.as_slice::<E>()?;
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| data.get(start..end))
    {
        Some(elements) => Ok(elements),
        None => bail!("an argument with layout {layout:?} is not contiguous"),
    }
}
