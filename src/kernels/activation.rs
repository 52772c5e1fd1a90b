//! Activation functions.

use candle_core::{Result, Tensor};

use super::cpu;

/// `x · sigmoid(x)`, element by element.
///
/// # Errors
/// Whatever candle reports.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) {
        return x.contiguous()?.apply_op1_no_bwd(&cpu::SiluOp);
    }
    candle_nn::ops::silu(x)
}
