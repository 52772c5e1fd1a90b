//! Kernel Inception distance (KID): the squared maximum mean discrepancy under a cubic polynomial
//! kernel.
//!
//! Bińkowski et al. 2018 (arXiv 1801.01401). The unbiased estimate `k(x, y) = (x·y/d + 1)³` is
//! averaged over random subsets without replacement, as clean-fid and torch-fidelity do by default:
//! 100 subsets of 1000, or of as many as the smaller set has.
//!
//! The interval is the normal one at 95 % for the mean over the subsets. Subsets of one pair of
//! sets overlap, so it shows how far other subsets would move the mean, not how far other images
//! would.
//!
//! Written by hand because no maintained Rust library computes KID; faer multiplies the matrices.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::MetricsError;
use crate::embedders::Embeddings;
use crate::progress::Cancellation;
use crate::sections::InvalidKey;
use crate::streams::{KeyedRng, Phase, RngKey};

/// Two-sided 95 % quantile of the normal distribution.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// Options of the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KidOptions {
    /// Number of random subsets.
    pub subsets: usize,
    /// Largest number of images of each set in one subset.
    pub subset_size: usize,
    /// Seed of the subsets.
    pub seed: u64,
}

impl Default for KidOptions {
    fn default() -> Self {
        Self {
            subsets: 100,
            subset_size: 1000,
            seed: 0,
        }
    }
}

/// Interval of an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Estimate of KID.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kid {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets; 0 for a single one.
    pub deviation: f64,
    /// Interval of the mean at 95 %.
    pub interval: Interval,
    /// Number of images of each set in one subset.
    pub subset_size: usize,
}

/// Estimates KID of two sets.
///
/// # Errors
/// [`MetricsError::TooFew`] for less than two images in either set, [`MetricsError::Dimension`],
/// [`MetricsError::Config`] for no subsets, [`MetricsError::NotFinite`], and
/// [`MetricsError::Cancelled`].
pub fn kernel_distance(
    reference: &Embeddings,
    samples: &Embeddings,
    options: KidOptions,
    cancellation: &dyn Cancellation,
) -> Result<Kid, MetricsError> {
    if reference.dimension() != samples.dimension() {
        return Err(MetricsError::Dimension {
            samples: samples.dimension(),
            reference: reference.dimension(),
        });
    }
    for (what, set) in [("reference images", reference), ("samples", samples)] {
        if set.len() < 2 {
            return Err(MetricsError::TooFew {
                metric: "kid",
                what,
                needed: 2,
                found: set.len(),
            });
        }
    }
    if options.subsets == 0 || options.subset_size < 2 {
        return Err(MetricsError::Config(InvalidKey::new(
            "kid_subset_size",
            "expected at least one subset of at least 2 images".to_owned(),
        )));
    }
    let size = options.subset_size.min(reference.len()).min(samples.len());
    let estimates = (0..options.subsets)
        .into_par_iter()
        .map(|subset| {
            cancellation.check()?;
            let subset_of = |set: &Embeddings, side| {
                let key = RngKey {
                    seed: options.seed,
                    phase: Phase::Evaluate,
                    iteration: 0,
                    repeat: side,
                    sample: subset as u64,
                };
                columns(set, &choose(set.len(), size, &mut key.rng()))
            };
            Ok(discrepancy(
                &subset_of(reference, 0),
                &subset_of(samples, 1),
                reference.dimension(),
            ))
        })
        .collect::<Result<Vec<f64>, MetricsError>>()?;
    if estimates.iter().any(|v| !v.is_finite()) {
        return Err(MetricsError::NotFinite { what: "two sets" });
    }
    let count = estimates.len() as f64;
    let mean = estimates.iter().sum::<f64>() / count;
    let squares: f64 = estimates.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    let half = QUANTILE * deviation / count.sqrt();
    Ok(Kid {
        mean,
        deviation,
        interval: Interval {
            low: mean - half,
            high: mean + half,
        },
        subset_size: size,
    })
}

/// Returns `size` different numbers below `count`: the first ones of a Fisher-Yates shuffle.
pub(super) fn choose(count: usize, size: usize, rng: &mut KeyedRng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for place in 0..size.min(count) {
        let other = place + rng.below((count - place) as u64) as usize;
        all.swap(place, other);
    }
    all.truncate(size);
    all
}

/// Returns the chosen vectors as `f64`, one after the other.
fn columns(set: &Embeddings, chosen: &[usize]) -> Vec<f64> {
    let mut data = Vec::with_capacity(chosen.len() * set.dimension());
    for &index in chosen {
        data.extend(set.rows(index..index + 1).iter().map(|v| f64::from(*v)));
    }
    data
}

