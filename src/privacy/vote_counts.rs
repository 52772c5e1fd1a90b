//! [`VoteCounts`]: the exact votes in units of the lattice, with the bound that one unit obeys.

use super::lattice::LATTICE_BITS;

/// Exact votes of every bin in units of the lattice (2⁻²⁰ votes), one class after the other.
///
/// The constructor states the bound on what one unit contributes.
pub struct VoteCounts {
    lattice: Vec<u64>,
}

impl VoteCounts {
    /// Counts whole votes: the unit is an image, which adds 1 to each of at most k distinct bins.
    /// Adding or removing one changes the counts by at most √k votes in L2 norm.
    ///
    /// A count of 2⁴⁴ votes or more saturates. Saturation never increases the distance between two
    /// histograms.
    #[must_use]
    pub fn of_images(votes: &[u64]) -> Self {
        let scale = 1u64 << LATTICE_BITS;
        let lattice = votes.iter().map(|votes| votes.saturating_mul(scale));
        Self {
            lattice: lattice.collect(),
        }
    }

    /// Returns the counts in units of the lattice.
    pub(super) fn lattice(&self) -> &[u64] {
        &self.lattice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_count_in_whole_votes() {
        let one = 1 << LATTICE_BITS;
        let counts = VoteCounts::of_images(&[0, 3, u64::MAX]);
        assert_eq!(counts.lattice(), [0, 3 * one, u64::MAX]);
    }
}
