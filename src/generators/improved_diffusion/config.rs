//! The `[model]` section of an improved-diffusion model, and the network and sampler that it
//! describes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::diffusion::{
    DiffusionError, GaussianDiffusion, Method, NoiseSchedule, Prediction, Respacing, Sampler,
    SamplerOptions, Variance,
};
use crate::generators::{GeneratorError, Operation, Precision};
use crate::images::ImageSize;
use crate::models::improved_diffusion::UNetConfig;
use crate::schedule::Schedule;
use crate::sections::InvalidKey;

/// An unconditional or class-conditional diffusion model of openai/improved-diffusion.
///
/// Keys and defaults are the command-line options of improved-diffusion. They must have the values
/// that the checkpoint was trained with, because the checkpoint does not store them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// File of the weights, `.pt` or `.safetensors`.
    pub checkpoint: PathBuf,
    /// Height and width of the images in pixels: a number, or `[height, width]`. The defaults of
    /// other keys and `attention_resolutions` refer to the height.
    #[serde(default = "defaults::image_size")]
    pub image_size: ImageSize,
    /// Channels of the first level of the network; a multiple of 32.
    #[serde(default = "defaults::num_channels")]
    pub num_channels: usize,
    /// Number of residual blocks per level.
    #[serde(default = "defaults::num_res_blocks")]
    pub num_res_blocks: usize,
    /// Channels of each level as multiples of `num_channels`, from the full resolution down.
    /// Defaults to that of improved-diffusion for `image_size` 32 (`[1, 2, 2, 2]`), 64
    /// (`[1, 2, 3, 4]`) and 256 (`[1, 1, 2, 2, 4, 4]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_mult: Option<Vec<usize>>,
    /// Resolutions with attention layers: a list `[16, 8]`, or a text `"16,8"`.
    #[serde(
        default = "defaults::attention_resolutions",
        deserialize_with = "list_or_text"
    )]
    pub attention_resolutions: Vec<usize>,
    /// Number of attention heads.
    #[serde(default = "defaults::num_heads")]
    pub num_heads: usize,
    /// Number of attention heads in the decoder; -1 for `num_heads`.
    #[serde(default = "defaults::num_heads_upsample")]
    pub num_heads_upsample: i64,
    /// Conditions the blocks by a scale and shift of the normalized activations; if false, the time
    /// embedding is added.
    #[serde(default = "defaults::yes")]
    pub use_scale_shift_norm: bool,
    /// Predicts the variance with the network as well.
    #[serde(default)]
    pub learn_sigma: bool,
    /// Conditions the network on a class label.
    #[serde(default)]
    pub class_cond: bool,
    /// Number of class labels; ignored without `class_cond`.
    #[serde(default = "defaults::num_classes")]
    pub num_classes: u32,
    /// Number of steps of the diffusion process of the training.
    #[serde(default = "defaults::diffusion_steps")]
    pub diffusion_steps: usize,
    /// Noise schedule, `"linear"` or `"cosine"`.
    #[serde(default)]
    pub noise_schedule: NoiseSchedule,
    /// Selection of sampling steps: `""` (all), `"100"`, `"ddim25"`, `"quad20"`, `"10,20,30"`; see
    /// [`Respacing`]. A list has one value for each population.
    #[serde(default)]
    pub timestep_respacing: Schedule<String>,
    /// Scales the time input of the network to 0…1000 for any `diffusion_steps`.
    #[serde(default = "defaults::yes")]
    pub rescale_timesteps: bool,
    /// The network predicts the image instead of the noise.
    #[serde(default)]
    pub predict_xstart: bool,
    /// Uses the variance of the posterior instead of β; ignored with `learn_sigma`.
    #[serde(default)]
    pub sigma_small: bool,
    /// Samples with DDIM (deterministic steps) instead of DDPM; ignored with `sampler`.
    #[serde(default)]
    pub use_ddim: bool,
    /// The sampler; defaults to that of `use_ddim`, improved-diffusion's option. `"dpm-solver++"`
    /// needs fewer steps than DDIM for the same quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Clips each predicted image to [−1, 1].
    #[serde(default = "defaults::yes")]
    pub clip_denoised: bool,
    /// Images per batch; defaults to 100 on a CPU and to as many as fit on a GPU. On a CPU, results
    /// do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Number type of the network: `"f32"`; `"bf16"` on a GPU or a CPU with AVX512_BF16; `"f16"`
    /// on a GPU.
    #[serde(default)]
    pub dtype: Precision,
    /// The labels of the model that represent each private class, by the name of the class. One of
    /// them is chosen at random for each image of the initial population. Without it, one of all
    /// labels of the model is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_labels: Option<BTreeMap<String, Vec<u32>>>,
}

