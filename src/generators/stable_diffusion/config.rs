//! The `[model]` section of Stable Diffusion.

use serde::{Deserialize, Serialize};

use crate::diffusion::{SchedulerKind, skipped_steps};
use crate::generators::{GeneratorError, Precision, PromptsConfig};
use crate::images::ImageSize;
use crate::schedule::Schedule;
use crate::sections::InvalidKey;

/// The checkpoint of the experiments in the PE paper, and its revision.
const CHECKPOINT: &str = "CompVis/stable-diffusion-v1-4";
const REVISION: &str = "133a221b8aa7292a167afc5127cb63fb5005638b";

/// Stable Diffusion 1.x in the layout of diffusers. Options and defaults are those of DPSDA
/// (`apis/stable_diffusion_api.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder or a repository of the Hugging Face hub.
    #[serde(default = "defaults::checkpoint")]
    pub checkpoint: String,
    /// The commit of the repository (or a tag or branch, which can change). Only the default
    /// checkpoint has a default revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Height and width of the images in pixels, for v1-4 multiples of 64: a number, or
    /// `[height, width]`.
    #[serde(default = "defaults::image_size")]
    pub image_size: ImageSize,
    /// Prompt that guidance moves the images away from.
    #[serde(default)]
    pub negative_prompt: String,
    /// The scheduler of the checkpoint, or another one with the same noise schedule.
    #[serde(default)]
    pub scheduler: SchedulerChoice,
    /// Skips steps of PNDM as diffusers does; see [`crate::diffusion::Scheduler::new`].
    #[serde(default = "defaults::yes")]
    pub pndm_exact_slicing: bool,
    /// Number of denoising steps of a random image.
    #[serde(default = "defaults::steps")]
    pub random_sampling_num_inference_steps: usize,
    /// Guidance scale of random images; no guidance up to 1.
    #[serde(default = "defaults::guidance")]
    pub random_sampling_guidance_scale: f64,
    /// Random images per batch. On a CPU, results do not depend on it.
    #[serde(default = "defaults::batch_size")]
    pub random_sampling_batch_size: usize,
    /// Number of denoising steps of a variation, including those that its strength skips. A list
    /// has one value for each population.
    #[serde(default = "defaults::variation_steps")]
    pub variation_num_inference_steps: Schedule<u32>,
    /// Guidance scale of variations; no guidance up to 1. A list has one value for each population.
    #[serde(default = "defaults::variation_guidance")]
    pub variation_guidance_scale: Schedule<f64>,
    /// Variations per batch. On a CPU, results do not depend on it.
    #[serde(default = "defaults::batch_size")]
    pub variation_batch_size: usize,
    /// Number type of the networks: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16; `"f16"`
    /// on a GPU.
    #[serde(default)]
    pub dtype: Precision,
    /// The prompts: a text, a list, or a table by private class. They are public.
    pub prompts: PromptsConfig,
}

/// The values of the key `scheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerChoice {
    /// The scheduler that the checkpoint names.
    #[default]
    Checkpoint,
    /// PNDM without Runge-Kutta steps.
    Pndm,
    /// DDIM with η = 0.
    Ddim,
    /// Euler's method.
    Euler,
    /// DPM-Solver++(2M).
    #[serde(rename = "dpm-solver++")]
    DpmSolver,
}

impl SchedulerChoice {
    /// Returns the scheduler; `None` for that of the checkpoint.
    #[must_use]
    pub fn kind(self) -> Option<SchedulerKind> {
        match self {
            Self::Checkpoint => None,
            Self::Pndm => Some(SchedulerKind::Pndm),
            Self::Ddim => Some(SchedulerKind::Ddim),
            Self::Euler => Some(SchedulerKind::Euler),
            Self::DpmSolver => Some(SchedulerKind::DpmSolver),
        }
    }
}

mod defaults {
    pub(super) fn checkpoint() -> String {
        super::CHECKPOINT.to_owned()
    }
    use crate::images::ImageSize;
    use crate::schedule::Schedule;

    pub(super) fn image_size() -> ImageSize {
        ImageSize::square(512)
    }
    pub(super) fn variation_steps() -> Schedule<u32> {
        Schedule::Constant(50)
    }
    pub(super) fn variation_guidance() -> Schedule<f64> {
        Schedule::Constant(guidance())
    }
    pub(super) fn steps() -> usize {
        50
    }
    pub(super) fn guidance() -> f64 {
        7.5
    }
    pub(super) fn batch_size() -> usize {
        10
    }
    pub(super) fn yes() -> bool {
        true
    }
}

/// Far above the image size of any model that fits into memory.
const MAX_IMAGE_SIZE: usize = 8192;

