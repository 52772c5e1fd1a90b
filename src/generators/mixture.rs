//! Several models as one: each makes a share of the random images, and a variation is made by the
//! model that made the parent, or by another one by rule.
//!
//! The model of an image travels in its parameters: `{"member":"pool","parameters":…}`. A model
//! that takes over an image of another one receives its pixels without these parameters.

mod conditions;
mod config;
mod rule;
#[cfg(test)]
mod tests;

pub use config::{Config, Member};

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, OpenedGenerator, Operation,
    Parameters, PlannedWork, RunPaths, SampleRequest, Variation, check_pairs,
};
use crate::hex;
use crate::images::ImageBatch;
use crate::public_images::PublicImages;
use conditions::Conditions;
use rule::Rule;

/// The parameters of an image of a mixture.
#[derive(Deserialize)]
struct Origin {
    /// The member that made it.
    member: String,
    /// Its parameters of that member.
    #[serde(default)]
    parameters: Value,
}

/// Several models as one.
pub struct Mixture {
    members: Vec<(Member, Box<dyn Generator>)>,
    rule: Rule,
    conditions: Conditions,
    prompts: Vec<String>,
}

impl Mixture {
    /// Combines the opened members of a checked configuration.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] if their conditions have more combinations than 32 bits.
    pub(super) fn combine(
        config: &Config,
        opened: Vec<OpenedGenerator>,
    ) -> Result<OpenedGenerator, GeneratorError> {
        let numbers = opened.iter().map(|one| one.generator.num_conditions());
        let conditions = Conditions::new(numbers.collect())?;
        let mut digest = Sha256::new();
        let (mut members, mut warnings, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
        let has_digest = opened.iter().any(|one| one.weights_digest.is_some());
        for (member, one) in config.members.iter().zip(opened) {
            let own = one.weights_digest.as_deref().unwrap_or("none");
            digest.update(format!("{} {own}\n", member.name));
            let named = |text| prefixed(&member.name, text);
            warnings.extend(one.warnings.into_iter().map(named));
            prompts.extend(one.generator.prompts().iter().cloned());
            members.push((member.clone(), one.generator));
        }
        let mixture = Self {
            members,
            rule: config.rule(),
            conditions,
            prompts,
        };
        Ok(OpenedGenerator {
            generator: Box::new(mixture),
            weights_digest: has_digest.then(|| hex::encode(&digest.finalize())),
            warnings,
        })
    }

    fn generators(&self) -> impl DoubleEndedIterator<Item = &dyn Generator> {
        self.members.iter().map(|(_, generator)| &**generator)
    }

    /// Returns the member that made an image, and the image's parameters of that member; nothing if
    /// the image is of none of them.
    fn origin(
        &self,
        parameters: &Parameters,
    ) -> Result<Option<(usize, Parameters)>, GeneratorError> {
        let Ok(origin) = parameters.read::<Origin>() else {
            return Ok(None);
        };
        let named = |(member, _): &(Member, _)| member.name == origin.member;
        let Some(member) = self.members.iter().position(named) else {
            return Ok(None);
        };
        let parameters = match origin.parameters {
            Value::Null => Parameters::NONE,
            value => Parameters::of(&value)?,
        };
        Ok(Some((member, parameters)))
    }

    /// Answers requests that are divided among members: the order of the answers is that of
    /// `routes`. `answer` receives a member, its requests, and their indices.
    fn divide(
        &self,
        routes: &[usize],
        requests: &[SampleRequest],
        answer: impl Fn(usize, &[SampleRequest], &[usize]) -> Result<Generated, GeneratorError>,
    ) -> Result<Generated, GeneratorError> {
        let mut answers = Vec::with_capacity(self.members.len());
        for member in 0..self.members.len() {
            let mine = routes.iter().zip(requests).enumerate();
            let mine = mine.filter(|(_, (route, _))| **route == member);
            let (indices, requests): (Vec<usize>, Vec<SampleRequest>) = mine
                .map(|(index, (_, request))| {
                    let condition = self.conditions.of(member, request.condition);
                    let rng_key = request.rng_key;
                    (index, SampleRequest { condition, rng_key })
                })
                .unzip();
            let (height, width) = self.image_size();
            let own = match requests.is_empty() {
                true => ImageBatch::empty(height, width).into(),
                false => answer(member, &requests, &indices)?,
            };
            if own.len() != requests.len() {
                return Err(GeneratorError::Input(format!(
                    "{} images of a member for {} requests",
                    own.len(),
                    requests.len()
                )));
            }
            answers.push((own, 0));
        }
        let (height, width) = self.image_size();
        let mut data = Vec::with_capacity(routes.len() * height * width * 3);
        let mut parameters = Vec::with_capacity(routes.len());
        for member in routes {
            let (Some((own, next)), Some((config, _))) =
                (answers.get_mut(*member), self.members.get(*member))
            else {
                continue;
            };
            data.extend_from_slice(own.images.get(*next).unwrap_or_default());
            parameters.push(wrapped(&config.name, own.parameters(*next))?);
            *next += 1;
        }
        let images = ImageBatch::new(data, routes.len(), height, width)?;
        Generated::new(images, parameters)
    }
}

/// Adds the name of the member to the parameters of its image.
fn wrapped(name: &str, own: &Parameters) -> Result<Parameters, GeneratorError> {
    let name = Value::from(name);
    Parameters::from_text(&match own.is_none() {
        true => format!("{{\"member\":{name}}}"),
        false => format!("{{\"member\":{name},\"parameters\":{}}}", own.text()),
    })
}

fn prefixed(name: &str, text: String) -> String {
    format!("member {name:?}: {text}")
}

impl Generator for Mixture {
    fn image_size(&self) -> (usize, usize) {
        let first = self.generators().next();
        first.map_or((0, 0), Generator::image_size)
    }

