//! The release mechanism: from sensitive vote counts to a noisy histogram that may be published.
//!
//! **Statement.** Let one private image (the unit) add 1 to each of k distinct bins, and let one
//! histogram hold all bins of all classes. σ and k are those of the iteration; both may change from
//! one to the next. Two neighboring data sets then give histograms that differ by at most √k in L2
//! norm under add-remove adjacency, and by at most √(2k) under replace-one adjacency, also if the
//! replaced image and its replacement are of different classes. If the unit is a client, its votes
//! are scaled down to a norm of at most 1, and the two bounds are 1 and √2
//! ([`VoteCounts::of_clients`]); then read 1 for k below. [`release`] adds to every bin independent
//! discrete Gaussian noise of parameter at least σ·√k (in votes) on the lattice of multiples of
//! 2⁻²⁰. One release is therefore (1/2σ²)-zCDP under add-remove adjacency and (1/σ²)-zCDP under
//! replace-one adjacency, without any approximation (Canonne, Kamath, Steinke 2020, Theorem 4). The
//! module `lattice` proves the step from the discrete to the continuous Gaussian, and the module
//! `accountant` computes the ε with which T releases, each with its own σ, are (ε, δ)-DP.
//!
//! The classes need no composition theorem: one release is the concatenation of the bins of all
//! classes, and an image votes only for samples of its own class.
//!
//! **Order.** Noise is drawn only in exchange for a [`Charge`], which [`Ledger::charge`] returns
//! after the entry is on disk. A charge is consumed and cannot be copied. The noisy histogram, in
//! turn, cannot be read before it is on disk ([`UnpublishedHistogram::store`]): it is written to
//! the private folder and synced, its digest is recorded in the ledger, and only then is the file
//! renamed to its public place.
//!
//! **Drawing again.** A process that was killed on the way, a copy of the result folder or a
//! restored snapshot draws again under the same charge. The noise is a function of the run's secret
//! key, the iteration, the counts and the candidates (module `noise_source`), and of σ of the
//! iteration, to which the header of the ledger is bound, so all of them obtain the same histogram:
//! one release. If the counts are not the same, for example because another machine rounds
//! embeddings in another way, the digest in the ledger refuses the second histogram. The charge is
//! bound to the candidates, so another population cannot be voted on under it.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use num_bigint::{BigInt, BigUint};

use super::charge::{Charge, Noise};
use super::discrete_gaussian::DiscreteGaussian;
use super::error::PrivacyError;
use super::histogram::NoisyHistogram;
use super::ledger::Ledger;
use super::noise_source::NoiseSource;
use super::private_folder::PrivateFolder;
use super::sensitive::Sensitive;
use super::unit::{MOST_BINS_OF_CLIENTS, Unit};
use super::vote_counts::VoteCounts;
use crate::atomic;
use crate::kill_point::{KillPoint, reach};

/// Adds noise to the counts. This is the only function that turns sensitive counts into a value
/// that may be published.
///
/// `counts` holds the votes of every bin of every class, one class after the other. The caller
/// guarantees the two premises of the module's statement: the bins, their number and their order
/// do not depend on private images, and each unit changes the votes by at most the stated norm
/// (see [`VoteCounts`]).
///
/// # Errors
/// Returns [`PrivacyError::Config`] if σ is not positive, which a resolved configuration excludes.
pub fn release(
    counts: Sensitive<VoteCounts>,
    charge: Charge,
) -> Result<UnpublishedHistogram, PrivacyError> {
    let counts = counts.expose();
    check_covered(counts, &charge)?;
    let counts = counts.lattice();
    let lattice = match &charge.noise {
        Noise::Nothing => counts.iter().map(|count| clamp(&(*count).into())).collect(),
        Noise::DiscreteGaussian { sigma, key } => {
            let mut source = key.noise(charge.iteration(), counts, &charge.candidates);
            add_noise(counts, sigma, &mut source)?
        }
    };
    Ok(UnpublishedHistogram {
        iteration: charge.iteration(),
        histogram: NoisyHistogram::from_lattice(lattice),
    })
}

/// Returns count + Z for every count in units of the lattice, where each Z is an independent sample
/// of the discrete Gaussian with parameter `sigma` in the same units.
fn add_noise(
    counts: &[u64],
    sigma: &BigUint,
    source: &mut dyn NoiseSource,
) -> Result<Vec<i64>, PrivacyError> {
    let sampler = DiscreteGaussian::new(sigma.pow(2), &BigUint::from(1u32))?;
    let noisy = |count: &u64| Ok(clamp(&(BigInt::from(*count) + sampler.sample(source)?)));
    counts.iter().map(noisy).collect()
}

/// Checks that the noise of the charge covers the unit and the number of votes of each image: a
/// defect of the program must not release votes of images as those of clients, or the votes of one
/// iteration with the noise of another.
fn check_covered(counts: &VoteCounts, charge: &Charge) -> Result<(), PrivacyError> {
    let refuse = |message: String| {
        Err(PrivacyError::Order {
            iteration: charge.iteration(),
            message,
        })
    };
    let (counted, charged) = (counts.unit(), charge.unit);
    if counted != charged {
        return refuse(format!(
            "the votes are those of one {counted}, but one {charged} is charged"
        ));
    }
    let (cast, covered) = (counts.nearest_neighbors(), charge.nearest_neighbors);
    if counted == Unit::Image && cast > covered {
        return refuse(format!(
            "each image has up to {cast} votes, but {covered} are charged"
        ));
    }
    let bins = counts.lattice().len() as u64;
    if charged == Unit::Client && bins > MOST_BINS_OF_CLIENTS {
        return refuse(format!(
            "{bins} samples: expected at most {MOST_BINS_OF_CLIENTS} if the unit is a client"
        ));
    }
    Ok(())
}

/// Clamps a value outside of `i64`.
///
/// Clamping depends on the noisy value only, so it is post-processing; with fewer than 2⁴² votes
/// in a bin and any permitted noise multiplier it never occurs.
fn clamp(value: &BigInt) -> i64 {
    let limit = if *value < BigInt::ZERO {
        i64::MIN
    } else {
        i64::MAX
    };
    i64::try_from(value).unwrap_or(limit)
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

    /// Writes the histogram with `fill` to a file in the private folder, records its digest in the
    /// ledger, renames the file to `path`, and only then returns the histogram.
    ///
    /// `path` must be on the file system of the private folder. A process that is killed before the
    /// rename leaves no file outside of the private folder.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Io`] if the file cannot be written, or the error of
    /// [`Ledger::record_drawn`].
    pub fn store(
        self,
        ledger: &mut Ledger,
        private: &PrivateFolder,
        path: &Path,
        fill: impl FnOnce(&NoisyHistogram, &mut BufWriter<&mut File>) -> io::Result<()>,
    ) -> Result<NoisyHistogram, PrivacyError> {
        let drawn = private.drawn_votes(self.iteration);
        atomic::write_via(private.path(), &drawn, |file| fill(&self.histogram, file))
            .map_err(PrivacyError::io("write", &drawn))?;
        ledger.record_drawn(self.iteration, &self.histogram)?;
        reach(KillPoint::HistogramRecorded);
        atomic::publish(&drawn, path).map_err(PrivacyError::io("publish", path))?;
        reach(KillPoint::HistogramInPlace);
        Ok(self.histogram)
    }
}

#[cfg(test)]
#[path = "mechanism_tests.rs"]
mod tests;
