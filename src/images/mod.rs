//! Images as bytes: batches, folders and npz files, Pillow-exact resampling, grids.
//!
//! Three layers, each using only those before it:
//!
//! * pixels: [`ImageBatch`], [`Resampler`] (weights in `filter`), `covering` and
//!   [`center_crop`];
//! * files: [`decode`](fn@decode), the `.npy` header, [`NpzReader`] and [`NpzWriter`],
//!   [`SamplesReader`] and [`SamplesWriter`], [`png`](fn@png) and [`grid`](fn@grid);
//! * the private data: [`DataConfig`] declares, a `container` lists, `choose` limits, and
//!   [`ImageSource`] reads.

mod batch;
mod choose;
mod clients;
mod container;
mod content;
mod crop;
mod data_config;
mod decode;
mod error;
mod filter;
mod grid;
mod layout;
mod name;
mod npy;
mod npz;
mod reader;
mod resize;
mod samples;
mod size;
mod source;
mod table;

pub use batch::{BatchError, ImageBatch};
pub use clients::ClientsConfig;
pub(crate) use container::fuzzing;
pub use content::{content_digests, content_digests_with};
pub use crop::{center_crop, resize_to_cover};
pub use data_config::{DataConfig, Duplicates, OnBadImage, UndeclaredClass, missing_classes};
pub use decode::{
    DecodeError, DecodeOptions, Decoded, EXTENSIONS, Format as FileFormat, MAX_PIXELS, Orientation,
    Rgb, SixteenBit, decode, decode_as, decoding_memory,
};
pub use error::ImagesError;
pub use filter::Filter;
pub use grid::{PictureError, grid, png, write_png};
pub use layout::{Choose, Format, Labels, Layout};
pub use name::{shown_lines, shown_text};
pub use npz::{NpzError, NpzReader, NpzWriter};
pub use reader::{LARGEST_IMAGE_MEMORY, READING_MEMORY};
pub use resize::{Resampler, ResizeError, resize_bicubic_float};
pub use samples::{SamplesReader, SamplesWriter};
pub use size::ImageSize;
pub use source::{ImageSource, OccurringClasses};
