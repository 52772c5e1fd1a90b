//! The PE loop: populations, units of work, checkpoints and the result folder.
//!
//! In: validated settings, a generator, an embedder, private data. Out: a result folder (see `folder`).
//! Every step is either finished and on disk, or done again in the same way: a run that was killed at
//! any moment and resumed leaves what an undisturbed one would have left.

mod breed;
mod config;
mod embedding;
mod error;
mod folder;
mod layout;
mod lock;
mod lookahead;
mod observer;
mod pictures;
mod plan;
mod population;
mod private_set;
mod run;
mod schedule;
mod units;
mod writing;

pub use config::{EvolutionConfig, Generation, OutputConfig};
pub use error::EvolutionError;
pub use folder::{Existing, ResultFolder};
pub use layout::Layout;
pub(crate) use lock::MetricsLock;
pub(crate) use lookahead::embed_all;
pub use observer::Observer;
pub use plan::{Cost, Plan};
pub use population::Population;
pub(crate) use population::npz_error;
pub use private_set::PrivateImages;
pub use run::{InitialSamples, Run};
pub use schedule::{Schedule, Scheduled};
