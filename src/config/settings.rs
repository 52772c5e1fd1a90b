//! The whole configuration, composed of the modules' own sections.

use std::path::Path;

use serde::Serialize;

use super::document::{Document, Locations, Texts};
use super::error::ConfigError;
use crate::embedders::{EmbedderConfig, EmbedderError, PixelsConfig};
use crate::evolution::{EvolutionConfig, Generation, OutputConfig};
use crate::generators::{GeneratorError, Operation, improved_diffusion};
use crate::images::DataConfig;
use crate::metrics::EvaluationConfig;
use crate::privacy::PrivacyConfig;

/// `[model]`: the foundation model, told apart by `type`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// `type = "improved-diffusion"`.
    ImprovedDiffusion(improved_diffusion::Config),
}

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
}

/// Settings that have passed every check that needs no data.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// `1 + T` populations.
    pub generations: Vec<Generation>,
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
];

impl Settings {
    /// Reads and checks a configuration file with `key=value` overrides.
    ///
    /// # Errors
    /// [`ConfigError`], pointing at the line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, ConfigError> {
        Self::check(&Texts::read(path, overrides)?)
    }

    /// [`Settings::load`] with the text at hand.
    ///
    /// # Errors
    /// [`ConfigError`], pointing at the line.
    pub fn check(texts: &Texts) -> Result<Loaded, ConfigError> {
        let mut document = Document::parse(texts)?;
        document.only_sections(SECTIONS)?;
        let locations = document.locations().clone();
        document.take_type("model", &["improved-diffusion"])?;
        let model = ModelConfig::ImprovedDiffusion(document.section("model")?);
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
        };
        let generations = settings.validate(&locations)?;
        Ok(Loaded {
            settings,
            generations,
            locations,
        })
    }

    /// Every check that needs neither data nor weights.
    fn validate(&self, locations: &Locations) -> Result<Vec<Generation>, ConfigError> {
        self.data
            .validate()
            .map_err(|(key, message)| locations.error(&format!("data.{key}"), message))?;
        let model_error = |key: Option<String>| {
            move |error: GeneratorError| match (error, key) {
                (GeneratorError::Config { key, message }, _) => {
                    locations.error(&format!("model.{key}"), message)
                }
                (error, Some(key)) => locations.error(&key, error.to_string()),
                (error, None) => locations.error("model", error.to_string()),
            }
        };
        let ModelConfig::ImprovedDiffusion(model) = &self.model;
        model.validate().map_err(model_error(None))?;
        let embedder = |section: &str, config: &EmbedderConfig| -> Result<(), ConfigError> {
            config.validate().map_err(|error| match error {
                EmbedderError::Config { key, message } => {
                    locations.error(&format!("{section}.{key}"), message)
                }
                other => locations.error(section, other.to_string()),
            })?;
            if let EmbedderConfig::Pixels(PixelsConfig { size: None, .. }) = config
                && self.data.image_size != model.image_size
            {
                return Err(locations.error(
                    &format!("{section}.size"),
                    format!(
                        "missing: private images of {} and the model's of {} pixels must be brought to one size",
                        self.data.image_size, model.image_size
                    ),
                ));
            }
            Ok(())
        };
        embedder("embedder", &self.embedder)?;
        if let Some(evaluation) = &self.evaluation {
            evaluation
                .validate()
                .map_err(|(key, message)| locations.error(&format!("evaluation.{key}"), message))?;
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
            model
                .evaluations(Operation::Vary(generation.variation_degree))
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
            ("model", &["checkpoint", "batch_size"]),
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
    let own = if document.lift(SECTION, "embedder")? {
        Some(embedder(document, "evaluation.embedder")?)
    } else {
        None
    };
    let mut config: EvaluationConfig = document.section(SECTION)?;
    config.embedder = own;
    Ok((!config.metrics.is_empty()).then_some(config))
}
