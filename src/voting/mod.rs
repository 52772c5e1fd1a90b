//! Who votes for whom: exact nearest neighbours, and the histogram of votes.
//!
//! In: the embeddings of the synthetic population (public) and of the private images
//! ([`Sensitive`](crate::privacy::Sensitive)). Out: a histogram of integer votes, still sensitive;
//! only [`crate::privacy`] can turn it into something that may be used. After that,
//! [`threshold`] and the [`selection`](Selection) are post-processing.

mod ballot;
mod nearest;
mod select;

pub use ballot::{Poll, PrivateVoters, VotingError, cast_votes};
pub use nearest::{Metric, NearestError, nearest_neighbours};
pub use select::{Selection, SelectionMode, select, threshold};
