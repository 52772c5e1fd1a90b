//! The whole configuration, composed of the modules' own sections.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::document::{ConfigSources, Document, Locations};
use super::error::ConfigError;
use crate::embedders::{EmbedderConfig, EmbedderError, PixelsConfig};
use crate::fetch::Mirrors;
use crate::generators::{
    GeneratorError, Operation, improved_diffusion, openai_images, stable_diffusion,
};
use crate::images::DataConfig;
use crate::metrics::{EvaluationConfig, MetricKind};
use crate::pe::{EvolutionConfig, OutputConfig, PopulationSpec};
use crate::privacy::PrivacyConfig;

/// `[model]`: the foundation model, told apart by `type`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// `type = "improved-diffusion"`.
    ImprovedDiffusion(improved_diffusion::Config),
    /// `type = "openai-images"`.
    #[serde(rename = "openai-images")]
    OpenAiImages(openai_images::Config),
    /// `type = "stable-diffusion"`.
    StableDiffusion(stable_diffusion::Config),
}

/// The words for `model.type`.
const MODELS: &[&str] = &["improved-diffusion", "openai-images", "stable-diffusion"];

impl ModelConfig {
    fn read(document: &mut Document<'_>) -> Result<Self, ConfigError> {
        Ok(match document.take_type("model", MODELS)?.as_str() {
            "stable-diffusion" => Self::StableDiffusion(document.section("model")?),
            "openai-images" => Self::OpenAiImages(document.section("model")?),
            _ => Self::ImprovedDiffusion(document.section("model")?),
        })
    }

    fn validate(&self) -> Result<(), GeneratorError> {
        match self {
            Self::ImprovedDiffusion(config) => config.validate(),
            Self::StableDiffusion(config) => config.validate(),
            Self::OpenAiImages(config) => config.validate(),
        }
    }

    /// Rows and columns of its images.
    fn image_size(&self) -> usize {
        match self {
            Self::ImprovedDiffusion(config) => config.image_size,
            Self::StableDiffusion(config) => config.image_size,
            Self::OpenAiImages(config) => config.image_size(),
        }
    }

    /// Refuses what the model cannot do.
    fn check(&self, operation: Operation) -> Result<(), GeneratorError> {
        match self {
            Self::ImprovedDiffusion(config) => config.evaluations(operation).map(drop),
            Self::StableDiffusion(config) => config.check(operation),
            Self::OpenAiImages(config) => config.evaluations(operation).map(drop),
        }
    }
}

/// Keys of `[model]` that no result depends on.
const WITHOUT_EFFECT: &[&str] = &[
    "checkpoint",
    "batch_size",
    "api_key_env",
    "backoff",
    "concurrency",
    "max_attempts",
    "max_backoff",
    "max_cost",
    "max_images_per_call",
    "max_requests",
    "max_retry_after",
    "price_per_image",
    "random_sampling_batch_size",
    "response_format",
    "revision",
    "timeout",
    "variation_batch_size",
];
/// A configuration with all defaults filled in.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// `[data]`: the private images.
    pub data: DataConfig,
    /// `[model]`: the foundation model.
    pub model: ModelConfig,
    /// `[embedder]`: the space of the vote.
    pub embedder: EmbedderConfig,
    /// `[evolution]`: the PE loop.
    pub evolution: EvolutionConfig,
    /// `[privacy]`: noise and accounting.
    pub privacy: PrivacyConfig,
    /// `[output]`: where results go.
    pub output: OutputConfig,
    /// `[evaluation]`: figures of each population; `None` when it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
    /// `[mirrors]`: beginnings of addresses and what `dpsyn fetch --for` puts in their place. No run depends on
    /// them, and they may name machines that are nobody's business: they are not written down again.
    #[serde(skip_serializing)]
    pub mirrors: BTreeMap<String, String>,
}

/// Settings that have passed every check that needs no data.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// `1 + T` populations.
    pub generations: Vec<PopulationSpec>,
    /// Where each value stands, for later complaints.
    pub locations: Locations,
}

const SECTIONS: &[&str] = &[
    "data",
    "model",
    "embedder",
    "evolution",
    "privacy",
    "output",
    "evaluation",
    "mirrors",
];

