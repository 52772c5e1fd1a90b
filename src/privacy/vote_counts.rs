//! [`VoteCounts`]: the exact votes in units of the lattice, with the bound that one unit obeys.

use std::collections::BTreeMap;

use super::lattice::LATTICE_BITS;
use super::unit::Unit;

/// Exact votes of every bin in units of the lattice (2⁻²⁰ votes), one class after the other.
///
/// The two constructors are the two units of privacy, and each states its bound on what one unit
/// contributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteCounts {
    unit: Unit,
    /// k, the largest number of votes of an image; 1 for clients, whose bound has no k.
    nearest_neighbors: u32,
    lattice: Vec<u64>,
}

/// The votes of one client: for each bin, the number of the client's images that vote for it.
pub type ClientVotes = BTreeMap<u32, u32>;

impl VoteCounts {
    /// Counts whole votes: the unit is an image, which adds 1 to each of at most k =
    /// `nearest_neighbors` distinct bins. Adding or removing one changes the counts by at most √k
    /// votes in L2 norm.
    ///
    /// A count of 2⁴⁴ votes or more saturates. Saturation never increases the distance between two
    /// histograms.
    #[must_use]
    pub fn of_images(votes: &[u64], nearest_neighbors: u32) -> Self {
        let scale = 1u64 << LATTICE_BITS;
        let lattice = votes.iter().map(|votes| votes.saturating_mul(scale));
        Self {
            unit: Unit::Image,
            nearest_neighbors,
            lattice: lattice.collect(),
        }
    }

    /// Adds up the votes of clients, each scaled down to an L2 norm of at most 1 vote.
    ///
    /// For a client with v_j votes in bin j and N = Σ v_j², the contribution to bin j is
    /// w_j = ⌊v_j·2²⁰/√N⌋ in units of the lattice, so Σ w_j² ≤ 2⁴⁰·Σ v_j²/N = (2²⁰)². Adding or
    /// removing one client changes the counts by exactly its w, at most 1 vote in L2 norm.
    /// Replacing a client changes them by w − w′, where all entries of both are at least 0, so
    /// ‖w − w′‖² ≤ ‖w‖² + ‖w′‖² ≤ 2. Classes need no separate treatment: the bins of all classes
    /// are coordinates of one vector, and N sums over all of them.
    ///
    /// The floor is computed exactly: ⌊√⌊v_j²·2⁴⁰/N⌋⌋ = ⌊v_j·2²⁰/√N⌋ for integers.
    ///
    /// Votes for a bin that does not exist are not counted.
    #[must_use]
    pub fn of_clients<'a>(bins: usize, clients: impl IntoIterator<Item = &'a ClientVotes>) -> Self {
        let mut lattice = vec![0u64; bins];
        for votes in clients {
            for (bin, weight) in scaled(votes) {
                if let Some(count) = lattice.get_mut(bin as usize) {
                    *count = count.saturating_add(weight);
                }
            }
        }
        Self {
            unit: Unit::Client,
            nearest_neighbors: 1,
            lattice,
        }
    }

    /// Returns the unit whose contribution is bounded.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns the largest number of votes of an image, if the unit is an image.
    #[must_use]
    pub fn nearest_neighbors(&self) -> u32 {
        self.nearest_neighbors
    }

    /// Returns the votes of a defective mechanism, which counts each vote twice.
    #[cfg(test)]
    pub fn counted_twice(&self) -> Self {
        Self {
            unit: self.unit,
            nearest_neighbors: self.nearest_neighbors,
            lattice: self.lattice.iter().map(|count| 2 * count).collect(),
        }
    }

    /// Returns the counts in units of the lattice.
    pub(super) fn lattice(&self) -> &[u64] {
        &self.lattice
    }
}

