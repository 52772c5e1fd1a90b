//! Images as bytes: batches, reading folders and npz files, PIL-exact resampling, grids, npz writing.

mod batch;

pub use batch::{BatchError, ImageBatch};
