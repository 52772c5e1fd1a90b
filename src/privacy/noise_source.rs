//! The source of the random bits of the privacy noise: one secret key per run.
//!
//! The key is 256 bits of the operating system's cryptographically secure generator, drawn once,
//! when a run begins, and stored in the private folder. The bits of the noise of a release are a
//! pseudorandom function of the key and of what the noise is added to:
//!
//! ```text
//! seed  = HMAC-SHA-256(key, "dpsyn noise 1" ‖ iteration ‖ SHA-256(clean counts) ‖ candidates)
//! noise = discrete Gaussian from the ChaCha20 stream of that seed
//! ```
//!
//! `candidates` is the SHA-256 of the voted-on population's file. A copy of a result folder, a
//! restored snapshot and a repeated draw after a crash therefore add the *same* noise to the same
//! counts: all of their outputs together are one release. Other counts or other candidates have
//! independent noise, so the difference of two releases does not reveal the difference of
//! their counts.
//!
//! The guarantee is computational: it holds against everybody who cannot distinguish HMAC-SHA-256
//! and ChaCha20 (20 rounds) from random functions. The key is as secret as the private images,
//! beside whose embeddings it is stored: with the key, the noise can be subtracted.
//!
//! The trait is private to [`crate::privacy`] and unrelated to [`crate::streams`]: a generation
//! stream cannot be passed to the noise sampler, nor the reverse, and no caller can choose the
//! source.
//!
//! A known key exists for tests only. The feature `insecure-test-noise`, off by default and never
//! part of a released binary, compiles in the environment variable `DPSYN_TEST_NOISE_SEED`. If the
//! variable is set, the noise is known to anyone who knows the seed; the ledger, the statement and
//! every other output are then marked as non-private, as with `--non-private`.

use hmac::{Hmac, KeyInit, Mac};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};

use super::error::PrivacyError;
use super::fingerprint::sha256_hex;
use super::private_folder::PrivateFolder;
use super::sensitive::Sensitive;

/// File name of the key in the private folder.
pub(super) const NOISE_KEY: &str = "noise-key";

/// Separates the pseudorandom function from other uses of the key.
const DOMAIN: &[u8] = b"dpsyn noise 1";

/// Independent uniform random bytes for privacy noise.
pub(super) trait NoiseSource {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PrivacyError>;
}

/// The origin of a run's key.
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
            Self::OperatingSystem => {
                "HMAC-SHA-256 and ChaCha20, keyed once per run by the operating system"
            }
            #[cfg(any(test, feature = "insecure-test-noise"))]
            Self::FixedTestSeed(_) => "fixed test seed (insecure)",
        }
    }

    /// Draws a key.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Randomness`] if the operating system supplies no random bytes.
    pub(super) fn new_key(self) -> Result<NoiseKey, PrivacyError> {
        match self {
            Self::OperatingSystem => {
                let mut key = [0u8; 32];
                getrandom::fill(&mut key)
                    .map_err(|source| PrivacyError::Randomness { cause: source })?;
                Ok(NoiseKey(key))
            }
            #[cfg(any(test, feature = "insecure-test-noise"))]
            Self::FixedTestSeed(seed) => {
                let mut hasher = Sha256::new_with_prefix(b"dpsyn insecure test noise");
                hasher.update(seed.to_le_bytes());
                Ok(NoiseKey(hasher.finalize().into()))
            }
        }
    }
}

/// The secret key of a run's noise.
#[derive(Clone)]
pub(super) struct NoiseKey([u8; 32]);

impl NoiseKey {
    /// Reads the key of a run, or draws and stores one if the private folder has none.
    ///
    /// The key is on disk when this function returns, before any noise can be drawn with it.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Randomness`], [`PrivacyError::Io`], or
    /// [`PrivacyError::PrivateData`] if the stored key is damaged.
    pub(super) fn open(origin: NoiseOrigin, private: &PrivateFolder) -> Result<Self, PrivacyError> {
        if let Some(key) = Self::stored(private)? {
            return Ok(key);
        }
        let key = origin.new_key()?;
        let bytes = Sensitive::new(key.0);
        private.write_sensitive(NOISE_KEY, &bytes, |bytes, file| file.write_all(bytes))?;
        Ok(key)
    }

    /// Reads the key of a run; `None` if the private folder has none.
    ///
    /// # Errors
    /// As [`NoiseKey::open`].
    pub(super) fn stored(private: &PrivateFolder) -> Result<Option<Self>, PrivacyError> {
        let stored = private.read_back(NOISE_KEY, |file| {
            let mut bytes = [0u8; 32];
            file.read_exact(&mut bytes)?;
            match file.read(&mut [0])? {
                0 => Ok(bytes),
                _ => Err(std::io::ErrorKind::InvalidData.into()),
            }
        });
        match stored {
            Ok(stored) => Ok(stored.map(|bytes| Self(*bytes.expose()))),
            // A new key would add new noise to counts that may have been released already.
            Err(PrivacyError::PrivateFile { path, kind }) => Err(PrivacyError::PrivateData {
                message: format!(
                    "{} is damaged ({kind}): restore it from a copy, or use another output folder",
                    path.display()
                ),
            }),
            Err(other) => Err(other),
        }
    }

