//! Activation functions.

use candle_core::{Result, Tensor};

/// `x · sigmoid(x)`, element by element.
///
/// # Errors
/// Whatever candle reports.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::silu(x)
}
