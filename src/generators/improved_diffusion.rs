//! Diffusion models of openai/improved-diffusion as a foundation model, used as in DPSDA
//! (`apis/improved_diffusion_api.py`).
//!
//! A random image is denoised from pure noise. A variation is the image with noise added, denoised
//! from there. The variation degree is the number of noisiest steps that are skipped, so degree 0
//! changes the image most.

mod config;
mod pixels;
#[cfg(test)]
mod tests;

pub use config::Config;
pub(super) use pixels::bytes_on_device;
pub use pixels::{to_bytes, to_signed};

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::{
    BatchNoise, Batches, Condition, ConditionRequest, Generated, Generator, GeneratorError,
    GeneratorSection, OpenedGenerator, Operation, PlannedWork, SampleRequest, Variation,
    check_pairs, open_on_all,
};
use crate::diffusion::Sampler;
use crate::hub::{Checkpoint, Requirement, weights_digest};
use crate::images::{ImageBatch, ImageSize};
use crate::models::improved_diffusion::UNet;
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};
use config::Samplers;

/// A loaded model.
pub struct ImprovedDiffusion {
    unet: UNet,
    samplers: Samplers,
    device: Device,
    image_size: ImageSize,
    batches: Batches,
    class_labels: Option<BTreeMap<String, Vec<u32>>>,
}

impl ImprovedDiffusion {
    /// Loads the model onto `device`. A relative [`Config::checkpoint`] is relative to the folder
    /// `base`, or to the working directory without one.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] with the first key that is out of range, before any file is
    /// opened; [`GeneratorError::Checkpoint`] if the file cannot be read or its tensors differ from
    /// those of the network that `config` describes.
    pub fn load(
        config: &Config,
        base: Option<&Path>,
        device: &Device,
    ) -> Result<Self, GeneratorError> {
        config.validate()?;
        let dtype = config.dtype.on(device)?;
        let shape = config.unet()?;
        let path = base.map_or_else(
            || config.checkpoint.clone(),
            // `join` replaces `base` by an absolute path.
            |base| base.join(&config.checkpoint),
        );
        let unet = Checkpoint::open(path)?.load(dtype, device, &[], |vb| UNet::new(&shape, &vb))?;
        Self::new(config, unet, device)
    }

    /// Creates the model from a network on `device` that was built from [`Config::unet`].
    ///
    /// # Errors
    /// [`GeneratorError::Config`] with the first key that is out of range.
    pub fn new(config: &Config, unet: UNet, device: &Device) -> Result<Self, GeneratorError> {
        config.validate()?;
        Ok(Self {
            unet,
            samplers: config.samplers()?,
            device: device.clone(),
            image_size: config.image_size,
            batches: Batches::new("batch_size", config.batch_size, device),
            class_labels: config.class_labels.clone(),
        })
    }

    /// Returns the class labels of `requests`; `None` for an unconditional network.
    fn labels(&self, requests: &[SampleRequest]) -> Result<Option<Vec<u32>>, GeneratorError> {
        let classes = self.unet.config().num_classes;
        let valid = |condition: u32| (condition as usize) < classes.unwrap_or(1);
        if let Some(request) = requests.iter().find(|request| !valid(request.condition.0)) {
            return Err(GeneratorError::Input(match classes {
                Some(classes) => format!(
                    "class label {} does not exist: the model has {classes} classes",
                    request.condition.0
                ),
                None => format!(
                    "class label {} for an unconditional model",
                    request.condition.0
                ),
            }));
        }
        Ok(classes.map(|_| requests.iter().map(|request| request.condition.0).collect()))
    }

    /// Denoises one batch by `sampler` without the `skipped` noisiest steps, from pure noise or
    /// from `images` with noise: `float32 [requests, 3, height, width]`.
    fn samples(
        &self,
        images: Option<&ImageBatch>,
        requests: &[SampleRequest],
        (sampler, skipped): (&Sampler, usize),
    ) -> Result<Tensor, GeneratorError> {
        let labels = self.labels(requests)?;
        // The order of the random numbers of each image: the initial noise, then the noise of each
        // step. Changing it changes all images.
        let shape = (3, self.image_size.height, self.image_size.width);
        let mut noise = BatchNoise::new(requests, shape, &self.device);
        let mut x = noise.sample()?;
        if let Some(images) = images {
            let images = to_signed(images, &self.device)?;
            x = sampler.noised(&images, &x, skipped)?;
        }
        let network = |x: &Tensor, time: f32| {
            let times = vec![time; requests.len()];
            self.unet.forward(x, &times, labels.as_deref())
        };
        let trajectory = sampler.trajectory(x, skipped, network, |_| noise.sample())?;
        Ok(trajectory.finish()?)
    }

