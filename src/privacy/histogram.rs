//! [`NoisyHistogram`]: vote counts with noise, on the lattice of multiples of 2⁻²⁰ votes.

use super::fingerprint::sha256_hex;
use super::lattice::LATTICE_BITS;

/// A histogram of votes with noise. It may be published, and anything may be computed from it
/// (post-processing).
///
/// Bins are ordered as the clean counts were: all bins of the first class, then of the second, and
/// so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoisyHistogram {
    lattice: Vec<i64>,
}

impl NoisyHistogram {
    /// Wraps a histogram that was released before, in units of [`NoisyHistogram::spacing`] votes.
    #[must_use]
    pub fn from_lattice(lattice: Vec<i64>) -> Self {
        Self { lattice }
    }

    /// Returns the noisy counts in units of [`NoisyHistogram::spacing`] votes, one per bin.
    #[must_use]
    pub fn lattice(&self) -> &[i64] {
        &self.lattice
    }

    /// Returns the distance between two adjacent lattice values, in votes: 2⁻²⁰.
    #[must_use]
    pub fn spacing() -> f64 {
        1.0 / f64::from(1u32 << LATTICE_BITS)
    }

    /// Returns the noisy counts in votes, one per bin. The conversion is exact below 2³³ votes.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        let spacing = Self::spacing();
        let value = |lattice: &i64| *lattice as f64 * spacing;
        self.lattice.iter().map(value).collect()
    }

    /// Returns the SHA-256 of the lattice values (little-endian `i64`), which the ledger records.
    pub(super) fn digest(&self) -> String {
        let bytes: Vec<u8> = self.lattice.iter().flat_map(|v| v.to_le_bytes()).collect();
        sha256_hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_exact_multiples_of_the_spacing() {
        let lattice = vec![-1, 1, (1 << 53) - 1, -(1 << 40) + 3];
        let values = NoisyHistogram::from_lattice(lattice.clone()).values();
        let back: Vec<i64> = values.iter().map(|v| (v * 1_048_576.0) as i64).collect();
        assert_eq!(back, lattice);
    }
}
