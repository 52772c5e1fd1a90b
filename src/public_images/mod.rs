//! Images that a configuration declares public: a pool of a generator, or the images that an
//! embedder is fitted to.
//!
//! They are read by the readers of private images ([`crate::images`]), kept on disk at the size of
//! the run ([`PublicImages`] in a [`BlockStore`]), and compared with the private images, which they
//! must not contain ([`PublicImages::digests_as`]).

mod blocks;
mod cache;
mod config;
mod error;
mod set;

pub use blocks::BlockStore;
pub use cache::key_of;
pub use config::{OpenedSets, PublicImagesConfig};
pub use error::PublicImagesError;
pub use set::PublicImages;
