//! Images as bytes: batches, reading folders and npz files, PIL-exact resampling, grids, npz writing.
//!
//! Three layers, each using only those before it:
//!
//! * pixels: [`ImageBatch`], [`Resampler`] (weights in `filter`), [`shorter_side_to`] and
//!   [`center_crop`];
//! * files: [`decode`], the `.npy` header, [`NpzReader`] and [`NpzWriter`], [`SamplesReader`] and
//!   [`SamplesWriter`], [`png`] and [`grid`];
//! * the private data: `folder` lists, [`ImageSource`] reads.

mod batch;
mod crop;
mod decode;
mod error;
mod filter;
mod folder;
mod grid;
mod npy;
mod npz;
mod resize;
mod samples;
mod source;

pub use batch::{BatchError, ImageBatch};
pub use crop::{center_crop, resize_shorter_side, shorter_side_to};
pub use decode::{DecodeError, MAX_PIXELS, Rgb, decode};
pub use error::ImagesError;
pub use filter::Filter;
pub use folder::EXTENSIONS;
pub use grid::{PictureError, grid, png, write_png};
pub use npy::NpyError;
pub use npz::{NpzError, NpzReader, NpzWriter};
pub use resize::{Resampler, ResizeError, resize_batch_float, resize_bicubic_float};
pub use samples::{IMAGE_KEYS, LABEL_KEYS, SAMPLES_KEY, SamplesReader, SamplesWriter};
pub use source::{ALL_CLASS, DataConfig, ImageSource, OnBadImage, Skipped};
