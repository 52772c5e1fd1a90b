//! The exact votes while they are counted: a number for each sample, or one list for each client.

use std::ops::Range;

use crate::privacy::{ClientVotes, VoteCounts};

/// The votes for all samples, class after class.
pub(super) enum Tally {
    /// The unit is an image: the number of votes of each sample.
    Images(Vec<u64>),
    /// The unit is a client.
    Clients {
        /// Number of samples.
        samples: usize,
        /// The votes of each client.
        votes: Vec<ClientVotes>,
    },
}

impl Tally {
    /// Creates a tally without votes; `clients` is the number of clients, or `None` if the unit is
    /// an image.
    pub(super) fn new(samples: usize, clients: Option<usize>) -> Self {
        match clients {
            None => Self::Images(vec![0; samples]),
            Some(clients) => Self::Clients {
                samples,
                votes: vec![ClientVotes::new(); clients],
            },
        }
    }

    /// Adds the votes of images of one class: `ids` has the `k` nearest samples of each image, as
    /// positions in the `range` of the class, and `clients` the client of each image.
    pub(super) fn add(&mut self, range: &Range<usize>, ids: &[u32], k: usize, clients: &[u32]) {
        match self {
            Self::Images(counts) => {
                let class = counts.get_mut(range.clone()).unwrap_or_default();
                for id in ids {
                    if let Some(count) = class.get_mut(*id as usize) {
                        *count += 1;
                    }
                }
            }
            Self::Clients { votes, .. } => {
                for (ids, client) in ids.chunks(k.max(1)).zip(clients) {
                    if let Some(votes) = votes.get_mut(*client as usize) {
                        for id in ids {
                            let bin = range.start as u32 + id;
                            *votes.entry(bin).or_default() += 1;
                        }
                    }
                }
            }
        }
    }

    /// Returns the counts with the bound that one unit obeys, where each image had `k` votes.
    pub(super) fn finish(self, k: usize) -> VoteCounts {
        match self {
            Self::Images(counts) => {
                VoteCounts::of_images(&counts, u32::try_from(k).unwrap_or(u32::MAX))
            }
            Self::Clients { samples, votes } => VoteCounts::of_clients(samples, &votes),
        }
    }
}
