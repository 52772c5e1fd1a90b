//! The layers that every network is written against.
//!
//! A network names a [`Conv2d`] or a [`GroupNorm`] and never a device. On the CPU the layers run operators
//! of our own in `f32`, and in bf16 where the CPU multiplies it; on an NVIDIA GPU cuDNN's and cuBLAS's products
//! with kernels of our own between them, in both types; elsewhere they are composed of candle's operators
//! (`README.md` has the table). All of them keep one promise that reproducible runs rest on: on the CPU, what comes out for one image
//! depends on that image alone, to the bit, whatever the size of the batch it came in.

mod activation;
mod add;
mod attention;
mod batch_split;
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
mod memory;
mod pool;
mod upsample;

#[cfg(test)]
mod bf16_tests;
#[cfg(test)]
mod composed_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::{gelu, quick_gelu, silu};
pub use add::{add, add_channels};
pub use attention::{attention, causal_attention, self_attention};
pub use batch_split::{BatchSplit, on_pool, par_over_batch};
pub use concat::concat;
pub use conv2d::{Conv2d, Conv2dShape};
pub use convert::convert;
pub(crate) use cpu::{Isa, PackedColumns, QuantKind, QuantizedRow, ScalarLoop};
pub use device::{reopen_device, self_test};
pub use gate::geglu;
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use limits::is_out_of_memory;
pub use linear::Linear;
pub use memory::KeepLarge;
pub use pool::{Pool, avg_pool, max_pool};
pub use upsample::upsample_nearest_2x;

/// Whether this process can run layers in bf16 on the CPU.
///
/// # Errors
/// Says what is missing: AVX512_BF16 in the CPU, or the use of AVX-512, which `DPSYN_CPU` turned off.
pub fn check_bf16_on_cpu() -> candle_core::Result<()> {
    cpu::Avx512Bf16Token::current().map(|_| ())
}
