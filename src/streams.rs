//! Counter-based random number generators for everything that is *not* privacy noise.
//!
//! Each generator is a ChaCha12 stream whose 256-bit key is (seed, phase, iteration, lookahead
//! index, sample index). Different keys have different streams, so the random numbers of a sample
//! are independent of batch size, device, order and interruptions.
//!
//! Privacy noise has a different source and type ([`crate::privacy`]); a [`KeyedRng`] cannot be
//! passed in its place.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

/// The purpose of a random stream. The discriminants are part of the key, so changing one changes
/// all results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Phase {
    /// Public conditions (class labels, prompts) of the initial population.
    Condition = 1,
    /// Images of the initial population.
    Random = 2,
    /// Lookahead variations, whose mean embedding represents a sample in the vote.
    Lookahead = 3,
    /// Selection of parents by the noisy histogram.
    Select = 4,
    /// Variations that form the next population.
    Vary = 5,
    /// Variations of the initial population (`initial_variations`).
    InitialVary = 6,
    /// Choice of the member of a mixture that makes an image.
    Member = 8,
    /// Training of classifiers for downstream metrics.
    Downstream = 7,
    /// Subsets for metrics. No generated sample depends on it.
    Evaluate = 16,
    /// Public images and coins of an audit (`dpsyn audit`).
    Audit = 17,
}

/// The key of one random stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RngKey {
    /// The generation seed of the run.
    pub seed: u64,
    /// The purpose of the stream.
    pub phase: Phase,
    /// The PE iteration; 0 for the initial population.
    pub iteration: u32,
    /// Index among several streams of the same sample (lookahead index or variation fold).
    pub repeat: u32,
    /// Index of the sample in its population.
    pub sample: u64,
}

impl RngKey {
    /// Creates the generator at the beginning of the stream.
    #[must_use]
    pub fn rng(&self) -> KeyedRng {
        let mut key = [0u8; 32];
        key[0..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..12].copy_from_slice(&(self.phase as u32).to_le_bytes());
        key[12..16].copy_from_slice(&self.iteration.to_le_bytes());
        key[16..20].copy_from_slice(&self.repeat.to_le_bytes());
        key[20..28].copy_from_slice(&self.sample.to_le_bytes());
        KeyedRng(ChaCha12Rng::from_seed(key))
    }
}

/// A random number generator for one [`RngKey`], reproducible on every machine.
pub struct KeyedRng(ChaCha12Rng);

impl KeyedRng {
    /// Fills `out` with independent standard normal numbers.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for value in out {
            let draw: f64 = StandardNormal.sample(&mut self.0);
            *value = draw as f32;
        }
    }

    /// Returns a uniform integer in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.0.random_range(0..bound)
    }

    /// Returns a uniform number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RngKey = RngKey {
        seed: 7,
        phase: Phase::Random,
        iteration: 0,
        repeat: 0,
        sample: 3,
    };

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let first = |key: RngKey| key.rng().below(u64::MAX);
        let keys = [
            KEY,
            RngKey { seed: 8, ..KEY },
            RngKey {
                phase: Phase::Vary,
                ..KEY
            },
            RngKey {
                iteration: 1,
                ..KEY
            },
            RngKey { repeat: 1, ..KEY },
            RngKey { sample: 4, ..KEY },
        ];
        let mut values: Vec<u64> = keys.iter().map(|key| first(*key)).collect();
        assert_eq!(first(KEY), values[0]);
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), keys.len());
    }

    #[test]
    fn normal_numbers_have_the_right_moments() {
        // 40,000 numbers: the standard error of the mean is 0.005, that of the variance 0.0071;
        // the limits are five standard errors.
        let mut values = vec![0f32; 40_000];
        KEY.rng().fill_normal(&mut values);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 40_000.0;
        let var = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 40_000.0;
        assert!(mean.abs() < 0.025, "{mean}");
        assert!((var - 1.0).abs() < 0.036, "{var}");
    }
}
