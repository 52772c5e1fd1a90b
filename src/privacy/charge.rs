//! [`Charge`]: the proof that one release is recorded in the ledger.

use num_bigint::BigUint;

use super::noise_source::NoiseKey;
use super::unit::Unit;

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
    /// The unit whose votes the noise covers.
    pub(super) unit: Unit,
    /// k of the iteration: the largest number of votes of an image that the noise covers.
    pub(super) nearest_neighbors: u32,
    /// SHA-256 of the population that was voted on.
    pub(super) candidates: String,
}

/// The noise of one iteration, which is added to each count.
pub(super) enum Noise {
    /// No noise: every output of the run is marked as non-private.
    Nothing,
    /// Discrete Gaussian noise.
    DiscreteGaussian {
        /// Parameter in units of the lattice.
        sigma: BigUint,
        /// Key of the run, from which the random bits are derived.
        key: NoiseKey,
    },
}

impl Charge {
    /// Creates the proof. Called by the ledger only, after the entry was synced to disk.
    pub(super) fn new(
        iteration: u32,
        resumed: bool,
        noise: Noise,
        unit: Unit,
        nearest_neighbors: u32,
        candidates: &str,
    ) -> Self {
        Self {
            iteration,
            resumed,
            noise,
            unit,
            nearest_neighbors,
            candidates: candidates.to_owned(),
        }
    }

    /// Creates a charge that is in no ledger, for one release of an audit's public images. Called
    /// by [`Trial`](super::Trial) only.
    pub(super) fn of_audit(
        iteration: u32,
        noise: Noise,
        unit: Unit,
        nearest_neighbors: u32,
    ) -> Self {
        // No file holds the population of an audit.
        Self::new(iteration, false, noise, unit, nearest_neighbors, "")
    }

    /// Returns the iteration that was charged, counted from 1.
    #[must_use]
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// Returns true if the entry was already in the ledger, written by an earlier process.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}