impl Config {
    /// Checks every key as far as this is possible without the model's files.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.checkpoint.is_empty() {
            return Err(InvalidKey::new("checkpoint", "is empty: expected a folder"));
        }
        if self.revision.as_ref().is_some_and(String::is_empty) {
            return Err(InvalidKey::new("revision", "is empty: expected a commit"));
        }
        let size = self.image_size;
        if !size.all(|side| (8..=MAX_IMAGE_SIZE).contains(&side)) {
            let message = format!("is {size}: expected 8 to {MAX_IMAGE_SIZE}");
            return Err(InvalidKey::new("image_size", message));
        }
        for (key, is_zero) in [
            (
                "random_sampling_num_inference_steps",
                self.random_sampling_num_inference_steps == 0,
            ),
            (
                "variation_num_inference_steps",
                self.variation_num_inference_steps.values().contains(&0),
            ),
        ] {
            // The scheduler of the checkpoint defines the maximum.
            if is_zero {
                return Err(InvalidKey::new(key, "is 0: expected at least 1"));
            }
        }
        let random = [self.random_sampling_guidance_scale];
        for (key, scales) in [
            ("random_sampling_guidance_scale", &random[..]),
            (
                "variation_guidance_scale",
                self.variation_guidance_scale.values(),
            ),
        ] {
            let valid = |scale: &f64| scale.is_finite() && *scale >= 0.0;
            if let Some(scale) = scales.iter().find(|scale| !valid(scale)) {
                let message = format!("is {scale}: expected a number of at least 0");
                return Err(InvalidKey::new(key, message));
            }
        }
        for (key, size) in [
            (
                "random_sampling_batch_size",
                self.random_sampling_batch_size,
            ),
            ("variation_batch_size", self.variation_batch_size),
        ] {
            if size == 0 {
                return Err(InvalidKey::new(key, "is 0: expected at least 1"));
            }
        }
        self.prompts.validate()
    }

    /// Returns the number of steps and the guidance scale of variations for a population.
    ///
    /// # Errors
    /// [`InvalidKey`] naming the key whose list has no value for the population.
    pub(super) fn variation(&self, population: u32) -> Result<(usize, f64), InvalidKey> {
        let index = population as usize;
        let missing =
            |key| move || InvalidKey::new(key, format!("has no value for population {population}"));
        let steps = self.variation_num_inference_steps.get(index);
        let steps = steps.ok_or_else(missing("variation_num_inference_steps"))?;
        let scale = self.variation_guidance_scale.get(index);
        let scale = scale.ok_or_else(missing("variation_guidance_scale"))?;
        Ok((*steps as usize, *scale))
    }

    /// Returns the revision of the repository.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        let pinned = (self.checkpoint == CHECKPOINT).then_some(REVISION);
        self.revision.as_deref().or(pinned)
    }
}

/// Converts the variation degree, diffusers' `strength`, to a number of steps to skip.
pub(super) fn skipped(steps: usize, degree: f64) -> Result<usize, GeneratorError> {
    // False for NaN.
    if (0.0..=1.0).contains(&degree) {
        return Ok(skipped_steps(steps, degree));
    }
    Err(GeneratorError::Degree {
        degree,
        expected: "a strength from 0 (least change) to 1 (most change)".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::Variation;
    use crate::generators::{GeneratorSection, Operation};

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("prompts = \"a cat\"\n{text}"))
    }

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        let config = parse("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.revision(), Some(REVISION));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        let other = parse("checkpoint = \"a/b\"\nscheduler = \"dpm-solver++\"").unwrap();
        assert_eq!(other.revision(), None);
        assert_eq!(other.scheduler.kind(), Some(SchedulerKind::DpmSolver));
        let text = toml::to_string(&other).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), other);
        let table =
            "checkpoint = \"x\"\n[prompts]\ncat = \"a cat\"\ndog = [\"a dog\", \"hound\"]\n";
        let by_class: Config = toml::from_str(table).unwrap();
        let text = toml::to_string(&by_class).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), by_class);
    }

    #[test]
    fn every_range_error_names_its_key() {
        for (text, key) in [
            ("checkpoint = \"\"", "checkpoint"),
            ("revision = \"\"", "revision"),
            ("image_size = 0", "image_size"),
            ("image_size = 100000", "image_size"),
            (
                "random_sampling_num_inference_steps = 0",
                "random_sampling_num_inference_steps",
            ),
            (
                "variation_num_inference_steps = 0",
                "variation_num_inference_steps",
            ),
            (
                "random_sampling_guidance_scale = -1",
                "random_sampling_guidance_scale",
            ),
            (
                "variation_guidance_scale = [1, -1.5]",
                "variation_guidance_scale",
            ),
            (
                "random_sampling_batch_size = 0",
                "random_sampling_batch_size",
            ),
            ("variation_batch_size = 0", "variation_batch_size"),
        ] {
            match parse(text).unwrap().validate() {
                Err(InvalidKey { key: found, .. }) => assert_eq!(found, key, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(parse("scheduler = \"heun\"").is_err());
        assert!(parse("steps = 3").is_err());
        let error = toml::from_str::<Config>("image_size = 64").unwrap_err();
        assert!(error.to_string().contains("prompts"), "{error}");
        let error = toml::from_str::<Config>("prompts = 3").unwrap_err();
        assert!(error.to_string().contains("expected a prompt"), "{error}");
    }

    #[test]
    fn degrees_are_strengths() {
        let config = parse("").unwrap();
        for degree in [0.0, 0.4, 1.0] {
            config
                .check_operation(Operation::Vary(Variation::new(degree, 1)))
                .unwrap();
        }
        for degree in [-0.1, 1.1, f64::NAN] {
            let error = config
                .check_operation(Operation::Vary(Variation::new(degree, 1)))
                .unwrap_err();
            assert!(error.to_string().contains("from 0"), "{error}");
        }
    }
}
