//! The networks, one file each, with weights under their original names.
//!
//! A network is built from a `VarBuilder`, which [`crate::hub::Checkpoint::load`] hands out, and is
//! written against [`crate::kernels`] only.

pub mod clip;
pub mod improved_diffusion;
pub mod inception;
mod precision;
pub mod stable_diffusion;

#[cfg(test)]
pub(crate) mod testing;

pub use precision::Precision;

use thiserror::Error;

/// A network's configuration that makes no sense; names the key.
#[derive(Debug, Error)]
#[error("{key}: {message}")]
pub struct ConfigError {
    /// The configuration key.
    pub key: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self {
            key,
            message: message.into(),
        }
    }
}
