//! Stable Diffusion 1.x as a foundation model, used as in DPSDA (`apis/stable_diffusion_api.py`).
//!
//! A random image is denoised from pure noise under a prompt (txt2img). A variation is the latents
//! of the image with noise added, denoised from there under the prompt that the image inherited
//! (img2img). The variation degree is diffusers' `strength`, so degree 1 changes the image most.
//!
//! One behavior differs from diffusers: it treats a batch of images in [−1, 1] without negative
//! values as images in [0, 1] and rescales it, which would make an image depend on its batch.

mod config;
mod files;
mod pipeline;
mod tokenizer;

pub use config::Config;
pub use files::FILES;
pub use pipeline::{Guidance, Pipeline};

use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use super::improved_diffusion::{bytes_on_device, to_signed};
use super::{
    BatchNoise, Batches, Condition, ConditionRequest, Generated, Generator, GeneratorError,
    GeneratorSection, OpenedGenerator, Operation, PlannedWork, Prompts, SampleRequest, Variation,
    check_pairs, open_on_all,
};
use crate::diffusion::{DiffusionError, Scheduler};
use crate::hub::Requirement;
use crate::images::{Filter, ImageBatch, Resampler};
use crate::progress::{Observer, Progress, Silent};
use crate::sections::{InvalidKey, Section};
use config::skipped;
use files::{Files, Networks};

/// A loaded model.
pub struct StableDiffusion {
    pipeline: Pipeline,
    scheduler: Scheduler,
    prompts: Prompts,
    /// Hidden states of the text encoder for each prompt, `[prompts, tokens, width]`.
    states: Tensor,
    /// Hidden states for the negative prompt, `[1, tokens, width]`.
    negative: Tensor,
    config: Config,
    device: Device,
    /// The batches of random images and of variations.
    batches: [Batches; 2],
    warnings: Vec<String>,
}

/// The settings of one random image or variation.
#[derive(Debug, Clone, Copy)]
struct Denoising {
    /// Number of steps, including those that are skipped.
    steps: usize,
    /// Number of noisiest steps to skip.
    skipped: usize,
    guidance_scale: f64,
}

impl StableDiffusion {
    /// Loads the model onto `device` and returns it with the digest of the checkpoint. A relative
    /// folder [`Config::checkpoint`] is relative to the folder `base`, or to the working directory
    /// without one.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] with the first key that is out of range;
    /// [`GeneratorError::Files`] for a missing file; [`GeneratorError::Checkpoint`] if a file
    /// cannot be read or its tensors differ from those of the network that its configuration
    /// describes.
    pub fn load(
        config: &Config,
        base: Option<&Path>,
        device: &Device,
    ) -> Result<(Self, String), GeneratorError> {
        config.validate()?;
        let files = Files::find(config, base, &Silent)?;
        let Networks {
            pipeline,
            scheduler,
            prompts,
        } = files.load(config, device)?;
        let model = Self {
            pipeline,
            scheduler,
            states: prompts.states,
            negative: prompts.negative,
            warnings: prompts.warnings,
            prompts: Prompts::new(&config.prompts)?,
            config: config.clone(),
            device: device.clone(),
            batches: [
                (
                    "random_sampling_batch_size",
                    config.random_sampling_batch_size,
                ),
                ("variation_batch_size", config.variation_batch_size),
            ]
            .map(|(key, size)| Batches::new(key, Some(size), device)),
        };
        model.check_steps()?;
        Ok((model, files.digest()?))
    }

    /// Downloads the files of a hub repository that are not in the cache, once for all devices, so
    /// that [`StableDiffusion::load`] needs no download.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] with the first key that is out of range;
    /// [`GeneratorError::Files`].
    pub fn download(config: &Config, progress: &dyn Progress) -> Result<(), GeneratorError> {
        config.validate()?;
        Files::find(config, None, progress).map(drop)
    }

    /// Returns the warnings of loading: prompts that were truncated.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns an error for numbers of steps that the scheduler does not support.
    fn check_steps(&self) -> Result<(), GeneratorError> {
        let check = |key: &str, steps| match self.scheduler.timesteps(steps, 0) {
            Ok(_) => Ok(()),
            Err(error) => Err(InvalidKey::new(key, error.to_string())),
        };
        check(
            "random_sampling_num_inference_steps",
            self.config.random_sampling_num_inference_steps,
        )?;
        for steps in self.config.variation_num_inference_steps.values() {
            check("variation_num_inference_steps", *steps as usize)?;
        }
        Ok(())
    }

