//! Downstream accuracy: classifiers that are trained on synthetic images and tested on real ones.
//!
//! In: synthetic images or their embeddings with labels, and a test set of real images that was not
//! part of the run. Three classifiers: [`LogisticRegression`] and the nearest neighbor on
//! embeddings (seconds), and [`Cnn`], a small wide residual network on pixels (minutes). Their
//! settings, the number of epochs included, are fixed in advance: nothing here selects a setting by
//! the test set. Whoever selects settings by the accuracy makes the test set a part of the
//! training.
//!
//! A classifier is trained on released images and so may be published; its accuracy on private test
//! images may not.

mod augment;
mod classes;
mod cnn;
mod layers;
mod lbfgs;
mod logistic;
mod neighbor;
mod options;

pub(crate) use classes::match_classes;
pub(crate) use cnn::{Cnn, CnnConfig, LabeledImages};
pub use logistic::{LogisticConfig, LogisticRegression};
pub use neighbor::predict_nearest;
pub use options::{ClassifierKind, DownstreamOptions};

use serde::Serialize;
use thiserror::Error;

use crate::exit_code::{self, ExitCode};
use crate::progress::Cancelled;
use crate::sections::InvalidKey;

/// Reason why a classifier could not be trained or tested.
#[derive(Debug, Error)]
pub enum DownstreamError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] InvalidKey),
    /// The number of labels differs from the number of images or embeddings.
    #[error("{images} images have {labels} labels")]
    Labels {
        /// Number of images or vectors.
        images: usize,
        /// Number of labels.
        labels: usize,
    },
    /// The training set is empty.
    #[error("there are no training images")]
    Empty,
    /// A label is not below the number of classes.
    #[error("label {label} is not below the number of classes, {classes}")]
    Class {
        /// Invalid label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// Samples and test set have different classes.
    #[error("{message}")]
    Classes {
        /// The difference.
        message: String,
    },
    /// Training set and test set have images of different sizes or vectors of different dimensions.
    #[error("the test set has {found} where the training set had {expected}")]
    Shape {
        /// Shape of the test set.
        found: String,
        /// Shape of the training set.
        expected: String,
    },
    /// The nearest sample could not be found.
    #[error(transparent)]
    Nearest(crate::voting::NearestError),
    /// A training vector holds a NaN or an infinity.
    #[error("training vector {index} is not finite")]
    NotFinite {
        /// Index of the vector.
        index: usize,
    },
    /// The loss became infinite or NaN.
    #[error("training diverged in epoch {epoch}: expected a smaller learning rate")]
    Diverged {
        /// Number of the epoch, from 1.
        epoch: usize,
    },
    /// An operation of candle failed.
    #[error("network evaluation failed: {0}")]
    Network(#[from] candle_core::Error),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ExitCode for DownstreamError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit_code::USAGE,
            Self::Classes { .. } => exit_code::DATA,
            Self::Cancelled(_) => exit_code::INTERRUPTED,
            _ => exit_code::COMPUTE,
        }
    }
}

/// Accuracies on one test set of classifiers that differ by their seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// Accuracy of each classifier.
    pub runs: Vec<f64>,
    /// Number of test images.
    pub test_images: usize,
}

impl Accuracy {
    /// Returns the mean over the runs; `None` without a run.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.runs.len();
        (count > 0).then(|| self.runs.iter().sum::<f64>() / count as f64)
    }

    /// Returns the standard deviation over the runs (divided by n - 1); `None` for fewer than two.
    #[must_use]
    pub fn standard_deviation(&self) -> Option<f64> {
        let mean = self.mean()?;
        let free = self.runs.len().checked_sub(1).filter(|free| *free > 0)?;
        let squares: f64 = self.runs.iter().map(|run| (run - mean).powi(2)).sum();
        Some((squares / free as f64).sqrt())
    }
}

/// Counts correct predictions of a test set that is read in batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccuracyCounter {
    right: usize,
    total: usize,
}

impl AccuracyCounter {
    /// Adds a batch.
    ///
    /// # Errors
    /// [`DownstreamError::Labels`] when the numbers differ.
    pub fn add(&mut self, predicted: &[u32], labels: &[u32]) -> Result<(), DownstreamError> {
        check_labels(predicted.len(), labels.len())?;
        let right = predicted.iter().zip(labels).filter(|(p, l)| p == l);
        self.right += right.count();
        self.total += labels.len();
        Ok(())
    }

    /// Returns the share of correct predictions; `None` without any prediction.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.total > 0).then(|| self.right as f64 / self.total as f64)
    }
}

fn check_labels(images: usize, labels: usize) -> Result<(), DownstreamError> {
    if images != labels {
        return Err(DownstreamError::Labels { images, labels });
    }
    Ok(())
}

/// Checks a training set.
fn check_training(images: usize, labels: &[u32], classes: usize) -> Result<(), DownstreamError> {
    check_labels(images, labels.len())?;
    if images == 0 {
        return Err(DownstreamError::Empty);
    }
    match labels.iter().find(|label| **label as usize >= classes) {
        Some(label) => Err(DownstreamError::Class {
            label: *label,
            classes,
        }),
        None => Ok(()),
    }
}

/// Returns the class with the largest score in each row of `classes` scores; the first of equal
/// ones.
fn largest(scores: &[f32], classes: usize) -> Vec<u32> {
    let best = |row: &[f32]| {
        let mut best = (0u32, f32::NEG_INFINITY);
        for (class, score) in (0u32..).zip(row) {
            if *score > best.1 {
                best = (class, *score);
            }
        }
        best.0
    };
    scores.chunks_exact(classes.max(1)).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        let accuracy = |runs: &[f64]| Accuracy {
            runs: runs.to_vec(),
            test_images: 10,
        };
        assert_eq!(accuracy(&[]).mean(), None);
        assert_eq!(accuracy(&[0.5]).mean(), Some(0.5));
        assert_eq!(accuracy(&[0.5]).standard_deviation(), None);
        let both = accuracy(&[0.25, 0.75]);
        assert_eq!(both.mean(), Some(0.5));
        assert_eq!(both.standard_deviation(), Some(0.125f64.sqrt()));
    }

    #[test]
    fn right_answers_are_counted_over_batches() {
        let mut counter = AccuracyCounter::default();
        assert_eq!(counter.accuracy(), None);
        counter.add(&[1, 2], &[1, 3]).unwrap();
        counter.add(&[0, 0], &[0, 0]).unwrap();
        assert_eq!((counter.accuracy(), counter.total), (Some(0.75), 4));
        assert!(counter.add(&[1], &[]).is_err());
    }

    #[test]
    fn the_first_of_the_largest_wins() {
        let scores = [0.0, 2.0, 2.0, f32::NAN, 1.0, 0.0];
        assert_eq!(largest(&scores, 3), [1, 1]);
    }

    #[test]
    fn impossible_training_sets_are_refused() {
        assert!(matches!(
            check_training(0, &[], 2),
            Err(DownstreamError::Empty)
        ));
        assert!(matches!(
            check_training(2, &[0], 2),
            Err(DownstreamError::Labels { .. })
        ));
        assert!(matches!(
            check_training(2, &[0, 2], 2),
            Err(DownstreamError::Class { label: 2, .. })
        ));
        assert!(check_training(2, &[0, 1], 2).is_ok());
    }
}
