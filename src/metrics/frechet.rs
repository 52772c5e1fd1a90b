//! Fréchet distance between two means and covariances: FID, for features of any kind.
//!
//! `|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)`. Heusel et al. 2017 (arXiv 1706.08500); reference:
//! `frechet_distance` of clean-fid (Parmar et al. 2022, arXiv 2104.11222).
//!
//! There the root is that of the unsymmetric product `Σ₁Σ₂`. Only its trace is needed, which is the
//! sum of the square roots of the product's eigenvalues, and these are those of the symmetric
//! `AᵀΣ₂A` for any `A` with `AAᵀ = Σ₁`. So `Σ₁` is decomposed once, and each distance from it costs
//! two matrix products and the eigenvalues of a symmetric matrix. clean-fid adds 1e-6 to the
//! diagonals where its root is not finite, and refuses a root with an imaginary part. Neither can
//! happen here: a symmetric matrix of finite numbers has real eigenvalues, and eigenvalues of a
//! covariance that rounding made negative count as zero. A given `sigma` with a clearly negative
//! eigenvalue is refused. The result for equal sets is zero up to rounding and may be negative, as
//! in clean-fid.
//!
//! Written by hand because no maintained Rust library computes FID; faer does the linear algebra.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular};
use faer::{Accum, Mat, Par, Side};

use super::MetricsError;
use super::moments::Gaussian;

/// Largest number of features: more would take hours for the eigenvalues.
pub const MAX_DIMENSION: usize = 8192;
/// Bound of rounding errors: an eigenvalue below minus this times the largest one is truly
/// negative.
const NEGATIVE: f64 = 1e-6;

/// Decomposed reference for the computation of distances.
pub struct Frechet {
    mean: Vec<f64>,
    trace: f64,
    /// `A [d, rank]`, with `AAᵀ` the covariance.
    factor: Mat<f64>,
}

impl Frechet {
    /// Decomposes the covariance.
    ///
    /// # Errors
    /// [`MetricsError::Covariance`] when it has an eigenvalue below zero, or more than
    /// [`MAX_DIMENSION`] features; [`MetricsError::Eigenvalues`].
    pub fn new(reference: &Gaussian) -> Result<Self, MetricsError> {
        let dimension = reference.dimension();
        if dimension > MAX_DIMENSION {
            return Err(MetricsError::Covariance {
                message: format!("{dimension} features where at most {MAX_DIMENSION} are taken"),
            });
        }
        let failed = |_| MetricsError::Eigenvalues { dimension };
        let decomposed = reference
            .matrix()
            .self_adjoint_eigen(Side::Lower)
            .map_err(failed)?;
        let values: Vec<f64> = decomposed.S().column_vector().iter().copied().collect();
        roots(&values)?;
        let vectors = decomposed.U();
        // Eigenvalues are in ascending order, so the positive ones are the last.
        let zeros = values.iter().filter(|value| **value <= 0.0).count();
        let factor = Mat::from_fn(dimension, dimension - zeros, |row, column| {
            vectors[(row, zeros + column)] * values[zeros + column].sqrt()
        });
        Ok(Self {
            mean: reference.mean().to_vec(),
            trace: trace(reference),
            factor,
        })
    }

    /// Returns the distance of `samples` from the reference.
    ///
    /// # Errors
    /// [`MetricsError::Dimension`], [`MetricsError::Eigenvalues`], and [`MetricsError::Covariance`]
    /// when the covariance of the samples has a negative eigenvalue.
    pub fn distance(&self, samples: &Gaussian) -> Result<f64, MetricsError> {
        let (dimension, rank) = self.factor.shape();
        if samples.dimension() != dimension {
            return Err(MetricsError::Dimension {
                samples: samples.dimension(),
                reference: dimension,
            });
        }
        let shift: f64 = samples
            .mean()
            .iter()
            .zip(&self.mean)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let total = shift + self.trace + trace(samples);
        if rank == 0 {
            return Ok(total);
        }
        let mut half = Mat::zeros(dimension, rank);
        let par = Par::rayon(0);
        matmul(
            half.as_mut(),
            Accum::Replace,
            samples.matrix(),
            self.factor.as_ref(),
            1.0,
            par,
        );
        let mut product = Mat::<f64>::zeros(rank, rank);
        triangular(
            product.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Replace,
            self.factor.transpose(),
            BlockStructure::Rectangular,
            half.as_ref(),
            BlockStructure::Rectangular,
            1.0,
            par,
        );
        drop(half);
        let values = product
            .self_adjoint_eigenvalues(Side::Lower)
            .map_err(|_| MetricsError::Eigenvalues { dimension })?;
        Ok(total - 2.0 * roots(&values)?)
    }
}

