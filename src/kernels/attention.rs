//! Scaled dot-product attention.

use candle_core::{DType, Result, Tensor, bail};

use super::cpu;
use super::limits::check_element_count;

/// Computes `softmax(scale · q kᵀ) v` for `q [n, heads, tq, d]`, `k [n, heads, tk, d]` and `v [n,
/// heads, tk, dv]`; the result is `[n, heads, tq, dv]`. The arguments may be strided views, but
/// must not repeat a row or column (stride 0). On the CPU the heads of a query are contiguous in
/// the result, so that joining them copies nothing.
///
/// In half precision, `q` and `k` are each multiplied by `√scale` before their product, so that it
/// does not overflow, and the softmax is computed in `f32` (`QKVAttention` of
/// openai/improved-diffusion, `unet.py`).
///
/// # Errors
/// Shapes that do not fit together; errors of candle.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    run(q, k, v, scale, false)
}

/// Computes [`attention`] in which query `i` attends to the keys `0..=i` only; there are as many
/// queries as keys.
///
/// # Errors
/// As [`attention`]; different numbers of queries and keys.
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

/// Computes self-attention of `heads` heads over all pixels: `qkv [n, 3 · channels, h, w]` to
/// `[n, channels, h, w]`. The channels are split by head first, then into `q`, `k` and `v`, as in
/// openai/improved-diffusion.
///
/// # Errors
/// Channels that cannot be split in this way; errors of candle.
pub fn self_attention(qkv: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
    let (n, triple, height, width) = qkv.dims4()?;
    if heads == 0 || !triple.is_multiple_of(3 * heads) {
        bail!("{triple} channels cannot be split into q, k and v of {heads} heads");
    }
    let (channels, head) = (triple / 3, triple / 3 / heads);
    if !cpu::supports(qkv) {
        return on_planes(qkv, heads, scale);
    }
    let qkv = qkv
        .permute((0, 2, 3, 1))?
        .reshape((n, height * width, heads, 3, head))?;
    let part = |index: usize| qkv.narrow(3, index, 1)?.squeeze(3)?.transpose(1, 2);
    attention(&part(0)?, &part(1)?, &part(2)?, scale)?
        .transpose(1, 2)?
        .reshape((n, height, width, channels))?
        .permute((0, 3, 1, 2))
}

