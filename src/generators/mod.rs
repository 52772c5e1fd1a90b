//! Foundation models: generation of random images and of variations of images.
//!
//! Generators are public: none ever receives a private image. All randomness of an image comes from
//! the [`RngKey`] of its request, so an image is independent of the batch and device it is made in.

mod batches;
#[cfg(test)]
mod example;
mod generated;
pub mod image_pool;
pub mod improved_diffusion;
pub mod mixture;
mod model_section;
mod noise;
mod open;
pub mod openai_images;
pub mod program;
mod prompts;
mod replicated;
mod section;
pub mod sprites;
pub mod stable_diffusion;
pub mod text;

pub use crate::models::Precision;
pub use batches::Batches;
pub use generated::{Generated, Parameters};
pub use model_section::{MixtureConfig, ModelSection};
pub use noise::BatchNoise;
pub use open::ModelConfig;
pub use openai_images::OpenAiImages;
pub use prompts::{Prompts, PromptsConfig};
pub use replicated::{BoxedGenerator, ReplicatedGenerator};
pub use section::{GeneratorSection, OpenedGenerator};
use section::{evaluations_of_share, open_on_all};
pub use stable_diffusion::StableDiffusion;

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::embedders::EmbedderError;
use crate::exit_code::{self, ExitCode};
use crate::images::BatchError;
use crate::public_images::{PublicImages, PublicImagesError};
use crate::sections::InvalidKey;
use crate::streams::RngKey;

/// The public condition of an image, inherited by its variations: a class label of the model, or
/// the index of a prompt. An unconditional model has the single condition
/// [`Condition::UNCONDITIONAL`].
///
/// It is the number that a population's `conditions` array stores for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition(pub u32);

impl Condition {
    /// The only condition of an unconditional model. Result folders store it as 0, like the first
    /// label or prompt of other models.
    pub const UNCONDITIONAL: Self = Self(0);
}

/// A request for one image.
#[derive(Debug, Clone, Copy)]
pub struct SampleRequest {
    /// The public condition of the image.
    pub condition: Condition,
    /// Key of the image's random numbers.
    pub rng_key: RngKey,
}

/// A request for the condition of one sample of the initial population.
#[derive(Debug, Clone, Copy)]
pub struct ConditionRequest<'a> {
    /// Name of the private class that the sample represents; `None` in an unconditional run.
    pub class: Option<&'a str>,
    /// Key of the random numbers of this choice.
    pub rng_key: RngKey,
}

/// The settings of a variation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation {
    /// The strength, whose meaning depends on the model.
    pub degree: f64,
    /// The number of the population that the variation is made for, from which a model takes the
    /// values of its schedules: 0 for variations of random images, t for the lookahead of
    /// iteration t and for population t.
    pub population: u32,
}

impl Variation {
    /// Creates the settings of a variation of this degree for a population.
    #[must_use]
    pub const fn new(degree: f64, population: u32) -> Self {
        Self { degree, population }
    }
}

/// An operation of a generator, for cost estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// Generation of a new image.
    Random,
    /// A variation of an image.
    Vary(Variation),
}

/// A number of equal operations that a run is going to request, for cost estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedWork {
    /// The operation.
    pub operation: Operation,
    /// Number of images to vary, or of random images to generate.
    pub images: u64,
    /// Number of variations of each image; 1 for random images.
    pub each: u32,
}

/// Folders of a run in which a generator may store state that must survive an interruption.
#[derive(Debug, Clone)]
pub struct RunPaths {
    /// The result folder, for records of the whole run. It is published.
    pub root: PathBuf,
    /// The folder for unfinished work. Its subfolder `<iteration>/` is deleted when the iteration
    /// is complete.
    pub work: PathBuf,
    /// Number of lookahead variations of each sample in each iteration, beginning with the first.
    /// They are requested one repeat at a time.
    pub lookahead_degrees: Vec<u32>,
}

