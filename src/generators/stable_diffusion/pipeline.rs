//! Latents, guidance and the way back to pixels: `StableDiffusionPipeline` and
//! `StableDiffusionImg2ImgPipeline` of diffusers, in pieces.

use candle_core::{Result, Tensor, bail};

use crate::diffusion::DenoiseLoop;
use crate::models::stable_diffusion::{AutoencoderKl, UNet2DCondition};

/// The two networks that work on images.
pub struct Pipeline {
    /// Predicts noise.
    pub unet: UNet2DCondition,
    /// Stands between pixels and latents.
    pub vae: AutoencoderKl,
}

/// What the networks are told about a batch: states of the text encoder.
pub struct Guidance {
    /// Of each image's prompt, `[n, tokens, width]`.
    pub prompts: Tensor,
    /// Of the negative prompt, `[1, tokens, width]`.
    pub negative: Tensor,
    /// How far to go from the negative prompt's prediction beyond the prompt's; up to 1, the negative
    /// prompt is of no effect.
    pub scale: f64,
}

impl Guidance {
    /// Predictions that each image costs at each step.
    #[must_use]
    pub fn predictions(scale: f64) -> u64 {
        if scale > 1.0 { 2 } else { 1 }
    }
}

impl Pipeline {
    /// Walks from `sample [n, channels, h, w]` to latents without noise; `observe` sees each step's.
    ///
    /// With guidance, both predictions of all images are one batch, the negative prompt's first.
    ///
    /// # Errors
    /// Shapes that do not fit together, and whatever candle or `observe` report.
    pub fn denoise(
        &self,
        denoise_loop: DenoiseLoop,
        sample: Tensor,
        guidance: &Guidance,
        observe: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let n = sample.dim(0)?;
        let (texts, tokens, width) = guidance.prompts.dims3()?;
        if texts != n {
            bail!("{texts} prompts for {n} images");
        }
        if Guidance::predictions(guidance.scale) == 1 {
            let network =
                |x: &Tensor, time: f32| self.unet.forward(x, &vec![time; n], &guidance.prompts);
            return denoise_loop.run(sample, network, observe);
        }
        let negative = guidance.negative.broadcast_as((n, tokens, width))?;
        let texts = Tensor::cat(&[&negative.contiguous()?, &guidance.prompts], 0)?;
        let network = |x: &Tensor, time: f32| {
            let twice = Tensor::cat(&[x, x], 0)?;
            let noise = self.unet.forward(&twice, &vec![time; 2 * n], &texts)?;
            let (negative, prompted) = (noise.narrow(0, 0, n)?, noise.narrow(0, n, n)?);
            let direction = (prompted.contiguous()? - negative.contiguous()?)?;
            negative.contiguous()? + (direction * guidance.scale)?
        };
        denoise_loop.run(sample, network, observe)
    }

    /// Draws scaled latents of `images` in [−1, 1], `[n, 3, height, width]`, from their distributions, with
    /// standard normal `noise [n, channels, h, w]`.
    ///
    /// # Errors
    /// Shapes that do not fit together, and whatever candle reports.
    pub fn encode(&self, images: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let latents = self.vae.encode(images)?.sample(noise)?;
        latents * self.vae.config().scaling_factor
    }

    /// Scaled latents to images in [0, 1], `[n, 3, height, width]`.
    ///
    /// # Errors
    /// Latents of another shape, and whatever candle reports.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let images = self
            .vae
            .decode(&(latents / self.vae.config().scaling_factor)?)?;
        ((images / 2.0)? + 0.5)?.clamp(0f32, 1f32)
    }
}
