//! The source of the random bits of the privacy noise.
//!
//! The trait is private to [`crate::privacy`] and unrelated to [`crate::streams`]: a generation
//! stream cannot be passed to the noise sampler, nor the reverse, and no caller can choose the
//! source. A released binary has a single source, the cryptographically secure generator of the
//! operating system.
//!
//! A seeded source exists for tests only. The feature `insecure-test-noise`, off by default and
//! never part of a released binary, compiles in the environment variable `DPSYN_TEST_NOISE_SEED`.
//! If the variable is set, the noise is known to anyone who knows the seed; the ledger, the
//! statement and every other output are then marked as non-private, as with `--non-private`.

#[cfg(any(test, feature = "insecure-test-noise"))]
use rand_chacha::ChaCha12Rng;

use super::error::PrivacyError;

/// Independent uniform random bytes for privacy noise.
pub(super) trait NoiseSource {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PrivacyError>;
}

/// The source of a run's noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoiseOrigin {
    /// The cryptographically secure generator of the operating system.
    OperatingSystem,
    /// A seed that is known to the tester: no privacy at all.
    #[cfg(any(test, feature = "insecure-test-noise"))]
    FixedTestSeed(u64),
}

impl NoiseOrigin {
    /// Returns the operating system, or, in a test build with the variable set, the test seed.
    pub(super) fn from_environment() -> Result<Self, PrivacyError> {
        #[cfg(feature = "insecure-test-noise")]
        if let Some(seed) = std::env::var_os("DPSYN_TEST_NOISE_SEED") {
            return Self::from_test_seed(&seed);
        }
        Ok(Self::OperatingSystem)
    }

    /// Parses a test seed. An unreadable seed is an error and not a fallback, which would leave a
    /// test that looks deterministic and is not.
    #[cfg(any(test, feature = "insecure-test-noise"))]
    fn from_test_seed(seed: &std::ffi::OsStr) -> Result<Self, PrivacyError> {
        let seed = seed.to_str().and_then(|text| text.parse().ok());
        seed.map(Self::FixedTestSeed).ok_or_else(|| {
            PrivacyError::config("DPSYN_TEST_NOISE_SEED", "expected an integer below 2^64")
        })
    }

    /// Returns the name that ledger and statement use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OperatingSystem => "operating system (cryptographically secure)",
            #[cfg(any(test, feature = "insecure-test-noise"))]
            Self::FixedTestSeed(_) => "fixed test seed (insecure)",
        }
    }

    /// Opens the source for one release. A test seed is combined with the iteration, so that a
    /// resumed test has the same noise as an uninterrupted one.
    pub(super) fn open(self, iteration: u32) -> Box<dyn NoiseSource> {
        match self {
            Self::OperatingSystem => {
                // Only the seeded source uses the iteration.
                let _ = iteration;
                Box::new(OperatingSystemNoise::new())
            }
            #[cfg(any(test, feature = "insecure-test-noise"))]
            Self::FixedTestSeed(seed) => Box::new(TestNoise::new(seed, iteration)),
        }
    }
}

/// The generator of the operating system, read in blocks: one system call for every few bytes would
/// take most of the time.
///
/// Bytes are erased when they are handed out. The program never forks, so no second process can
/// hold the same unread block.
struct OperatingSystemNoise {
    block: Vec<u8>,
    used: usize,
}

impl OperatingSystemNoise {
    /// Bytes per system call: one page, so that the call's fixed cost is small per byte.
    const BLOCK: usize = 4096;

    fn new() -> Self {
        Self {
            block: vec![0; Self::BLOCK],
            used: Self::BLOCK,
        }
    }
}

impl NoiseSource for OperatingSystemNoise {
    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), PrivacyError> {
        while !out.is_empty() {
            if self.used >= self.block.len() {
                getrandom::fill(&mut self.block)
                    .map_err(|source| PrivacyError::Randomness { cause: source })?;
                self.used = 0;
            }
            let count = out.len().min(self.block.len() - self.used);
            let fresh = &mut self.block[self.used..self.used + count];
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(fresh);
            fresh.fill(0);
            self.used += count;
            out = later;
        }
        Ok(())
    }
}

/// A reproducible source for tests.
#[cfg(any(test, feature = "insecure-test-noise"))]
pub(super) struct TestNoise(ChaCha12Rng);

#[cfg(any(test, feature = "insecure-test-noise"))]
impl TestNoise {
    pub(super) fn new(seed: u64, iteration: u32) -> Self {
        use rand::SeedableRng;
        // The tag separates these keys from those of the generation streams, whose tail is zero.
        let mut key = *b"........dpsyn insecure testnoise";
        key[0..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = ChaCha12Rng::from_seed(key);
        generator.set_stream(u64::from(iteration));
        Self(generator)
    }
}

#[cfg(any(test, feature = "insecure-test-noise"))]
impl NoiseSource for TestNoise {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PrivacyError> {
        rand::RngCore::fill_bytes(&mut self.0, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operating_system_noise_is_fresh_across_block_borders() {
        let mut source = OperatingSystemNoise::new();
        let mut seen = std::collections::HashSet::new();
        // 1,000 reads of 24 bytes cross the block border of 4,096 several times within a read. A
        // repeated 192-bit value has probability below 2^-170.
        for _ in 0..1000 {
            let mut out = [0u8; 24];
            source.fill(&mut out).unwrap();
            assert!(seen.insert(out));
            assert!(source.block[..source.used].iter().all(|b| *b == 0));
        }
        // Larger than a block: every byte is written (a 64-byte run of zeros: below 2^-490).
        let mut out = vec![0u8; 3 * OperatingSystemNoise::BLOCK + 5];
        source.fill(&mut out).unwrap();
        assert!(out.chunks(64).take(192).all(|c| c.iter().any(|b| *b != 0)));
    }

    #[test]
    fn a_test_seed_is_a_number() {
        let parse = |text: &str| NoiseOrigin::from_test_seed(text.as_ref());
        assert_eq!(parse("7").unwrap(), NoiseOrigin::FixedTestSeed(7));
        assert!(parse("").is_err() && parse("-1").is_err());
    }

    /// Without the feature, no environment variable reaches the noise.
    #[cfg(not(feature = "insecure-test-noise"))]
    #[test]
    fn an_ordinary_build_knows_one_source() {
        let origin = NoiseOrigin::from_environment().unwrap();
        assert_eq!(origin, NoiseOrigin::OperatingSystem);
    }

    #[test]
    fn test_noise_depends_on_seed_and_iteration() {
        let first = |seed, iteration| {
            let mut out = [0u8; 16];
            TestNoise::new(seed, iteration).fill(&mut out).unwrap();
            out
        };
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(2, 1));
        assert_ne!(first(1, 1), first(1, 2));
    }
}
