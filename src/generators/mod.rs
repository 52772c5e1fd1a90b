//! Foundation models as PE sees them: random images, and variations of images.
//!
//! A generator is public: it never sees a private image. It draws all randomness from the streams
//! that it is handed, one per image, so that its output depends on nothing else.

mod batches;
mod fleet;
pub mod improved_diffusion;
mod noise;
pub mod openai_images;
mod prompts;
pub mod stable_diffusion;

pub use crate::models::Precision;
pub use batches::Batches;
pub use fleet::{Fleet, Shared};
pub use improved_diffusion::ImprovedDiffusion;
pub use noise::BatchNoise;
pub use openai_images::OpenAiImages;
pub use prompts::{ClassPrompts, Prompts, PromptsConfig};
pub use stable_diffusion::StableDiffusion;

use std::path::PathBuf;

use thiserror::Error;

use crate::images::{BatchError, ImageBatch};
use crate::models::ConfigError;
use crate::streams::StreamKey;

/// The public condition that an image is made under and that its descendants keep: a class label of
/// the model, or the index of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition(pub u32);

/// One image to make: under which condition, with which randomness.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// The public condition; [`Condition`]`(0)` for an unconditional model.
    pub condition: Condition,
    /// Where its random numbers come from.
    pub stream: StreamKey,
}

/// A place in the initial population that wants a condition.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// The private class that the sample will stand for, by name; `None` in an unconditional run.
    pub class: Option<&'a str>,
    /// Where a random choice comes from.
    pub stream: StreamKey,
}

/// What a generator is asked to do, for cost estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// An image from nothing.
    Random,
    /// A variation of an image at this degree.
    Vary(f64),
}

/// A part of what a run will ask of its model, for prices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// What is asked for.
    pub operation: Operation,
    /// Of how many images, or how many random ones.
    pub images: u64,
    /// How many variations of each; 1 for random images.
    pub each: u32,
}

/// Where a generator may keep what must outlive the process.
#[derive(Debug, Clone)]
pub struct Workplace {
    /// The result folder, for records of the whole run. It is published.
    pub root: PathBuf,
    /// Unfinished work: `<iteration>/` below it goes when the iteration is complete.
    pub work: PathBuf,
    /// How many lookahead variations of each sample will be asked for, repeat by repeat.
    pub lookahead_degree: u32,
}

/// Why a generator failed.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// The variation degree is not one that this model knows.
    #[error("variation degree {degree} is not valid for this model: expected {expected}")]
    Degree {
        /// The degree given.
        degree: f64,
        /// What would have been right.
        expected: String,
    },
    /// The numbers of images and draws differ, or images have the wrong size.
    #[error("{0}")]
    Input(String),
    /// A configured value is out of range; names the key.
    #[error("{key}: {message}")]
    Config {
        /// The configuration key below `[model]`.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// The weights could not be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::hub::CheckpointError),
    /// A file of the model is missing.
    #[error(transparent)]
    Files(#[from] crate::hub::FilesError),
    /// A hosted model failed, or a cap on what it may cost is reached.
    #[error(transparent)]
    Service(#[from] openai_images::ServiceError),
    /// The network failed.
    #[error("network evaluation failed: {0}")]
    Network(#[from] candle_core::Error),
    /// The result does not have the promised shape.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl From<ConfigError> for GeneratorError {
    fn from(error: ConfigError) -> Self {
        Self::Config {
            key: error.key.to_owned(),
            message: error.message,
        }
    }
}

/// A foundation model.
pub trait Generator {
    /// Rows and columns of every image that it makes.
    fn image_size(&self) -> (usize, usize);

    /// How many images it likes to be asked for at once.
    fn batch_size(&self) -> usize;

    /// Chooses the public conditions of an initial population.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] when a class has no condition.
    fn initial_conditions(&self, slots: &[Slot<'_>]) -> Result<Vec<Condition>, GeneratorError>;

    /// Whether the model can work under this condition.
    fn accepts(&self, condition: Condition) -> bool;

    /// What stands for a private class (`None`: the whole unconditional run), for the privacy statement.
    fn describe_conditions(&self, class: Option<&str>) -> Vec<String>;

    /// The prompts that conditions are indices into; none for a model that takes labels. They are public
    /// inputs and go into the privacy statement.
    fn prompts(&self) -> &[String] {
        &[]
    }

    /// What a user should know before a run that asks for `demands`, a line each: what it costs, what is
    /// ignored.
    ///
    /// # Errors
    /// [`GeneratorError::Config`] naming a cap that the demands exceed.
    fn announce(&self, demands: &[Demand]) -> Result<Vec<String>, GeneratorError> {
        let _ = demands;
        Ok(Vec::new())
    }

    /// Called once by a run that begins or goes on, before the first image is asked for.
    ///
    /// # Errors
    /// [`GeneratorError::Service`] when what is needed to reach the model is missing.
    fn attach(&self, workplace: &Workplace) -> Result<(), GeneratorError> {
        let _ = workplace;
        Ok(())
    }

    /// Whether images are made elsewhere than on the CPU and without a record on disk, so that those before can be written
    /// meanwhile.
    fn apart(&self) -> bool {
        false
    }

    /// What there is to tell since the last time, a line each: that a batch did not fit, say.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes one image for each draw, `uint8[draws, height, width, 3]`.
    ///
    /// # Errors
    /// [`GeneratorError::Network`] when the network fails.
    fn random(&self, draws: &[Draw]) -> Result<ImageBatch, GeneratorError>;

    /// Makes one variation of each image. What `degree` means, and whether more of it is closer or
    /// further, is the model's own matter.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`], [`GeneratorError::Input`] or [`GeneratorError::Network`].
    fn vary(
        &self,
        images: &ImageBatch,
        draws: &[Draw],
        degree: f64,
    ) -> Result<ImageBatch, GeneratorError>;

    /// Network evaluations that one image costs.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for a degree that the model does not know.
    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError>;
}
