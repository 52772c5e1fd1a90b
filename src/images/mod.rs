//! Images as bytes: batches, folders and npz files, Pillow-exact resampling, grids.
//!
//! Three layers, each using only those before it:
//!
//! * pixels: [`ImageBatch`], [`Resampler`] (weights in `filter`), `shorter_side_to` and
//!   [`center_crop`];
//! * files: [`decode`](fn@decode), the `.npy` header, [`NpzReader`] and [`NpzWriter`],
//!   [`SamplesReader`] and [`SamplesWriter`], [`png`] and [`grid`](fn@grid);
//! * the private data: [`DataConfig`] declares, `folder` lists, [`ImageSource`] reads.

mod batch;
mod clients;
mod container;
mod content;
mod crop;
mod data_config;
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
pub use clients::ClientsConfig;
pub use content::content_digests;
pub use crop::{center_crop, resize_shorter_side};
pub use data_config::{DataConfig, Duplicates, OnBadImage, UndeclaredClass, missing_classes};
pub use decode::{
    DecodeError, DecodeOptions, Decoded, EXTENSIONS, Format, Orientation, Rgb, SixteenBit, decode,
    decode_as, decoding_memory,
};
pub use error::ImagesError;
pub use filter::Filter;
pub use grid::{PictureError, grid, png, write_png};
pub use npz::{NpzError, NpzReader, NpzWriter};
pub use resize::{Resampler, ResizeError, resize_bicubic_float};
pub use samples::{SamplesReader, SamplesWriter};
pub use source::{ImageSource, OccurringClasses};