    /// Returns the settings of an operation.
    fn denoising(&self, operation: Operation) -> Result<Denoising, GeneratorError> {
        let variation = match operation {
            Operation::Random => {
                return Ok(Denoising {
                    steps: self.config.random_sampling_num_inference_steps,
                    skipped: 0,
                    guidance_scale: self.config.random_sampling_guidance_scale,
                });
            }
            Operation::Vary(variation) => variation,
        };
        let (steps, guidance_scale) = self.config.variation(variation.population)?;
        let degree = variation.degree;
        let skipped = skipped(steps, degree)?;
        match self.scheduler.timesteps(steps, skipped) {
            Ok(_) => Ok(Denoising {
                steps,
                skipped,
                guidance_scale,
            }),
            Err(DiffusionError::NoStepLeft { .. }) => Err(GeneratorError::Degree {
                degree,
                expected: format!(
                    "a strength with at least one step: at least {} for {steps} steps of this scheduler",
                    1.0 / steps as f64
                ),
            }),
            Err(error) => {
                Err(InvalidKey::new("variation_num_inference_steps", error.to_string()).into())
            }
        }
    }

    fn guidance(&self, requests: &[SampleRequest], scale: f64) -> Result<Guidance, GeneratorError> {
        let count = self.prompts.texts().len();
        let indices: Vec<u32> = requests.iter().map(|request| request.condition.0).collect();
        if let Some(index) = indices.iter().find(|index| **index as usize >= count) {
            return Err(GeneratorError::Input(format!(
                "prompt {index} does not exist: there are {count} prompts"
            )));
        }
        let indices = Tensor::from_vec(indices, requests.len(), &self.device)?;
        Ok(Guidance {
            prompts: self.states.index_select(&indices, 0)?,
            negative: self.negative.clone(),
            scale,
        })
    }

    /// Generates one batch of random images, or of variations of the given images.
    fn batch(
        &self,
        images: Option<&ImageBatch>,
        requests: &[SampleRequest],
        denoising: Denoising,
    ) -> Result<ImageBatch, GeneratorError> {
        let vae = self.pipeline.vae.config();
        let (height, width) = self.image_size();
        let factor = vae.downsampling();
        // The order of the random numbers of each image: those of the encoder, if there is an
        // image, then the initial noise. Changing it changes all images.
        let shape = (vae.latent_channels, height / factor, width / factor);
        let mut noise = BatchNoise::new(requests, shape, &self.device);
        let denoise_loop = self
            .scheduler
            .start(denoising.steps, denoising.skipped)
            .map_err(|error| GeneratorError::Input(error.to_string()))?;
        let start = match images {
            None => denoise_loop.initial(&noise.sample()?)?,
            Some(images) => {
                let images = to_signed(images, &self.device)?;
                let latents = self.pipeline.encode(&images, &noise.sample()?)?;
                denoise_loop.noised(&latents, &noise.sample()?)?
            }
        };
        let guidance = self.guidance(requests, denoising.guidance_scale)?;
        let latents = self
            .pipeline
            .denoise(denoise_loop, start, &guidance, |_, _| Ok(()))?;
        to_bytes(&self.pipeline.decode(&latents)?)
    }

    /// Resizes `images` to the size of the model with Pillow's bicubic filter.
    fn resized(&self, images: &ImageBatch) -> Result<ImageBatch, GeneratorError> {
        let size = self.image_size();
        if (images.height(), images.width()) == size {
            return Ok(images.clone());
        }
        let input = |message: String| GeneratorError::Input(message);
        let from = (images.height(), images.width());
        let resampler = Resampler::new(Filter::Bicubic, from, size)
            .map_err(|error| input(error.to_string()))?;
        let mut bytes = Vec::with_capacity(images.len() * size.0 * size.1 * 3);
        for image in images.iter() {
            let resized = resampler.bytes(image, 3);
            bytes.extend(resized.map_err(|error| input(error.to_string()))?);
        }
        Ok(ImageBatch::new(bytes, images.len(), size.0, size.1)?)
    }
}

