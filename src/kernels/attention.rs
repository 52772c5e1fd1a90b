//! Scaled dot-product attention.

use candle_core::{DType, Result, Tensor, bail};

use super::cpu;

/// `softmax(scale · q kᵀ) v` for `q [n, heads, tq, d]`, `k [n, heads, tk, d]` and `v [n, heads, tk, dv]`; the
/// result is `[n, heads, tq, dv]`. The arguments may be strided views. On the CPU the heads of a query
/// lie side by side in the result, so that joining them is no work.
///
/// In half precision, `q` and `k` are each multiplied by `√scale` before their product, so that it does
/// not overflow, and the softmax is computed in `f32` (`QKVAttention` of openai/improved-diffusion, `unet.py`).
///
/// # Errors
/// Shapes that do not fit together, and whatever candle reports.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    run(q, k, v, scale, false)
}

/// [`attention`] in which query `i` sees the keys `0..=i` only; there are as many queries as keys.
///
/// # Errors
/// As [`attention`], and another number of queries than of keys.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    if q.dim(2)? != k.dim(2)? {
        bail!(
            "causal attention between q {:?} and k {:?}",
            q.dims(),
            k.dims()
        );
    }
    run(q, k, v, scale, true)
}

fn run(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    if cpu::takes(q) && cpu::takes(k) && cpu::takes(v) {
        return q
            .apply_op3_no_bwd(k, v, &cpu::AttentionOp { scale, causal })?
            .transpose(1, 2);
    }
    run_plain(q, k, v, scale, causal)
}

/// candle's operators, on any device and in any type.
fn run_plain(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    let root = scale.sqrt();
    let scores = (q * root)?.matmul(&(k * root)?.t()?)?;
    let mut scores = scores.to_dtype(DType::F32)?;
    if causal {
        let tokens = k.dim(2)?;
        let hidden = |query: usize| move |key| if key > query { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|query| (0..tokens).map(hidden(query)))
            .collect();
        let mask = Tensor::from_vec(mask, (tokens, tokens), q.device())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    weights.to_dtype(v.dtype())?.matmul(&v.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Path;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_candle(
            (n, heads) in (1usize..4, 1usize..4),
            queries in 1usize..150,
            keys in 1usize..150,
            depth in 1usize..40,
            values in 1usize..40,
        ) {
            let q = (uniform(&[n, heads, queries, depth], 1) * 3.0).unwrap();
            let k = (uniform(&[n, heads, keys, depth], 2) * 3.0).unwrap();
            let v = uniform(&[n, heads, keys, values], 3);
            let scale = 1.0 / (depth as f64).sqrt();
            let expected = run_plain(&q, &k, &v, scale, false).unwrap();
            for path in Path::all() {
                let found = path.within(|| attention(&q, &k, &v, scale)).unwrap();
                assert_close(&found, &expected, 2e-5);
            }
        }

        #[test]
        fn causal_attention_agrees_with_candle(
            (n, heads) in (1usize..4, 1usize..4),
            tokens in 1usize..150,
            depth in 1usize..40,
        ) {
            let q = (uniform(&[n, heads, tokens, depth], 1) * 3.0).unwrap();
            let k = (uniform(&[n, heads, tokens, depth], 2) * 3.0).unwrap();
            let v = uniform(&[n, heads, tokens, depth], 3);
            let scale = 1.0 / (depth as f64).sqrt();
            let expected = run_plain(&q, &k, &v, scale, true).unwrap();
            for path in Path::all() {
                let found = path.within(|| causal_attention(&q, &k, &v, scale)).unwrap();
                assert_close(&found, &expected, 2e-5);
            }
        }
    }

    #[test]
    fn the_first_query_sees_the_first_key_only() {
        let q = uniform(&[1, 2, 5, 8], 1);
        let found = causal_attention(&q, &q, &q, 1.0).unwrap();
        assert_close(
            &found.narrow(2, 0, 1).unwrap(),
            &q.narrow(2, 0, 1).unwrap(),
            0.0,
        );
        assert!(causal_attention(&q, &q.narrow(2, 0, 4).unwrap(), &q, 1.0).is_err());
    }

    /// Two heads' `q`, `k` and `v` as parts of `[n, pixels, channels]`.
    fn of_one(qkv: &Tensor) -> Tensor {
        let (n, pixels, channels) = qkv.dims3().unwrap();
        let split = qkv.reshape((n, pixels, 2, 3, channels / 6)).unwrap();
        let part = |index: usize| split.narrow(3, index, 1)?.squeeze(3)?.transpose(1, 2);
        attention(&part(0).unwrap(), &part(1).unwrap(), &part(2).unwrap(), 0.3).unwrap()
    }

    #[test]
    fn views_of_any_strides_give_what_copies_give() {
        let qkv = uniform(&[2, 70, 60], 4);
        let split = qkv.reshape((2, 70, 2, 3, 10)).unwrap();
        // Copies, and copies whose last stride is not 1.
        for transposed in [false, true] {
            let part = |index: usize| {
                let part = split.narrow(3, index, 1)?.squeeze(3)?.transpose(1, 2)?;
                if transposed {
                    part.t()?.contiguous()?.t()
                } else {
                    part.contiguous()
                }
            };
            let (q, k, v) = (part(0).unwrap(), part(1).unwrap(), part(2).unwrap());
            let expected = attention(&q, &k, &v, 0.3).unwrap();
            assert_close(&of_one(&qkv), &expected, 1e-6);
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (head, pixels) in [(8, 16), (24, 64), (5, 1), (32, 100)] {
            for path in Path::all() {
                path.within(|| {
                    assert_batch_independent(&uniform(&[7, pixels, 6 * head], 5), of_one)
                });
            }
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let q = (uniform(&[1, 1, 4, 8], 6) * 1e4).unwrap();
        let v = uniform(&[1, 1, 4, 2], 7);
        let y = attention(&q, &q, &v, 1.0).unwrap();
        let largest: f32 = y.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        assert!(largest <= 1.0, "{largest}");
    }
}
