//! The release: from clean counts behind the wall to a noisy histogram that may be published.
//!
//! **Statement.** Let one private image (the unit) vote 1 for each of k distinct bins, and let a
//! histogram hold all bins of all classes. Under add-remove adjacency two neighbouring histograms
//! differ by at most √k in L2 norm, under replace-one by at most √(2k), also when the exchanged
//! image is of another class. [`release`] adds to every bin independent discrete Gaussian noise of
//! parameter at least σ·√k (in votes) on the lattice 2⁻²⁰. One release is therefore (1/2σ²)-zCDP,
//! or (1/σ²)-zCDP, exactly, and T of them are (ε, δ)-DP with the ε that
//! [`epsilon`](super::epsilon) returns; see `lattice` for the argument and `accountant` for the
//! composition.
//!
//! Classes need no composition of their own: one release is the concatenation of all classes' bins,
//! and an image votes only among its own class's.
//!
//! **Order.** Noise is drawn only against a [`Charge`], which [`Ledger::charge`] hands out after
//! the charge is on disk; a charge is consumed and cannot be copied. What was drawn cannot be read
//! before it is on disk either ([`UnpublishedHistogram::store`]).
//!
//! **Drawing again.** If a run is killed between charge and [`UnpublishedHistogram::store`], the resumed run
//! draws again under the same charge. That is one release, not two, because the first draw never
//! left the process: it existed in memory and at most as a temporary file in the private folder,
//! which the resumed run deletes before anything else. Had it been written beside its final place,
//! somebody could have seen both draws, which together have √2 times less noise than was accounted
//! for. Once a histogram is in place, the ledger says so with its digest, and a further draw for
//! that iteration is refused.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use num_bigint::{BigInt, BigUint};

use super::discrete_gaussian::DiscreteGaussian;
use super::error::PrivacyError;
use super::fingerprint::sha256_hex;
use super::lattice::LATTICE_BITS;
use super::ledger::Ledger;
use super::noise_source::{NoiseOrigin, NoiseSource};
use super::private_folder::PrivateFolder;
use super::sensitive::Sensitive;
use super::settings::ResolvedPrivacy;
use crate::atomic;

/// Proof that one release is in the ledger and on disk. Neither `Clone` nor constructible
/// elsewhere.
///
/// ```compile_fail,E0599
/// # fn charge() -> dpsyn::privacy::Charge { unimplemented!() }
/// let charge = charge();
/// let again = charge.clone();
/// ```
#[must_use = "the charge is in the ledger: use it for a release"]
pub struct Charge {
    iteration: u32,
    resumed: bool,
    noise: Noise,
    origin: NoiseOrigin,
}

/// What is added to each count.
enum Noise {
    /// Nothing: the run is stamped as not private.
    Nothing,
    /// The discrete Gaussian with this parameter on the lattice.
    DiscreteGaussian(BigUint),
}

impl Charge {
    /// Only the ledger calls this, after syncing.
    pub(super) fn new(iteration: u32, resumed: bool, privacy: &ResolvedPrivacy) -> Self {
        Self {
            iteration,
            resumed,
            noise: privacy
                .lattice_sigma()
                .map_or(Noise::Nothing, Noise::DiscreteGaussian),
            origin: privacy.noise,
        }
    }

