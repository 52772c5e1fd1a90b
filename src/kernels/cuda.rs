//! The layers' operators on an NVIDIA GPU: launches of the kernels of `cuda/fused.cu`.
//!
//! The kernels are embedded as PTX, which the driver compiles for the GPU when the first of them
//! runs. They take contiguous tensors of `f32` or bf16 in candle's own layout, `[n, c, h, w]`;
//! other types are composed of candle's operators as on any other device.
//!
//! Experimental: no GPU was available when this was written. It compiles, and
//! `scripts/emulate-cuda-kernels.sh` runs the kernels' source on a CPU; nothing else was tested.

#![allow(unsafe_code)]

mod epilogue;
mod launch;
mod norm;
mod probe;
mod softmax;

pub(super) use epilogue::EpilogueOp;
pub(super) use launch::supports;
pub(super) use norm::GroupNormOp;
pub use probe::{device_count, missing_libraries, retain_freed_memory};
pub(super) use softmax::SoftmaxOp;
