//! Where weights come from, and reading them strictly.
//!
//! [`Checkpoint`] opens PyTorch's `.pt` files (both formats) and `.safetensors`. A model is built only
//! if every tensor that it needs is there in the right shape and every tensor of the file is used.

mod checkpoint;

pub use checkpoint::{Checkpoint, CheckpointError, Mismatch, Misshapen, TensorInfo};
