//! Errors of the configuration of a diffusion process.

use thiserror::Error;

/// An invalid configuration of a diffusion process.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum DiffusionError {
    /// The name of a noise schedule is unknown.
    #[error("unknown noise schedule \"{0}\": expected \"linear\" or \"cosine\"")]
    UnknownSchedule(String),
    /// The text is not a timestep respacing.
    #[error(
        "\"{text}\" is not a timestep respacing: expected \"\" (every step), a number of steps such as \"100\", \
         numbers for equal sections such as \"10,20,30\", or \"ddim\" or \"quad\" with a number such as \"ddim25\""
    )]
    RespacingSyntax {
        /// The text given.
        text: String,
    },
    /// A section has fewer steps than are to be taken from it.
    #[error("cannot take {count} steps from section {section}, which has {size}")]
    Section {
        /// Index of the section, from 1.
        section: usize,
        /// Steps in it.
        size: usize,
        /// Requested number of steps.
        count: usize,
    },
    /// No integer stride gives the requested number of steps.
    #[error("no integer stride takes exactly {count} of {steps} steps; possible are {possible}")]
    Stride {
        /// Requested number of steps.
        count: usize,
        /// Steps of the original process.
        steps: usize,
        /// The nearest numbers of steps that an integer stride gives.
        possible: String,
    },
    /// The process is too short: the first step's variance is borrowed from the second.
    #[error("a diffusion process needs at least 2 steps, not {0}")]
    TooFewSteps(usize),
    /// A step would add no noise, or nothing but noise.
    #[error("step {step} of {steps} has beta {beta}: expected a number above 0 and below 1")]
    Beta {
        /// Index of the step, from 0.
        step: usize,
        /// Number of steps.
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
        /// Requested number of steps.
        steps: usize,
        /// The numbers of steps that are valid.
        expected: String,
    },
    /// A `scheduler_config.json` has an invalid or unsupported value: the key and the message.
    #[error("{0}: {1}")]
    Scheduler(String, String),
}
