//! Counter-based random streams for everything that is *not* privacy noise.
//!
//! Each stream is a ChaCha12 generator whose 256-bit key *is* the stream's address: (seed, phase,
//! iteration, lookahead index, sample index). Two addresses never share a stream, and what a sample
//! draws does not depend on batch size, device, order or interruption.
//!
//! Privacy noise has another source and another type ([`crate::privacy`]); a [`KeyedRng`] cannot
//! be passed where that one is wanted.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

/// What a stream is drawn for. The discriminants are part of the reproducibility contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Phase {
    /// Public conditions (class labels, prompts) of the initial population.
    Condition = 1,
    /// The initial population's images.
    Random = 2,
    /// Lookahead variations, whose mean embedding is voted for.
    Lookahead = 3,
    /// Resampling by the noisy histogram.
    Select = 4,
    /// The next population's variations.
    Vary = 5,
    /// Variations of the initial population (`initial_variations`).
    InitialVary = 6,
    /// Training of classifiers that judge a finished population.
    Downstream = 7,
    /// Subsets that figures of quality are computed on. Nothing that is generated depends on it.
    Evaluate = 16,
}

/// The address of one random stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RngKey {
    /// The run's generation seed.
    pub seed: u64,
    /// What is drawn.
    pub phase: Phase,
    /// PE iteration, 0 for the initial population.
    pub iteration: u32,
    /// Which of several draws for the same sample (lookahead index or variation fold).
    pub repeat: u32,
    /// Sample index in its population.
    pub sample: u64,
}

impl RngKey {
    /// Opens the stream at its beginning.
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

/// One sample's random numbers, reproducible on every machine.
pub struct KeyedRng(ChaCha12Rng);

impl KeyedRng {
    /// Fills `out` with independent standard normal numbers.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for value in out {
            let draw: f64 = StandardNormal.sample(&mut self.0);
            *value = draw as f32;
        }
    }

    /// A uniform integer in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.0.random_range(0..bound)
    }

    /// A uniform number in `[0, 1)` with 53 bits.
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
    fn every_part_of_the_address_changes_the_stream() {
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
        let mut draws: Vec<u64> = keys.iter().map(|key| first(*key)).collect();
        assert_eq!(first(KEY), draws[0]);
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), keys.len());
    }

    #[test]
    fn normal_numbers_have_the_right_moments() {
        // 40,000 draws: the mean's standard error is 0.005, the variance's 0.0071; five of them each.
        let mut values = vec![0f32; 40_000];
        KEY.rng().fill_normal(&mut values);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 40_000.0;
        let var = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 40_000.0;
        assert!(mean.abs() < 0.025, "{mean}");
        assert!((var - 1.0).abs() < 0.036, "{var}");
    }
}
