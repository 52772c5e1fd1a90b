//! What can be wrong with the environment of the network.

use thiserror::Error;

/// An environment variable of the network is unusable.
#[derive(Debug, Error)]
#[error("environment variable {variable} {problem}")]
pub struct EnvironmentError {
    /// The variable.
    pub variable: String,
    /// What is wrong with its value, which may hold a password and is not repeated.
    pub problem: String,
}
