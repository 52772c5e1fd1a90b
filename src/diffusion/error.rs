//! Why a diffusion process cannot be set up.

use thiserror::Error;

/// Why a diffusion process cannot be set up as asked.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum DiffusionError {
    /// The name of a noise schedule is unknown.
    #[error("unknown noise schedule \"{0}\": expected \"linear\" or \"cosine\"")]
    UnknownSchedule(String),
    /// The text is no timestep respacing.
    #[error(
        "\"{text}\" is no timestep respacing: expected \"\" (every step), a number of steps such as \"100\", \
         numbers for equal sections such as \"10,20,30\", or \"ddim\" or \"quad\" with a number such as \"ddim25\""
    )]
    RespacingSyntax {
        /// The text given.
        text: String,
    },
    /// A section has fewer steps than are to be taken from it.
    #[error("cannot take {count} steps from section {section}, which has {size}")]
    Section {
        /// Which section, from 1.
        section: usize,
        /// Steps in it.
        size: usize,
        /// Steps wanted.
        count: usize,
    },
    /// No integer stride leaves the number of steps wanted.
    #[error("no integer stride takes exactly {count} of {steps} steps; possible are {possible}")]
    Stride {
        /// Steps wanted.
        count: usize,
        /// Steps of the original process.
        steps: usize,
        /// The nearest numbers that a stride does give.
        possible: String,
    },
    /// The process is too short: the first step's variance is borrowed from the second.
    #[error("a diffusion process needs at least 2 steps, not {0}")]
    TooFewSteps(usize),
    /// A step would add no noise, or nothing but noise.
    #[error("step {step} of {steps} has beta {beta}: expected a number above 0 and below 1")]
    Beta {
        /// Which step, from 0.
        step: usize,
        /// Of how many.
        steps: usize,
        /// Its beta.
        beta: f64,
    },
    /// More steps are to be left out than there are.
    #[error("cannot leave out {skipped} of {steps} steps: at least one must remain")]
    NoStepLeft {
        /// Steps to leave out.
        skipped: usize,
        /// Steps of the process.
        steps: usize,
    },
    /// The schedule cannot be divided into so many steps.
    #[error("cannot take {steps} steps: expected {expected}")]
    InferenceSteps {
        /// Steps wanted.
        steps: usize,
        /// What would have been right.
        expected: String,
    },
    /// A `scheduler_config.json` is wrong or asks for what is not supported: the key, and what about it.
    #[error("{0}: {1}")]
    Scheduler(String, String),
}
