//! How good the synthetic images are.
//!
//! Pure functions of images and embeddings. What is compared with private images stays behind
//! [`Sensitive`](crate::privacy::Sensitive).

pub mod downstream;
pub mod memorisation;
