//! Layers composed of candle's operators, as GPUs run them, against this project's operators on the
//! CPU: in `f32`, and in f16, a type with 11 bits that only composed layers support here. The
//! conversions, and what stays in `f32`, are the same for bf16, which candle does not multiply on
//! the CPU.

use candle_core::{DType, Tensor};

use super::testing::{assert_close, composed, uniform};
use super::*;

/// Compares the composed layer in `f32` and in f16 with this project's operators.
fn check(inputs: &[Tensor], half_tolerance: f32, layer: impl Fn(&[Tensor]) -> Tensor) {
    let expected = layer(inputs);
    assert_close(&composed(|| layer(inputs)), &expected, 2e-5);
    let half: Vec<Tensor> = inputs
        .iter()
        .map(|x| x.to_dtype(DType::F16).unwrap())
        .collect();
    let found = composed(|| layer(&half));
    assert_eq!(found.dtype(), DType::F16);
    let found = found.to_dtype(DType::F32).unwrap();
    assert_close(&found, &expected, half_tolerance);
}

#[test]
fn convolutions_and_what_follows() {
    for (kernel, stride) in [(3, 1), (3, 2), (1, 1)] {
        let shape = Conv2dShape::same(12, 20, kernel).with_stride(stride);
        let side = 8 / stride;
        let inputs = [
            uniform(&[2, 12, 8, 8], 1),
            uniform(&[20, 12, kernel, kernel], 2),
            uniform(&[20], 3),
            uniform(&[2, 20, side, side], 4),
        ];
        let of = |x: &[Tensor]| Conv2d::new(shape, x[1].clone(), Some(x[2].clone())).unwrap();
        check(&inputs, 0.03, |x| of(x).forward(&x[0]).unwrap());
        check(&inputs, 0.03, |x| of(x).forward_relu(&x[0]).unwrap());
        check(&inputs, 0.03, |x| of(x).forward_add(&x[0], &x[3]).unwrap());
    }
}

#[test]
fn norms_keep_their_weights_in_f32() {
    let x = [uniform(&[2, 12, 5, 7], 1)];
    let norm = || GroupNorm::new(4, 1e-5, uniform(&[12], 2), uniform(&[12], 3)).unwrap();
    let (scale, shift) = (uniform(&[2, 12], 4), uniform(&[2, 12], 5));
    check(&x, 4e-3, |x| norm().forward(&x[0]).unwrap());
    check(&x, 4e-3, |x| norm().forward_silu(&x[0]).unwrap());
    check(&x, 8e-3, |x| {
        norm()
            .forward_scale_shift_silu(&x[0], &scale, &shift)
            .unwrap()
    });
}

#[test]
fn products_and_attention() {
    let inputs = [
        uniform(&[5, 30], 1),
        uniform(&[8, 30], 2),
        uniform(&[8], 3),
        (uniform(&[2, 36, 5, 4], 4) * 2.0).unwrap(),
        uniform(&[2, 3, 9, 8], 5),
    ];
    check(&inputs, 0.02, |x| {
        let layer = Linear::new(&x[1], Some(x[2].clone())).unwrap();
        layer.forward(&x[0]).unwrap()
    });
    check(&inputs, 6e-3, |x| self_attention(&x[3], 3, 0.5).unwrap());
    check(&inputs, 4e-3, |x| {
        attention(&x[4], &x[4], &x[4], 0.3).unwrap()
    });
    check(&inputs, 4e-3, |x| {
        causal_attention(&x[4], &x[4], &x[4], 0.3).unwrap()
    });
}

/// The embedded kernels were compiled from the source beside them.
#[test]
fn ptx_is_up_to_date() {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(include_bytes!("cuda/fused.cu"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let first = include_str!("cuda/fused.ptx").lines().next().unwrap();
    assert_eq!(
        first,
        format!("// sha256 of fused.cu: {digest}"),
        "run scripts/build-ptx.sh"
    );
}