/// Returns `round(255 x)` of every value in [0, 1], with ties to even; `images` is `float32
/// [images, 3, height, width]`.
///
/// # Errors
/// [`GeneratorError::Network`] if a value is NaN: the network overflowed.
pub fn to_bytes(images: &Tensor) -> Result<ImageBatch, GeneratorError> {
    let (count, channels, height, width) = images.dims4()?;
    if !images.device().is_cpu()
        && let Some(bytes) = bytes_on_device(&(images * 255.0)?)?
    {
        return Ok(ImageBatch::new(bytes, count, height, width)?);
    }
    let values: Vec<f32> = images
        .permute((0, 2, 3, 1))?
        .contiguous()?
        .flatten_all()?
        .to_vec1()?;
    let image_len = channels * height * width;
    if let Some(at) = values.iter().position(|value| value.is_nan()) {
        let message = format!(
            "image {} of the batch has NaN values",
            at / image_len.max(1)
        );
        return Err(candle_core::Error::Msg(message).into());
    }
    let bytes = values
        .iter()
        .map(|value| (255.0 * value).clamp(0.0, 255.0).round_ties_even() as u8)
        .collect();
    Ok(ImageBatch::new(bytes, count, height, width)?)
}

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[
        "checkpoint",
        "random_sampling_batch_size",
        "revision",
        "variation_batch_size",
    ];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        Self::validate(self)
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn schedules(&self) -> Vec<(&'static str, usize)> {
        let lists = [
            (
                "variation_num_inference_steps",
                self.variation_num_inference_steps.len(),
            ),
            (
                "variation_guidance_scale",
                self.variation_guidance_scale.len(),
            ),
        ];
        let lists = lists.into_iter();
        lists
            .filter_map(|(key, length)| Some((key, length?)))
            .collect()
    }

    // The scheduler of the checkpoint may allow fewer degrees.
    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        match operation {
            Operation::Random => Ok(()),
            Operation::Vary(variation) => {
                let (steps, _) = self.variation(variation.population)?;
                skipped(steps, variation.degree).map(drop)
            }
        }
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        self.prompts.classes()
    }

    fn requirements(&self) -> Vec<Requirement> {
        let folder = Path::new(&self.checkpoint);
        vec![if folder.is_dir() {
            Requirement::path(folder)
        } else {
            Requirement::Repository {
                id: self.checkpoint.clone(),
                revision: self.revision().map(str::to_owned),
                files: &FILES,
            }
        }]
    }

    fn open(
        &self,
        devices: &[Device],
        observer: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        // Downloads once; the copies then find every file in the cache.
        StableDiffusion::download(self, observer)?;
        // All copies report the same warnings and the same digest.
        let (config, report) = (self.clone(), Arc::new(OnceLock::new()));
        let sender = Arc::clone(&report);
        let generator = open_on_all(devices, move |device| {
            let (model, digest) = StableDiffusion::load(&config, None, device)?;
            let _ = sender.set((model.warnings().to_vec(), digest));
            Ok(Box::new(model))
        })?;
        let (warnings, digest) = report.get().cloned().unwrap_or_default();
        Ok(OpenedGenerator {
            generator,
            weights_digest: Some(digest),
            warnings,
        })
    }
}

impl Generator for StableDiffusion {
    fn image_size(&self) -> (usize, usize) {
        self.config.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        let [random, varied] = &self.batches;
        random.size().max(varied.size())
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        Ok(self.prompts.assign(requests)?)
    }

    fn num_conditions(&self) -> u32 {
        self.prompts.count()
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.prompts.describe(class)
    }

    fn prompts(&self) -> &[String] {
        self.prompts.texts()
    }

    fn preflight(&self, _: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        Ok(self.batches.iter().map(Batches::to_string).collect())
    }

    fn overlaps_host_work(&self) -> bool {
        !self.device.is_cpu()
    }

    fn drain_warnings(&self) -> Vec<String> {
        self.batches
            .iter()
            .flat_map(Batches::drain_warnings)
            .collect()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let (height, width) = self.image_size();
        let mut made = ImageBatch::empty(height, width);
        let denoising = self.denoising(Operation::Random)?;
        let [batches, _] = &self.batches;
        batches.cover(requests.len(), |range| {
            let requests = requests.get(range).unwrap_or_default();
            Ok(made.extend(&self.batch(None, requests, denoising)?)?)
        })?;
        Ok(made.into())
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        check_pairs(parents, requests)?;
        let images = &parents.images;
        let denoising = self.denoising(Operation::Vary(variation))?;
        let [_, batches] = &self.batches;
        let (height, width) = self.image_size();
        let mut made = ImageBatch::empty(height, width);
        batches.cover(requests.len(), |range| {
            let images = self.resized(&images.slice(range.clone()))?;
            let requests = requests.get(range).unwrap_or_default();
            Ok(made.extend(&self.batch(Some(&images), requests, denoising)?)?)
        })?;
        Ok(made.into())
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        let denoising = self.denoising(operation)?;
        let timesteps = self
            .scheduler
            .timesteps(denoising.steps, denoising.skipped)
            .map_err(|error| GeneratorError::Input(error.to_string()))?;
        Ok(timesteps.len() as u64 * Guidance::predictions(denoising.guidance_scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_even_and_channels_are_interleaved() {
        let values = [0.0f32, 1.0, 0.5 / 255.0, 1.5 / 255.0, 0.2, 2.0];
        let image = Tensor::from_slice(&values, (1, 3, 1, 2), &Device::Cpu).unwrap();
        let bytes = to_bytes(&image).unwrap();
        assert_eq!((bytes.height(), bytes.width()), (1, 2));
        assert_eq!(bytes.data(), [0, 0, 51, 255, 2, 255]);
        let on_device = bytes_on_device(&(&image * 255.0).unwrap()).unwrap();
        assert_eq!(on_device.unwrap(), bytes.data());
        let overflowed = Tensor::full(f32::NAN, (1, 3, 2, 2), &Device::Cpu).unwrap();
        assert!(to_bytes(&overflowed).is_err());
    }
}