    /// Returns the smallest of the members' sizes, so that an interruption costs a slow member no
    /// more than it would alone; but a whole population if a member needs it.
    fn batch_size(&self) -> usize {
        let sizes = || self.generators().map(Generator::batch_size);
        match sizes().any(|size| size == usize::MAX) {
            true => usize::MAX,
            false => sizes().min().unwrap_or(1),
        }
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let own = self
            .generators()
            .map(|generator| generator.initial_conditions(requests));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let unconditional = Condition::UNCONDITIONAL;
        let joined = (0..requests.len()).map(|index| {
            let parts = own
                .iter()
                .map(|own| own.get(index).copied().unwrap_or(unconditional));
            self.conditions.join(parts)
        });
        Ok(joined.collect())
    }

    fn num_conditions(&self) -> u32 {
        self.conditions.count()
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        let members = self.members.iter();
        let described = members.flat_map(|(member, generator)| {
            let own = generator.describe_conditions(class).into_iter();
            own.map(|text| prefixed(&member.name, text))
        });
        described.collect()
    }

    fn prompts(&self) -> &[String] {
        &self.prompts
    }

    fn public_images(&self) -> Vec<Arc<PublicImages>> {
        self.generators()
            .flat_map(Generator::public_images)
            .collect()
    }

    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let mut messages = Vec::new();
        for (index, (member, generator)) in self.members.iter().enumerate() {
            let own = work.iter().filter_map(|work| {
                let shares = self.rule.shares(work.operation);
                let share = shares.get(index).copied().unwrap_or_default();
                let images = (work.images as f64 * share).ceil() as u64;
                (images > 0).then(|| PlannedWork {
                    operation: own_operation(member, work.operation),
                    images,
                    each: work.each,
                })
            });
            let own: Vec<PlannedWork> = own.collect();
            let lines = generator.preflight(&own)?.into_iter();
            messages.extend(lines.map(|line| prefixed(&member.name, line)));
        }
        Ok(messages)
    }

    fn begin_run(&self, paths: &RunPaths) -> Result<(), GeneratorError> {
        self.generators()
            .try_for_each(|generator| generator.begin_run(paths))
    }

    fn overlaps_host_work(&self) -> bool {
        self.generators().all(Generator::overlaps_host_work)
    }

    fn drain_warnings(&self) -> Vec<String> {
        let members = self.members.iter();
        let warnings = members.flat_map(|(member, generator)| {
            let own = generator.drain_warnings().into_iter();
            own.map(|text| prefixed(&member.name, text))
        });
        warnings.collect()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let routes = requests.iter().map(|one| self.rule.random(one.rng_key));
        let routes: Vec<usize> = routes.collect();
        self.divide(&routes, requests, |member, requests, _| {
            self.member(member)?.1.random(requests)
        })
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        check_pairs(parents, requests)?;
        let (mut routes, mut own) = (Vec::new(), Vec::new());
        for (index, request) in requests.iter().enumerate() {
            let (maker, parameters) = self.origin(parents.parameters(index))?.unzip();
            let route = self.rule.vary(maker, variation, request.rng_key);
            let route =
                route.filter(|route| maker == Some(*route) || self.rule.can_take_over(*route));
            routes.push(route.ok_or_else(|| {
                GeneratorError::Input(format!(
                    "an image with the parameters {:?} was made by no member that could vary it: \
                     expected a member that varies pixels",
                    parents.parameters(index).text()
                ))
            })?);
            own.push(match maker == route {
                true => parameters.unwrap_or_default(),
                false => Parameters::NONE,
            });
        }
        self.divide(&routes, requests, |member, requests, indices| {
            let (height, width) = self.image_size();
            let mut data = Vec::with_capacity(indices.len() * height * width * 3);
            let mut parameters = Vec::with_capacity(indices.len());
            for index in indices {
                data.extend_from_slice(parents.images.get(*index).unwrap_or_default());
                parameters.push(own.get(*index).cloned().unwrap_or_default());
            }
            let images = ImageBatch::new(data, indices.len(), height, width)?;
            let parents = Generated::new(images, parameters)?;
            let (config, generator) = self.member(member)?;
            generator.vary(&parents, requests, config.variation(variation))
        })
    }

    fn check_parent(
        &self,
        condition: Condition,
        parameters: &Parameters,
    ) -> Result<(), GeneratorError> {
        let Some((member, own)) = self.origin(parameters)? else {
            return Ok(());
        };
        let (Member { name, .. }, generator) = self.member(member)?;
        let condition = self.conditions.of(member, condition);
        let checked = generator.check_parent(condition, &own);
        checked.map_err(|error| GeneratorError::Input(prefixed(name, error.to_string())))
    }

    /// Returns the mean over the members by their expected shares, rounded up.
    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        let mut mean = 0.0;
        let shares = self.rule.shares(operation);
        for ((member, generator), share) in self.members.iter().zip(shares) {
            if share > 0.0 {
                let own = own_operation(member, operation);
                mean += share * generator.evaluations(own)? as f64;
            }
        }
        Ok(mean.ceil() as u64)
    }
}

impl Mixture {
    fn member(&self, index: usize) -> Result<&(Member, Box<dyn Generator>), GeneratorError> {
        let missing = || GeneratorError::Input(format!("a mixture has no member {index}"));
        self.members.get(index).ok_or_else(missing)
    }
}

/// Returns the operation with the member's own degree.
fn own_operation(member: &Member, operation: Operation) -> Operation {
    match operation {
        Operation::Random => Operation::Random,
        Operation::Vary(variation) => Operation::Vary(member.variation(variation)),
    }
}
