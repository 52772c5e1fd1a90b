//! Images as bytes: batches, reading folders and npz files, PIL-exact resampling, grids, npz writing.

mod batch;
mod filter;
mod resize;

pub use batch::{BatchError, ImageBatch};
pub use filter::Filter;
pub use resize::{Resampler, ResizeError, resize_batch_float, resize_bicubic_float};
