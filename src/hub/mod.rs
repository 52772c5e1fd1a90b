//! Where weights come from, and reading them strictly.

mod checkpoint;

pub use checkpoint::CheckpointError;
