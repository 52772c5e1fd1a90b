//! A program of the user's as the foundation model: a child process that is asked for images.
//!
//! `docs/program-protocol.md` describes the messages. The program receives requests with public
//! values only: [`SampleRequest`] and [`Parameters`](super::Parameters) of generated images are all
//! that a [`Generator`] has, and no value of [`Sensitive`](crate::privacy::Sensitive) can become
//! one. It receives neither the environment of dpsyn nor its open files. A process of the same user
//! can read that user's files, however, which no parent process can prevent.

mod config;
mod environment;
mod error;
mod process;
#[cfg(all(test, unix))]
mod process_tests;
mod protocol;
mod reader;
mod stderr;
#[cfg(test)]
mod tests;
mod workers;

pub use config::Config;
pub use error::ProgramError;

use candle_core::Device;
use sha2::{Digest, Sha256};

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, GeneratorSection,
    OpenedGenerator, Operation, SampleRequest, Variation, check_pairs,
};
use crate::hex;
use crate::hub::{Requirement, weights_digest};
use crate::images::ImageBatch;
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};
use protocol::{Answer, Parent, Request};
use workers::Workers;

impl Section for Config {
    // The digest of the files is part of the identity.
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[
        "files",
        "processes",
        "batch_size",
        "timeout_seconds",
        "restarts",
    ];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        self.check()
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        check_degree(operation, None)
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        let classes = self.classes.as_ref()?;
        Some((
            "model.classes",
            classes.keys().map(String::as_str).collect(),
        ))
    }

    fn varies_pixels(&self) -> bool {
        self.pixels
    }

    fn passed_on(&self) -> Vec<(String, &str)> {
        let keys = [
            ("command", &self.command),
            ("environment", &self.environment),
        ];
        let mut texts = Vec::new();
        for (key, list) in keys {
            let entries = list.iter().enumerate();
            texts.extend(entries.map(|(index, text)| (format!("{key}[{index}]"), text.as_str())));
        }
        for (class, value) in self.classes.iter().flatten() {
            let strings = strings_of(value).into_iter();
            texts.extend(strings.map(|text| (format!("classes.{class}"), text)));
        }
        texts
    }

    fn requirements(&self) -> Vec<Requirement> {
        let files = self.identity_files();
        files.iter().map(Requirement::path).collect()
    }

    fn open(&self, _: &[Device], _: &dyn Observer) -> Result<OpenedGenerator, GeneratorError> {
        let mut warnings = Vec::new();
        let files = self.identity_files();
        if files.is_empty() && self.version.is_none() {
            let message = "model.files and model.version are not given, and model.command names no \
                           file: a resumed run will not notice that the program has changed";
            warnings.push(message.to_owned());
        }
        let mut digest = Sha256::new();
        for file in &files {
            digest.update(weights_digest(file)?);
        }
        Ok(OpenedGenerator {
            generator: Box::new(Program::start(self)?),
            weights_digest: (!files.is_empty()).then(|| hex::encode(&digest.finalize())),
            warnings,
        })
    }
}

/// Checks that a degree is a number within the bounds that the program states.
fn check_degree(operation: Operation, bounds: Option<[f64; 2]>) -> Result<(), GeneratorError> {
    let Operation::Vary(Variation { degree, .. }) = operation else {
        return Ok(());
    };
    let expected = match bounds {
        _ if !degree.is_finite() => "a finite number".to_owned(),
        Some([low, high]) if !(low..=high).contains(&degree) => {
            format!("a number from {low} to {high}, which the program states")
        }
        _ => return Ok(()),
    };
    Err(GeneratorError::Degree { degree, expected })
}

/// A program that is ready for requests.
pub struct Program {
    config: Config,
    workers: Workers,
}

impl Program {
    /// Starts the first process and exchanges the first messages.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] if the command names no program, [`GeneratorError::Program`] if
    /// it does not answer as the protocol requires.
    pub fn start(config: &Config) -> Result<Self, GeneratorError> {
        config.check()?;
        let workers = Workers::start(
            config.launch()?,
            config.class_values(),
            config.processes,
            config.batch_size,
            config.restarts,
        )?;
        Ok(Self {
            config: config.clone(),
            workers,
        })
    }

    fn generated(&self, answers: Vec<Answer>) -> Result<Generated, GeneratorError> {
        let (height, width) = self.image_size();
        let mut data = Vec::with_capacity(answers.len() * height * width * 3);
        let mut parameters = Vec::with_capacity(answers.len());
        for answer in answers {
            data.extend_from_slice(&answer.pixels);
            parameters.push(answer.parameters);
        }
        let images = ImageBatch::new(data, parameters.len(), height, width)?;
        Generated::new(images, parameters)
    }
}

/// Returns all strings in a JSON value.
fn strings_of(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::String(text) => vec![text],
        serde_json::Value::Array(values) => values.iter().flat_map(strings_of).collect(),
        serde_json::Value::Object(table) => table.values().flat_map(strings_of).collect(),
        _ => Vec::new(),
    }
}

impl Generator for Program {
    fn image_size(&self) -> (usize, usize) {
        self.config.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size * self.config.processes
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let Some(classes) = &self.config.classes else {
            return Ok(vec![Condition::UNCONDITIONAL; requests.len()]);
        };
        let missing = |message: String| GeneratorError::from(InvalidKey::new("classes", message));
        let condition = |request: &ConditionRequest<'_>| {
            let class = request
                .class
                .ok_or_else(|| missing("is set, but data.class_conditional is false".to_owned()))?;
            let index = classes.keys().position(|known| known == class);
            let index = index.and_then(|index| u32::try_from(index).ok());
            index.map(Condition).ok_or_else(|| {
                let known: Vec<&String> = classes.keys().collect();
                missing(format!(
                    "has no entry for class {class:?}, only for {known:?}"
                ))
            })
        };
        requests.iter().map(condition).collect()
    }

    fn num_conditions(&self) -> u32 {
        let classes = self
            .config
            .classes
            .as_ref()
            .map_or(1, |classes| classes.len());
        u32::try_from(classes).unwrap_or(u32::MAX)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        let value = class.and_then(|class| self.config.classes.as_ref()?.get(class));
        let describe = |value| format!("class {value} of the program");
        value.map(describe).into_iter().collect()
    }

    fn drain_warnings(&self) -> Vec<String> {
        self.workers.notes()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let requests = requests.iter().map(|sample| Request {
            sample: *sample,
            parent: None,
        });
        self.generated(self.workers.answer(&requests.collect::<Vec<_>>())?)
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        self.evaluations(Operation::Vary(variation))?;
        check_pairs(parents, requests)?;
        let (height, width) = self.image_size();
        let images = &parents.images;
        if (images.height(), images.width()) != (height, width) {
            return Err(GeneratorError::Input(format!(
                "images of {}x{} for a program of {height}x{width}",
                images.height(),
                images.width()
            )));
        }
        let pairs = requests.iter().zip(images.iter()).enumerate();
        let requests = pairs.map(|(index, (sample, pixels))| Request {
            sample: *sample,
            parent: Some(Parent {
                pixels,
                parameters: parents.parameters(index),
                variation,
            }),
        });
        self.generated(self.workers.answer(&requests.collect::<Vec<_>>())?)
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        check_degree(operation, self.workers.hello().degrees).map(|()| 1)
    }
}
