//! Multinomial logistic regression on embeddings.
//!
//! It minimizes the mean cross-entropy plus `l2 / 2` times the squared weights (without the
//! biases), on features that are centered and scaled to standard deviation 1 by the training set.
//! The problem is convex and is solved to convergence, so there is no seed and no number of epochs
//! to choose.
//!
//! Written by hand because linfa-logistic adds 14 crates and takes twice the memory on 50,000
//! vectors of 2048 features: products are `f32` here, with `f64` sums in a fixed order, so that the
//! result is the same on any number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::{DownstreamError, check_training, largest, lbfgs};
use crate::embedders::Embeddings;
use crate::sections::InvalidKey;

/// Rows in one parallel task: enough for a fast matrix product.
const ROWS: usize = 1024;

/// Settings of the fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogisticConfig {
    /// Weight of the L2 penalty; 0 for none.
    pub l2: f64,
    /// Largest number of steps of the solver.
    pub max_iterations: usize,
    /// Largest component of the gradient at which the solver stops.
    pub tolerance: f64,
}

impl Default for LogisticConfig {
    fn default() -> Self {
        Self {
            l2: 1e-2,
            max_iterations: 500,
            tolerance: 1e-5,
        }
    }
}

/// A fitted regression.
#[derive(Debug, Clone)]
pub struct LogisticRegression {
    scaling: Scaling,
    classes: usize,
    /// `[classes, dimension]` weights, then `[classes]` biases.
    parameters: Vec<f32>,
}

/// Standardization of features: `(x - mean) · factor`.
#[derive(Debug, Clone)]
struct Scaling {
    mean: Vec<f32>,
    factor: Vec<f32>,
}

impl LogisticRegression {
    /// Fits the classes `labels`, each below `classes`, to the vectors.
    ///
    /// # Errors
    /// [`DownstreamError::Config`] for a negative penalty; see the other [`DownstreamError`]s.
    pub fn fit(
        vectors: &Embeddings,
        labels: &[u32],
        classes: usize,
        config: &LogisticConfig,
    ) -> Result<Self, DownstreamError> {
        if !(config.l2 >= 0.0 && config.l2.is_finite()) {
            return Err(DownstreamError::Config(InvalidKey::new(
                "l2",
                format!("is {}: expected 0 or more", config.l2),
            )));
        }
        check_training(vectors.len(), labels, classes)?;
        let scaling = Scaling::of(vectors)?;
        let scaled = scaling.apply(vectors);
        let weights = classes * vectors.dimension();
        let parameters = lbfgs::minimize(
            vec![0.0; weights + classes],
            config.max_iterations,
            config.tolerance,
            |parameters| {
                let narrow: Vec<f32> = parameters.iter().map(|p| *p as f32).collect();
                let (mut loss, mut gradient) = cross_entropy(&scaled, labels, classes, &narrow)?;
                for (gradient, parameter) in gradient.iter_mut().zip(parameters).take(weights) {
                    loss += config.l2 / 2.0 * parameter * parameter;
                    *gradient += config.l2 * parameter;
                }
                Ok::<_, DownstreamError>((loss, gradient))
            },
        )?;
        Ok(Self {
            scaling,
            classes,
            parameters: parameters.into_iter().map(|p| p as f32).collect(),
        })
    }

    /// Predicts the class of each vector.
    ///
    /// # Errors
    /// [`DownstreamError::Shape`] for vectors of another dimension.
    pub fn predict(&self, vectors: &Embeddings) -> Result<Vec<u32>, DownstreamError> {
        Ok(largest(&self.scores(vectors)?, self.classes))
    }

    /// Returns the logits `[vectors, classes]`: logarithms of the class probabilities, up to a
    /// constant in each row.
    ///
    /// # Errors
    /// [`DownstreamError::Shape`] for vectors of another dimension.
    pub fn scores(&self, vectors: &Embeddings) -> Result<Vec<f32>, DownstreamError> {
        let dimension = self.scaling.mean.len();
        if vectors.dimension() != dimension {
            return Err(DownstreamError::Shape {
                found: format!("vectors of {} numbers", vectors.dimension()),
                expected: dimension.to_string(),
            });
        }
        let scaled = self.scaling.apply(vectors);
        let mut scores = vec![0f32; vectors.len() * self.classes];
        scores
            .par_chunks_mut(ROWS * self.classes)
            .zip(scaled.data().par_chunks(ROWS * dimension))
            .try_for_each(|(scores, rows)| {
                score(scores, rows, dimension, &self.parameters, self.classes)
            })?;
        Ok(scores)
    }
}

