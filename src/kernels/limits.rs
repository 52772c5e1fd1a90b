//! How large a tensor may be on a GPU, and how a lack of memory is known.

use candle_core::{Device, Result};
use thiserror::Error;

/// Numbers of a tensor from which on candle's kernels, which count in 32 bits, would leave some out without a
/// word, and from which cuDNN takes none.
const LIMIT: usize = 1 << 31;

/// A tensor that would be too large; smaller batches make smaller ones.
#[derive(Debug, Error)]
#[error("a tensor of {numbers} numbers is {}", TensorTooLarge::WORDS)]
struct TensorTooLarge {
    numbers: usize,
}

impl TensorTooLarge {
    /// By which the error is known again in candle's.
    const WORDS: &str = "larger than a GPU's kernels can count";
}

/// Refuses a tensor whose numbers `device` cannot count.
///
/// # Errors
/// [`TensorTooLarge`], as candle's.
pub(super) fn check_element_count(device: &Device, numbers: usize) -> Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    below_limit(numbers)
}

fn below_limit(numbers: usize) -> Result<()> {
    if numbers < LIMIT {
        Ok(())
    } else {
        Err(candle_core::Error::wrap(TensorTooLarge { numbers }))
    }
}

/// Whether a device had no room, by what its libraries say of it. Fewer images at once may fit then, or the same ones when
/// others are done.
#[must_use]
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string();
    [
        // The driver, cuBLAS and cuDNN by the names of their codes.
        "OUT_OF_MEMORY",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
        // Metal, by itself and by candle.
        "Insufficient Memory",
        "Failed to create metal resource: Buffer",
        TensorTooLarge::WORDS,
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the libraries' own error types, and ours.
    #[test]
    fn a_lack_of_memory_is_known_by_its_words() {
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
            error.contains("2147483648") && error.contains(TensorTooLarge::WORDS),
            "{error}"
        );
    }
}