/// Returns w of [`VoteCounts::of_clients`] for one client.
fn scaled(votes: &ClientVotes) -> impl Iterator<Item = (u32, u64)> {
    let square = |votes: u32| u128::from(votes).pow(2);
    // At most 2³² bins of at most (2³²)² each.
    let norm: u128 = votes.values().map(|votes| square(*votes)).sum();
    votes
        .iter()
        .filter(|(_, votes)| **votes > 0)
        .map(move |(bin, votes)| {
            // √N is at least v_j, so the quotient is at most 2⁴⁰ and its root at most 2²⁰.
            let ratio = (square(*votes) << (2 * LATTICE_BITS)) / norm;
            (*bin, ratio.isqrt() as u64)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::streams::{Phase, RngKey};

    const ONE: u64 = 1 << LATTICE_BITS;

    fn squared_norm(weights: impl Iterator<Item = (u32, u64)>) -> u128 {
        weights.map(|(_, w)| u128::from(w) * u128::from(w)).sum()
    }

    #[test]
    fn images_count_in_whole_votes() {
        let counts = VoteCounts::of_images(&[0, 3, u64::MAX], 1);
        assert_eq!(counts.lattice(), [0, 3 * ONE, u64::MAX]);
    }

    #[test]
    fn a_single_vote_is_not_scaled_and_many_are() {
        let of = |votes: &[(u32, u32)]| {
            VoteCounts::of_clients(3, &[votes.iter().copied().collect()]).lattice
        };
        assert_eq!(of(&[(1, 1)]), [0, ONE, 0]);
        assert_eq!(of(&[(1, 1000)]), [0, ONE, 0]);
        // 3-4-5: 0.6 and 0.8 votes, rounded toward zero.
        assert_eq!(of(&[(0, 3), (2, 4)]), [ONE * 6 / 10, 0, ONE * 8 / 10]);
        assert_eq!(of(&[(0, 0), (7, 1)]), [0, 0, 0]);
        assert_eq!(of(&[]), [0, 0, 0]);
    }

    /// The bound holds exactly for 10⁶ random clients and their replacements, in the integers that
    /// the noise is added to.
    #[test]
    fn one_client_contributes_at_most_one_vote_in_a_million_neighbors() {
        let mut rng = RngKey {
            seed: 15,
            phase: Phase::Select,
            iteration: 0,
            repeat: 0,
            sample: 0,
        }
        .rng();
        let bins = 6;
        let client = |rng: &mut crate::streams::KeyedRng| -> ClientVotes {
            let used = 1 + rng.below(bins);
            let largest = [2, 10, 1000, 1 << 32][rng.below(4) as usize];
            (0..used as u32)
                .map(|bin| (bin, rng.below(largest) as u32))
                .collect()
        };
        let bound = u128::from(ONE) * u128::from(ONE);
        let dense = |votes: &ClientVotes| {
            let mut weights = vec![0i128; bins as usize];
            for (bin, weight) in scaled(votes) {
                weights[bin as usize] += i128::from(weight);
            }
            weights
        };
        let rest = [client(&mut rng), client(&mut rng), client(&mut rng)];
        for trial in 0..1_000_000 {
            let (one, other) = (client(&mut rng), client(&mut rng));
            assert!(squared_norm(scaled(&one)) <= bound);
            let apart = dense(&one)
                .iter()
                .zip(dense(&other))
                .map(|(a, b)| (a - b).pow(2))
                .sum();
            let apart: i128 = apart;
            assert!(apart.unsigned_abs() <= 2 * bound);
            // In the sum with other clients, the difference is the client's own contribution.
            if trial % 1000 == 0 {
                let with = [&rest[..], std::slice::from_ref(&one)].concat();
                let (with, without) = (
                    VoteCounts::of_clients(bins as usize, &with),
                    VoteCounts::of_clients(bins as usize, &rest),
                );
                let difference = with
                    .lattice
                    .iter()
                    .zip(&without.lattice)
                    .map(|(a, b)| a - b);
                let expected: Vec<u64> = dense(&one).iter().map(|w| *w as u64).collect();
                assert_eq!(difference.collect::<Vec<_>>(), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn scaling_rounds_down_by_less_than_one_unit(
            votes in prop::collection::vec(any::<u32>(), 1..20),
        ) {
            let votes: ClientVotes = (0..).zip(votes).collect();
            let norm = votes.values().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            for (bin, weight) in scaled(&votes) {
                let exact = f64::from(votes[&bin]) * ONE as f64 / norm;
                prop_assert!(weight as f64 <= exact * (1.0 + 1e-12));
                prop_assert!(exact - (weight as f64) < 1.0 + 1e-6);
            }
        }
    }
}
