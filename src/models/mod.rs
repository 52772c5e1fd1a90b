//! The networks, one file each, with weights under their original names.
//!
//! A network is built from a `VarBuilder`, which [`crate::hub::Checkpoint::load`] hands out, and is
//! written against [`crate::kernels`] only.

pub mod clip;
pub mod dinov2;
pub mod improved_diffusion;
pub mod inception;
mod precision;
pub mod stable_diffusion;
mod transformer;

#[cfg(test)]
pub(crate) mod testing;

pub use precision::Precision;
