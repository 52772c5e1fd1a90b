//! Inception Score: high if a classifier is confident about each sample and predicts diverse
//! classes.
//!
//! Salimans et al. 2016 (arXiv 1606.03498, eq. 1 of section 4): the exponential of the mean
//! divergence between `p(class | sample)` and `p(class)`, over ten splits. The logits are the
//! features times `fc.weight` without its bias, as in the original graph. There is no reference.
//! Written here because no kept Rust library computes the score; faer provides the algebra.

use candle_core::DType;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::MetricsError;
use super::kid::choose;
use crate::embedders::Embeddings;
use crate::hub::{Checkpoint, CheckpointError};
use crate::streams::{Phase, RngKey};

/// Parts of the samples that are scored separately.
pub const SPLITS: usize = 10;
/// Name of the classifier's weight in the Inception network of FID.
const WEIGHT: &str = "fc.weight";
/// Samples in one matrix product.
const BLOCK: usize = 256;

/// Linear classifier of features.
pub struct Classifier {
    features: usize,
    /// `[classes, features]`, row-major.
    weight: Vec<f64>,
}

/// Score with its standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InceptionScore {
    /// Mean over the splits.
    pub mean: f64,
    /// Standard deviation over the splits (divided by their number, as in the original).
    pub deviation: f64,
}

impl Classifier {
    /// Reads `fc.weight [classes, features]` from the embedder's weights.
    ///
    /// # Errors
    /// [`MetricsError::Classifier`] when there is no tensor of that shape;
    /// [`MetricsError::Embedder`] when the file cannot be read.
    pub fn open(checkpoint: &Checkpoint, features: usize) -> Result<Self, MetricsError> {
        let refuse = |found: String| MetricsError::Classifier {
            path: checkpoint.path().to_owned(),
            features,
            found,
        };
        let read = |error: CheckpointError| MetricsError::Embedder(error.into());
        let tensor = checkpoint.tensor(WEIGHT).map_err(read)?;
        let tensor = tensor.ok_or_else(|| refuse("have none".to_owned()))?;
        if !matches!(tensor.dims(), [classes, width] if *classes > 0 && *width == features) {
            return Err(refuse(format!("have {:?}", tensor.dims())));
        }
        let weight = tensor
            .to_dtype(DType::F64)
            .and_then(|tensor| tensor.flatten_all()?.to_vec1())
            .map_err(|error| MetricsError::Embedder(error.into()))?;
        Ok(Self { features, weight })
    }

    /// Creates a classifier of `weight [classes, features]`; `None` when it does not have that
    /// shape.
    #[cfg(test)]
    pub(super) fn new(weight: Vec<f64>, features: usize) -> Option<Self> {
        let fits = features > 0 && !weight.is_empty() && weight.len().is_multiple_of(features);
        fits.then_some(Self { features, weight })
    }

    fn classes(&self) -> usize {
        self.weight.len() / self.features
    }

    /// Returns, for the chosen samples, the summed probability of each class and the summed
    /// negative entropy.
    fn sums(&self, samples: &Embeddings, chosen: &[usize]) -> (Vec<f64>, f64) {
        let classes = self.classes();
        // Row-major `[classes, features]` is column-major `[features, classes]`.
        let weight = MatRef::from_column_major_slice(&self.weight, self.features, classes);
        let zero = || (vec![0.0; classes], 0.0);
        chosen
            .par_chunks(BLOCK)
            .map(|chosen| {
                let columns: Vec<f64> = chosen
                    .iter()
                    .flat_map(|index| samples.rows(*index..index + 1))
                    .map(|v| f64::from(*v))
                    .collect();
                let columns =
                    MatRef::from_column_major_slice(&columns, self.features, chosen.len());
                let mut logits = Mat::<f64>::zeros(classes, chosen.len());
                matmul(
                    logits.as_mut(),
                    Accum::Replace,
                    weight.transpose(),
                    columns,
                    1.0,
                    Par::Seq,
                );
                let (mut sums, mut entropy) = zero();
                for logits in logits.col_iter() {
                    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
                    let total: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
                    for (sum, logit) in sums.iter_mut().zip(logits.iter()) {
                        let log = logit - largest - total.ln();
                        *sum += log.exp();
                        entropy += log.exp() * log;
                    }
                }
                (sums, entropy)
            })
            // Summed in order, so that the result does not depend on the number of threads.
            .collect::<Vec<_>>()
            .into_iter()
            .fold(zero(), |(mut sums, entropy), (more, with)| {
                sums.iter_mut().zip(more).for_each(|(sum, v)| *sum += v);
                (sums, entropy + with)
            })
    }
}

