//! The layers' operators on the CPU, in `f32` and, where the CPU has instructions for it, in bf16.
//!
//! Operators pass images on with the channels last, `[n, h, w, c]`; candle and the networks see
//! them as `[n, c, h, w]` with permuted strides ([`channels_last`], [`channels_first`]).
//!
//! The algorithm of each operator depends on the shape of its layer, never on the size of the batch
//! or the number of threads, and every sum is added in a fixed order. Hence the result of an image
//! is bit-identical in any batch and on any number of cores.
//!
//! | file | job |
//! |---|---|
//! | `dtype` | number types |
//! | `simd` | vectors of each instruction set |
//! | `isa`, `avx512_bf16`, `avx2_madd` | instruction sets, selected at run time, as proof tokens |
//! | `dispatch` | code for a number type on the selected instruction set |
//! | `gemm_element`, `gemm_operands`, `panels`, `tile`, `gemm` | matrix products, as in BLIS |
//! | `conv`, `conv_call`, `direct`, `winograd`, `winograd_transform` | convolution |
//! | `scratch`, `tasks` | memory and threads |
//! | `tensors` | candle's tensors as arguments |
//! | `products` | rows times a packed matrix, for the nearest-neighbor search |
//! | `scalar_loop` | loops of other modules, compiled as the kernels are |
//! | `trained_conv`, `trained_norm`, `unfold` | layers of a network in training, with gradients |
//!
//! The other files have one operator each. No two files import each other, directly or not.
//!
//! `unsafe` is in `dtype`, `simd`, `isa`, `avx512_bf16`, `avx2_madd`, `dispatch`, `gemm_element`,
//! `tile`, `gemm`, `scratch` and `winograd_transform` only. Their tests run on every instruction
//! set that the machine has; `scripts/sanitize.sh` runs them under AddressSanitizer,
//! `scripts/check-aarch64.sh` on an emulated ARM processor.

mod add_channels;
mod attention;
mod avx2_madd;
mod avx512_bf16;
mod concat;
mod conv;
mod conv_call;
mod direct;
mod dispatch;
mod dtype;
mod exp;
mod gemm;
mod gemm_element;
mod gemm_operands;
mod isa;
mod layer_norm;
mod linear;
mod norm;
mod pairwise;
mod panels;
mod pool;
mod products;
mod scalar_loop;
mod scratch;
mod simd;
mod tasks;
mod tensors;
mod tile;
mod trained_conv;
mod trained_norm;
mod unfold;
mod upsample;
mod winograd;
mod winograd_transform;

#[cfg(test)]
mod gemm_tests;
#[cfg(test)]
mod simd_tests;

pub(super) use add_channels::AddChannelsOp;
pub(super) use attention::AttentionOp;
#[cfg(test)]
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
pub use tensors::check_bf16_on_cpu;
pub(super) use tensors::{channels_first, channels_last, supports, supports_all};
pub(super) use trained_conv::TrainedConvOp;
pub(super) use trained_norm::{Moments, TrainedNormOp};
pub(super) use upsample::UpsampleOp;
