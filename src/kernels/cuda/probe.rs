//! Queries of CUDA before a device is opened, and the setting of its memory pool.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::{Device, Result, bail};

/// Returns the libraries that a GPU needs and that this machine lacks. Opening a device while one
/// is missing ends the process.
///
/// A build by `scripts/build-cuda.sh` loads the libraries at run time; any other build is linked to
/// them and does not start without them.
#[must_use]
pub fn missing_libraries() -> Vec<&'static str> {
    #[cfg(dpsyn_dynamic_cuda)]
    {
        use candle_core::cuda_backend::cudarc::{cublas, curand, driver};
        let mut missing = Vec::new();
        // SAFETY: these functions load a library by its name and unload it again. They are unsafe
        // because a library's initializers run; these are NVIDIA's own, made to be loaded by
        // programs.
        unsafe {
            for (name, there) in [
                ("libcuda (the driver)", driver::sys::is_culib_present()),
                ("libcublas", cublas::sys::is_culib_present()),
                ("libcurand", curand::sys::is_culib_present()),
            ] {
                if !there {
                    missing.push(name);
                }
            }
            #[cfg(feature = "cudnn")]
            if !candle_core::cuda_backend::cudarc::cudnn::sys::is_culib_present() {
                missing.push("libcudnn");
            }
        }
        missing
    }
    #[cfg(not(dpsyn_dynamic_cuda))]
    Vec::new()
}

/// Returns the number of devices of the driver. Only to be called if
/// [`missing_libraries`] is empty.
///
/// # Errors
/// The driver does not initialize.
pub fn device_count() -> Result<usize> {
    let count = CudaContext::device_count().w()?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes `device` keep freed memory in its pool for the next tensors. By default the driver returns
/// it to the system at every synchronization.
///
/// # Errors
/// Errors of the driver; `device` is not a CUDA device.
pub fn retain_freed_memory(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else {
        bail!("{device:?} is not a CUDA device");
    };
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        // A device without asynchronous allocation has no memory pool.
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let ordinal = i32::try_from(context.ordinal()).map_err(candle_core::Error::wrap)?;
    let handle = result::device::get(ordinal).w()?;
    let mut threshold = u64::MAX;
    let mut pool: sys::CUmemoryPool = std::ptr::null_mut();
    // SAFETY: the driver is initialized, because a context exists. The first call writes the pool
    // of a device whose handle the driver returned; the second reads a 64-bit number, the
    // documented type of this attribute.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, handle)
            .result()
            .w()?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .result()
        .w()?;
    }
    Ok(())
}