/// Computes [`self_attention`] of feature maps in the layout `[n, c, h, w]`, on any device and in
/// any type: `q`, `k` and `v` of a head are `[channels, pixels]` views, products read them
/// transposed, and the last product has the layout of the map.
fn on_planes(qkv: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
    let (n, triple, height, width) = qkv.dims4()?;
    let (channels, pixels) = (triple / 3, height * width);
    let split = qkv
        .contiguous()?
        .reshape((n, heads, 3, channels / heads, pixels))?;
    let part = |index: usize| -> Result<Tensor> {
        let part = split.narrow(2, index, 1)?.squeeze(2)?;
        // Metal's product reads transposed matrices, but not with every stride between matrices.
        if part.device().is_metal() {
            part.contiguous()
        } else {
            Ok(part)
        }
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let weights = weights(&q.t()?, &k, scale, false, v.dtype())?;
    v.matmul(&weights.t()?)?
        .reshape((n, channels, height, width))
}

/// Computes `softmax(scale · q kᵀ)` in the type `dtype`, from `q [n, heads, tq, d]` and the
/// transposed `k [n, heads, d, tk]`, both in layouts that candle can multiply.
fn weights(q: &Tensor, k: &Tensor, scale: f64, causal: bool, dtype: DType) -> Result<Tensor> {
    // The scores: queries times keys numbers per head.
    check_element_count(q.device(), q.elem_count() / q.dim(3)?.max(1) * k.dim(3)?)?;
    #[cfg(feature = "cuda")]
    if super::cuda::supports(q) && q.dtype() == dtype {
        // f32 and bf16 have the range for products that are scaled afterwards.
        let op = super::cuda::SoftmaxOp { scale, causal };
        return q.matmul(k)?.apply_op1_no_bwd(&op);
    }
    let root = scale.sqrt();
    let mut scores = (q * root)?.matmul(&(k * root)?)?.to_dtype(DType::F32)?;
    if causal {
        let tokens = k.dim(3)?;
        let hidden = |query: usize| move |key| if key > query { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|query| (0..tokens).map(hidden(query)))
            .collect();
        let mask = Tensor::from_vec(mask, (tokens, tokens), q.device())?;
        scores = scores.broadcast_add(&mask)?;
    }
    candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(dtype)
}

fn run(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    if cpu::supports_all(&[q, k, v]) {
        return q
            .apply_op3_no_bwd(k, v, &cpu::AttentionOp { scale, causal })?
            .transpose(1, 2);
    }
    run_plain(q, k, v, scale, causal)
}

/// Composes the layer of candle's operators, on any device and in any type.
fn run_plain(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    let (q, k) = (q.contiguous()?, k.contiguous()?);
    weights(&q, &k.t()?, scale, causal, v.dtype())?.matmul(&v.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
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
            for isa in Isa::all() {
                let found = isa.within(|| attention(&q, &k, &v, scale)).unwrap();
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
            for isa in Isa::all() {
                let found = isa.within(|| causal_attention(&q, &k, &v, scale)).unwrap();
                assert_close(&found, &expected, 2e-5);
            }
        }
    }

    #[test]
    fn the_first_query_attends_to_the_first_key_only() {
        let q = uniform(&[1, 2, 5, 8], 1);
        let found = causal_attention(&q, &q, &q, 1.0).unwrap();
        assert_close(
            &found.narrow(2, 0, 1).unwrap(),
            &q.narrow(2, 0, 1).unwrap(),
            0.0,
        );
        assert!(causal_attention(&q, &q.narrow(2, 0, 4).unwrap(), &q, 1.0).is_err());
    }

    #[test]
    fn repeated_rows_are_refused_and_single_ones_accepted() {
        let repeat = |shape: [usize; 4]| {
            let one = uniform(&[1, 1, 1, 1], 1);
            one.broadcast_as(&shape[..]).unwrap()
        };
        let q = uniform(&[1, 2, 3, 4], 2);
        for shape in [[1, 2, 3, 4], [1, 2, 3, 1], [1, 2, 1, 4]] {
            assert!(attention(&q, &q, &repeat(shape), 1.0).is_err());
        }
        let one = repeat([1, 2, 1, 1]);
        assert_close(&attention(&one, &one, &one, 1.0).unwrap(), &one, 0.0);
    }

    #[test]
    fn planes_give_the_same_as_channels_last() {
        for (n, heads, head, height, width) in [(2, 3, 5, 4, 6), (1, 1, 8, 1, 1), (3, 2, 1, 9, 2)] {
            let qkv = (uniform(&[n, 3 * heads * head, height, width], 4) * 3.0).unwrap();
            let expected = self_attention(&qkv, heads, 0.4).unwrap();
            assert_eq!(expected.dims(), [n, heads * head, height, width]);
            assert_close(&on_planes(&qkv, heads, 0.4).unwrap(), &expected, 2e-5);
        }
        assert!(self_attention(&uniform(&[1, 16, 2, 2], 4), 2, 1.0).is_err());
    }

    /// Attention of two heads whose `q`, `k` and `v` are parts of `[n, pixels, channels]`.
    fn attention_of_joined(qkv: &Tensor) -> Tensor {
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
            assert_close(&attention_of_joined(&qkv), &expected, 1e-6);
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (head, pixels) in [(8, 16), (24, 64), (5, 1), (32, 100)] {
            for isa in Isa::all() {
                isa.within(|| {
                    assert_batch_independent(
                        &uniform(&[7, pixels, 6 * head], 5),
                        attention_of_joined,
                    )
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