/// The sampler of the diffusion process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// Ancestral sampling.
    Ddpm,
    /// DDIM without noise.
    Ddim,
    /// DPM-Solver++(2M), which improved-diffusion does not have.
    #[serde(rename = "dpm-solver++")]
    DpmSolver,
}

/// Defaults of the command line of improved-diffusion.
mod defaults {
    pub(super) fn image_size() -> crate::images::ImageSize {
        crate::images::ImageSize::square(64)
    }
    pub(super) fn num_channels() -> usize {
        128
    }
    pub(super) fn num_res_blocks() -> usize {
        2
    }
    pub(super) fn attention_resolutions() -> Vec<usize> {
        vec![16, 8]
    }
    pub(super) fn num_heads() -> usize {
        4
    }
    pub(super) fn num_heads_upsample() -> i64 {
        -1
    }
    pub(super) fn num_classes() -> u32 {
        1000
    }
    pub(super) fn diffusion_steps() -> usize {
        1000
    }
    pub(super) fn yes() -> bool {
        true
    }
}

/// Limits the memory of the schedule; no published model was trained with more steps.
const MAX_DIFFUSION_STEPS: usize = 100_000;

fn list_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected resolutions as a list such as [16, 8] or as text such as \"16,8\""
    )]
    enum Resolutions {
        List(Vec<usize>),
        Text(String),
    }
    match Resolutions::deserialize(deserializer)? {
        Resolutions::List(list) => Ok(list),
        Resolutions::Text(text) => text
            .split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| {
                serde::de::Error::custom(format!(
                    "\"{text}\" is not a list of resolutions: expected one such as \"16,8\""
                ))
            }),
    }
}

