//! Sections whose key `type` decides what they are: `[model]`, its members, and embedders.

use serde::de::DeserializeOwned;

use super::document::Document;
use super::error::ConfigError;
use crate::embedders::EmbedderConfig;
use crate::generators::mixture::{self, Member};
use crate::generators::{MixtureConfig, ModelConfig, ModelSection};
use crate::sections::ReadSection;

/// One section of a document whose `type` has been taken out.
struct SectionOf<'a, 'd>(&'a mut Document<'d>, &'a str);

impl ReadSection for SectionOf<'_, '_> {
    type Error = ConfigError;

    fn read<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        self.0.section(self.1)
    }
}

/// Reads `[model]`, with `[[model.members]]` of a mixture.
///
/// # Errors
/// Returns [`ConfigError`] for an unknown type, unknown and missing keys and wrong types.
pub(super) fn read(document: &mut Document<'_>) -> Result<ModelSection, ConfigError> {
    const SECTION: &str = "model";
    if !document.has_type(SECTION, ModelSection::MIXTURE) {
        let known = [ModelConfig::TYPES, &[ModelSection::MIXTURE]].concat();
        let model = model(document, SECTION, &known)?;
        return Ok(ModelSection::One(Box::new(model)));
    }
    document.take_type(SECTION, &[ModelSection::MIXTURE])?;
    let mut members = Vec::new();
    for section in document.promote_tables(SECTION, "members")? {
        members.push(member(document, &section)?);
    }
    let mut config: mixture::Config = document.section(SECTION)?;
    config.members = members;
    Ok(ModelSection::Several(MixtureConfig::Mixture(config)))
}

/// Reads a member of a mixture: its own keys, and those of its model.
fn member(document: &mut Document<'_>, section: &str) -> Result<Member, ConfigError> {
    let missing = |document: &Document<'_>, key: &str, expected: &str| {
        let message = format!("missing: expected {expected}");
        document
            .locations()
            .error(&format!("{section}.{key}"), message)
    };
    let name = document.take_value(section, "name")?;
    let name = name.ok_or_else(|| missing(document, "name", "a name of the member"))?;
    let share = document.take_value(section, "share")?;
    let share = share.ok_or_else(|| missing(document, "share", "a share of the random images"))?;
    Ok(Member {
        name,
        share,
        variation_degree: document.take_value(section, "variation_degree")?,
        model: model(document, section, ModelConfig::TYPES)?,
    })
}

/// Reads the section of one model, with the table `embedder` of a type that has one. `known`: the
/// types that an error names.
fn model(
    document: &mut Document<'_>,
    section: &str,
    known: &[&str],
) -> Result<ModelConfig, ConfigError> {
    let tag = document.take_type(section, known)?;
    let nested = format!("{section}.embedder");
    let own = if ModelConfig::WITH_EMBEDDER.contains(&tag.as_str())
        && document.promote_table(section, "embedder")?
    {
        Some(embedder(document, &nested)?)
    } else {
        None
    };
    let mut model = ModelConfig::read(&tag, SectionOf(document, section)).unwrap_or_else(|| {
        let key = format!("{section}.type");
        Err(document.locations().error(&key, "is not known"))
    })?;
    if let Some(place) = model.embedder_mut() {
        *place = own;
    }
    Ok(model)
}

/// Reads an embedder's section.
///
/// # Errors
/// Returns [`ConfigError`] for an unknown type, unknown and missing keys and wrong types.
pub(super) fn embedder(
    document: &mut Document<'_>,
    section: &str,
) -> Result<EmbedderConfig, ConfigError> {
    let tag = document.take_type(section, EmbedderConfig::TYPES)?;
    EmbedderConfig::read(&tag, SectionOf(document, section)).unwrap_or_else(|| {
        let key = format!("{section}.type");
        Err(document.locations().error(&key, "is not known"))
    })
}
