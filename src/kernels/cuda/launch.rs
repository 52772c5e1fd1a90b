//! Arguments and launch configurations that all kernels of `fused.cu` share.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchConfig};
use candle_core::{CpuStorage, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;

/// The kernels, compiled by `scripts/build-ptx.sh`.
pub(super) const PTX: &str = include_str!("fused.ptx");

/// Name of the kernels' module among all modules that are loaded on a device.
pub(super) const MODULE: &str = "dpsyn_fused";

/// Maximum threads per block, `THREADS` in the source.
const THREADS: usize = 256;

/// Returns true if the operators of this module can take `x`.
pub(in crate::kernels) fn supports(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// A number type that the kernels exist for, with their names.
pub(super) trait CudaElement: CudaDType + DeviceRepr {
    const GROUP_NORM: &'static str;
    const SOFTMAX: &'static str;
    const EPILOGUE: &'static str;
}

impl CudaElement for f32 {
    const GROUP_NORM: &'static str = "group_norm_f32";
    const SOFTMAX: &'static str = "softmax_f32";
    const EPILOGUE: &'static str = "epilogue_f32";
}

impl CudaElement for bf16 {
    const GROUP_NORM: &'static str = "group_norm_bf16";
    const SOFTMAX: &'static str = "softmax_bf16";
    const EPILOGUE: &'static str = "epilogue_bf16";
}

/// Returns the numbers of a contiguous argument.
pub(super) fn contiguous<'a, T: CudaDType>(
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

/// Returns the numbers of a matrix whose rows are contiguous, and the stride of the rows.
pub(super) fn rows<'a>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<(CudaView<'a, f32>, usize)> {
    let all = storage.as_cuda_slice::<f32>()?;
    let (&[rows, columns], &[stride, step]) = (layout.dims(), layout.stride()) else {
        bail!("an argument with layout {layout:?} is not a matrix");
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

/// Returns the configuration of `blocks` blocks with one thread per work item, up to the maximum.
pub(super) fn launch_config(blocks: usize, work: usize) -> Result<LaunchConfig> {
    let threads = work.next_power_of_two().clamp(32, THREADS);
    Ok(LaunchConfig {
        grid_dim: (to_u32(blocks)?, 1, 1),
        block_dim: (to_u32(threads)?, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// Converts a count to the kernels' 32 bits.
///
/// # Errors
/// 2³¹ or more.
pub(super) fn to_u32(count: usize) -> Result<u32> {
    // A grid has at most 2³¹ − 1 blocks, and an index within a block stays below 2³² even when the
    // last step of a loop passes the end.
    match u32::try_from(count) {
        Ok(number) if number < 1 << 31 => Ok(number),
        _ => bail!("{count} is too large for a kernel, whose indices have 32 bits"),
    }
}

/// Returns the error of an operator that is called with a tensor on the CPU, which is a mistake of
/// its layer.
///
/// # Errors
/// Always.
pub(super) fn not_on_cpu(name: &str) -> Result<(CpuStorage, Shape)> {
    bail!("{name} runs on CUDA devices only")
}

/// Calls `f` with the storage of `x`, which must be on a CUDA device.
pub(super) fn with_cuda_storage<R>(
    x: &Tensor,
    f: impl FnOnce(&CudaStorage, &Layout) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => f(storage, layout),
        _ => bail!("an argument is on {:?}, expected a CUDA device", x.device()),
    }
}
