//! Downloads weights and data sets to the paths at which configurations expect them.
//!
//! The [`Catalogue`] lists the source, checksum and destination of each item; a [`Fetcher`]
//! installs it. Files appear under their final name only after size and checksum match, folders of
//! images only when complete. After an interruption, downloads resume and folders are unpacked
//! again. Servers and archives are not trusted: see `archive.rs`, `download.rs` and
//! `net::Transfer`.

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
