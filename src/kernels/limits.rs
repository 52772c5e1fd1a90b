//! Size limit of tensors on a GPU, and detection of out-of-memory errors.

use candle_core::{Device, Result};
use thiserror::Error;

/// Elements from which on a tensor is refused on a GPU: candle's kernels have 32-bit indices and
/// would silently skip elements, and cuDNN refuses such tensors.
const LIMIT: usize = 1 << 31;

/// A tensor that would be too large for a GPU; a smaller batch avoids it.
#[derive(Debug, Error)]
#[error("a tensor of {count} elements {}", TensorTooLarge::MESSAGE)]
struct TensorTooLarge {
    count: usize,
}

impl TensorTooLarge {
    /// Text that identifies the error once candle has wrapped it.
    const MESSAGE: &str = "is too large for the 32-bit indices of a GPU's kernels";
}

/// Checks that `device` can hold a tensor of `count` elements.
///
/// # Errors
/// [`TensorTooLarge`], wrapped in candle's error type.
pub(super) fn check_element_count(device: &Device, count: usize) -> Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    below_limit(count)
}

fn below_limit(count: usize) -> Result<()> {
    if count < LIMIT {
        Ok(())
    } else {
        Err(candle_core::Error::wrap(TensorTooLarge { count }))
    }
}

/// Returns true if `error` is an out-of-memory error of a device, judged by the messages of its
/// libraries. A smaller batch may then succeed, or the same one once other work has finished.
#[must_use]
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    [
        // Names of error codes of the driver, cuBLAS and cuDNN.
        "OUT_OF_MEMORY",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
        // Messages of Metal and of candle's Metal backend.
        "Insufficient Memory",
        "Failed to create metal resource: Buffer",
        TensorTooLarge::MESSAGE,
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as the error types of the libraries and ours print them.
    #[test]
    fn out_of_memory_is_detected_by_its_message() {
        for words in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)",
            "Failed to create metal resource: Buffer",
        ] {
            let wrapped = candle_core::Error::wrap(words.to_owned());
            assert!(is_out_of_memory(&wrapped), "{words}");
        }
        assert!(is_out_of_memory(&below_limit(usize::MAX).unwrap_err()));
        for words in [
            "CudnnError(CUDNN_STATUS_BAD_PARAM)",
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
        ] {
            let other = candle_core::Error::Msg(words.to_owned());
            assert!(!is_out_of_memory(&other), "{words}");
        }
    }

    #[test]
    fn only_a_gpu_has_a_limit() {
        assert!(check_element_count(&Device::Cpu, usize::MAX).is_ok());
        assert!(below_limit(LIMIT - 1).is_ok());
        let error = below_limit(LIMIT).unwrap_err().to_string();
        assert!(
            error.contains("2147483648") && error.contains(TensorTooLarge::MESSAGE),
            "{error}"
        );
    }
}
