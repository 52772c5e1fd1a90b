//! Private Evolution (Algorithms 1 and 2 of arXiv 2305.15560): the iteration, its plan and its settings.

mod config;
mod error;
mod lookahead;
mod offspring;
mod plan;
mod run;
mod schedule;

pub use config::{EvolutionConfig, OutputConfig, PopulationSpec};
pub use error::PeError;
pub use plan::{Cost, Plan};
pub use run::{InitialSamples, Run};
pub use schedule::{Schedule, Scheduled};