    /// Processes all requests in batches.
    fn batches(
        &self,
        images: Option<&ImageBatch>,
        requests: &[SampleRequest],
        start: (&Sampler, usize),
    ) -> Result<ImageBatch, GeneratorError> {
        let mut made = ImageBatch::empty(self.image_size.height, self.image_size.width);
        self.batches.cover(requests.len(), |range| {
            let images = images.map(|images| images.slice(range.clone()));
            let requests = requests.get(range).unwrap_or_default();
            let samples = self.samples(images.as_ref(), requests, start)?;
            made.extend(&to_bytes(&samples)?)?;
            Ok(())
        })?;
        Ok(made)
    }

    fn condition(&self, request: &ConditionRequest<'_>) -> Result<Condition, GeneratorError> {
        let Some(classes) = self.unet.config().num_classes else {
            return Ok(Condition::UNCONDITIONAL);
        };
        let Some(map) = &self.class_labels else {
            let label = request.rng_key.rng().below(classes as u64);
            return Ok(Condition(label as u32));
        };
        let missing =
            |message: String| GeneratorError::from(InvalidKey::new("class_labels", message));
        let class = request
            .class
            .ok_or_else(|| missing("is set, but data.class_conditional is false".to_owned()))?;
        let labels = map.get(class).ok_or_else(|| {
            let known: Vec<&str> = map.keys().map(String::as_str).collect();
            missing(format!(
                "has no entry for class \"{class}\", only for {known:?}"
            ))
        })?;
        let chosen = request.rng_key.rng().below(labels.len() as u64);
        labels
            .get(chosen as usize)
            .map(|&label| Condition(label))
            .ok_or_else(|| missing(format!("is empty for class \"{class}\"")))
    }
}

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["checkpoint", "batch_size"];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        Self::validate(self)
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn schedules(&self) -> Vec<(&'static str, usize)> {
        let list = self.timestep_respacing.len();
        list.map(|length| ("timestep_respacing", length))
            .into_iter()
            .collect()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        self.evaluations(operation).map(drop)
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        let labels = self.class_labels.as_ref()?;
        let names = labels.keys().map(String::as_str).collect();
        Some(("model.class_labels", names))
    }

    fn requirements(&self) -> Vec<Requirement> {
        vec![Requirement::path(&self.checkpoint)]
    }

    fn open(
        &self,
        devices: &[Device],
        _: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        let config = self.clone();
        let generator = open_on_all(devices, move |device| {
            Ok(Box::new(ImprovedDiffusion::load(&config, None, device)?))
        })?;
        Ok(OpenedGenerator {
            generator,
            weights_digest: Some(weights_digest(&self.checkpoint)?),
            warnings: Vec::new(),
        })
    }
}

impl Generator for ImprovedDiffusion {
    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        self.batches.size()
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        requests
            .iter()
            .map(|request| self.condition(request))
            .collect()
    }

    fn num_conditions(&self) -> u32 {
        let classes = self.unet.config().num_classes.unwrap_or(1);
        u32::try_from(classes).unwrap_or(u32::MAX)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        let Some(classes) = self.unet.config().num_classes else {
            return Vec::new();
        };
        match (&self.class_labels, class) {
            (None, _) => vec![format!("any of the model's {classes} class labels")],
            (Some(map), Some(class)) => {
                let labels = map.get(class).into_iter().flatten();
                labels.map(|label| format!("class label {label}")).collect()
            }
            (Some(_), None) => Vec::new(),
        }
    }

    fn preflight(&self, _: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        Ok(vec![self.batches.to_string()])
    }

    fn overlaps_host_work(&self) -> bool {
        !self.device.is_cpu()
    }

    fn drain_warnings(&self) -> Vec<String> {
        self.batches.drain_warnings()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let start = self.samplers.start(Operation::Random)?;
        Ok(self.batches(None, requests, start)?.into())
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        check_pairs(parents, requests)?;
        let images = &parents.images;
        if (images.height(), images.width()) != self.image_size() {
            return Err(GeneratorError::Input(format!(
                "images of {}x{} for a model of {}",
                images.height(),
                images.width(),
                self.image_size
            )));
        }
        let start = self.samplers.start(Operation::Vary(variation))?;
        Ok(self.batches(Some(images), requests, start)?.into())
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.samplers.evaluations(operation)
    }
}
