//! Metrics of sample sets against a reference: of each population of a run, or of one file of samples.
//!
//! Evaluation is read-only: nothing that is generated, released or selected depends on a metric. A
//! population is stored before it is evaluated. Against a private reference every number stays inside
//! [`crate::privacy::Sensitive`]: rows go to `private/evaluation/` (one file for each metric and population,
//! so that none is computed twice), are merged into `private/metrics.csv`, and are printed with a mark.
//! Against a reference that is declared public, rows go to `metrics.csv`.
//!
//! In: a [`MetricKind`](crate::metrics::MetricKind) list, an embedder, samples, a reference. Out: rows and lines.

mod downstream;
mod evaluator;
mod pairs;

pub use downstream::Training;
pub(crate) use evaluator::RunImages;
pub use evaluator::{Evaluation, Evaluator, ReferenceSource, SampleSource};
