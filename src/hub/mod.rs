//! Model files: checkpoints, and repositories of the Hugging Face hub.
//!
//! [`Checkpoint`] opens PyTorch's `.pt` files (both formats, and TorchScript archives) and
//! `.safetensors` files. A model is built only if the file has all of its tensors in the right
//! shapes, and no others. [`ModelFiles`] locates the files of a model in a folder or on the hub.

mod checkpoint;
mod digest;
mod files;
mod requirement;

pub use checkpoint::{Checkpoint, CheckpointError, TensorInfo};
pub(crate) use digest::sha256_watched;
pub use digest::{sha256_file, weights_digest};
pub use files::{FilesError, Integrity, ModelFiles};
pub use requirement::Requirement;
