//! Weights and data sets: from their sources to the places where configurations look for them.
//!
//! The [`Catalogue`] says where an item comes from, what it must be and where it goes; a
//! [`Fetcher`] brings it there. A file stands in its place only when all its bytes are there and
//! its checksum is right; a folder of images only when it is complete. Whatever a killed process
//! leaves is gone on from, or made anew. Servers and archives are not trusted: see `archive.rs`,
//! `download.rs` and `net::Transfer`.

mod archive;
mod camelyon17;
mod catalogue;
mod cats;
mod cifar10;
mod download;
mod error;
mod fetcher;
pub(crate) mod fuzzing;
mod lock;
mod mirrors;
mod record;
mod staged_dir;
mod verify;

pub use catalogue::{Catalogue, CatalogueMatch, Content, Hub, Item};
pub use error::FetchError;
pub use fetcher::{Fetcher, InstallState, Options};
pub use mirrors::Mirrors;
pub use verify::Verdict;

pub use crate::net::RetryPolicy;
