//! Random vectors for the tests of the metrics.

use crate::embedders::Embeddings;
use crate::streams::{Phase, RngKey};

/// Returns standard normal numbers, `[count, dimension]`, the same for the same `sample`.
pub(super) fn random(count: usize, dimension: usize, sample: u64) -> Embeddings {
    let mut data = vec![0.0; count * dimension];
    let key = RngKey {
        seed: 5,
        phase: Phase::Random,
        iteration: 0,
        repeat: 0,
        sample,
    };
    key.rng().fill_normal(&mut data);
    Embeddings::new(data, dimension).unwrap()
}
