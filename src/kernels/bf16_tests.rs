//! Layers in bf16 agree with the layers in `f32` up to rounding. These tests run only on a CPU with
//! AVX512_BF16.

use candle_core::{DType, Tensor};
use proptest::prelude::*;

use super::cpu::{Avx512Bf16Token, Isa};
use super::testing::{assert_batch_independent, uniform};
use super::*;

/// Relative error of rounding to 8 bits, at most.
const ROUNDING: f32 = 1.0 / 256.0;

/// Returns true if these tests can run here; otherwise prints the reason.
fn can() -> bool {
    let isa = Avx512Bf16Token::current();
    if let Err(error) = &isa {
        eprintln!("not tested here: {error}");
    }
    isa.is_ok()
}

fn half(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).unwrap()
}

/// Returns numbers that bf16 represents exactly.
fn rounded(shape: &[usize], seed: u64) -> Tensor {
    half(&uniform(shape, seed)).to_dtype(DType::F32).unwrap()
}

/// Asserts that `layer` gives the same in bf16 as in `f32`, up to the rounding of the result and
/// `slack` for the roundings of intermediate values.
fn assert_same(inputs: &[&Tensor], slack: f32, layer: impl Fn(&[Tensor]) -> Tensor) {
    let wide: Vec<Tensor> = inputs.iter().map(|x| (*x).clone()).collect();
    let narrow: Vec<Tensor> = inputs.iter().map(|x| half(x)).collect();
    let (expected, found) = (layer(&wide), layer(&narrow));
    assert_eq!(
        (found.dtype(), found.dims()),
        (DType::BF16, expected.dims())
    );
    let numbers = |x: &Tensor| -> Vec<f32> {
        let x = x.to_dtype(DType::F32).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    };
    for (index, (f, e)) in numbers(&found).iter().zip(numbers(&expected)).enumerate() {
        let tolerance = 1.001 * ROUNDING * e.abs() + slack;
        assert!((f - e).abs() <= tolerance, "at {index}: {f} instead of {e}");
    }
}

fn conv(shape: Conv2dShape, dtype: DType) -> Conv2d {
    let (rows, columns) = shape.kernel;
    let weight = rounded(&[shape.out_channels, shape.in_channels, rows, columns], 1);
    let bias = rounded(&[shape.out_channels], 2);
    let typed = |x: Tensor| x.to_dtype(dtype).unwrap();
    Conv2d::new(shape, typed(weight), Some(typed(bias))).unwrap()
}

