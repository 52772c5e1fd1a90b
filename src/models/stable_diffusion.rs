//! The networks of Stable Diffusion 1.x (Rombach et al. 2022, arXiv 2112.10752) but for its text
//! encoder, which is [`crate::models::clip`]'s.
//!
//! References: `UNet2DConditionModel` and `AutoencoderKL` of huggingface/diffusers. Weights keep
//! the names of the published checkpoints, the autoencoder's old attention names included.
//!
//! candle-transformers has these networks, too. They are not used, because its feed-forward
//! networks approximate GELU by tanh, a batch has one timestep, the autoencoder returns samples
//! with noise that no seed determines, and candle's convolutions are slower on a CPU than those of
//! [`crate::kernels`].

mod attention;
mod fields;
mod resnet;
mod unet;
mod unet_config;
mod vae;
mod vae_blocks;
mod vae_config;

pub(crate) use fields::Fields;
pub use unet::UNet2DCondition;
pub use unet_config::UNet2DConditionConfig;
pub use vae::AutoencoderKl;
pub use vae_config::AutoencoderKlConfig;

#[cfg(test)]
mod manifest_tests;
