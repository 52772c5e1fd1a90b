//! Pictures composed of parts, as a foundation model without a network.
//!
//! Each attribute, such as hair or glasses, is a folder of PNG files of one size with transparent
//! pixels. A random image draws one part of each attribute and lays them over each other. A
//! variation draws each attribute of its parent again with the probability that is the variation
//! degree. The names of the parts are stored with the image; pixels of parents are not used.

mod config;
mod parts;
#[cfg(test)]
mod tests;

pub use config::Config;

use std::collections::BTreeMap;

use candle_core::Device;
use rayon::prelude::*;

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, GeneratorSection,
    OpenedGenerator, Operation, Parameters, SampleRequest, Variation, check_pairs,
};
use crate::hub::Requirement;
use crate::images::{Filter, ImageBatch, Resampler};
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};
use config::evaluations;
use parts::{Choice, Parts};

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["parts", "batch_size"];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        Self::validate(self)
    }

    /// Returns false: an image of another model has no parameters that could be varied.
    fn varies_pixels(&self) -> bool {
        false
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        evaluations(operation).map(drop)
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        let classes = self.class_parts.as_ref()?;
        let names = classes.keys().map(String::as_str).collect();
        Some(("model.class_parts", names))
    }

    fn requirements(&self) -> Vec<Requirement> {
        vec![Requirement::path(&self.parts)]
    }

    fn open(&self, _: &[Device], _: &dyn Observer) -> Result<OpenedGenerator, GeneratorError> {
        let model = Sprites::open(self)?;
        Ok(OpenedGenerator {
            weights_digest: Some(model.parts.digest.clone()),
            generator: Box::new(model),
            warnings: Vec::new(),
        })
    }
}

/// The parts of a run, and the choice among them for each condition.
struct Sprites {
    config: Config,
    parts: Parts,
    /// Names of the classes of each condition; none if all classes have all parts.
    classes: Vec<String>,
    /// Of each condition, the choice for each attribute.
    choices: Vec<Vec<Choice>>,
    resampler: Resampler,
}

/// The names of the parts of an image by attribute, `None` for none, as `samples.npz` stores them.
type Chosen = BTreeMap<String, Option<String>>;

impl Sprites {
    fn open(config: &Config) -> Result<Self, GeneratorError> {
        config.validate()?;
        let parts = Parts::read(&config.parts, config.layers.as_deref())?;
        let (classes, choices) = match &config.class_parts {
            None => (Vec::new(), vec![choices(&parts, "", &BTreeMap::new())?]),
            Some(classes) => {
                let choices = classes
                    .iter()
                    .map(|(class, allowed)| choices(&parts, class, allowed));
                (
                    classes.keys().cloned().collect(),
                    choices.collect::<Result<_, _>>()?,
                )
            }
        };
        let resampler = Resampler::new(Filter::Bicubic, parts.size, config.image_size.pair());
        let resampler = resampler.map_err(|error| GeneratorError::Input(error.to_string()))?;
        Ok(Self {
            config: config.clone(),
            parts,
            classes,
            choices,
            resampler,
        })
    }

    fn condition(&self, request: &ConditionRequest<'_>) -> Result<Condition, InvalidKey> {
        if self.classes.is_empty() {
            return Ok(Condition::UNCONDITIONAL);
        }
        let class = request.class.ok_or_else(|| {
            let message = "is set, but data.class_conditional is false";
            InvalidKey::new("class_parts", message)
        })?;
        let index = self.classes.iter().position(|known| known == class);
        let index = index.ok_or_else(|| {
            let known = &self.classes;
            let message = format!("has no entry for class \"{class}\", only for {known:?}");
            InvalidKey::new("class_parts", message)
        })?;
        Ok(Condition(index as u32))
    }

    fn choices(&self, request: &SampleRequest) -> Result<&[Choice], GeneratorError> {
        let choices = self.choices.get(request.condition.0 as usize);
        choices.map(Vec::as_slice).ok_or_else(|| {
            GeneratorError::Input(format!(
                "condition {} does not exist: the model has {}",
                request.condition.0,
                self.choices.len()
            ))
        })
    }

    /// Draws each attribute of `parent` again with a probability of `degree`, or all of a new
    /// image.
    fn draw(
        &self,
        request: &SampleRequest,
        parent: Option<&Parameters>,
        degree: f64,
    ) -> Result<Vec<Option<usize>>, GeneratorError> {
        let choices = self.choices(request)?;
        let parent = parent.map(|parent| self.read(parent)).transpose()?;
        let mut rng = request.rng_key.rng();
        let chosen = choices.iter().enumerate().map(|(index, choice)| {
            // Every attribute takes three numbers, so that none depends on others.
            let (coin, presence, which) = (rng.uniform(), rng.uniform(), rng.uniform());
            match parent.as_ref().and_then(|parent| parent.get(index)) {
                Some(part) if coin >= degree => *part,
                _ => choice.choose(presence, which),
            }
        });
        Ok(chosen.collect())
    }

