//! Encoding, guided denoising and decoding: the stages of `StableDiffusionPipeline` and
//! `StableDiffusionImg2ImgPipeline` of diffusers.

use candle_core::{Result, Tensor, bail};

use crate::diffusion::DenoiseLoop;
use crate::models::stable_diffusion::{AutoencoderKl, UNet2DCondition};

/// The networks that process images.
pub struct Pipeline {
    /// The noise predictor.
    pub unet: UNet2DCondition,
    /// The autoencoder between pixels and latents.
    pub vae: AutoencoderKl,
}

/// Classifier-free guidance of a batch: hidden states of the text encoder and the scale.
pub struct Guidance {
    /// States for the prompt of each image, `[n, tokens, width]`.
    pub prompts: Tensor,
    /// States for the negative prompt, `[1, tokens, width]`.
    pub negative: Tensor,
    /// Guidance scale: the factor of the difference between the predictions for the prompt and the
    /// negative prompt. Up to 1, the prediction for the prompt is used as it is.
    pub scale: f64,
}

impl Guidance {
    /// Returns the number of network evaluations of each image at each step.
    #[must_use]
    pub fn predictions(scale: f64) -> u64 {
        if scale > 1.0 { 2 } else { 1 }
    }
}

impl Pipeline {
    /// Denoises `sample [n, channels, h, w]`; `observe` receives the latents of each step.
    ///
    /// With guidance, the predictions of all images for both prompts are one batch, those for the
    /// negative prompt first.
    ///
    /// # Errors
    /// Mismatching shapes, and the errors of candle and `observe`.
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

    /// Encodes `images` in [−1, 1], `[n, 3, height, width]`, to scaled latents, sampled from the
    /// encoder's distributions with the standard normal `noise [n, channels, h, w]`.
    ///
    /// # Errors
    /// Mismatching shapes, and the errors of candle.
    pub fn encode(&self, images: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let latents = self.vae.encode(images)?.sample(noise)?;
        latents * self.vae.config().scaling_factor
    }

    /// Decodes scaled latents to images in [0, 1], `[n, 3, height, width]`.
    ///
    /// # Errors
    /// Latents of a wrong shape, and the errors of candle.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let images = self
            .vae
            .decode(&(latents / self.vae.config().scaling_factor)?)?;
        ((images / 2.0)? + 0.5)?.clamp(0f32, 1f32)
    }
}
