//! The layers' operators on an NVIDIA GPU: launches of the kernels of `cuda/fused.cu`.
//!
//! The kernels are embedded as PTX, an assembler that the driver compiles for the card at hand when the first of
//! them runs. Everything here gets contiguous tensors of `f32` or bf16 in candle's own layout, `[n, c, h, w]`;
//! other types are composed of candle's operators as on any other device.
//!
//! No GPU was at hand when this was written: it compiles, `scripts/emulate-cuda-kernels.sh` runs the kernels'
//! source on a CPU, and that is all that is known of it.

#![allow(unsafe_code)]

mod epilogue;
mod norm;
mod probe;
mod softmax;

pub(super) use epilogue::EpilogueOp;
pub(super) use norm::GroupNormOp;
pub use probe::{count, keep_memory, missing};
pub(super) use softmax::SoftmaxOp;

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchConfig};
use candle_core::{CpuStorage, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;

/// The kernels, compiled by `scripts/build-ptx.sh`.
const PTX: &str = include_str!("cuda/fused.ptx");

/// The kernels' name among all that are loaded on a device.
const MODULE: &str = "dpsyn_fused";

/// The most threads of a block, `THREADS` in the source.
const THREADS: usize = 256;

/// Whether these operators can take `x`.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// Kernels for one type of numbers.
trait Element: CudaDType + DeviceRepr {
    const GROUP_NORM: &'static str;
    const SOFTMAX: &'static str;
    const EPILOGUE: &'static str;
}

impl Element for f32 {
    const GROUP_NORM: &'static str = "group_norm_f32";
    const SOFTMAX: &'static str = "softmax_f32";
    const EPILOGUE: &'static str = "epilogue_f32";
}

impl Element for bf16 {
    const GROUP_NORM: &'static str = "group_norm_bf16";
    const SOFTMAX: &'static str = "softmax_bf16";
    const EPILOGUE: &'static str = "epilogue_bf16";
}

/// The numbers of a contiguous argument.
fn contiguous<'a, T: CudaDType>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<CudaView<'a, T>> {
    let all = storage.as_cuda_slice::<T>()?;
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| all.try_slice(start..end))
    {
        Some(view) => Ok(view),
        None => bail!("an argument with layout {layout:?} is not contiguous"),
    }
}

/// The numbers of a matrix whose rows are contiguous, and how far apart these begin.
fn rows<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<(CudaView<'a, f32>, usize)> {
    let all = storage.as_cuda_slice::<f32>()?;
    let (&[rows, columns], &[stride, step]) = (layout.dims(), layout.stride()) else {
        bail!("an argument with layout {layout:?} is no matrix");
    };
    let start = layout.start_offset();
    let end = match rows.checked_sub(1) {
        Some(before) => start + before * stride + columns,
        None => start,
    };
    match all.try_slice(start..end) {
        Some(view) if step == 1 || columns <= 1 => Ok((view, stride)),
        _ => bail!("an argument with layout {layout:?} has no contiguous rows"),
    }
}

/// `blocks` blocks of as many threads as `work` items want.
fn config(blocks: usize, work: usize) -> Result<LaunchConfig> {
    let threads = work.next_power_of_two().clamp(32, THREADS);
    Ok(LaunchConfig {
        grid_dim: (number(blocks)?, 1, 1),
        block_dim: (number(threads)?, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// A count as the kernels take it.
fn number(count: usize) -> Result<u32> {
    // A grid has at most 2³¹ − 1 blocks, and indices within a block stay below 2³² when a last step goes over.
    match u32::try_from(count) {
        Ok(number) if number < 1 << 31 => Ok(number),
        _ => bail!("{count} is more than a kernel can count"),
    }
}

/// What an operator does when it meets a tensor that is not on a GPU: its layer has chosen wrongly.
fn not_on_cpu(name: &str) -> Result<(CpuStorage, Shape)> {
    bail!("{name} runs on CUDA devices only")
}

/// `f` with the storage of `x`, which must lie on a CUDA device.
fn on_cuda<R>(x: &Tensor, f: impl FnOnce(&CudaStorage, &Layout) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => f(storage, layout),
        _ => bail!("an argument lies on {:?}, not on a GPU", x.device()),
    }
}
