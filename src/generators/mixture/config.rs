//! The `[model]` section of a mixture.

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::Mixture;
use super::rule::{PARENT, Rule};
use crate::generators::{
    GeneratorError, GeneratorSection, ModelConfig, OpenedGenerator, Operation, Variation,
};
use crate::hub::Requirement;
use crate::images::ImageSize;
use crate::progress::Observer;
use crate::public_images::PublicImagesConfig;
use crate::schedule::Schedule;
use crate::sections::{InvalidKey, Section};

/// Several models, each of which makes a share of the random images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model that varies an image: `"parent"` for the member that made it, or the name of a
    /// member for all images; one value, or one for each population.
    #[serde(default = "parent")]
    pub variations: Schedule<String>,
    /// The models. Each is read as a section of its own.
    #[serde(default, skip_deserializing)]
    pub members: Vec<Member>,
}

fn parent() -> Schedule<String> {
    Schedule::Constant(PARENT.to_owned())
}

/// A model of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Member {
    /// Its name, which samples carry in their parameters.
    pub name: String,
    /// Its share of the random images, in proportion to those of the others.
    pub share: f64,
    /// The degrees of its variations in place of `evolution.variation_degree`, whose meaning
    /// differs from model to model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation_degree: Option<Schedule<f64>>,
    /// The model.
    #[serde(flatten)]
    pub model: ModelConfig,
}

impl Member {
    /// Returns the settings of a variation by this member.
    pub(super) fn variation(&self, variation: Variation) -> Variation {
        let own = self.variation_degree.as_ref();
        let degree = own.and_then(|degrees| degrees.get(variation.population as usize));
        let degree = degree.copied().unwrap_or(variation.degree);
        Variation::new(degree, variation.population)
    }
}

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[];
}

/// Returns an error about a key of member `index`.
fn invalid(index: usize, key: &str, message: impl Into<String>) -> InvalidKey {
    InvalidKey::new(format!("members[{index}].{key}"), message)
}

impl Config {
    /// Returns the members with their indices and sections.
    fn sections(&self) -> impl Iterator<Item = (usize, &Member, &dyn GeneratorSection)> {
        let members = self.members.iter().enumerate();
        members.map(|(index, member)| (index, member, member.model.section()))
    }

    fn validate_names_and_shares(&self) -> Result<(), InvalidKey> {
        if self.members.is_empty() {
            let message = "is missing: expected a section [[model.members]] for each model";
            return Err(InvalidKey::new("members", message));
        }
        for (index, member) in self.members.iter().enumerate() {
            let is_taken = |other: &Member| other.name == member.name;
            if member.name.is_empty() || member.name == PARENT {
                let message = format!("is {:?}: expected a name of the member", member.name);
                return Err(invalid(index, "name", message));
            }
            if self.members.iter().take(index).any(is_taken) {
                let message = format!("is {:?}, as that of an earlier member", member.name);
                return Err(invalid(index, "name", message));
            }
            if !(member.share.is_finite() && member.share >= 0.0) {
                let message = format!("is {}: expected a number of at least 0", member.share);
                return Err(invalid(index, "share", message));
            }
        }
        let sum: f64 = self.members.iter().map(|member| member.share).sum();
        if !(sum > 0.0 && sum.is_finite()) {
            let message = "have shares of 0 only: expected one above 0, whose member makes the \
                           random images";
            return Err(InvalidKey::new("members", message));
        }
        Ok(())
    }

    /// Checks that every member fits the first one: the size of images and the classes.
    fn validate_likeness(&self) -> Result<(), InvalidKey> {
        let mut hosted = None;
        let mut classes: Option<(&str, Vec<&str>)> = None;
        let first = self.sections().next();
        for (index, member, section) in self.sections() {
            if let Some((_, other, first)) = first
                && first.image_size() != section.image_size()
            {
                let message = format!(
                    "is {} for the member {:?}, and {} for the member {:?}: expected one size for \
                     all members",
                    ImageSize::from(section.image_size()),
                    member.name,
                    ImageSize::from(first.image_size()),
                    other.name
                );
                return Err(invalid(index, "image_size", message));
            }
            if section.is_hosted()
                && let Some(other) = hosted.replace(&member.name)
            {
                let message = format!(
                    "is hosted, as the member {other:?} is: expected at most one hosted member, \
                     whose requests requests.jsonl records"
                );
                return Err(invalid(index, "type", message));
            }
            let Some((key, mut names)) = section.classes() else {
                continue;
            };
            names.sort_unstable();
            match &classes {
                None => classes = Some((&member.name, names)),
                Some((_, known)) if *known == names => {}
                Some((other, known)) => {
                    let message = format!(
                        "has the classes {names:?}, and the member {other:?} has {known:?}: \
                         expected the same classes"
                    );
                    let key = key.strip_prefix("model.").unwrap_or(key);
                    return Err(invalid(index, key, message));
                }
            }
        }
        Ok(())
    }

