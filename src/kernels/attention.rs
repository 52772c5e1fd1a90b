//! Scaled dot-product attention.

use candle_core::{DType, Result, Tensor};

use super::cpu;

/// `softmax(scale · q kᵀ) v` for `q [n, tq, d]`, `k [n, tk, d]` and `v [n, tk, dv]`; the result is
/// `[n, tq, dv]`. `n` runs over images and heads. The arguments may be strided views.
///
/// In half precision, `q` and `k` are each multiplied by `√scale` before their product, so that it does
/// not overflow, and the softmax is computed in `f32` (`QKVAttention` of openai/improved-diffusion, `unet.py`).
///
/// # Errors
/// Shapes that do not fit together, and whatever candle reports.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    if cpu::takes(q) && cpu::takes(k) && cpu::takes(v) {
        return q.apply_op3_no_bwd(k, v, &cpu::AttentionOp { scale });
    }
    attention_plain(q, k, v, scale)
}

/// candle's operators, on any device and in any type.
fn attention_plain(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let root = scale.sqrt();
    let scores = (q * root)?.matmul(&(k * root)?.transpose(1, 2)?)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?;
    weights.to_dtype(v.dtype())?.matmul(&v.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_candle(
            n in 1usize..4,
            queries in 1usize..150,
            keys in 1usize..150,
            depth in 1usize..40,
            values in 1usize..40,
        ) {
            let q = (uniform(&[n, queries, depth], 1) * 3.0).unwrap();
            let k = (uniform(&[n, keys, depth], 2) * 3.0).unwrap();
            let v = uniform(&[n, keys, values], 3);
            let scale = 1.0 / (depth as f64).sqrt();
            let found = attention(&q, &k, &v, scale).unwrap();
            assert_close(&found, &attention_plain(&q, &k, &v, scale).unwrap(), 2e-5);
        }
    }

    /// `q`, `k` and `v` as the network has them: transposed parts of one tensor.
    fn of_one(qkv: &Tensor) -> Tensor {
        let head = qkv.dim(1).unwrap() / 3;
        let part = |index: usize| {
            qkv.narrow(1, index * head, head)
                .unwrap()
                .transpose(1, 2)
                .unwrap()
        };
        attention(&part(0), &part(1), &part(2), 0.3).unwrap()
    }

    #[test]
    fn transposed_views_give_what_copies_give() {
        let qkv = uniform(&[2, 30, 70], 4);
        let part = |index: usize| {
            let part = qkv
                .narrow(1, index * 10, 10)
                .unwrap()
                .transpose(1, 2)
                .unwrap();
            part.contiguous().unwrap()
        };
        let expected = attention(&part(0), &part(1), &part(2), 0.3).unwrap();
        assert_close(&of_one(&qkv), &expected, 1e-6);
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (head, pixels) in [(8, 16), (24, 64), (5, 1), (32, 100)] {
            assert_batch_independent(&uniform(&[7, 3 * head, pixels], 5), of_one);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let q = (uniform(&[1, 4, 8], 6) * 1e4).unwrap();
        let v = uniform(&[1, 4, 2], 7);
        let y = attention(&q, &q, &v, 1.0).unwrap();
        let largest: f32 = y.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        assert!(largest <= 1.0, "{largest}");
    }
}