/// Computes the score of `samples`, which are shuffled by `seed` (they are sorted by class) and
/// split into [`SPLITS`] parts.
///
/// # Errors
/// [`MetricsError::TooFew`] when a split would be empty, [`MetricsError::Dimension`],
/// [`MetricsError::NotFinite`].
pub fn inception_score(
    samples: &Embeddings,
    classifier: &Classifier,
    seed: u64,
) -> Result<InceptionScore, MetricsError> {
    if samples.dimension() != classifier.features {
        return Err(MetricsError::Dimension {
            samples: samples.dimension(),
            reference: classifier.features,
        });
    }
    let count = samples.len();
    if count < SPLITS {
        return Err(MetricsError::TooFew {
            metric: "the inception score",
            what: "samples",
            needed: SPLITS,
            found: count,
        });
    }
    let key = RngKey {
        seed,
        phase: Phase::Evaluate,
        iteration: 1,
        repeat: 0,
        sample: 0,
    };
    let order = choose(count, count, &mut key.rng());
    let scores: Vec<f64> = (0..SPLITS)
        .map(|split| {
            let (from, to) = (split * count / SPLITS, (split + 1) * count / SPLITS);
            let chosen = order.get(from..to).unwrap_or_default();
            let (sums, entropy) = classifier.sums(samples, chosen);
            let n = chosen.len() as f64;
            // Mean of Σ p log p minus Σ q log q, where q is the mean of p: the mean divergence of p
            // from q.
            let marginal: f64 = sums
                .iter()
                .map(|sum| sum / n)
                .filter(|q| *q > 0.0)
                .map(|q| q * q.ln())
                .sum();
            (entropy / n - marginal).exp()
        })
        .collect();
    if scores.iter().any(|v| !v.is_finite()) {
        return Err(MetricsError::NotFinite { what: "samples" });
    }
    let mean = scores.iter().sum::<f64>() / SPLITS as f64;
    let variance = scores.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / SPLITS as f64;
    Ok(InceptionScore {
        mean,
        deviation: variance.sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;

    fn identity(classes: usize, scale: f64) -> Classifier {
        let mut weight = vec![0.0; classes * classes];
        weight
            .iter_mut()
            .step_by(classes + 1)
            .for_each(|v| *v = scale);
        Classifier::new(weight, classes).unwrap()
    }

    #[test]
    fn a_confident_classifier_of_balanced_classes_scores_their_number() {
        let mut rows = Vec::new();
        for index in 0..4000 {
            let mut row = vec![0f32; 4];
            row[index % 4] = 1.0;
            rows.extend(row);
        }
        let samples = Embeddings::new(rows, 4).unwrap();
        let confident = inception_score(&samples, &identity(4, 800.0), 0).unwrap();
        assert!((confident.mean - 4.0).abs() < 0.05, "{confident:?}");
        let uncertain = inception_score(&samples, &identity(4, 0.0), 0).unwrap();
        assert!((uncertain.mean - 1.0).abs() < 1e-12 && uncertain.deviation < 1e-12);
    }

    #[test]
    fn identical_samples_score_one() {
        let samples = Embeddings::new(random(1, 6, 1).data().repeat(100), 6).unwrap();
        let found = inception_score(&samples, &identity(6, 3.0), 1).unwrap();
        assert!((found.mean - 1.0).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn invalid_requests_are_refused() {
        assert!(inception_score(&random(9, 4, 0), &identity(4, 1.0), 0).is_err());
        assert!(inception_score(&random(90, 5, 0), &identity(4, 1.0), 0).is_err());
        assert!(Classifier::new(vec![0.0; 7], 4).is_none());
        let nan = Embeddings::new(vec![f32::NAN; 40], 4).unwrap();
        assert!(inception_score(&nan, &identity(4, 1.0), 0).is_err());
    }
}