impl Config {
    /// Checks every key as far as this is possible without the model's files.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.checkpoint.as_os_str().is_empty() {
            let message = "is empty: expected a file of weights";
            return Err(InvalidKey::new("checkpoint", message));
        }
        self.unet()?;
        self.validate_classes()?;
        if self.batch_size == Some(0) {
            return Err(InvalidKey::new("batch_size", "is 0: expected at least 1"));
        }
        self.samplers().map(drop)
    }

    fn validate_classes(&self) -> Result<(), InvalidKey> {
        let Some(labels) = &self.class_labels else {
            return Ok(());
        };
        if !self.class_cond {
            let message = "is set, but class_cond is false";
            return Err(InvalidKey::new("class_labels", message));
        }
        for (class, labels) in labels {
            let key = || format!("class_labels.{class}");
            if labels.is_empty() {
                return Err(InvalidKey::new(
                    key(),
                    "is empty: expected at least one label",
                ));
            }
            if let Some(label) = labels.iter().find(|&&label| label >= self.num_classes) {
                let message = format!(
                    "has label {label}: expected labels below num_classes, {}",
                    self.num_classes
                );
                return Err(InvalidKey::new(key(), message));
            }
        }
        Ok(())
    }

    /// Returns the configuration of the network.
    ///
    /// # Errors
    /// [`InvalidKey`] naming the key that is out of range.
    pub fn unet(&self) -> Result<UNetConfig, InvalidKey> {
        let num_heads_upsample = match self.num_heads_upsample {
            -1 => None,
            heads => Some(usize::try_from(heads).map_err(|_| {
                let message = format!("is {heads}: expected at least 1, or -1 for num_heads");
                InvalidKey::new("num_heads_upsample", message)
            })?),
        };
        let config = UNetConfig {
            image_size: self.image_size.height,
            in_channels: 3,
            model_channels: self.num_channels,
            learn_sigma: self.learn_sigma,
            num_res_blocks: self.num_res_blocks,
            channel_mult: self.channel_mult.clone(),
            attention_resolutions: self.attention_resolutions.clone(),
            num_heads: self.num_heads,
            num_heads_upsample,
            use_scale_shift_norm: self.use_scale_shift_norm,
            num_classes: self.class_cond.then_some(self.num_classes as usize),
        };
        match config.validate() {
            Ok(()) => {
                let (width, multiple) = (self.image_size.width, config.size_multiple());
                if width == 0 || width > 1 << 16 || !width.is_multiple_of(multiple) {
                    let message = format!(
                        "has width {width}: expected a multiple of {multiple} from {multiple} to \
                         65536 for this channel_mult"
                    );
                    return Err(InvalidKey::new("image_size", message));
                }
                Ok(config)
            }
            // The network's name of this key differs from that of the command line.
            Err(error) if error.key == "model_channels" => {
                Err(InvalidKey::new("num_channels", error.message))
            }
            Err(error) => Err(InvalidKey::new(error.key, error.message)),
        }
    }

    /// Creates the samplers that the configuration describes.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `timestep_respacing` or `diffusion_steps`.
    pub fn samplers(&self) -> Result<Samplers, InvalidKey> {
        let mut samplers = Samplers {
            distinct: Vec::new(),
            schedule: self.timestep_respacing.clone(),
        };
        for respacing in self.timestep_respacing.values() {
            if samplers.named(respacing).is_none() {
                let sampler = self.sampler(respacing)?;
                samplers.distinct.push((respacing.clone(), sampler));
            }
        }
        Ok(samplers)
    }

    /// Creates the sampler with a value of `timestep_respacing`.
    fn sampler(&self, respacing: &str) -> Result<Sampler, InvalidKey> {
        let steps = self.diffusion_steps;
        if steps > MAX_DIFFUSION_STEPS {
            let message = format!("is {steps}: expected at most {MAX_DIFFUSION_STEPS}");
            return Err(InvalidKey::new("diffusion_steps", message));
        }
        let respacing: Respacing = respacing.parse().map_err(|error: DiffusionError| {
            InvalidKey::new("timestep_respacing", error.to_string())
        })?;
        let diffusion = GaussianDiffusion::new(self.noise_schedule, steps, &respacing)
            .map_err(|error| InvalidKey::new(key_of(&error, &respacing), error.to_string()))?;
        let options = SamplerOptions {
            method: match (self.sampler, self.use_ddim) {
                (Some(SamplerKind::Ddim), _) | (None, true) => Method::Ddim { eta: 0.0 },
                (Some(SamplerKind::Ddpm), _) | (None, false) => Method::Ddpm,
                (Some(SamplerKind::DpmSolver), _) => Method::DpmSolver,
            },
            prediction: if self.predict_xstart {
                Prediction::XStart
            } else {
                Prediction::Epsilon
            },
            variance: match (self.learn_sigma, self.sigma_small) {
                (true, _) => Variance::LearnedRange,
                (false, true) => Variance::FixedSmall,
                (false, false) => Variance::FixedLarge,
            },
            clip_denoised: self.clip_denoised,
            rescale_timesteps: self.rescale_timesteps,
        };
        Ok(Sampler::new(diffusion, options))
    }

    /// Returns the number of network evaluations of one image.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for an unsupported degree, or the errors of [`Config::samplers`].
    pub fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.samplers()?.evaluations(operation)
    }
}

/// The samplers of a model, one for each value of `timestep_respacing`.
#[derive(Debug, Clone)]
pub struct Samplers {
    /// Each value once, with its sampler.
    distinct: Vec<(String, Sampler)>,
    schedule: Schedule<String>,
}

impl Samplers {
    fn named(&self, respacing: &str) -> Option<&Sampler> {
        let named = self.distinct.iter().find(|(name, _)| name == respacing);
        named.map(|(_, sampler)| sampler)
    }

