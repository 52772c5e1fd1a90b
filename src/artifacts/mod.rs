//! The result folder: populations, votes, pictures, and the shards of unfinished work.
//!
//! Each file appears whole under its final name or not at all. [`RunStore`] reads finished
//! results back and computes the missing ones; nothing else knows about resuming. A run that was
//! killed at any moment and resumed leaves the same results as an uninterrupted one.

mod error;
mod layout;
mod lineage;
mod lock;
mod partial_mean;
mod pictures;
mod population;
mod run_dir;
mod shard_writer;
mod shards;
mod store;
mod votes;

pub use error::ArtifactsError;
pub use layout::ClassLayout;
pub use lineage::{Lineage, Origin, distinct_ancestors, effective_parents};
pub(crate) use lock::MetricsLock;
pub use partial_mean::PartialMean;
pub use population::{GeneratedImages, Population, read_parameters};
pub use run_dir::{Existing, RunDir};
pub use shard_writer::ShardWriter;
pub use shards::ShardStore;
pub use store::{RunStore, WorkPhase};
pub use votes::ReleasedVotes;
