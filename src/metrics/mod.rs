//! How good synthetic images are: figures that compare samples with a reference set.
//!
//! In: two sets of images as feature vectors (see [`crate::embedders`]). Out: figures, each with what it
//! compared. The functions are pure; whether the reference is private, and so where the figures may
//! go, is decided by whoever calls them.
//!
//! | file | job |
//! |---|---|
//! | `kind` | which figures there are, and what each needs |
//! | `config` | the `[evaluation]` section |
//! | `features` | what is kept of a set: mean and covariance, vectors, or both |
//! | `moments` | mean and covariance, streamed |
//! | `statistics` | means and covariances as files |
//! | `frechet` | Fréchet distance (FID) |
//! | `kid` | kernel distance (KID) with its interval |
//! | `precision_recall` | improved precision and recall |
//! | `inception_score` | Inception Score, where the weights have a classifier |
//! | `measure` | two sets to figures |
//! | `downstream` | classifiers trained on samples |
//! | `memorisation` | distances to the nearest private images |
//! | `table` | figures as text |

mod config;
pub mod downstream;
mod error;
pub mod features;
pub mod frechet;
pub mod inception_score;
pub mod kid;
mod kind;
mod measure;
pub mod memorization;
pub mod moments;
pub mod precision_recall;
mod statistics;
pub mod table;

#[cfg(test)]
mod testing;

pub use config::{EvaluationConfig, PRIVATE, Sizes};
pub use error::MetricsError;
pub use kind::{FeatureSet, MetricKind};
pub use measure::{MetricContext, MetricOutput, MetricValue, Reference, measure};
pub use statistics::Statistics;
