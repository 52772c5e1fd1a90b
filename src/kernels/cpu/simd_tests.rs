//! Every vector operation on every instruction set of this machine.

#![allow(unsafe_code)]

use super::dispatch::Dispatch;
use super::isa::{Isa, Kernel};
use super::simd::Simd;

/// Every operation on the first vector of each argument, one result after another.
struct All<'a>(&'a [f32], &'a [f32], &'a [f32]);

impl Kernel for All<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        assert!([self.0, self.1, self.2].iter().all(|x| x.len() >= S::LANES));
        // SAFETY: each slice has a vector's numbers, as was just checked.
        let [a, b, c] = [self.0, self.1, self.2].map(|x| unsafe { simd.load(x.as_ptr()) });
        // SAFETY: as above: there is a first number.
        let first = unsafe { simd.broadcast(self.0.as_ptr()) };
        let results = [
            a,
            simd.splat(7.0),
            first,
            simd.add(a, b),
            simd.sub(a, b),
            simd.mul_add(a, b, c),
            simd.relu(a),
        ];
        let mut out = vec![0f32; S::LANES * results.len()];
        for (to, result) in out.chunks_exact_mut(S::LANES).zip(results) {
            // SAFETY: the chunk has a vector's numbers.
            unsafe { simd.store(to.as_mut_ptr(), result) };
        }
        out
    }
}

#[test]
fn operations_agree_with_scalar_arithmetic() {
    // Small integers, so that nothing is rounded. From the second number on, so that no load is
    // aligned.
    let numbers = |seed: usize| -> Vec<f32> {
        (0..17)
            .map(|i| ((i * 7 + seed) % 13) as f32 - 6.0)
            .collect()
    };
    let (a, b, c) = (numbers(1), numbers(5), numbers(8));
    let (a, b, c) = (&a[1..], &b[1..], &c[1..]);
    for isa in Isa::all() {
        let lanes = f32::tile(isa).lanes;
        let lane = |f: &dyn Fn(usize) -> f32| (0..lanes).map(f).collect::<Vec<f32>>();
        let expected = [
            lane(&|i| a[i]),
            lane(&|_| 7.0),
            lane(&|_| a[0]),
            lane(&|i| a[i] + b[i]),
            lane(&|i| a[i] - b[i]),
            lane(&|i| a[i] * b[i] + c[i]),
            lane(&|i| a[i].max(0.0)),
        ];
        assert_eq!(isa.run(All(a, b, c)), expected.concat(), "{isa:?}");
    }
}
