//! The result folder: populations, votes, pictures, and the shards of unfinished work.
//!
//! Each file appears whole under its final name or not at all. A resumed run reads finished files back
//! and computes the missing ones, so a run that was killed at any moment and resumed leaves the same
//! files as an uninterrupted one.

mod layout;
mod lock;
pub mod pictures;
mod population;
mod run_dir;
mod shard_writer;
mod shards;

pub use layout::ClassLayout;
pub(crate) use lock::MetricsLock;
pub use population::Population;
pub(crate) use population::{npz_error, store};
pub use run_dir::{Existing, RunDir};
pub use shard_writer::ShardWriter;
pub use shards::ShardStore;
