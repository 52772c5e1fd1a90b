//! The `[model]` section: one model, or a mixture of several.

use serde::Serialize;

use super::open::ModelConfig;
use super::{GeneratorSection, mixture};
use crate::sections::tagged_sections;

tagged_sections! {
    /// A `[model]` section of several models.
    pub enum MixtureConfig: dyn GeneratorSection {
        "mixture" => Mixture(mixture::Config),
    }
}

/// A `[model]` section.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelSection {
    /// One model.
    One(Box<ModelConfig>),
    /// Several models.
    Several(MixtureConfig),
}

impl ModelSection {
    /// The value of `type` for several models.
    pub const MIXTURE: &'static str = "mixture";

    /// Returns the section behind its trait.
    #[must_use]
    pub fn section(&self) -> &dyn GeneratorSection {
        match self {
            Self::One(model) => model.section(),
            Self::Several(mixture) => mixture.section(),
        }
    }

    /// Removes the keys on which no generated sample depends from the section, as JSON.
    pub fn remove_non_identity_keys(&self, section: &mut serde_json::Value) {
        match self {
            Self::One(model) => model.remove_non_identity_keys(section),
            Self::Several(MixtureConfig::Mixture(config)) => {
                let members = section.get_mut("members").and_then(|v| v.as_array_mut());
                for (member, value) in config.members.iter().zip(members.into_iter().flatten()) {
                    member.model.remove_non_identity_keys(value);
                }
            }
        }
    }
}