fn check_conv(shape: Conv2dShape, (n, height, width): (usize, usize, usize), slack: f32) {
    let (wide, narrow) = (conv(shape, DType::F32), conv(shape, DType::BF16));
    let of = |x: &Tensor| match x.dtype() {
        DType::BF16 => narrow.clone(),
        _ => wide.clone(),
    };
    let x = rounded(&[n, shape.in_channels, height, width], 3);
    assert_same(&[&x], slack, |x| of(&x[0]).forward(&x[0]).unwrap());
    assert_same(&[&x], slack, |x| of(&x[0]).forward_relu(&x[0]).unwrap());
    let (rows, columns) = shape.output_size(height, width).unwrap();
    let residual = rounded(&[n, shape.out_channels, rows, columns], 4);
    assert_same(&[&x, &residual], slack, |x| {
        of(&x[0]).forward_add(&x[0], &x[1]).unwrap()
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn convolutions(
        (in_channels, out_channels) in (1usize..20, 1usize..100),
        kernel in (1usize..6, 1usize..6),
        stride in 1usize..4,
        padding in (0usize..4, 0usize..4),
        size in (1usize..3, 1usize..24, 1usize..24),
    ) {
        let shape = Conv2dShape { in_channels, out_channels, kernel, stride, padding, side: None };
        if !can() {
            return Ok(());
        }
        prop_assume!(shape.output_size(size.1, size.2).is_some());
        check_conv(shape, size, 1e-4);
    }
}

#[test]
fn wide_and_deep_convolutions() {
    if !can() {
        return;
    }
    for (from, to, kernel, side, n) in [
        (64, 64, 3, 70, 2),
        (256, 256, 3, 18, 1),
        (192, 70, 1, 20, 2),
        // Panels in three parts, of an odd number of channels; few and many columns.
        (2501, 33, 3, 5, 2),
        (2501, 96, 3, 5, 2),
        (1600, 96, 3, 9, 1),
    ] {
        check_conv(Conv2dShape::same(from, to, kernel), (n, side, side), 2e-3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn linear_layers(rows in 1usize..40, inputs in 1usize..300, outputs in 1usize..100) {
        if !can() {
            return Ok(());
        }
        let (weight, bias) = (rounded(&[outputs, inputs], 1), rounded(&[outputs], 2));
        let layer = |x: &Tensor| {
            let typed = |t: &Tensor| t.to_dtype(x.dtype()).unwrap();
            Linear::new(&typed(&weight), Some(typed(&bias))).unwrap()
        };
        let x = rounded(&[rows, inputs], 3);
        assert_same(&[&x], 1e-4, |x| layer(&x[0]).forward(&x[0]).unwrap());
    }

    /// The attention weights are rounded as well.
    #[test]
    fn attentions(
        (n, heads) in (1usize..3, 1usize..4),
        (queries, keys) in (1usize..100, 1usize..100),
        (depth, values) in (1usize..40, 1usize..40),
    ) {
        if !can() {
            return Ok(());
        }
        let q = rounded(&[n, heads, queries, depth], 1);
        let k = rounded(&[n, heads, keys, depth], 2);
        let v = rounded(&[n, heads, keys, values], 3);
        assert_same(&[&q, &k, &v], 1.01 * ROUNDING, |x| {
            attention(&x[0], &x[1], &x[2], 1.0).unwrap()
        });
        let causal: Vec<Tensor> = [&q, &k, &v]
            .map(|x| x.narrow(2, 0, queries.min(keys)).unwrap())
            .into();
        assert_same(&[&causal[0], &causal[1], &causal[2]], 1.01 * ROUNDING, |x| {
            causal_attention(&x[0], &x[1], &x[2], 1.0).unwrap()
        });
    }

    #[test]
    fn group_norms(
        (groups, per_group) in (1usize..9, 1usize..20),
        (n, height, width) in (1usize..3, 2usize..20, 2usize..20),
    ) {
        if !can() {
            return Ok(());
        }
        let channels = groups * per_group;
        let norm = GroupNorm::new(groups, 1e-5, uniform(&[channels], 1), uniform(&[channels], 2));
        let norm = norm.unwrap();
        let x = rounded(&[n, channels, height, width], 3);
        let (scale, shift) = (uniform(&[n, channels], 4), uniform(&[n, channels], 5));
        assert_same(&[&x], 1e-5, |x| norm.forward(&x[0]).unwrap());
        assert_same(&[&x], 1e-5, |x| norm.forward_silu(&x[0]).unwrap());
        // Scale and shift in f32, and in bf16.
        assert_same(&[&x], 1e-5, |x| {
            norm.forward_scale_shift_silu(&x[0], &scale, &shift).unwrap()
        });
        let (scale, shift) = (rounded(&[n, channels], 4), rounded(&[n, channels], 5));
        assert_same(&[&x, &scale, &shift], 1e-5, |x| {
            norm.forward_scale_shift_silu(&x[0], &x[1], &x[2]).unwrap()
        });
    }

    #[test]
    fn maps(
        channels in 1usize..70,
        (height, width) in (3usize..15, 3usize..15),
        (kernel, stride, padding) in (1usize..4, 1usize..3, 0usize..1),
    ) {
        if !can() {
            return Ok(());
        }
        let x = rounded(&[2, channels, height, width], 1);
        let y = rounded(&[2, channels, height, width], 2);
        let pool = Pool { kernel, stride, padding };
        assert_same(&[&x], 1e-6, |x| avg_pool(&x[0], pool).unwrap());
        assert_same(&[&x], 0.0, |x| max_pool(&x[0], pool).unwrap());
        assert_same(&[&x, &y], 0.0, |x| add(&x[0], &x[1]).unwrap());
        assert_same(&[&x, &y], 0.0, |x| concat(x).unwrap());
        assert_same(&[&x], 0.0, |x| upsample_nearest_2x(&x[0]).unwrap());
        assert_same(&[&x], 1e-6, |x| silu(&x[0]).unwrap());
        assert_same(&[&x], 1e-6, |x| gelu(&x[0]).unwrap());
        assert_same(&[&x], 1e-6, |x| quick_gelu(&x[0]).unwrap());
        // The gate is rounded before the product.
        assert_same(&[&x, &y], 4e-3, |x| geglu(&x[0], &x[1]).unwrap());
        let values = rounded(&[2, channels], 3);
        assert_same(&[&x, &values], 0.0, |x| add_channels(&x[0], &x[1]).unwrap());
        assert_same(&[&x], 0.0, |x| convert(&x[0], x[0].dtype()).unwrap());
        let there = convert(&x, DType::BF16).unwrap();
        let back = convert(&there, DType::F32).unwrap();
        super::testing::assert_close(&back, &x, 0.0);
    }
}

#[test]
fn layer_norms() {
    if !can() {
        return;
    }
    for (rows, size) in [(1, 1), (3, 7), (70, 768), (2, 1025)] {
        let (weight, bias) = (rounded(&[size], 1), rounded(&[size], 2));
        let x = rounded(&[rows, size], 3);
        assert_same(&[&x, &weight, &bias], 1e-5, |x| {
            let norm = LayerNorm::new(1e-5, x[1].clone(), x[2].clone()).unwrap();
            norm.forward(&x[0]).unwrap()
        });
    }
}

#[test]
fn batches_are_split() {
    if !can() {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
    pool.unwrap().install(|| {
        let x = half(&uniform(&[13, 3, 2, 2], 5));
        for (share, largest) in [(BatchSplit::SmallChunks, 3), (BatchSplit::PerThread, 5)] {
            let doubled = par_over_batch(&x, share, |images| {
                assert!(images.len() <= largest);
                let x = x.narrow(0, images.start, images.len())?;
                add(&x, &x)
            });
            let doubled = doubled.unwrap().to_dtype(DType::F32).unwrap();
            let expected = (x.to_dtype(DType::F32).unwrap() * 2.0).unwrap();
            super::testing::assert_close(&doubled, &expected, 0.0);
        }
    });
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    if !can() {
        return;
    }
    let wide = |x: Tensor| x.to_dtype(DType::F32).unwrap();
    for (from, to, kernel, side) in [
        (3, 32, 3, 32),
        (64, 80, 3, 16),
        (256, 256, 3, 18),
        (1600, 40, 3, 5),
        (96, 33, 1, 17),
    ] {
        let conv = conv(Conv2dShape::same(from, to, kernel), DType::BF16);
        let x = half(&uniform(&[7, from, side, side], 5));
        assert_batch_independent(&x, |x| wide(conv.forward(x).unwrap()));
    }
    let norm = GroupNorm::new(32, 1e-5, uniform(&[96], 1), uniform(&[96], 2)).unwrap();
    let x = half(&uniform(&[7, 96, 40, 40], 3));
    assert_batch_independent(&x, |x| wide(norm.forward_silu(x).unwrap()));
    let q = half(&uniform(&[7, 3, 50, 24], 3));
    assert_batch_independent(&q, |q| wide(attention(q, q, q, 0.3).unwrap()));
    let linear = Linear::new(&half(&uniform(&[65, 301], 1)), None).unwrap();
    let x = half(&uniform(&[40, 301], 2));
    assert_batch_independent(&x, |x| wide(linear.forward(x).unwrap()));
}

#[test]
fn other_instructions_than_avx512_are_refused() {
    for isa in Isa::all() {
        let found = isa.within(Avx512Bf16Token::current);
        if Some(isa) == Isa::named("avx512") {
            continue;
        }
        let error = found.unwrap_err().to_string();
        assert!(error.contains("AVX512_BF16"), "{error}");
    }
}
