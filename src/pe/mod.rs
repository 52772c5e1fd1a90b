//! Private Evolution: Algorithms 1 and 2 of Lin et al. (ICLR 2024, arXiv 2305.15560).
//!
//! In: a checked [`Plan`], a generator, an embedder, private data. Out: a result folder.
//!
//! | file | job |
//! |---|---|
//! | `algorithm` | Algorithm 1 and 2, to be read beside the paper |
//! | `run` | opens folder and ledger, calls the algorithm, closes |
//! | `context` | the inputs of a run, which all files here share |
//! | `initial` | the initial population: random images, or those of a file |
//! | `agreement` | votes weighed by the classes of near samples |
//! | `lookahead` | the mean embedding of variations, which represents a sample in the vote |
//! | `offspring` | images of the next population, shard by shard |
//! | `disclosure` | `privacy.json` and `log.txt`: what is said about a run |
//! | `fit` | how many samples have votes, estimated from a released histogram |
//! | `plan` | populations, classes and cost of a run, before anything is charged |
//! | `threshold` | the threshold of the noisy votes: `"auto"`, and what it lets pass |
//! | `config` | the `[evolution]` and `[output]` sections |

mod agreement;
mod algorithm;
mod config;
mod context;
mod disclosure;
mod error;
mod fit;
mod initial;
mod lookahead;
mod offspring;
mod plan;
mod run;
mod threshold;

pub use config::{EvolutionConfig, IterationRules, OutputConfig, PopulationSpec};
pub use context::{Run, RunIdentity};
pub use error::PeError;
pub use initial::InitialSamples;
pub use plan::Plan;
