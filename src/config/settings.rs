//! [`Settings`]: the whole configuration, composed of the sections of other modules.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::classes::declared_classes;
use super::document::{Document, Locations};
use super::error::ConfigError;
use super::model;
use super::passed_on;
use super::sources::ConfigSources;
use crate::embedders::{EmbedderConfig, VoteEmbedderConfig};
use crate::fetch::Mirrors;
use crate::generators::{GeneratorError, ModelSection, Operation, Variation};
use crate::images::{DataConfig, ImageSize};
use crate::metrics::{EvaluationConfig, MetricKind};
use crate::pe::{EvolutionConfig, OutputConfig, PopulationSpec};
use crate::privacy::{Adjacency, PrivacyConfig, Unit};
use crate::sections::Section;

/// A configuration with all defaults filled in.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// `[data]`: the private images.
    pub data: DataConfig,
    /// `[model]`: the foundation model.
    pub model: ModelSection,
    /// `[embedder]`: the space of the vote.
    pub embedder: VoteEmbedderConfig,
    /// `[evolution]`: the PE loop.
    pub evolution: EvolutionConfig,
    /// `[privacy]`: noise and accounting.
    pub privacy: PrivacyConfig,
    /// `[output]`: where results go.
    pub output: OutputConfig,
    /// `[evaluation]`: metrics of each population; `None` if evaluation is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
    /// `[mirrors]`: URL prefixes and the prefixes by which `dpsyn fetch --for` replaces them. No
    /// run depends on them. They may name internal hosts, so they are not written into the
    /// published `config.toml`.
    #[serde(skip_serializing)]
    pub mirrors: BTreeMap<String, String>,
}