impl Scaling {
    fn of(vectors: &Embeddings) -> Result<Self, DownstreamError> {
        let dimension = vectors.dimension();
        let rows = || vectors.data().chunks_exact(dimension);
        if let Some(index) = rows().position(|row| row.iter().any(|v| !v.is_finite())) {
            return Err(DownstreamError::NotFinite { index });
        }
        let count = vectors.len().max(1) as f64;
        let mut mean = vec![0f64; dimension];
        for row in rows() {
            for (mean, value) in mean.iter_mut().zip(row) {
                *mean += f64::from(*value) / count;
            }
        }
        let mut variance = vec![0f64; dimension];
        for row in rows() {
            for ((variance, mean), value) in variance.iter_mut().zip(&mean).zip(row) {
                *variance += (f64::from(*value) - mean).powi(2) / count;
            }
        }
        // A feature that is constant, or changes by rounding only, carries no information.
        let factor = variance.iter().zip(&mean).map(|(variance, mean)| {
            let deviation = variance.sqrt();
            if deviation > 1e-6 * mean.abs() {
                (1.0 / deviation) as f32
            } else {
                0.0
            }
        });
        Ok(Self {
            factor: factor.collect(),
            mean: mean.iter().map(|mean| *mean as f32).collect(),
        })
    }

    fn apply(&self, vectors: &Embeddings) -> Embeddings {
        let dimension = self.mean.len();
        let mut data = vectors.data().to_vec();
        data.par_chunks_mut(dimension.max(1)).for_each(|row| {
            for ((value, mean), factor) in row.iter_mut().zip(&self.mean).zip(&self.factor) {
                *value = (*value - mean) * factor;
            }
        });
        Embeddings::new(data, dimension).unwrap_or_else(|| Embeddings::empty(dimension))
    }
}

/// Computes `scores [rows, classes] = rows · weightsᵀ + biases`.
fn score(
    scores: &mut [f32],
    rows: &[f32],
    dimension: usize,
    parameters: &[f32],
    classes: usize,
) -> Result<(), DownstreamError> {
    let (weights, biases) = parameters.split_at((classes * dimension).min(parameters.len()));
    let count = rows.len() / dimension;
    matmul(
        MatMut::from_row_major_slice_mut(scores, count, classes),
        Accum::Replace,
        MatRef::from_row_major_slice(rows, count, dimension),
        MatRef::from_row_major_slice(weights, classes, dimension).transpose(),
        1.0,
        Par::Seq,
    );
    for row in scores.chunks_exact_mut(classes) {
        for (score, bias) in row.iter_mut().zip(biases) {
            *score += bias;
        }
    }
    Ok(())
}