fn trace(gaussian: &Gaussian) -> f64 {
    let matrix = gaussian.matrix();
    (0..gaussian.dimension()).map(|i| matrix[(i, i)]).sum()
}

/// Returns the sum of the square roots; eigenvalues that rounding made negative count as zero.
fn roots(eigenvalues: &[f64]) -> Result<f64, MetricsError> {
    let largest = eigenvalues.iter().fold(0f64, |m, v| m.max(v.abs()));
    if eigenvalues.iter().any(|v| *v < -NEGATIVE * largest) {
        return Err(MetricsError::Covariance {
            message: "it has an eigenvalue below zero".to_owned(),
        });
    }
    Ok(eigenvalues.iter().map(|v| v.max(0.0).sqrt()).sum())
}

#[cfg(test)]
mod tests {
    use super::super::moments::Moments;
    use super::super::testing::random;
    use super::*;

    fn diagonal(mean: &[f64], variances: &[f64]) -> Gaussian {
        let d = mean.len();
        let mut covariance = vec![0.0; d * d];
        for (i, variance) in variances.iter().enumerate() {
            covariance[i * d + i] = *variance;
        }
        Gaussian::new(mean.to_vec(), &covariance).unwrap()
    }

    fn distance(a: &Gaussian, b: &Gaussian) -> f64 {
        Frechet::new(a).unwrap().distance(b).unwrap()
    }

    #[test]
    fn for_diagonal_covariances_it_is_the_distance_of_means_and_deviations() {
        let a = diagonal(&[1.0, 2.0, 0.0], &[4.0, 9.0, 0.0]);
        let b = diagonal(&[1.0, 5.0, 0.0], &[1.0, 16.0, 0.25]);
        // 3² for the means, (2-1)² + (3-4)² + (0-0.5)² for the deviations.
        let expected = 9.0 + 1.0 + 1.0 + 0.25;
        assert!((distance(&a, &b) - expected).abs() < 1e-12);
        assert!((distance(&b, &a) - expected).abs() < 1e-12);
    }

    #[test]
    fn rotating_both_sets_keeps_the_distance() {
        let (c, s) = (0.6, 0.8);
        let rotate = |g: [f64; 2], mean: [f64; 2]| {
            let [x, y] = g;
            let covariance = [
                c * c * x + s * s * y,
                c * s * (x - y),
                c * s * (x - y),
                s * s * x + c * c * y,
            ];
            let mean = vec![c * mean[0] - s * mean[1], s * mean[0] + c * mean[1]];
            Gaussian::new(mean, &covariance).unwrap()
        };
        let found = distance(
            &rotate([4.0, 9.0], [1.0, 0.0]),
            &rotate([1.0, 1.0], [0.0, 2.0]),
        );
        assert!((found - (1.0 + 4.0 + 1.0 + 4.0)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn the_distance_of_a_set_from_itself_is_zero_up_to_rounding() {
        for count in [5, 300] {
            let mut moments = Moments::new(32);
            moments.push(&random(count, 32, 7)).unwrap();
            let gaussian = moments.finish("samples").unwrap();
            let found = distance(&gaussian, &gaussian);
            assert!(found.abs() < 1e-5, "{count}: {found}");
        }
    }

    #[test]
    fn invalid_covariances_are_refused() {
        let a = diagonal(&[0.0, 0.0], &[1.0, 1.0]);
        let b = diagonal(&[0.0], &[1.0]);
        assert!(matches!(
            Frechet::new(&a).unwrap().distance(&b),
            Err(MetricsError::Dimension { .. })
        ));
        let negative = diagonal(&[0.0, 0.0], &[1.0, -0.5]);
        assert!(Frechet::new(&negative).is_err());
        assert!(Frechet::new(&a).unwrap().distance(&negative).is_err());
        let nothing = diagonal(&[0.0, 3.0], &[0.0, 0.0]);
        assert_eq!(distance(&nothing, &nothing), 0.0);
        assert_eq!(distance(&nothing, &a), 9.0 + 2.0);
    }
}
