//! Conversion of feature maps to another number type.

use candle_core::{DType, Result, Tensor};

use super::cpu;

/// Converts `x` to the type `dtype`; returns `x` itself if it has that type.
///
/// # Errors
/// Errors of candle.
pub fn convert(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.rank() == 4 && x.dtype() != dtype && cpu::supports(x) {
        // In memory order: candle would otherwise copy `x` to a contiguous [n, c, h, w] first.
        return cpu::channels_first(&cpu::channels_last(x)?.to_dtype(dtype)?);
    }
    x.to_dtype(dtype)
}