    /// Returns the SHA-256 of the key, which the ledger records, so that another key is noticed.
    /// Nobody finds a key of 256 random bits by its digest.
    pub(super) fn commitment(&self) -> String {
        sha256_hex(&self.0)
    }

    /// Opens the stream for one release: the noise of `iteration` on these counts (in units of the
    /// lattice), for the candidates with this digest.
    pub(super) fn noise(&self, iteration: u32, counts: &[u64], candidates: &str) -> KeyedNoise {
        let mut digest = Sha256::new();
        digest.update((counts.len() as u64).to_le_bytes());
        for count in counts {
            digest.update(count.to_le_bytes());
        }
        // HMAC pads a key to the block of its hash with zeros.
        let mut block = [0u8; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(DOMAIN);
        mac.update(&iteration.to_le_bytes());
        mac.update(&digest.finalize());
        mac.update(candidates.as_bytes());
        KeyedNoise(ChaCha20Rng::from_seed(mac.finalize().into_bytes().into()))
    }
}

/// The ChaCha20 stream of one release.
pub(super) struct KeyedNoise(ChaCha20Rng);

impl NoiseSource for KeyedNoise {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PrivacyError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

/// A reproducible source for statistical tests of the sampler.
#[cfg(test)]
pub(super) struct TestNoise(rand_chacha::ChaCha12Rng);

#[cfg(test)]
impl TestNoise {
    pub(super) fn new(seed: u64, stream: u32) -> Self {
        let mut key = *b"........dpsyn insecure testnoise";
        key[0..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = rand_chacha::ChaCha12Rng::from_seed(key);
        generator.set_stream(u64::from(stream));
        Self(generator)
    }
}

#[cfg(test)]
impl NoiseSource for TestNoise {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PrivacyError> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_bytes(key: &NoiseKey, iteration: u32, counts: &[u64], candidates: &str) -> [u8; 16] {
        let mut out = [0u8; 16];
        key.noise(iteration, counts, candidates)
            .fill(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn the_stream_depends_on_all_of_its_inputs_and_on_nothing_else() {
        let key = NoiseOrigin::OperatingSystem.new_key().unwrap();
        let other = NoiseOrigin::OperatingSystem.new_key().unwrap();
        let base = first_bytes(&key, 1, &[3, 0], "ab");
        assert_eq!(base, first_bytes(&key, 1, &[3, 0], "ab"));
        for changed in [
            first_bytes(&other, 1, &[3, 0], "ab"),
            first_bytes(&key, 2, &[3, 0], "ab"),
            first_bytes(&key, 1, &[3, 1], "ab"),
            first_bytes(&key, 1, &[3], "ab"),
            first_bytes(&key, 1, &[3, 0], "ac"),
        ] {
            assert_ne!(base, changed);
        }
    }

    /// Computed with Python's `hmac`, `hashlib` and OpenSSL's ChaCha20 (counter and nonce zero).
    #[test]
    fn the_stream_is_the_documented_one() {
        let key = NoiseKey(std::array::from_fn(|i| i as u8));
        let found = first_bytes(&key, 7, &[1 << 20, 0, 5], &"0f".repeat(32));
        assert_eq!(
            crate::hex::encode(&found),
            "1688de6241a317e387517f55298fcc4a"
        );
    }

    #[test]
    fn a_stored_key_is_read_back_and_a_damaged_one_is_not_replaced() {
        let top = tempfile::tempdir().unwrap();
        let private = PrivateFolder::create(top.path().join("private")).unwrap();
        assert!(NoiseKey::stored(&private).unwrap().is_none());
        let key = NoiseKey::open(NoiseOrigin::OperatingSystem, &private).unwrap();
        let again = NoiseKey::open(NoiseOrigin::OperatingSystem, &private).unwrap();
        assert_eq!(key.0, again.0);
        assert_ne!(key.0, [0; 32]);
        for damaged in [&[1u8; 31][..], &[1; 33], &[]] {
            std::fs::write(private.path().join(NOISE_KEY), damaged).unwrap();
            let error = NoiseKey::open(NoiseOrigin::OperatingSystem, &private)
                .err()
                .unwrap();
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }

    #[test]
    fn a_test_seed_is_a_number() {
        let parse = |text: &str| NoiseOrigin::from_test_seed(text.as_ref());
        assert_eq!(parse("7").unwrap(), NoiseOrigin::FixedTestSeed(7));
        assert!(parse("").is_err() && parse("-1").is_err());
        let key = |seed| NoiseOrigin::FixedTestSeed(seed).new_key().unwrap().0;
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), key(2));
    }

    /// Without the feature, no environment variable reaches the noise.
    #[cfg(not(feature = "insecure-test-noise"))]
    #[test]
    fn an_ordinary_build_knows_one_source() {
        let origin = NoiseOrigin::from_environment().unwrap();
        assert_eq!(origin, NoiseOrigin::OperatingSystem);
    }
}
