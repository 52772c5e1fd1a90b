//! Metrics that compare synthetic samples with a reference set.
//!
//! In: two sets of images as feature vectors (see [`crate::embedders`]). Out: values, each with a
//! description of the sets that it compares. The functions are pure; [`crate::evaluation`] decides
//! whether the reference is private, and so where the values may be written.
//!
//! | file | job |
//! |---|---|
//! | `kind` | the list of metrics, and the features that each needs |
//! | `config` | the `[evaluation]` section |
//! | `features` | features of a set: mean and covariance, vectors, or both |
//! | `moments` | mean and covariance, streamed |
//! | `statistics` | files of means and covariances |
//! | `frechet` | Fréchet distance (FID) |
//! | `kid` | kernel distance (KID) with its interval |
//! | `precision_recall` | improved precision and recall |
//! | `inception_score` | Inception Score, where the weights have a classifier |
//! | `measure` | the values of a metric from two sets |
//! | `downstream` | classifiers trained on samples |
//! | `memorization` | distances to the nearest reference images |
//! | `table` | rows of `metrics.csv`, lines for a terminal |

mod config;
pub mod downstream;
mod error;
pub(crate) mod features;
pub mod frechet;
pub(crate) mod inception_score;
pub(crate) mod kid;
mod kind;
mod measure;
pub(crate) mod memorization;
pub mod moments;
pub mod precision_recall;
mod statistics;
pub(crate) mod table;

#[cfg(test)]
mod testing;

pub use config::{EvaluationConfig, PRIVATE, SetSizes};
pub use error::MetricsError;
pub(crate) use kind::FeatureSet;
pub use kind::MetricKind;
pub(crate) use measure::{
    ComparedSets, MetricContext, MetricOutput, MetricValue, Reference, ReferenceCount, measure,
    missing_features,
};
pub(crate) use statistics::Statistics;
