//! Streaming mean and covariance of features: memory does not grow with the number of images.
//!
//! Rows are processed in blocks. A block is centered on its own mean, its scatter is one matrix
//! product, and blocks are merged by the update of Chan, Golub and LeVeque (1983, eq. 2.1), so that
//! no digits are lost to cancellation however far the features lie from zero. Everything is `f64`.
//!
//! Written by hand because no maintained Rust library computes a covariance block by block.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, MatRef, Par};

use super::MetricsError;
use crate::embedders::Embeddings;

/// Rows in a block: enough for the product to run at full speed.
const BLOCK: usize = 512;

/// A mean and a covariance, the operands of the Fréchet distance.
#[derive(Clone)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Mat<f64>,
}

impl Gaussian {
    /// Checks `mean [d]` and `covariance [d, d]`, row-major.
    ///
    /// # Errors
    /// [`MetricsError::Covariance`] when the numbers do not fit, are not finite, or the covariance
    /// is not symmetric (up to one part in a million of its largest entry).
    pub fn new(mean: Vec<f64>, covariance: &[f64]) -> Result<Self, MetricsError> {
        let dimension = mean.len();
        let refuse = |message: String| Err(MetricsError::Covariance { message });
        if dimension == 0 || Some(covariance.len()) != dimension.checked_mul(dimension) {
            return refuse(format!(
                "{} numbers where {dimension} times {dimension} were expected",
                covariance.len()
            ));
        }
        if mean.iter().chain(covariance).any(|v| !v.is_finite()) {
            return refuse("not all numbers are finite".to_owned());
        }
        // Column-major view of row-major data: the transpose. The symmetry is checked next.
        let matrix = MatRef::from_column_major_slice(covariance, dimension, dimension);
        let largest = covariance.iter().fold(0f64, |m, v| m.max(v.abs()));
        for column in 0..dimension {
            for row in 0..column {
                if (matrix[(row, column)] - matrix[(column, row)]).abs() > 1e-6 * largest {
                    return refuse(format!(
                        "entry [{row}, {column}] differs from its mirror image"
                    ));
                }
            }
        }
        Ok(Self {
            mean,
            covariance: matrix.to_owned(),
        })
    }

    /// Dimension d of a feature vector.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.mean.len()
    }

    /// The mean, `f64[d]`.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance, `f64[d, d]`. It is symmetric, so row-major and column-major are the same.
    #[must_use]
    pub fn covariance(&self) -> Vec<f64> {
        let columns = 0..self.dimension();
        columns
            .flat_map(|j| (0..self.dimension()).map(move |i| self.covariance[(i, j)]))
            .collect()
    }

    pub(super) fn matrix(&self) -> MatRef<'_, f64> {
        self.covariance.as_ref()
    }
}

/// Accumulates features into a [`Gaussian`].
pub struct Moments {
    dimension: usize,
    count: usize,
    mean: Vec<f64>,
    /// Sum of products of centered features; only its lower half is kept up to date.
    scatter: Mat<f64>,
    /// Rows that were not merged yet, one after the other.
    block: Vec<f64>,
}

