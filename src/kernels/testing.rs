//! Helpers of the layers' tests.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

pub(crate) use super::composing::composed;
use super::cpu::Isa;

/// Runs `f` once with each instruction set that this machine has.
pub(crate) fn on_each_isa(mut f: impl FnMut()) {
    for isa in Isa::all() {
        isa.within(&mut f);
    }
}

/// Returns numbers in `[-1, 1)`, the same for the same seed.
pub(super) fn uniform(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that both have the same shape and differ by at most `tolerance` anywhere.
pub(super) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    for (index, (f, e)) in values(found).iter().zip(values(expected)).enumerate() {
        assert!((f - e).abs() <= tolerance, "at {index}: {f} instead of {e}");
    }
}

/// Asserts that the result of `layer` for an image has the same bits alone, in the batch `x`, and
/// in a smaller batch on one thread.
pub(super) fn assert_batch_independent(x: &Tensor, layer: impl Fn(&Tensor) -> Tensor + Sync) {
    let together = layer(x);
    let n = x.dim(0).unwrap();
    let bits = |x: &Tensor| values(x).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for index in 0..n {
        let alone = layer(&x.narrow(0, index, 1).unwrap());
        let among = together.narrow(0, index, 1).unwrap();
        assert_eq!(bits(&alone), bits(&among), "image {index}");
    }
    let tail = x.narrow(0, 1, n - 1).unwrap();
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let isa = Isa::current().unwrap();
    let fewer = one_thread.install(|| isa.within(|| layer(&tail)));
    assert_eq!(bits(&fewer), bits(&together.narrow(0, 1, n - 1).unwrap()));
}