impl Settings {
    /// Reads and checks a configuration file with `key=value` overrides.
    ///
    /// # Errors
    /// [`ConfigError`], pointing at the line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, ConfigError> {
        Self::check(&ConfigSources::read(path, overrides)?)
    }

    /// [`Settings::load`] with the text at hand.
    ///
    /// # Errors
    /// [`ConfigError`], pointing at the line.
    pub fn check(sources: &ConfigSources) -> Result<Loaded, ConfigError> {
        let mut document = Document::parse(sources)?;
        document.only_sections(SECTIONS)?;
        let locations = document.locations().clone();
        document.refuse_secrets()?;
        let model = ModelConfig::read(&mut document)?;
        let embedder = embedder(&mut document, "embedder")?;
        let evaluation = evaluation(&mut document)?;
        let settings = Self {
            data: document.section("data")?,
            model,
            embedder,
            evolution: document.section("evolution")?,
            privacy: document.section("privacy")?,
            output: document.section("output")?,
            evaluation,
            mirrors: document.section("mirrors")?,
        };
        let generations = settings.validate(&locations)?;
        Ok(Loaded {
            settings,
            generations,
            locations,
        })
    }

    /// Every check that needs neither data nor weights.
    fn validate(&self, locations: &Locations) -> Result<Vec<PopulationSpec>, ConfigError> {
        self.data
            .validate()
            .map_err(|(key, message)| locations.error(&format!("data.{key}"), message))?;
        Mirrors::check(&self.mirrors)
            .map_err(|(from, message)| locations.error("mirrors", format!("{from}: {message}")))?;
        let model_error = |key: Option<String>| {
            move |error: GeneratorError| match (error, key) {
                (GeneratorError::Config { key, message }, _) => {
                    locations.error(&format!("model.{key}"), message)
                }
                (error, Some(key)) => locations.error(&key, error.to_string()),
                (error, None) => locations.error("model", error.to_string()),
            }
        };
        self.model.validate().map_err(model_error(None))?;
        let model_size = self.model.image_size();
        let embedder = |section: &str, config: &EmbedderConfig| -> Result<(), ConfigError> {
            config.validate().map_err(|error| match error {
                EmbedderError::Config { key, message } => {
                    locations.error(&format!("{section}.{key}"), message)
                }
                other => locations.error(section, other.to_string()),
            })?;
            if let EmbedderConfig::Pixels(PixelsConfig { size: None, .. }) = config
                && self.data.image_size != model_size
            {
                return Err(locations.error(
                    &format!("{section}.size"),
                    format!(
                        "missing: private images of {} and the model's of {} pixels must be brought to one size",
                        self.data.image_size, model_size
                    ),
                ));
            }
            Ok(())
        };
        embedder("embedder", &self.embedder)?;
        if let Some(evaluation) = &self.evaluation {
            evaluation.validate().map_err(|error| {
                let key = format!("evaluation.{}", error.key);
                locations.error(&key, error.message)
            })?;
            if evaluation.metrics.contains(&MetricKind::Downstream) {
                let message = "`downstream` needs labelled images that took no part in the run: \
                               use `dpsyn eval SAMPLES.npz --against TEST_SET --metrics downstream`";
                return Err(locations.error("evaluation.metrics", message.to_owned()));
            }
            if let Some(config) = &evaluation.embedder {
                embedder("evaluation.embedder", config)?;
            }
        }
        let generations = self
            .evolution
            .generations()
            .map_err(|(key, message)| locations.error(&format!("evolution.{key}"), message))?;
        // The first degree is only used for the initial population's variations.
        let unused = usize::from(self.evolution.initial_variations == 0);
        for generation in generations.iter().skip(unused) {
            self.model
                .check(Operation::Vary(generation.variation_degree))
                .map_err(model_error(Some("evolution.variation_degree".to_owned())))?;
        }
        Ok(generations)
    }

    /// The configuration as TOML, every default filled in.
    ///
    /// # Errors
    /// [`ConfigError::Text`] when it cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError::Text {
            place: "resolved configuration".to_owned(),
            message: error.to_string(),
        })
    }

    /// What a run's results depend on, as JSON: the configuration less where things lie, how many images
    /// are computed at once, what pictures are drawn, and how it is evaluated. Two runs with the same identity and noise, and
    /// the same files in those places, leave the same samples.
    ///
    /// # Errors
    /// [`ConfigError::Text`] when a path is no text.
    pub fn identity(&self) -> Result<serde_json::Value, ConfigError> {
        let mut value = serde_json::to_value(self).map_err(|error| ConfigError::Text {
            place: "resolved configuration".to_owned(),
            message: error.to_string(),
        })?;
        for (section, keys) in [
            ("data", &["path", "on_bad_image"][..]),
            ("model", WITHOUT_EFFECT),
            ("embedder", &["weights", "batch_size"]),
            ("evolution", &["initial_samples"]),
        ] {
            if let Some(table) = value.get_mut(section).and_then(|v| v.as_object_mut()) {
                for key in keys {
                    table.remove(*key);
                }
            }
        }
        if let Some(table) = value.as_object_mut() {
            table.remove("output");
            // Figures look at a run; it does not depend on them.
            table.remove("evaluation");
        }
        Ok(value)
    }
}

/// An embedder's section.
fn embedder(document: &mut Document<'_>, section: &str) -> Result<EmbedderConfig, ConfigError> {
    Ok(
        match document.take_type(section, EmbedderConfig::TYPES)?.as_str() {
            "inception" => EmbedderConfig::Inception(document.section(section)?),
            "clip" => EmbedderConfig::Clip(document.section(section)?),
            _ => EmbedderConfig::Pixels(document.section(section)?),
        },
    )
}

/// `[evaluation]` with `[evaluation.embedder]`; no metrics are no evaluation.
fn evaluation(document: &mut Document<'_>) -> Result<Option<EvaluationConfig>, ConfigError> {
    const SECTION: &str = "evaluation";
    if !document.has(SECTION) {
        return Ok(None);
    }
    let own = if document.promote_table(SECTION, "embedder")? {
        Some(embedder(document, "evaluation.embedder")?)
    } else {
        None
    };
    let mut config: EvaluationConfig = document.section(SECTION)?;
    config.embedder = own;
    Ok((!config.metrics.is_empty()).then_some(config))
}
