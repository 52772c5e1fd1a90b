//! The `[model]` section of a Stable Diffusion run.

use serde::{Deserialize, Serialize};

use crate::diffusion::{SchedulerKind, skipped_steps};
use crate::generators::{GeneratorError, Precision, PromptsConfig};
use crate::sections::InvalidKey;

/// The checkpoint of the paper's experiments, and the revision of it that is meant.
const CHECKPOINT: &str = "CompVis/stable-diffusion-v1-4";
const REVISION: &str = "133a221b8aa7292a167afc5127cb63fb5005638b";

/// Stable Diffusion 1.x in the layout of diffusers. The options are the original's
/// (`apis/stable_diffusion_api.py` of DPSDA) and so are the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder, or a repository of the Hugging Face hub.
    #[serde(default = "defaults::checkpoint")]
    pub checkpoint: String,
    /// The repository's commit (or a tag or branch, which can move). It has a default for the default
    /// checkpoint only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Rows and columns of the images, for v1-4 a multiple of 64.
    #[serde(default = "defaults::image_size")]
    pub image_size: usize,
    /// What the images shall not look like.
    #[serde(default)]
    pub negative_prompt: String,
    /// Which scheduler: the checkpoint's own, or another one on its noise schedule.
    #[serde(default)]
    pub scheduler: SchedulerChoice,
    /// Whether PNDM leaves out steps as diffusers does it; see [`crate::diffusion::Scheduler::new`].
    #[serde(default = "defaults::yes")]
    pub pndm_exact_slicing: bool,
    /// Steps of a random image.
    #[serde(default = "defaults::steps")]
    pub random_sampling_num_inference_steps: usize,
    /// How much a random image heeds its prompt; up to 1, there is no guidance.
    #[serde(default = "defaults::guidance")]
    pub random_sampling_guidance_scale: f64,
    /// Random images at once. On a CPU no result depends on it.
    #[serde(default = "defaults::batch_size")]
    pub random_sampling_batch_size: usize,
    /// Steps of a variation, those that its strength leaves out included.
    #[serde(default = "defaults::steps")]
    pub variation_num_inference_steps: usize,
    /// How much a variation heeds its prompt; up to 1, there is no guidance.
    #[serde(default = "defaults::guidance")]
    pub variation_guidance_scale: f64,
    /// Variations at once. On a CPU no result depends on it.
    #[serde(default = "defaults::batch_size")]
    pub variation_batch_size: usize,
    /// What the networks compute in: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16, `"f16"` on a GPU.
    #[serde(default)]
    pub dtype: Precision,
    /// What is asked for: one prompt, a list, or a table by private class. They are public.
    pub prompts: PromptsConfig,
}

/// `scheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerChoice {
    /// The one that the checkpoint names.
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
    /// The scheduler, unless the checkpoint decides.
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
    pub(super) fn image_size() -> usize {
        512
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

/// Far above any model that fits into a memory.
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
        if !(8..=MAX_IMAGE_SIZE).contains(&size) {
            let message = format!("is {size}: expected 8 to {MAX_IMAGE_SIZE}");
            return Err(InvalidKey::new("image_size", message));
        }
        for (key, steps) in [
            (
                "random_sampling_num_inference_steps",
                self.random_sampling_num_inference_steps,
            ),
            (
                "variation_num_inference_steps",
                self.variation_num_inference_steps,
            ),
        ] {
            // How many there are to choose from is the checkpoint's matter.
            if steps == 0 {
                return Err(InvalidKey::new(key, "is 0: expected at least 1"));
            }
        }
        for (key, scale) in [
            (
                "random_sampling_guidance_scale",
                self.random_sampling_guidance_scale,
            ),
            ("variation_guidance_scale", self.variation_guidance_scale),
        ] {
            if !(scale.is_finite() && scale >= 0.0) {
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

    /// The revision to take a repository at.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        let pinned = (self.checkpoint == CHECKPOINT).then_some(REVISION);
        self.revision.as_deref().or(pinned)
    }
}

/// The variation degree, which is diffusers' `strength`, as a number of steps to leave out.
pub(super) fn skipped(steps: usize, degree: f64) -> Result<usize, GeneratorError> {
    // Also refuses NaN.
    if (0.0..=1.0).contains(&degree) {
        return Ok(skipped_steps(steps, degree));
    }
    Err(GeneratorError::Degree {
        degree,
        expected: "a strength from 0 (least change) to 1 (most)".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
            ("variation_guidance_scale = nan", "variation_guidance_scale"),
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
            config.check_operation(Operation::Vary(degree)).unwrap();
        }
        for degree in [-0.1, 1.1, f64::NAN] {
            let error = config.check_operation(Operation::Vary(degree)).unwrap_err();
            assert!(error.to_string().contains("from 0"), "{error}");
        }
    }
}