    /// Returns the sampler for images of a population.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `timestep_respacing` if its list has no value for the population.
    pub fn of(&self, population: u32) -> Result<&Sampler, InvalidKey> {
        let respacing = self.schedule.get(population as usize);
        let sampler = respacing.and_then(|respacing| self.named(respacing));
        sampler.ok_or_else(|| {
            let message = format!("has no value for population {population}");
            InvalidKey::new("timestep_respacing", message)
        })
    }

    /// Returns the sampler of an operation and the number of (noisiest) steps that it skips.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for an unsupported degree, and the error of [`Samplers::of`].
    pub(super) fn start(&self, operation: Operation) -> Result<(&Sampler, usize), GeneratorError> {
        match operation {
            Operation::Random => Ok((self.of(0)?, 0)),
            Operation::Vary(variation) => {
                let sampler = self.of(variation.population)?;
                let steps = sampler.diffusion().num_timesteps();
                Ok((sampler, skipped_steps(steps, variation.degree)?))
            }
        }
    }

    /// Returns the number of network evaluations of one image.
    ///
    /// # Errors
    /// Those of [`Samplers::start`].
    pub(super) fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        let (sampler, skipped) = self.start(operation)?;
        Ok((sampler.diffusion().num_timesteps() - skipped) as u64)
    }
}

/// Returns the key that causes an error of the diffusion process.
fn key_of(error: &DiffusionError, respacing: &Respacing) -> &'static str {
    match error {
        DiffusionError::Beta { .. } => "diffusion_steps",
        DiffusionError::TooFewSteps(_) if *respacing == Respacing::All => "diffusion_steps",
        _ => "timestep_respacing",
    }
}

