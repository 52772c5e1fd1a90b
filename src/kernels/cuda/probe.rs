//! What can be known of CUDA before a device is opened, and how its memory is set.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::{Device, Result, bail};

/// The libraries that a GPU needs and that this machine lacks; asking for a device would end the process where
/// any is missing.
///
/// A build by `scripts/build-cuda.sh` finds the libraries when it runs; any other is linked to them and would not
/// have started without.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    #[cfg(dpsyn_dynamic_cuda)]
    {
        use candle_core::cuda_backend::cudarc::{cublas, curand, driver};
        let mut missing = Vec::new();
        // SAFETY: these functions load a library by its name and unload it again. They are marked unsafe for the
        // library's initialisers, which are NVIDIA's own and made to be loaded by programs.
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

/// How many devices the driver has. Only to be asked where nothing is [`missing`].
///
/// # Errors
/// The driver's: it does not start.
pub fn count() -> Result<usize> {
    let count = CudaContext::device_count().w()?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Lets `device` keep the memory that tensors give back for the next ones, rather than return it to the system
/// whenever the host waits.
///
/// # Errors
/// The driver's, and a device that is no CUDA device.
pub fn keep_memory(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else {
        bail!("{device:?} is no CUDA device");
    };
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        // Such a device has no pool of memory, and nothing to set.
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let ordinal = i32::try_from(context.ordinal()).map_err(candle_core::Error::wrap)?;
    let handle = result::device::get(ordinal).w()?;
    let mut threshold = u64::MAX;
    let mut pool: sys::CUmemoryPool = std::ptr::null_mut();
    // SAFETY: the driver is initialised, for a context is there. The first call writes the pool of a device whose
    // handle the driver gave; the second reads the 64-bit number that this attribute is documented to be.
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
