//! [`Unit`]: whose participation is protected.

use serde::{Deserialize, Serialize};

/// The unit whose participation is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One private image. A person with several images in the data set is protected less (group
    /// privacy).
    #[default]
    Image,
    /// All private images of one client: a patient, a user, a device. Their votes are scaled down
    /// together ([`VoteCounts::of_clients`](super::VoteCounts::of_clients)).
    Client,
}

/// The largest number of samples on which clients may vote, all classes together. The reserve of
/// the accountant covers that many bins (module `lattice`).
pub const MOST_BINS_OF_CLIENTS: u64 = 1 << 20;

impl Unit {
    /// Returns the name used in configurations, ledgers and statements.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Client => "client",
        }
    }

    /// Returns the largest squared L2 norm of the votes of one unit, if every image votes for
    /// `nearest_neighbors` samples.
    #[must_use]
    pub fn squared_votes(self, nearest_neighbors: u32) -> u32 {
        match self {
            Self::Image => nearest_neighbors,
            Self::Client => 1,
        }
    }

    /// Returns the largest number of bins in which the histograms of neighboring data sets differ:
    /// two images, each with its votes, or the bins of all samples.
    #[must_use]
    pub fn changed_bins(self, nearest_neighbors: u32) -> u64 {
        match self {
            Self::Image => 2 * u64::from(nearest_neighbors),
            Self::Client => MOST_BINS_OF_CLIENTS,
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