/// Settings that have passed every check that needs no data, with their positions.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// `[data]` with the declared classes, in whichever section they are declared.
    pub data: DataConfig,
    /// The initial population and one for each of T iterations.
    pub populations: Vec<PopulationSpec>,
    /// The position of each value, for the errors of later checks.
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
    /// Returns a [`ConfigError`] with the line of the fault.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded, ConfigError> {
        Self::check(&ConfigSources::read(path, overrides)?)
    }

    /// Reads and checks a configuration from text.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with the line of the fault.
    pub fn check(sources: &ConfigSources) -> Result<Loaded, ConfigError> {
        let mut document = Document::parse(sources)?;
        document.only_sections(SECTIONS)?;
        let locations = document.locations().clone();
        document.refuse_secrets()?;
        let model = model::read(&mut document)?;
        let pool = model.section().pool();
        let fitted = |mut embedder: EmbedderConfig| {
            if let Some(pool) = &pool {
                embedder.fit_to_pool(pool);
            }
            embedder
        };
        let private_device = document.take_value("embedder", VoteEmbedderConfig::PRIVATE_DEVICE)?;
        let embedder = VoteEmbedderConfig {
            embedder: fitted(model::embedder(&mut document, "embedder")?),
            private_device: private_device.unwrap_or_default(),
        };
        let mut evaluation = evaluation(&mut document)?;
        if let Some(evaluation) = &mut evaluation {
            evaluation.embedder = evaluation.embedder.take().map(fitted);
        }
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
        let populations = settings.validate(&locations)?;
        let data = DataConfig {
            classes: declared_classes(
                &settings.data,
                &settings.evolution,
                &settings.model,
                &locations,
            )?,
            ..settings.data.clone()
        };
        let loaded = Loaded {
            settings,
            data,
            populations,
            locations,
        };
        loaded.check_passed_on()?;
        Ok(loaded)
    }

    /// Returns the paths of images that are declared public for the model and the embedders, with
    /// their keys.
    #[must_use]
    pub fn declared_public(&self) -> Vec<(String, &Path)> {
        let of_model = self.model.section().declared_public().into_iter();
        let of_model = of_model.map(|(key, path)| (format!("model.{key}"), path));
        let own = self
            .evaluation
            .as_ref()
            .and_then(|config| config.embedder.as_ref());
        let embedders = [
            ("embedder.public", Some(&self.embedder.embedder)),
            ("evaluation.embedder.public", own),
        ];
        let of_embedders = embedders
            .into_iter()
            .filter_map(|(key, embedder)| Some((key.to_owned(), embedder?.declared_public()?)));
        of_model.chain(of_embedders).collect()
    }

    /// Returns the path of a reference of metrics that is not declared public.
    #[must_use]
    pub fn private_reference(&self) -> Option<&Path> {
        let evaluation = self.evaluation.as_ref();
        let private = evaluation.filter(|config| !config.reference_is_public);
        private.and_then(EvaluationConfig::path)
    }

    /// Returns the paths of private files and of the result folder, with their keys.
    fn private_paths(&self) -> Vec<(&'static str, &Path)> {
        let clients = self.data.clients.as_ref();
        let paths = [
            ("data.path", Some(self.data.path.as_path())),
            (
                "data.clients.csv",
                clients.and_then(|clients| clients.csv.as_deref()),
            ),
            ("privacy.budget", self.privacy.budget.as_deref()),
            ("evaluation.reference", self.private_reference()),
            ("output.folder", Some(self.output.folder.as_path())),
        ];
        let given = paths
            .into_iter()
            .filter_map(|(key, path)| Some((key, path?)));
        given.collect()
    }

    /// Performs every check that needs neither data nor weights.
    fn validate(&self, locations: &Locations) -> Result<Vec<PopulationSpec>, ConfigError> {
        self.data
            .validate()
            .map_err(|error| locations.invalid("data", error))?;
        self.refuse_truncation(locations)?;
        self.check_unit(locations)?;
        Mirrors::check(&self.mirrors)
            .map_err(|(from, message)| locations.error("mirrors", format!("{from}: {message}")))?;
        let model = self.model.section();
        model
            .validate()
            .map_err(|error| locations.invalid("model", error))?;
        let model_size = model.image_size();
        let embedder = |section: &str, config: &EmbedderConfig| -> Result<(), ConfigError> {
            let config = config.section();
            config
                .validate()
                .map_err(|error| locations.invalid(section, error))?;
            if config.resolution().is_none() && self.data.image_size.pair() != model_size {
                return Err(locations.error(
                    &format!("{section}.size"),
                    format!(
                        "missing: expected the common size for private images of {} pixels and \
                         samples of {} pixels",
                        self.data.image_size,
                        ImageSize::from(model_size)
                    ),
                ));
            }
            Ok(())
        };
        embedder("embedder", &self.embedder.embedder)?;
        if let Some(evaluation) = &self.evaluation {
            evaluation
                .validate()
                .map_err(|error| locations.invalid("evaluation", error))?;
            if evaluation.metrics.contains(&MetricKind::Downstream) {
                let message = "`downstream` is not available during a run, because it needs a \
                               labeled test set that the run does not use: after the run, use \
                               `dpsyn eval SAMPLES.npz --against TEST_SET --metrics downstream`";
                return Err(locations.error("evaluation.metrics", message.to_owned()));
            }
            if let Some(config) = &evaluation.embedder {
                embedder("evaluation.embedder", config)?;
            }
        }
        let invalid = |error| locations.invalid("evolution", error);
        self.evolution.validate().map_err(invalid)?;
        let populations = self.evolution.populations().map_err(invalid)?;
        for (key, found) in model.schedules_by_key() {
            let expected = populations.len();
            if found != expected {
                let message = format!(
                    "{found} entries where {expected} were expected: one for the initial population \
                     and one for each of {} iterations",
                    expected.saturating_sub(1)
                );
                return Err(locations.error(&format!("model.{key}"), message));
            }
        }
        // The first degree is used only for variations of the initial population.
        let unused = usize::from(self.evolution.initial_variations == 0);
        for (population, number) in populations.iter().zip(0..).skip(unused) {
            let vary = Operation::Vary(Variation::new(population.variation_degree, number));
            model.check_operation(vary).map_err(|error| match error {
                GeneratorError::Config(error) => locations.invalid("model", error),
                error => locations.error("evolution.variation_degree", error.to_string()),
            })?;
        }
        Ok(populations)
    }

    /// Refuses to limit the number of images of a source under add-remove adjacency: an image that
    /// is added to the source takes the place of another one, so the selected images differ by a
    /// replacement.
    fn refuse_truncation(&self, locations: &Locations) -> Result<(), ConfigError> {
        if self.data.num_samples.is_none() || self.privacy.adjacency == Adjacency::ReplaceOne {
            return Ok(());
        }
        let message = "limits the number of images, so that adding one image to the source replaces \
                       another one, which privacy.adjacency = \"add-remove\" does not cover: \
                       expected privacy.adjacency = \"replace-one\", or no data.num_samples and a \
                       folder with the images to use only";
        Err(locations.error("data.num_samples", message))
    }

    /// Checks that clients are named if and only if they are the unit of privacy, and that nothing
    /// selects images across clients.
    fn check_unit(&self, locations: &Locations) -> Result<(), ConfigError> {
        let (key, message) = match (self.privacy.unit, &self.data.clients) {
            (Unit::Image, None) => return Ok(()),
            (Unit::Image, Some(_)) => (
                "data.clients",
                "is given, but privacy.unit is \"image\": expected privacy.unit = \"client\", or no \
                 [data.clients]",
            ),
            (Unit::Client, None) => (
                "privacy.unit",
                "is \"client\", but no images have clients: expected [data.clients] with csv or \
                 pattern for a folder, or an empty one for an .npz file with the array `clients`",
            ),
            (Unit::Client, Some(_)) if self.data.num_samples.is_some() => (
                "data.num_samples",
                "selects images of all clients, so that the images of one client decide \
                 which images of others take part, which privacy.unit = \"client\" does not cover: \
                 expected no data.num_samples (data.clients.max_images limits the images of each \
                 client)",
            ),
            (Unit::Client, Some(_)) => return Ok(()),
        };
        Err(locations.error(key, message.to_owned()))
    }

    /// Returns the configuration as TOML, with all defaults filled in. It contains the paths of
    /// private data, so it belongs into `private/`.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if a value cannot be represented in TOML.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        written(self)
    }

    /// Returns the configuration as TOML for the published part of a result folder: like
    /// [`Settings::to_toml`], but without paths of private data and of results, which a comment at
    /// the beginning names.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if a value cannot be represented in TOML.
    pub fn to_public_toml(&self) -> Result<String, ConfigError> {
        let mut table = toml::Table::try_from(self).map_err(|error| unwritable(&error))?;
        let mut left_out = vec!["data.path", "output.folder"];
        if let Some(clients) = &self.data.clients {
            // How an owner names clients concerns no recipient.
            let keys = [
                ("data.clients.csv", clients.csv.is_some()),
                ("data.clients.column", clients.column.is_some()),
                ("data.clients.pattern", clients.pattern.is_some()),
            ];
            left_out.extend(keys.iter().filter(|(_, given)| *given).map(|(key, _)| *key));
        }
        if self.data.label_column.is_some() {
            left_out.push("data.label_column");
        }
        if self.evolution.initial_samples.is_some() {
            left_out.push("evolution.initial_samples");
        }
        if self.privacy.budget.is_some() {
            left_out.push("privacy.budget");
        }
        // A folder of the user's for what is computed once.
        let caches = [
            "model.cache",
            "model.embedder.public.cache",
            "embedder.public.cache",
            "evaluation.embedder.public.cache",
        ];
        left_out.extend(caches.iter().filter(|key| has(&table, key)));
        // The path of a reference is private unless the reference is declared public.
        let evaluation = self.evaluation.as_ref();
        if evaluation.is_some_and(|config| config.path().is_some() && !config.reference_is_public) {
            left_out.push("evaluation.reference");
            if evaluation.is_some_and(|config| config.reference_layout.is_some()) {
                left_out.push("evaluation.reference_layout");
            }
        }
        for key in &left_out {
            remove(&mut table, key);
        }
        let mut left_out: Vec<String> = left_out.into_iter().map(str::to_owned).collect();
        let members = table
            .get_mut("model")
            .and_then(|model| model.get_mut("members"));
        let members = members.and_then(toml::Value::as_array_mut);
        for (index, member) in members.into_iter().flatten().enumerate() {
            let Some(member) = member.as_table_mut() else {
                continue;
            };
            for key in ["cache", "embedder.public.cache"] {
                if has(member, key) {
                    remove(member, key);
                    left_out.push(format!("model.members[{index}].{key}"));
                }
            }
        }
        Ok(format!(
            "# Left out, because they are no public inputs: {} (see private/config.toml).\n{}",
            left_out.join(", "),
            written(&table)?
        ))
    }

    /// Returns every setting on which the results of a run depend, as JSON: the configuration
    /// without paths, batch sizes, pictures and evaluation. Two runs with the same identity, the
    /// same noise and the same input files produce the same samples.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if a path is not UTF-8.
    pub fn identity(&self) -> Result<serde_json::Value, ConfigError> {
        let mut value = serde_json::to_value(self).map_err(|error| ConfigError::Text {
            place: "resolved configuration".to_owned(),
            message: error.to_string(),
        })?;
        for (section, keys) in [
            ("data", DataConfig::NON_IDENTITY_KEYS),
            ("embedder", self.embedder.embedder.non_identity_keys()),
            ("evolution", EvolutionConfig::NON_IDENTITY_KEYS),
            ("privacy", PrivacyConfig::NON_IDENTITY_KEYS),
        ] {
            if let Some(table) = value.get_mut(section).and_then(|v| v.as_object_mut()) {
                for key in keys {
                    table.remove(*key);
                }
            }
        }
        if let Some(model) = value.get_mut("model") {
            self.model.remove_non_identity_keys(model);
        }
        if let Some(table) = value.as_object_mut() {
            table.remove("output");
            if let Some(table) = table.get_mut("embedder").and_then(|v| v.as_object_mut()) {
                // It changes rounding only, as the devices of a run do.
                table.remove(VoteEmbedderConfig::PRIVATE_DEVICE);
            }
            // Metrics only read a run, and nothing depends on them.
            table.remove("evaluation");
        }
        Ok(value)
    }
}