/// Returns the mean cross-entropy and its gradient.
fn cross_entropy(
    vectors: &Embeddings,
    labels: &[u32],
    classes: usize,
    parameters: &[f32],
) -> Result<(f64, Vec<f64>), DownstreamError> {
    let dimension = vectors.dimension();
    let count = labels.len() as f64;
    // Loss and gradient of each block of rows. `f32` is exact enough for the sum of one block.
    let parts = vectors
        .data()
        .par_chunks(ROWS * dimension)
        .zip(labels.par_chunks(ROWS))
        .map(|(rows, labels)| {
            let mut residuals = vec![0f32; labels.len() * classes];
            score(&mut residuals, rows, dimension, parameters, classes)?;
            let mut loss = 0.0;
            let mut gradient = vec![0f32; classes * dimension + classes];
            let (of_weights, of_biases) = gradient.split_at_mut(classes * dimension);
            for (row, label) in residuals.chunks_exact_mut(classes).zip(labels) {
                loss += softmax_minus_one_hot(row, *label as usize);
                for (bias, residual) in of_biases.iter_mut().zip(&*row) {
                    *bias += residual;
                }
            }
            matmul(
                MatMut::from_row_major_slice_mut(of_weights, classes, dimension),
                Accum::Replace,
                MatRef::from_row_major_slice(&residuals, labels.len(), classes).transpose(),
                MatRef::from_row_major_slice(rows, labels.len(), dimension),
                1.0,
                Par::Seq,
            );
            Ok::<_, DownstreamError>((loss, gradient))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut loss = 0.0;
    let mut gradient = vec![0f64; classes * dimension + classes];
    for (of_part, part) in parts {
        loss += of_part / count;
        for (sum, part) in gradient.iter_mut().zip(part) {
            *sum += f64::from(part) / count;
        }
    }
    Ok((loss, gradient))
}

/// Replaces scores by probabilities minus 1 at the label (the gradient of the cross-entropy), and
/// returns the cross-entropy.
fn softmax_minus_one_hot(row: &mut [f32], label: usize) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let of_label = row.get(label).copied().unwrap_or(top);
    let total: f64 = row.iter().map(|score| f64::from(score - top).exp()).sum();
    for score in &mut *row {
        *score = (f64::from(*score - top).exp() / total) as f32;
    }
    if let Some(value) = row.get_mut(label) {
        *value -= 1.0;
    }
    total.ln() - f64::from(of_label - top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn softmax(scores: &[f32]) -> Vec<f64> {
        let powers: Vec<f64> = scores.iter().map(|s| f64::from(*s).exp()).collect();
        let total: f64 = powers.iter().sum();
        powers.iter().map(|p| p / total).collect()
    }

    #[test]
    fn without_a_penalty_the_probabilities_are_the_frequencies() {
        // One feature of two values: the model is saturated, so its solution is known.
        let counts: [(f32, [usize; 3]); 2] = [(-1.0, [5, 3, 2]), (4.0, [1, 8, 6])];
        let mut data = Vec::new();
        let mut labels = Vec::new();
        for (value, counts) in counts {
            for (class, count) in counts.into_iter().enumerate() {
                data.extend(vec![value; count]);
                labels.extend(vec![class as u32; count]);
            }
        }
        let vectors = Embeddings::new(data, 1).unwrap();
        let config = LogisticConfig {
            l2: 0.0,
            tolerance: 1e-7,
            ..LogisticConfig::default()
        };
        let fitted = LogisticRegression::fit(&vectors, &labels, 3, &config).unwrap();
        let queries = Embeddings::new(vec![-1.0, 4.0], 1).unwrap();
        let scores = fitted.scores(&queries).unwrap();
        for (scores, (_, counts)) in scores.chunks(3).zip(counts) {
            let total: usize = counts.iter().sum();
            for (probability, count) in softmax(scores).iter().zip(counts) {
                let expected = count as f64 / total as f64;
                assert!(
                    (probability - expected).abs() < 1e-4,
                    "{probability}, {expected}"
                );
            }
        }
        assert_eq!(fitted.predict(&queries).unwrap(), [0, 1]);
    }

    #[test]
    fn with_a_penalty_the_solution_is_that_of_scipy() {
        // Probabilities by scipy's BFGS in f64.
        let data = vec![
            0.5, 2.0, 1.5, -1.0, -0.5, 0.25, 2.5, 1.0, -1.0, -2.0, 0.0, 3.0, 1.0, 1.0, -2.0, 0.5,
        ];
        let vectors = Embeddings::new(data, 2).unwrap();
        let config = LogisticConfig {
            l2: 0.1,
            tolerance: 1e-7,
            ..LogisticConfig::default()
        };
        let labels = [0, 1, 2, 1, 2, 0, 0, 2];
        let fitted = LogisticRegression::fit(&vectors, &labels, 3, &config).unwrap();
        let queries = Embeddings::new(vec![0.0, 0.0, 1.0, -1.0, -1.0, 2.0], 2).unwrap();
        let expected = [
            [0.267_914_38, 0.198_946_11, 0.533_139_51],
            [0.136_458_84, 0.548_627_17, 0.314_914],
            [0.587_909_7, 0.031_628_89, 0.380_461_4],
        ];
        let scores = fitted.scores(&queries).unwrap();
        for (scores, expected) in scores.chunks(3).zip(expected) {
            for (found, expected) in softmax(scores).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found}, {expected}");
            }
        }
    }

    fn blobs(count: usize, sample: u64) -> (Embeddings, Vec<u32>) {
        let (dimension, classes) = (7, 3);
        let mut data = vec![0f32; count * dimension];
        RngKey {
            seed: 5,
            phase: Phase::Downstream,
            iteration: 0,
            repeat: 0,
            sample,
        }
        .rng()
        .fill_normal(&mut data);
        let labels: Vec<u32> = (0..count as u32).map(|i| i % classes).collect();
        for (row, label) in data.chunks_exact_mut(dimension).zip(&labels) {
            row[*label as usize] += 3.0;
            // A constant feature.
            row[6] = 9.0;
        }
        (Embeddings::new(data, dimension).unwrap(), labels)
    }

    #[test]
    fn predictions_do_not_depend_on_the_number_of_threads() {
        let (vectors, labels) = blobs(3000, 1);
        let (others, expected) = blobs(600, 2);
        let fit = || {
            let config = LogisticConfig::default();
            LogisticRegression::fit(&vectors, &labels, 3, &config).unwrap()
        };
        let fitted = fit();
        let predicted = fitted.predict(&others).unwrap();
        let right = predicted.iter().zip(&expected).filter(|(p, e)| p == e);
        // The Bayes-optimal accuracy is 0.96.
        assert!(right.count() > 540);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let again = pool.build().unwrap().install(fit);
        assert_eq!(fitted.parameters, again.parameters);
    }

    #[test]
    fn invalid_input_is_refused() {
        let (vectors, labels) = blobs(30, 3);
        let config = LogisticConfig::default();
        let fitted = LogisticRegression::fit(&vectors, &labels, 3, &config).unwrap();
        let other = Embeddings::new(vec![0.0; 6], 6).unwrap();
        assert!(matches!(
            fitted.predict(&other),
            Err(DownstreamError::Shape { .. })
        ));
        let mut data = vectors.data().to_vec();
        data[9] = f32::NAN;
        let broken = Embeddings::new(data, 7).unwrap();
        assert!(matches!(
            LogisticRegression::fit(&broken, &labels, 3, &config),
            Err(DownstreamError::NotFinite { index: 1 })
        ));
        let negative = LogisticConfig { l2: -1.0, ..config };
        assert!(LogisticRegression::fit(&vectors, &labels, 3, &negative).is_err());
        assert!(LogisticRegression::fit(&vectors, &labels, 2, &config).is_err());
    }
}
