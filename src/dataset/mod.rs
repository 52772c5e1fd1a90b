//! The private images. This is the only module in which images become [`crate::privacy::Sensitive`].

mod private_images;

pub use private_images::PrivateImages;
