//! The private images. This is the only module in which an image source becomes
//! [`Sensitive`](crate::privacy::Sensitive).

mod content;
mod error;
mod participation;
mod private_data;
mod private_images;

pub use content::content_fingerprint;
pub use error::DatasetError;
pub use private_data::PrivateData;
pub use private_images::{CheckedImages, PrivateImages};
