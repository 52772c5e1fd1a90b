//! Evaluation of sets of samples against a reference: of each population of a run, or of one file.
//!
//! Evaluation is read-only: nothing that is generated, released or selected depends on a metric,
//! and a population is stored before it is evaluated. The values of a private reference stay inside
//! [`crate::privacy::Sensitive`]: rows go to `private/evaluation/` (one file for each metric and
//! population, so that none is computed twice), are merged into `private/metrics.csv`, and are
//! printed with a mark. The values of a reference that is declared public go to `metrics.csv`.
//!
//! In: a configuration, an embedder, samples, a reference. Out: rows, lines and a picture.
//!
//! | file | job |
//! |---|---|
//! | `context` | configuration, embedder and devices of an evaluation |
//! | `evaluator` | the metrics of one set of samples |
//! | `reference` | features of a private or public reference |
//! | `guarded` | a value that is private or public |
//! | `store` | where results are written |
//! | `downstream` | accuracy of a classifier trained on samples |
//! | `file` | evaluation of one file, picture of the closest pairs |

mod context;
mod downstream;
mod error;
mod evaluator;
mod file;
mod guarded;
mod reference;
mod store;

pub(crate) use context::CHUNK;
pub use context::Evaluation;
pub use downstream::Training;
pub use error::EvaluationError;
pub use evaluator::Evaluator;
pub(crate) use guarded::Guarded;
pub use reference::ReferenceSource;
pub(crate) use reference::{RunImages, VoteEmbeddings};
pub use store::SampleSetId;