    /// The iteration charged for.
    #[must_use]
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// Whether the charge was in the ledger already, from a run that ended before its histogram was
    /// stored.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}

/// Adds the noise and opens the wall: the only way from counts to something that may be published.
///
/// `counts` holds the votes of every bin of every class, one after the other. The bins, their
/// number and order must not depend on private images, and each image must have voted for at most
/// k distinct bins, once each.
///
/// # Errors
/// [`PrivacyError::Randomness`] when the operating system gives no random bytes. The charge is
/// then spent in the ledger but may be taken up again by a new process.
pub fn release(
    counts: Sensitive<Vec<u64>>,
    charge: Charge,
) -> Result<UnpublishedHistogram, PrivacyError> {
    let mut source = charge.origin.open(charge.iteration);
    let lattice = add_noise(counts.expose(), &charge.noise, source.as_mut())?;
    Ok(UnpublishedHistogram {
        iteration: charge.iteration,
        histogram: NoisyHistogram { lattice },
    })
}

/// count·2^g + Z for every count.
///
/// What does not fit 64 bits is cut to the nearest that does. That depends on the noisy value
/// only, so it is post-processing; with fewer than 2^42 votes in a bin and any noise multiplier
/// allowed, it never happens.
fn add_noise(
    counts: &[u64],
    noise: &Noise,
    source: &mut dyn NoiseSource,
) -> Result<Vec<i64>, PrivacyError> {
    let sampler = match noise {
        Noise::Nothing => None,
        Noise::DiscreteGaussian(sigma) => {
            Some(DiscreteGaussian::new(sigma.pow(2), &BigUint::from(1u32))?)
        }
    };
    let mut lattice = Vec::with_capacity(counts.len());
    for &count in counts {
        let exact = BigInt::from(count) << LATTICE_BITS;
        let noisy = match &sampler {
            Some(sampler) => exact + sampler.sample(source)?,
            None => exact,
        };
        let limit = if noisy < BigInt::ZERO {
            i64::MIN
        } else {
            i64::MAX
        };
        lattice.push(i64::try_from(noisy).unwrap_or(limit));
    }
    Ok(lattice)
}

/// A noisy histogram that is not on disk yet, and so cannot be read.
#[must_use = "store it: until then it cannot be read, and the charge is spent"]
pub struct UnpublishedHistogram {
    iteration: u32,
    histogram: NoisyHistogram,
}

impl UnpublishedHistogram {
    /// Writes the histogram to `path` through `fill`, records that in the ledger, and only then
    /// gives it out.
    ///
    /// The file is written inside the private folder, synced, and renamed to `path`, which must
    /// be on the same file system: a process killed on the way leaves nothing outside.
    ///
    /// # Errors
    /// [`PrivacyError::Io`] when the file cannot be written, or an error of the ledger.
    pub fn store(
        self,
        ledger: &mut Ledger,
        private: &PrivateFolder,
        path: &Path,
        fill: impl FnOnce(&NoisyHistogram, &mut BufWriter<&mut File>) -> io::Result<()>,
    ) -> Result<NoisyHistogram, PrivacyError> {
        atomic::write_via(private.path(), path, |file| fill(&self.histogram, file))
            .map_err(PrivacyError::io("write", path))?;
        ledger.confirm_stored(self.iteration, &self.histogram)?;
        Ok(self.histogram)
    }
}

/// A histogram of votes with noise: may be published, and anything may be computed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoisyHistogram {
    lattice: Vec<i64>,
}

impl NoisyHistogram {
    /// Takes up a histogram that was released before, in units of [`NoisyHistogram::spacing`]
    /// votes.
    #[must_use]
    pub fn from_lattice(lattice: Vec<i64>) -> Self {
        Self { lattice }
    }

    /// The noisy counts in units of [`NoisyHistogram::spacing`] votes, one a bin.
    #[must_use]
    pub fn lattice(&self) -> &[i64] {
        &self.lattice
    }

    /// The distance of two neighbouring values, in votes: 2⁻²⁰.
    #[must_use]
    pub fn spacing() -> f64 {
        1.0 / f64::from(1u32 << LATTICE_BITS)
    }

    /// The noisy counts in votes, one a bin; exact below 2^33 votes.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        let spacing = Self::spacing();
        let value = |lattice: &i64| *lattice as f64 * spacing;
        self.lattice.iter().map(value).collect()
    }

    /// SHA-256 over the values, by which the ledger knows the histogram again.
    pub(super) fn digest(&self) -> String {
        let bytes: Vec<u8> = self.lattice.iter().flat_map(|v| v.to_le_bytes()).collect();
        sha256_hex(&bytes)
    }
}

#[cfg(test)]
#[path = "mechanism_tests.rs"]
mod tests;
