//! Sources of weights, and a strict reader of checkpoints.
//!
//! [`Checkpoint`] opens PyTorch's `.pt` files (both formats, and TorchScript archives) and
//! `.safetensors`. A model is built only if every tensor that it needs is there in the right shape
//! and every tensor of the file is used. [`ModelFiles`] finds the files of a model that has
//! several, in a folder or on the Hugging Face hub.

mod checkpoint;
mod digest;
mod files;
mod requirement;

pub use checkpoint::{Checkpoint, CheckpointError, TensorInfo};
pub(crate) use digest::sha256_watched;
pub use digest::{sha256_file, weights_digest};
pub use files::{FilesError, Integrity, ModelFiles};
pub use requirement::Requirement;
