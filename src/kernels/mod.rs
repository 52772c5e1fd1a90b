//! The layers that every network is written against.
//!
//! A network names a [`Conv2d`] or a [`GroupNorm`] and never a device. On the CPU the layers run
//! operators of this project, in `f32` and, where the CPU has instructions for it, in bf16. On an
//! NVIDIA GPU they run products of cuDNN and cuBLAS with kernels of this project between them, in
//! both types. Elsewhere they are composed of candle's operators. `README.md` has the table.
//!
//! Reproducible runs rely on one property of all layers: on the CPU, the result of an image is
//! bit-identical whatever the batch it is part of.

mod activation;
mod add;
mod attention;
mod batch_split;
mod caching_allocator;
mod concat;
mod conv2d;
mod convert;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod gate;
mod group_norm;
mod layer_norm;
mod limits;
mod linear;
mod pool;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod self_test;
mod shapes;
mod trained;
mod upsample;

#[cfg(test)]
mod bf16_tests;
#[cfg(test)]
mod composed_tests;
#[cfg(test)]
mod composing;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::{gelu, quick_gelu, silu};
pub use add::{add, add_channels};
pub use attention::{attention, causal_attention, self_attention};
pub use batch_split::{BatchSplit, on_pool, par_over_batch};
pub use caching_allocator::CachingAllocator;
pub use concat::concat;
pub use conv2d::Conv2d;
pub use convert::convert;
pub use cpu::check_bf16_on_cpu;
pub(crate) use cpu::{Isa, PackedColumns, QuantKind, QuantizedRow, ScalarLoop};
pub use device::reopen_device;
pub use gate::geglu;
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use limits::is_out_of_memory;
pub use linear::Linear;
pub use pool::{avg_pool, max_pool};
#[cfg(any(feature = "cuda", feature = "metal"))]
pub use self_test::self_test;
pub use shapes::{Conv2dShape, Pool};
pub use trained::{BatchMoments, batch_norm_relu, fixed_norm_relu, trained_conv2d};
pub use upsample::upsample_nearest_2x;
