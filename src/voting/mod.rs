//! Exact nearest neighbors, the histogram of votes, and the selection of parents.
//!
//! In: the embeddings of the synthetic population (public) and of the private images
//! ([`Sensitive`](crate::privacy::Sensitive)). Out: a histogram of integer votes, still sensitive;
//! only [`crate::privacy`] can turn it into something that may be used. After that,
//! [`threshold`] and [`select`](fn@select) are post-processing.

mod histogram;
mod nearest;
mod select;
mod tally;

pub use histogram::{Clients, PrivateEmbeddings, SampleEmbeddings, VotingError, nn_histogram};
pub use nearest::{Metric, NearestError, SearchOptions, nearest_neighbors, sum_over};
pub use select::{SelectionMode, select, threshold};