impl Moments {
    /// Prepares for vectors of `dimension` features.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self {
            dimension,
            count: 0,
            mean: vec![0.0; dimension],
            scatter: Mat::zeros(dimension, dimension),
            block: Vec::with_capacity(BLOCK * dimension),
        }
    }

    /// Number of vectors so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count + self.block.len().checked_div(self.dimension).unwrap_or(0)
    }

    /// Returns true if no vector was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds vectors.
    ///
    /// # Errors
    /// [`MetricsError::Dimension`] when the vectors have another dimension.
    pub fn push(&mut self, vectors: &Embeddings) -> Result<(), MetricsError> {
        if vectors.dimension() != self.dimension {
            return Err(MetricsError::Dimension {
                samples: vectors.dimension(),
                reference: self.dimension,
            });
        }
        for row in vectors.data().chunks_exact(self.dimension) {
            self.block.extend(row.iter().map(|v| f64::from(*v)));
            if self.block.len() >= BLOCK * self.dimension {
                self.flush();
            }
        }
        Ok(())
    }

    /// Merges the block.
    fn flush(&mut self) {
        let d = self.dimension;
        let rows = self.block.len().checked_div(d).unwrap_or(0);
        if rows == 0 {
            return;
        }
        let mut mean = vec![0.0; d];
        for row in self.block.chunks_exact(d) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += value;
            }
        }
        mean.iter_mut().for_each(|sum| *sum /= rows as f64);
        for row in self.block.chunks_exact_mut(d) {
            for (value, mean) in row.iter_mut().zip(&mean) {
                *value -= mean;
            }
        }
        // The difference of the two means enters the scatter as one more row (Chan et al., eq.
        // 2.1).
        let (old, new) = (self.count as f64, rows as f64);
        let weight = (old * new / (old + new)).sqrt();
        let step = mean.iter().zip(&self.mean).map(|(b, a)| (b - a) * weight);
        self.block.extend(step);
        let share = new / (old + new);
        for (mean, of_block) in self.mean.iter_mut().zip(&mean) {
            *mean += (of_block - *mean) * share;
        }
        self.count += rows;
        let columns = MatRef::from_column_major_slice(&self.block, d, rows + 1);
        matmul(
            self.scatter.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Add,
            columns,
            BlockStructure::Rectangular,
            columns.transpose(),
            BlockStructure::Rectangular,
            1.0,
            Par::rayon(0),
        );
        self.block.clear();
    }

    /// Returns mean and covariance; the scatter is divided by n - 1, as `np.cov` does.
    ///
    /// # Errors
    /// [`MetricsError::TooFew`] for less than two vectors; [`MetricsError::NotFinite`].
    pub fn finish(mut self, what: &'static str) -> Result<Gaussian, MetricsError> {
        self.flush();
        if self.count < 2 {
            return Err(MetricsError::TooFew {
                metric: "a covariance",
                what,
                needed: 2,
                found: self.count,
            });
        }
        let divisor = (self.count - 1) as f64;
        let mut covariance = self.scatter;
        let mut finite = self.mean.iter().all(|v| v.is_finite());
        for column in 0..self.dimension {
            for row in column..self.dimension {
                let value = covariance[(row, column)] / divisor;
                finite &= value.is_finite();
                covariance[(row, column)] = value;
                covariance[(column, row)] = value;
            }
        }
        if !finite {
            return Err(MetricsError::NotFinite { what });
        }
        Ok(Gaussian {
            mean: self.mean,
            covariance,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;

    /// Computes mean and covariance in two passes.
    fn two_passes(vectors: &Embeddings) -> (Vec<f64>, Vec<f64>) {
        let (n, d) = (vectors.len(), vectors.dimension());
        let at = |i: usize, j: usize| f64::from(vectors.data()[i * d + j]);
        let mean: Vec<f64> = (0..d)
            .map(|j| (0..n).map(|i| at(i, j)).sum::<f64>() / n as f64)
            .collect();
        let mut covariance = Vec::new();
        for a in 0..d {
            for b in 0..d {
                let sum: f64 = (0..n)
                    .map(|i| (at(i, a) - mean[a]) * (at(i, b) - mean[b]))
                    .sum();
                covariance.push(sum / (n - 1) as f64);
            }
        }
        (mean, covariance)
    }

    #[test]
    fn blocks_agree_with_two_passes_far_from_zero() {
        // More than two blocks, at an offset where naive sums of squares lose 7 digits.
        let mut data = random(1300, 5, 1).into_data();
        for (index, value) in data.iter_mut().enumerate() {
            *value += 1000.0 * (1 + index % 5) as f32;
        }
        let vectors = Embeddings::new(data, 5).unwrap();
        let mut moments = Moments::new(5);
        for start in (0..1300).step_by(77) {
            let part = vectors.rows(start..start + 77).to_vec();
            moments.push(&Embeddings::new(part, 5).unwrap()).unwrap();
        }
        assert_eq!(moments.len(), 1300);
        let gaussian = moments.finish("samples").unwrap();
        let (mean, covariance) = two_passes(&vectors);
        for (found, expected) in gaussian.mean().iter().zip(&mean) {
            assert!((found - expected).abs() < 1e-10 * expected.abs());
        }
        for (found, expected) in gaussian.covariance().iter().zip(&covariance) {
            assert!((found - expected).abs() < 1e-11, "{found} {expected}");
        }
    }

    #[test]
    fn one_vector_has_no_covariance_and_nan_is_refused() {
        let mut moments = Moments::new(3);
        moments.push(&random(1, 3, 0)).unwrap();
        assert!(matches!(
            moments.finish("samples"),
            Err(MetricsError::TooFew { found: 1, .. })
        ));
        let mut moments = Moments::new(2);
        moments
            .push(&Embeddings::new(vec![0.0, 1.0, f32::NAN, 2.0], 2).unwrap())
            .unwrap();
        assert!(moments.push(&random(1, 3, 0)).is_err());
        assert!(matches!(
            moments.finish("samples"),
            Err(MetricsError::NotFinite { .. })
        ));
    }

    #[test]
    fn given_statistics_are_checked() {
        assert!(Gaussian::new(vec![0.0; 2], &[1.0, 0.5, 0.5, 1.0]).is_ok());
        for covariance in [
            &[1.0, 0.5, 0.5][..],
            &[1.0, 0.5, -0.5, 1.0],
            &[1.0, f64::NAN, f64::NAN, 1.0],
        ] {
            assert!(Gaussian::new(vec![0.0; 2], covariance).is_err());
        }
        assert!(Gaussian::new(Vec::new(), &[]).is_err());
    }
}