/// Converts the variation degree to the number of (noisiest) steps to skip, below `steps`.
fn skipped_steps(steps: usize, degree: f64) -> Result<usize, GeneratorError> {
    // The comparisons are false for NaN.
    if degree.fract() == 0.0 && degree >= 0.0 && degree < steps as f64 {
        return Ok(degree as usize);
    }
    Err(GeneratorError::Degree {
        degree,
        expected: format!(
            "an integer from 0 (most change) to {} (least change), the number of skipped steps of \
             {steps}",
            steps.saturating_sub(1)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::Variation;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("checkpoint = \"model.pt\"\n{text}"))
    }

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        let config = parse("").unwrap();
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.evaluations(Operation::Random).unwrap(), 1000);
    }

    #[test]
    fn the_papers_configuration() {
        let config = parse(
            "num_channels = 192\nnum_res_blocks = 3\nlearn_sigma = true\nclass_cond = true\n\
             diffusion_steps = 4000\nnoise_schedule = \"cosine\"\nrescale_timesteps = false\n\
             use_ddim = true\ntimestep_respacing = \"100\"\nbatch_size = 2000\n\
             attention_resolutions = \"16, 8\"\n[class_labels]\nbird = [10, 11]\n",
        )
        .unwrap();
        config.validate().unwrap();
        assert_eq!(config.attention_resolutions, [16, 8]);
        assert_eq!(config.evaluations(Operation::Random).unwrap(), 100);
        assert_eq!(
            config
                .evaluations(Operation::Vary(Variation::new(98.0, 1)))
                .unwrap(),
            2
        );
        for degree in [-1.0, 100.0, 1.5, f64::NAN, f64::INFINITY] {
            let error = config
                .evaluations(Operation::Vary(Variation::new(degree, 1)))
                .unwrap_err();
            assert!(
                error.to_string().contains("from 0 (most change) to 99"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_sampler_is_the_original_s_unless_another_is_named() {
        let method = |text: &str| {
            let samplers = parse(text).unwrap().samplers().unwrap();
            samplers.of(0).unwrap().options().method
        };
        assert_eq!(method(""), Method::Ddpm);
        assert_eq!(method("use_ddim = true"), Method::Ddim { eta: 0.0 });
        for use_ddim in ["", "use_ddim = true\n"] {
            let named = |name: &str| method(&format!("{use_ddim}sampler = \"{name}\""));
            assert_eq!(named("ddpm"), Method::Ddpm);
            assert_eq!(named("ddim"), Method::Ddim { eta: 0.0 });
            assert_eq!(named("dpm-solver++"), Method::DpmSolver);
        }
        let error = parse("sampler = \"euler\"").unwrap_err().to_string();
        assert!(error.contains("dpm-solver++"), "{error}");
        // Runs of before keep their identity.
        let text = toml::to_string(&parse("use_ddim = true").unwrap()).unwrap();
        assert!(!text.contains("sampler"), "{text}");
        let few = parse("sampler = \"dpm-solver++\"\ntimestep_respacing = \"quad20\"").unwrap();
        assert_eq!(few.evaluations(Operation::Random).unwrap(), 20);
        assert_eq!(
            toml::from_str::<Config>(&toml::to_string(&few).unwrap()).unwrap(),
            few
        );
    }

    #[test]
    fn unknown_keys_and_values_are_refused() {
        let error = parse("num_chanels = 3").unwrap_err().to_string();
        assert!(error.contains("num_chanels"), "{error}");
        let error = parse("noise_schedule = \"sqrt\"").unwrap_err().to_string();
        assert!(
            error.contains("linear") && error.contains("cosine"),
            "{error}"
        );
        let error = parse("attention_resolutions = \"16;8\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("16;8") && error.contains("16,8"), "{error}");
        let error = parse("attention_resolutions = 16").unwrap_err().to_string();
        assert!(error.contains("[16, 8]"), "{error}");
        assert!(
            toml::from_str::<Config>("")
                .unwrap_err()
                .to_string()
                .contains("checkpoint")
        );
    }

    #[test]
    fn every_range_error_names_its_key() {
        for (text, key) in [
            ("image_size = 48", "channel_mult"),
            ("image_size = 36\nchannel_mult = [1, 2, 2, 2]", "image_size"),
            ("image_size = 0\nchannel_mult = [1]", "image_size"),
            ("channel_mult = []", "channel_mult"),
            ("channel_mult = [1, 0]", "channel_mult"),
            ("num_channels = 48", "num_channels"),
            ("num_channels = 0", "num_channels"),
            ("num_res_blocks = 0", "num_res_blocks"),
            ("num_heads = 0", "num_heads"),
            ("num_heads = 3\nattention_resolutions = []", "num_heads"),
            ("num_heads_upsample = -2", "num_heads_upsample"),
            ("num_heads_upsample = 0", "num_heads_upsample"),
            ("num_heads_upsample = 5", "num_heads_upsample"),
            ("attention_resolutions = [16, 0]", "attention_resolutions"),
            ("attention_resolutions = [24]", "attention_resolutions"),
            ("diffusion_steps = 1", "diffusion_steps"),
            ("diffusion_steps = 20", "diffusion_steps"),
            ("diffusion_steps = 1000000", "diffusion_steps"),
            ("timestep_respacing = \"ten\"", "timestep_respacing"),
            ("timestep_respacing = \"2000\"", "timestep_respacing"),
            ("timestep_respacing = \"ddim300\"", "timestep_respacing"),
            ("timestep_respacing = \"quad1001\"", "timestep_respacing"),
            ("timestep_respacing = \"1\"", "timestep_respacing"),
            ("batch_size = 0", "batch_size"),
            ("class_cond = true\nnum_classes = 0", "num_classes"),
            ("[class_labels]\na = [1]", "class_labels"),
            (
                "class_cond = true\n[class_labels]\na = []",
                "class_labels.a",
            ),
            (
                "class_cond = true\n[class_labels]\na = [1000]",
                "class_labels.a",
            ),
        ] {
            match parse(text).unwrap().validate() {
                Err(InvalidKey { key: found, .. }) => assert_eq!(found, key, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let no_file: Config = toml::from_str("checkpoint = \"\"").unwrap();
        assert!(no_file.validate().is_err());
    }

    #[test]
    fn other_sizes_work_with_channel_mult() {
        let config = parse("image_size = 48\nchannel_mult = [1, 2]\nattention_resolutions = [24]");
        config.unwrap().validate().unwrap();
    }
}