    /// Reads the stored parts of an image as indices.
    fn read(&self, parameters: &Parameters) -> Result<Vec<Option<usize>>, GeneratorError> {
        let chosen: Chosen = parameters.read()?;
        let attributes = self.parts.attributes.iter().map(|attribute| {
            let name = &attribute.layer.name;
            let unknown = |part: &dyn std::fmt::Display| {
                GeneratorError::Input(format!(
                    "an image has {part} of \"{name}\", which the model does not have: expected the \
                     parts with which the image was made"
                ))
            };
            match chosen.get(name) {
                None => Err(unknown(&"nothing")),
                Some(None) => Ok(None),
                Some(Some(part)) => match attribute.position(part) {
                    Some(index) => Ok(Some(index)),
                    None => Err(unknown(part)),
                },
            }
        });
        attributes.collect()
    }

    /// Composes an image from its parts; returns `[height, width, 3]` and its parameters.
    fn render(&self, chosen: &[Option<usize>]) -> Result<(Vec<u8>, Parameters), GeneratorError> {
        let composed = self.parts.compose(chosen, self.config.background);
        let pixels = self.resampler.bytes(&composed, 3);
        let pixels = pixels.map_err(|error| GeneratorError::Input(error.to_string()))?;
        let attributes = self.parts.attributes.iter().zip(chosen);
        let names: Chosen = attributes
            .map(|(attribute, chosen)| {
                let part = chosen.and_then(|index| attribute.parts.get(index));
                (
                    attribute.layer.name.clone(),
                    part.map(|part| part.name.clone()),
                )
            })
            .collect();
        Ok((pixels, Parameters::of(&names)?))
    }

    fn generate(
        &self,
        requests: &[SampleRequest],
        parents: Option<&Generated>,
        degree: f64,
    ) -> Result<Generated, GeneratorError> {
        let (height, width) = self.config.image_size.pair();
        let images = requests.par_iter().enumerate().map(|(index, request)| {
            let parent = parents.map(|parents| parents.parameters(index));
            self.render(&self.draw(request, parent, degree)?)
        });
        let images = images.collect::<Result<Vec<_>, GeneratorError>>()?;
        let (pixels, parameters): (Vec<Vec<u8>>, Vec<Parameters>) = images.into_iter().unzip();
        let images = ImageBatch::new(pixels.concat(), parameters.len(), height, width)?;
        Generated::new(images, parameters)
    }
}

/// Returns the choice for each attribute of a class.
fn choices(
    parts: &Parts,
    class: &str,
    allowed: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<Choice>, InvalidKey> {
    let known = |name: &&String| parts.attributes.iter().any(|a| a.layer.name == **name);
    if let Some(name) = allowed.keys().find(|name| !known(name)) {
        let known: Vec<&String> = parts.attributes.iter().map(|a| &a.layer.name).collect();
        let message = format!("has the attribute \"{name}\": expected some of {known:?}");
        return Err(InvalidKey::new(format!("class_parts.{class}"), message));
    }
    let choices = parts.attributes.iter().map(|attribute| {
        let name = &attribute.layer.name;
        let key = format!("class_parts.{class}.{name}");
        Choice::new(attribute, allowed.get(name).map(Vec::as_slice), &key)
    });
    choices.collect()
}

impl Generator for Sprites {
    fn image_size(&self) -> (usize, usize) {
        self.config.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let conditions = requests.iter().map(|request| self.condition(request));
        Ok(conditions.collect::<Result<_, InvalidKey>>()?)
    }

    fn num_conditions(&self) -> u32 {
        u32::try_from(self.choices.len()).unwrap_or(u32::MAX)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        let classes = self.config.class_parts.as_ref();
        let allowed = classes
            .zip(class)
            .and_then(|(classes, class)| classes.get(class));
        let Some(allowed) = allowed else {
            return vec!["all parts".to_owned()];
        };
        let described = allowed
            .iter()
            .map(|(name, parts)| format!("{name}: {}", parts.join(", ")));
        described.collect()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        self.generate(requests, None, 1.0)
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        self.evaluations(Operation::Vary(variation))?;
        check_pairs(parents, requests)?;
        self.generate(requests, Some(parents), variation.degree)
    }

    fn check_parent(&self, _: Condition, parameters: &Parameters) -> Result<(), GeneratorError> {
        self.read(parameters).map(drop)
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        evaluations(operation)
    }
}