impl Loaded {
    /// Refuses private paths among the texts that a model passes to a program. To be repeated after
    /// the result folder was changed.
    ///
    /// # Errors
    /// Returns [`ConfigError::Value`] for the first such text.
    pub fn check_passed_on(&self) -> Result<(), ConfigError> {
        let texts = self.settings.model.section().passed_on();
        passed_on::check(&texts, &self.settings.private_paths(), &self.locations)
    }
}

/// Returns true if a table has a key with dots.
fn has(table: &toml::Table, key: &str) -> bool {
    match key.split_once('.') {
        Some((section, key)) => {
            let section = table.get(section).and_then(toml::Value::as_table);
            section.is_some_and(|section| has(section, key))
        }
        None => table.contains_key(key),
    }
}

/// Removes a key with dots from a table.
fn remove(table: &mut toml::Table, key: &str) {
    match key.split_once('.') {
        Some((section, key)) => {
            if let Some(section) = table.get_mut(section).and_then(toml::Value::as_table_mut) {
                remove(section, key);
            }
        }
        None => {
            table.remove(key);
        }
    }
}

fn written(settings: &impl Serialize) -> Result<String, ConfigError> {
    toml::to_string(settings).map_err(|error| unwritable(&error))
}

fn unwritable(error: &toml::ser::Error) -> ConfigError {
    ConfigError::Text {
        place: "resolved configuration".to_owned(),
        message: error.to_string(),
    }
}

/// Reads `[evaluation]` with `[evaluation.embedder]`. An empty list of metrics turns evaluation
/// off.
fn evaluation(document: &mut Document<'_>) -> Result<Option<EvaluationConfig>, ConfigError> {
    const SECTION: &str = "evaluation";
    if !document.has(SECTION) {
        return Ok(None);
    }
    let own = if document.promote_table(SECTION, "embedder")? {
        Some(model::embedder(document, "evaluation.embedder")?)
    } else {
        None
    };
    let mut config: EvaluationConfig = document.section(SECTION)?;
    config.embedder = own;
    Ok((!config.metrics.is_empty()).then_some(config))
}
