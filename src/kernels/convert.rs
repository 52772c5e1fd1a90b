//! Changing the number type of feature maps.

use candle_core::{DType, Result, Tensor};

use super::cpu;

/// `x` in the type `dtype`; `x` itself if it has that type.
///
/// # Errors
/// Whatever candle reports.
pub fn convert(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.rank() == 4 && x.dtype() != dtype && cpu::supports(x) {
        // In the order in which the numbers lie.
        return cpu::channels_first(&cpu::channels_last(x)?.to_dtype(dtype)?);
    }
    x.to_dtype(dtype)
}
