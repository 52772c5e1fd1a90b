//! Who votes for whom: exact nearest neighbours, and the histogram of votes.
//!
//! In: the embeddings of the synthetic population (public) and of the private images
//! ([`Sensitive`](crate::privacy::Sensitive)). Out: a histogram of integer votes, still sensitive;
//! only [`crate::privacy`] can turn it into something that may be used. After that,
//! [`threshold`] and the [`selection`](Selection) are post-processing.

mod histogram;
mod nearest;
mod select;

pub use histogram::{PrivateEmbeddings, VotingError, nn_histogram};
pub use nearest::{Metric, NearestError, nearest_neighbors};
pub use select::{Selection, SelectionMode, select, threshold};
