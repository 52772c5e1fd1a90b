//! [`Charge`]: the proof that one release is recorded in the ledger.

use num_bigint::BigUint;

use super::noise_source::NoiseOrigin;
use super::settings::ResolvedPrivacy;

/// Proof that the cost of one release is in the ledger and on disk.
///
/// [`Ledger::charge`](super::Ledger::charge) is the only function that creates one for private
/// images, and [`release`](super::release) consumes it. The type is neither `Clone` nor `Copy`, so
/// one ledger entry permits one release:
///
/// ```compile_fail,E0599
/// # fn charge() -> dpsyn::Charge { unimplemented!() }
/// let charge = charge();
/// let again = charge.clone();
/// ```
#[must_use = "the charge is in the ledger: use it for a release"]
pub struct Charge {
    iteration: u32,
    resumed: bool,
    pub(super) noise: Noise,
    pub(super) origin: NoiseOrigin,
}

/// The noise that is added to each count.
pub(super) enum Noise {
    /// No noise: every output of the run is marked as non-private.
    Nothing,
    /// Discrete Gaussian noise with this parameter, in units of the lattice.
    DiscreteGaussian(BigUint),
}

impl Charge {
    /// Creates the proof. Called by the ledger only, after the entry was synced to disk.
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

    /// Creates a charge that is in no ledger, for one release of an audit's public images. Called
    /// by [`Trial`](super::Trial) only.
    pub(super) fn of_audit(iteration: u32, privacy: &ResolvedPrivacy) -> Self {
        Self::new(iteration, false, privacy)
    }

    /// Returns the iteration that was charged, counted from 1.
    #[must_use]
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// Returns true if the entry was already in the ledger, written by a process that ended before
    /// it stored its histogram.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}
