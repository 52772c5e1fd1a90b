//! The release mechanism: from sensitive vote counts to a noisy histogram that may be published.
//!
//! **Statement.** Let one private image (the unit) add 1 to each of k distinct bins, and let one
//! histogram hold all bins of all classes. Two neighboring data sets then give histograms that
//! differ by at most √k in L2 norm under add-remove adjacency, and by at most √(2k) under
//! replace-one adjacency, also if the replaced image and its replacement are of different classes.
//! [`release`] adds to every bin independent discrete Gaussian noise of parameter at least σ·√k
//! (in votes) on the lattice of multiples of 2⁻²⁰. One release is therefore (1/2σ²)-zCDP under
//! add-remove adjacency and (1/σ²)-zCDP under replace-one adjacency, without any approximation
//! (Canonne, Kamath, Steinke 2020, Theorem 4). T releases are (ε, δ)-DP with the ε that
//! [`epsilon`](super::epsilon) returns. The module `lattice` proves the step from the discrete to
//! the continuous Gaussian, and the module `accountant` covers the composition.
//!
//! The classes need no composition theorem: one release is the concatenation of the bins of all
//! classes, and an image votes only for samples of its own class.
//!
//! **Order.** Noise is sampled only in exchange for a [`Charge`], which
//! [`Ledger::charge`] returns after the entry is on disk. A charge is consumed and cannot be
//! copied. The sampled histogram, in turn, cannot be read before it is on disk
//! ([`UnpublishedHistogram::store`]).
//!
//! **Sampling again after a crash.** If a process is killed between the charge and
//! [`UnpublishedHistogram::store`], the resumed process samples again under the same charge. This
//! is one release, not two, because the first sample never left its process: it existed in memory
//! and at most as a temporary file in the private folder, and the resumed process deletes such
//! files before anything else. A temporary file next to the final path would not be safe: an
//! observer could read both samples, whose mean has √2 times less noise than was accounted for.
//! Once a histogram is at its final path, the ledger records its digest and refuses another sample
//! for that iteration.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use num_bigint::{BigInt, BigUint};

use super::charge::{Charge, Noise};
use super::discrete_gaussian::DiscreteGaussian;
use super::error::PrivacyError;
use super::histogram::NoisyHistogram;
use super::lattice::LATTICE_BITS;
use super::ledger::Ledger;
use super::noise_source::NoiseSource;
use super::private_folder::PrivateFolder;
use super::sensitive::Sensitive;
use crate::atomic;
use crate::kill_point::{KillPoint, reach};

/// Adds noise to the counts. This is the only function that turns sensitive counts into a value
/// that may be published.
///
/// `counts` holds the votes of every bin of every class, one class after the other. The caller
/// guarantees the two premises of the module's statement: the bins, their number and their order
/// do not depend on private images, and each image voted for at most k distinct bins, once each.
///
/// # Errors
/// Returns [`PrivacyError::Randomness`] if the operating system supplies no random bytes. The
/// charge then stays in the ledger, and a new process may use it.
pub fn release(
    counts: Sensitive<Vec<u64>>,
    charge: Charge,
) -> Result<UnpublishedHistogram, PrivacyError> {
    let mut source = charge.origin.open(charge.iteration());
    let lattice = add_noise(counts.expose(), &charge.noise, source.as_mut())?;
    Ok(UnpublishedHistogram {
        iteration: charge.iteration(),
        histogram: NoisyHistogram::from_lattice(lattice),
    })
}

/// Returns count·2^g + Z for every count, where each Z is an independent sample of `noise`.
///
/// A result outside of `i64` is clamped. Clamping depends on the noisy value only, so it is
/// post-processing; with fewer than 2⁴² votes in a bin and any permitted noise multiplier it never
/// occurs.
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

/// A noisy histogram that is not on disk yet and therefore cannot be read.
#[must_use = "store it: until then it cannot be read, and the charge is spent"]
pub struct UnpublishedHistogram {
    iteration: u32,
    histogram: NoisyHistogram,
}

impl UnpublishedHistogram {
    /// Returns the histogram of an audit, whose images are public. Called by
    /// [`Trial`](super::Trial) only.
    pub(super) fn of_audit(self) -> NoisyHistogram {
        self.histogram
    }

    /// Writes the histogram to `path` with `fill`, records its digest in the ledger, and only then
    /// returns it.
    ///
    /// The file is written inside the private folder, synced, and renamed to `path`, which must be
    /// on the same file system. A process that is killed on the way leaves no file outside of the
    /// private folder.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Io`] if the file cannot be written, or the error of
    /// [`Ledger::confirm_stored`].
    pub fn store(
        self,
        ledger: &mut Ledger,
        private: &PrivateFolder,
        path: &Path,
        fill: impl FnOnce(&NoisyHistogram, &mut BufWriter<&mut File>) -> io::Result<()>,
    ) -> Result<NoisyHistogram, PrivacyError> {
        atomic::write_via(private.path(), path, |file| fill(&self.histogram, file))
            .map_err(PrivacyError::io("write", path))?;
        reach(KillPoint::HistogramInPlace);
        ledger.confirm_stored(self.iteration, &self.histogram)?;
        Ok(self.histogram)
    }
}

#[cfg(test)]
#[path = "mechanism_tests.rs"]
mod tests;
