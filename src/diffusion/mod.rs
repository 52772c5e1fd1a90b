//! Gaussian diffusion without networks: noise schedules, respacing, the DDPM, DDIM and DPM-Solver++
//! samplers.
//!
//! In: a [`NoiseSchedule`], a [`Respacing`], [`SamplerOptions`], and closures for the network and
//! for the noise. Out: a denoised tensor. Nothing here draws a random number or knows a network, so
//! all of it can be checked against the original's arrays and trajectories.
//!
//! Follows Ho et al. 2020 (DDPM, arXiv 2006.11239), Song et al. 2021 (DDIM, arXiv 2010.02502) and
//! Nichol & Dhariwal 2021 (arXiv 2102.09672), whose code (openai/improved-diffusion,
//! `gaussian_diffusion.py` and `respace.py`) also settles the arithmetic: coefficients are float64,
//! cast to float32 when they meet an image.
//!
//! Latent diffusion models are sampled by a [`Scheduler`] instead, which follows
//! huggingface/diffusers.

mod dpm_solver;
mod error;
#[cfg(test)]
mod few_steps_tests;
mod gaussian;
mod respacing;
mod sampler;
mod schedule;
mod scheduler;

pub use error::DiffusionError;
pub use gaussian::{GaussianDiffusion, Timestep};
pub use respacing::Respacing;
pub use sampler::{Method, Prediction, Sampler, SamplerOptions, Step, Variance};
pub use schedule::NoiseSchedule;
pub use scheduler::{DenoiseLoop, Scheduler, SchedulerConfig, SchedulerKind, skipped_steps};
