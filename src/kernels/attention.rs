//! Scaled dot-product attention.

use candle_core::{DType, Result, Tensor};

/// `softmax(scale · q kᵀ) v` for `q [n, tq, d]`, `k [n, tk, d]` and `v [n, tk, dv]`; the result is
/// `[n, tq, dv]`. `n` runs over images and heads. The arguments may be strided views.
///
/// `q` and `k` are each multiplied by `√scale` before their product, so that half precision does not
/// overflow, and the softmax is computed in `f32` (`QKVAttention` of openai/improved-diffusion, `unet.py`).
///
/// # Errors
/// Shapes that do not fit together, and whatever candle reports.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let root = scale.sqrt();
    let scores = (q * root)?.matmul(&(k * root)?.transpose(1, 2)?)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?;
    weights.to_dtype(v.dtype())?.matmul(&v.contiguous()?)
}