    /// Checks that a member that takes over images of others can vary them.
    fn validate_rules(&self) -> Result<(), InvalidKey> {
        for (population, name) in self.variations.values().iter().enumerate() {
            if name == PARENT {
                continue;
            }
            let key = || match self.variations.len() {
                None => "variations".to_owned(),
                Some(_) => format!("variations[{population}]"),
            };
            let found = self.sections().find(|(_, member, _)| member.name == *name);
            let Some((_, _, section)) = found else {
                let names: Vec<&str> = self.members.iter().map(|m| m.name.as_str()).collect();
                let message = format!(
                    "is {name:?}: expected {PARENT:?} or the name of a member, of {names:?}"
                );
                return Err(InvalidKey::new(key(), message));
            };
            if section.varies_pixels() {
                continue;
            }
            let before = self
                .variations
                .values()
                .get(..population)
                .unwrap_or_default();
            let is_maker = |member: &&Member| {
                member.name != *name && (member.share > 0.0 || before.contains(&member.name))
            };
            if let Some(other) = self.members.iter().find(is_maker) {
                let message = format!(
                    "is {name:?}, which varies the parameters of its own images only, but {:?} may \
                     have made the images: expected {PARENT:?} or a member that varies pixels",
                    other.name
                );
                return Err(InvalidKey::new(key(), message));
            }
        }
        Ok(())
    }

    /// Returns the rule by which requests are divided.
    pub(super) fn rule(&self) -> Rule {
        let index_of = |name: &String| self.members.iter().position(|m| m.name == *name);
        Rule::new(
            self.members.iter().map(|member| member.share).collect(),
            self.sections()
                .map(|(_, _, section)| section.varies_pixels())
                .collect(),
            match &self.variations {
                Schedule::Constant(name) => Schedule::Constant(index_of(name)),
                Schedule::List(names) => Schedule::List(names.iter().map(index_of).collect()),
            },
        )
    }
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        self.validate_names_and_shares()?;
        for (index, _, section) in self.sections() {
            section
                .validate()
                .map_err(|error| invalid(index, &error.key, error.message))?;
        }
        self.validate_likeness()?;
        self.validate_rules()
    }

    fn declared_public(&self) -> Vec<(String, &Path)> {
        let mut paths = Vec::new();
        for (index, _, section) in self.sections() {
            let own = section.declared_public().into_iter();
            paths.extend(own.map(|(key, path)| (format!("members[{index}].{key}"), path)));
        }
        paths
    }

    fn image_size(&self) -> (usize, usize) {
        let first = self.sections().next();
        first.map_or((0, 0), |(_, _, section)| section.image_size())
    }

    fn schedules_by_key(&self) -> Vec<(String, usize)> {
        let own = self
            .variations
            .len()
            .map(|len| ("variations".to_owned(), len));
        let mut schedules: Vec<(String, usize)> = own.into_iter().collect();
        for (index, member, section) in self.sections() {
            let degrees = member.variation_degree.as_ref().and_then(Schedule::len);
            let degrees = degrees.map(|len| ("variation_degree".to_owned(), len));
            let all = degrees.into_iter().chain(section.schedules_by_key());
            schedules.extend(all.map(|(key, len)| (format!("members[{index}].{key}"), len)));
        }
        schedules
    }

    /// Returns true if a member does: only such a member varies an image that none of them made.
    fn varies_pixels(&self) -> bool {
        self.sections()
            .any(|(_, _, section)| section.varies_pixels())
    }

    fn passed_on(&self) -> Vec<(String, &str)> {
        let mut texts = Vec::new();
        for (index, _, section) in self.sections() {
            let own = section.passed_on().into_iter();
            texts.extend(own.map(|(key, text)| (format!("members[{index}].{key}"), text)));
        }
        texts
    }

    /// Checks the operation for every member that is expected to perform it.
    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        let shares = self.rule().shares(operation);
        for ((index, member, section), share) in self.sections().zip(shares) {
            if share == 0.0 {
                continue;
            }
            let own = match operation {
                Operation::Random => Operation::Random,
                Operation::Vary(variation) => Operation::Vary(member.variation(variation)),
            };
            section.check_operation(own).map_err(|error| match error {
                GeneratorError::Config(error) => invalid(index, &error.key, error.message).into(),
                error @ GeneratorError::Degree { .. } if member.variation_degree.is_some() => {
                    invalid(index, "variation_degree", error.to_string()).into()
                }
                GeneratorError::Degree { degree, expected } => GeneratorError::Degree {
                    degree,
                    expected: format!(
                        "{expected}, of the member {:?} (its own variation_degree replaces \
                         evolution.variation_degree)",
                        member.name
                    ),
                },
                error => error,
            })?;
        }
        Ok(())
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        let mut classes = self
            .sections()
            .filter_map(|(_, _, section)| section.classes());
        classes.next().map(|(_, names)| ("model.members", names))
    }

    fn pool(&self) -> Option<PublicImagesConfig> {
        self.sections().find_map(|(_, _, section)| section.pool())
    }

    fn requirements(&self) -> Vec<Requirement> {
        let needed = self
            .sections()
            .flat_map(|(_, _, section)| section.requirements());
        needed.collect()
    }

    fn is_hosted(&self) -> bool {
        self.sections().any(|(_, _, section)| section.is_hosted())
    }

    fn open(
        &self,
        devices: &[Device],
        observer: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        let mut opened = Vec::with_capacity(self.members.len());
        for (index, _, section) in self.sections() {
            let one = section
                .open(devices, observer)
                .map_err(|error| match error {
                    GeneratorError::Config(error) => {
                        invalid(index, &error.key, error.message).into()
                    }
                    error => error,
                });
            opened.push(one?);
        }
        Mixture::combine(self, opened)
    }
}