/// An error of a generator.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// The model does not support the variation degree.
    #[error("variation degree {degree} is not valid for this model: expected {expected}")]
    Degree {
        /// The requested degree.
        degree: f64,
        /// The supported degrees.
        expected: String,
    },
    /// Images or requests that the model cannot process: different numbers of them, a wrong image
    /// size, or an unknown condition.
    #[error("{0}")]
    Input(String),
    /// A value of the `[model]` section is out of range.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::hub::CheckpointError),
    /// A file of the model is missing and could not be downloaded.
    #[error(transparent)]
    Files(#[from] crate::hub::FilesError),
    /// A hosted model failed, or a limit of its cost is reached.
    #[error(transparent)]
    Service(#[from] openai_images::ServiceError),
    /// Public images that the model draws from could not be read.
    #[error(transparent)]
    Public(#[from] PublicImagesError),
    /// The embedder of a model that compares images failed.
    #[error("model.embedder: {0}")]
    Embedder(EmbedderError),
    /// A program of the user's failed.
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    /// The network failed.
    #[error("network evaluation failed: {0}")]
    Network(candle_core::Error),
    /// The generated images do not have the expected shape.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

// The cause that a run can end with by Ctrl-C keeps its place.
impl From<EmbedderError> for GeneratorError {
    fn from(error: EmbedderError) -> Self {
        match error {
            EmbedderError::Public(error) => Self::Public(error),
            other => Self::Embedder(other),
        }
    }
}

// Not `#[from]`, which would also make the error the `source()`: its text is in the message.
impl From<candle_core::Error> for GeneratorError {
    fn from(error: candle_core::Error) -> Self {
        Self::Network(error)
    }
}

/// Returns an error unless there is one request for each image.
fn check_pairs(images: &Generated, requests: &[SampleRequest]) -> Result<(), GeneratorError> {
    if images.len() == requests.len() {
        return Ok(());
    }
    Err(GeneratorError::Input(format!(
        "{} images for {} requests",
        images.len(),
        requests.len()
    )))
}

impl ExitCode for GeneratorError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::Degree { .. } => exit_code::USAGE,
            Self::Checkpoint(_) | Self::Files(_) => exit_code::WEIGHTS,
            Self::Service(_) => exit_code::SERVICE,
            Self::Public(error) => error.exit_code(),
            Self::Embedder(error) => error.exit_code(),
            Self::Input(_) | Self::Program(_) | Self::Network(_) | Self::Batch(_) => {
                exit_code::COMPUTE
            }
        }
    }
}

/// A foundation model.
pub trait Generator {
    /// Returns the (height, width) of every generated image, in pixels.
    fn image_size(&self) -> (usize, usize);

    /// Returns the preferred number of requests per call.
    fn batch_size(&self) -> usize;

    /// Returns the conditions of an initial population, one for each request.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] if a class has no condition.
    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError>;

    /// Returns the number of conditions: those that exist are 0 to one less.
    fn num_conditions(&self) -> u32;

    /// Describes the conditions that represent a private class (`None`: the whole unconditional
    /// run), for the privacy statement.
    fn describe_conditions(&self, class: Option<&str>) -> Vec<String>;

    /// Returns the prompts that conditions index; none for a model that takes labels. Prompts are
    /// public inputs and are listed in the privacy statement.
    fn prompts(&self) -> &[String] {
        &[]
    }

    /// Returns the images, declared public, that samples are made from. A run is refused if private
    /// images are among them.
    fn public_images(&self) -> Vec<Arc<PublicImages>> {
        Vec::new()
    }

    /// Returns messages for the user about a run that requests `work`, such as an estimate of its
    /// cost or the batch size.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] naming the limit that `work` exceeds.
    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let _ = work;
        Ok(Vec::new())
    }

    /// Opens the state that the generator keeps in the folders of a run. A new or resumed run calls
    /// it once, before the first request.
    ///
    /// # Errors
    /// [`GeneratorError::Service`] if the access key of a hosted model is missing or its journal
    /// cannot be opened.
    fn begin_run(&self, paths: &RunPaths) -> Result<(), GeneratorError> {
        let _ = paths;
        Ok(())
    }

    /// Returns true if generation does not occupy the CPU and keeps no journal, so the previous
    /// shard may be written concurrently.
    fn overlaps_host_work(&self) -> bool {
        false
    }

    /// Returns the warnings since the last call, such as a batch that did not fit into memory.
    fn drain_warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Generates one image for each request: `uint8 [requests, height, width, 3]`, with parameters
    /// if the model has any.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if a request has an unknown condition; [`GeneratorError::Network`]
    /// or [`GeneratorError::Service`] if the model fails.
    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError>;

    /// Generates one variation of each of `parents`. The meaning of the degree, and whether a
    /// larger degree changes the image more or less, depends on the model.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] if the model does not support the degree, and those of
    /// [`Generator::random`].
    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError>;

    /// Checks that the model can vary an image with these parameters, which come from a file.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if it cannot.
    fn check_parent(
        &self,
        condition: Condition,
        parameters: &Parameters,
    ) -> Result<(), GeneratorError> {
        let _ = (condition, parameters);
        Ok(())
    }

    /// Returns the number of network evaluations (or HTTP requests) that one image costs.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] if the model does not support the degree.
    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError>;
}