/// Returns the unbiased estimate for two sets of equally many vectors.
fn discrepancy(a: &[f64], b: &[f64], dimension: usize) -> f64 {
    let size = a.len() / dimension;
    let a = MatRef::from_column_major_slice(a, dimension, size);
    let b = MatRef::from_column_major_slice(b, dimension, size);
    let mut product = Mat::<f64>::zeros(size, size);
    let kernel = |dot: f64| (dot / dimension as f64 + 1.0).powi(3);
    // Sequential products: the other threads compute other subsets.
    let mut within = |set: MatRef<'_, f64>| {
        triangular(
            product.as_mut(),
            BlockStructure::StrictTriangularLower,
            Accum::Replace,
            set.transpose(),
            BlockStructure::Rectangular,
            set,
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
        let below: f64 = (0..size)
            .flat_map(|column| (column + 1..size).map(move |row| (row, column)))
            .map(|at| kernel(product[at]))
            .sum();
        2.0 * below
    };
    let same = within(a) + within(b);
    matmul(
        product.as_mut(),
        Accum::Replace,
        a.transpose(),
        b,
        1.0,
        Par::Seq,
    );
    let across: f64 = (0..size)
        .flat_map(|column| (0..size).map(move |row| (row, column)))
        .map(|at| kernel(product[at]))
        .sum();
    let size = size as f64;
    same / (size * (size - 1.0)) - 2.0 * across / (size * size)
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;
    use crate::progress::{AlwaysCancelled, Silent};

    fn kid(a: &Embeddings, b: &Embeddings, subsets: usize, subset_size: usize) -> Kid {
        let options = KidOptions {
            subsets,
            subset_size,
            seed: 3,
        };
        kernel_distance(a, b, options, &Silent).unwrap()
    }

    #[test]
    fn a_small_case_by_hand() {
        // One feature: kernels (x·y + 1)³. Reference 0, 1; samples 1, 2.
        let a = Embeddings::new(vec![0.0, 1.0], 1).unwrap();
        let b = Embeddings::new(vec![1.0, 2.0], 1).unwrap();
        // Within a: (0·1+1)³ = 1. Within b: (1·2+1)³ = 27.
        // Across: 0·1, 0·2 → 1, 1; 1·1 → 8; 1·2 → 27: mean 37/4.
        let found = kid(&a, &b, 1, 1000);
        assert!((found.mean - (1.0 + 27.0 - 2.0 * 37.0 / 4.0)).abs() < 1e-12);
        assert_eq!((found.deviation, found.subset_size), (0.0, 2));
        assert_eq!(
            (found.interval.low, found.interval.high),
            (found.mean, found.mean)
        );
    }

    #[test]
    fn sets_of_one_distribution_are_near_zero_and_others_are_not() {
        let near = kid(&random(800, 6, 1), &random(700, 6, 2), 30, 200);
        let shifted = Embeddings::new(
            random(700, 6, 2).data().iter().map(|v| v + 0.5).collect(),
            6,
        )
        .unwrap();
        let far = kid(&random(800, 6, 1), &shifted, 30, 200);
        assert!(
            near.interval.low < 0.01 && near.mean.abs() < 0.05,
            "{near:?}"
        );
        assert!(far.interval.low > near.interval.high, "{near:?} {far:?}");
        assert!(far.mean > 0.2 && far.deviation > 0.0, "{far:?}");
        // The same seed selects the same subsets.
        assert_eq!(near, kid(&random(800, 6, 1), &random(700, 6, 2), 30, 200));
    }

    #[test]
    fn invalid_requests_are_refused() {
        let options = KidOptions::default();
        let one = random(1, 4, 0);
        let set = random(5, 4, 0);
        assert!(kernel_distance(&one, &set, options, &Silent).is_err());
        assert!(kernel_distance(&set, &random(5, 3, 0), options, &Silent).is_err());
        assert!(matches!(
            kernel_distance(&set, &set, options, &AlwaysCancelled),
            Err(MetricsError::Cancelled(_))
        ));
        let nan = Embeddings::new(vec![f32::NAN; 20], 4).unwrap();
        assert!(matches!(
            kernel_distance(&set, &nan, options, &Silent),
            Err(MetricsError::NotFinite { .. })
        ));
    }

    #[test]
    fn a_choice_has_no_repeats() {
        let key = RngKey {
            seed: 0,
            phase: Phase::Evaluate,
            iteration: 0,
            repeat: 0,
            sample: 0,
        };
        let mut chosen = choose(50, 50, &mut key.rng());
        assert_ne!(chosen, (0..50).collect::<Vec<_>>());
        chosen.sort_unstable();
        assert_eq!(chosen, (0..50).collect::<Vec<_>>());
    }
}
