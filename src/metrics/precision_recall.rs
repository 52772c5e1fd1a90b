//! Improved precision and recall: the share of the samples that look real, and the share of the
//! real images that the samples cover.
//!
//! Kynkäänniemi et al. 2019 (arXiv 1904.06991, eq. 1 and 2). Each point of a set stands for a ball
//! that reaches to its k-th nearest *other* point (the authors' k = 3). Precision is the share of
//! samples in any ball of the reference, recall the share of reference images in any ball of the
//! samples; a point on a ball's surface is in it. (A library that counts the point itself calls the
//! same k + 1.)
//!
//! Distances are exact: they are computed in `f64` from blocks of a matrix product, and where
//! rounding could decide, again from the difference. Memory beyond the vectors is a few blocks for
//! each thread.
//!
//! Written by hand because no maintained Rust library computes this metric; faer multiplies the
//! matrices.

use candle_core::Device;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::MetricsError;
use crate::embedders::Embeddings;
use crate::progress::{Cancellation, Silent};
use crate::sections::InvalidKey;
use crate::voting::{Metric, NearestError, SearchOptions, nearest_neighbors};

/// Points in one matrix product: with [`TILE`] balls, operands and result fit a core's cache.
const BLOCK: usize = 128;
/// Balls in one matrix product.
const TILE: usize = 512;
/// Bound of the rounding error of a squared distance, relative to the squared lengths.
const SLACK: f64 = 1e-11;

/// Precision and recall, shares between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the samples that lie in a ball of the reference.
    pub precision: f64,
    /// Share of the reference images that lie in a ball of the samples.
    pub recall: f64,
}

/// Computes precision and recall of `samples`. `device` computes the products of the neighbor
/// search.
///
/// # Errors
/// [`MetricsError::TooFew`] when a set has not more than `k` points, [`MetricsError::Dimension`],
/// [`MetricsError::NotFinite`], [`MetricsError::Nearest`], and [`MetricsError::Cancelled`].
pub fn precision_recall(
    reference: &Embeddings,
    samples: &Embeddings,
    k: usize,
    device: &Device,
    cancellation: &dyn Cancellation,
) -> Result<PrecisionRecall, MetricsError> {
    if reference.dimension() != samples.dimension() {
        return Err(MetricsError::Dimension {
            samples: samples.dimension(),
            reference: reference.dimension(),
        });
    }
    let around_reference = squared_radii(reference, "reference images", k, device, cancellation)?;
    let around_samples = squared_radii(samples, "samples", k, device, cancellation)?;
    Ok(PrecisionRecall {
        precision: covered(samples, reference, &around_reference, cancellation)?,
        recall: covered(reference, samples, &around_samples, cancellation)?,
    })
}

/// Returns the distance of each point to its k-th nearest other point of the set.
///
/// # Errors
/// See [`precision_recall`].
pub fn radii(set: &Embeddings, k: usize, device: &Device) -> Result<Vec<f64>, MetricsError> {
    let squared = squared_radii(set, "points", k, device, &Silent)?;
    Ok(squared.into_iter().map(f64::sqrt).collect())
}

fn squared_radii(
    set: &Embeddings,
    what: &'static str,
    k: usize,
    device: &Device,
    cancellation: &dyn Cancellation,
) -> Result<Vec<f64>, MetricsError> {
    if k == 0 {
        return Err(MetricsError::Config(InvalidKey::new(
            "nearest_neighbors",
            "is 0: expected at least 1".to_owned(),
        )));
    }
    if set.len() <= k {
        return Err(MetricsError::TooFew {
            metric: "precision and recall",
            what,
            needed: k + 1,
            found: set.len(),
        });
    }
    // A point is its own nearest neighbor. Among copies of it the order does not matter: all are at
    // distance 0.
    let options = SearchOptions {
        k: k + 1,
        metric: Metric::L2,
        device,
        cancellation,
    };
    let near = nearest_neighbors(set, set, &options).map_err(|error| match error {
        // The set may be private, so the index of the point is dropped.
        NearestError::NotFinite { .. } => MetricsError::NotFinite { what },
        other => other.into(),
    })?;
    let farthest = near.chunks_exact(k + 1).enumerate().map(|(point, near)| {
        let last = near.last().map_or(point, |index| *index as usize);
        squared_distance(set.rows(point..point + 1), set.rows(last..last + 1))
    });
    Ok(farthest.collect())
}

/// Returns the share of `points` that lie in a ball around any of `centers`.
fn covered(
    points: &Embeddings,
    centers: &Embeddings,
    squared_radii: &[f64],
    cancellation: &dyn Cancellation,
) -> Result<f64, MetricsError> {
    let d = points.dimension();
    let lengths: Vec<f64> = centers
        .data()
        .par_chunks_exact(d)
        .map(squared_length)
        .collect();
    let inside = points
        .data()
        .par_chunks(BLOCK * d)
        .map(|block| {
            cancellation.check()?;
            Ok::<_, MetricsError>(covered_in_block(block, centers, &lengths, squared_radii))
        })
        .try_reduce(|| 0, |a, b| Ok(a + b))?;
    Ok(inside as f64 / points.len() as f64)
}

/// Counts the points of `block` that lie in a ball around any of `centers`; `lengths` are the
/// squared lengths of the centers.
fn covered_in_block(
    block: &[f32],
    centers: &Embeddings,
    lengths: &[f64],
    squared_radii: &[f64],
) -> usize {
    let d = centers.dimension();
    let rows: Vec<&[f32]> = block.chunks_exact(d).collect();
    let wide = to_f64(block);
    let points = MatRef::from_column_major_slice(&wide, d, rows.len());
    let own: Vec<f64> = rows.iter().map(|row| squared_length(row)).collect();
    let mut inside = vec![false; rows.len()];
    let mut products = Mat::<f64>::zeros(TILE, rows.len());
    let tiles = centers.data().chunks(TILE * d).zip(lengths.chunks(TILE));
    for ((tile, lengths), radii) in tiles.zip(squared_radii.chunks(TILE)) {
        let wide = to_f64(tile);
        let centers = MatRef::from_column_major_slice(&wide, d, lengths.len());
        let mut products = products.as_mut().subrows_mut(0, lengths.len());
        matmul(
            products.as_mut(),
            Accum::Replace,
            centers.transpose(),
            points,
            1.0,
            Par::Seq,
        );
        for (column, (row, inside)) in rows.iter().zip(&mut inside).enumerate() {
            if *inside {
                continue;
            }
            let balls = tile.chunks_exact(d).zip(lengths.iter().zip(radii));
            *inside = balls
                .enumerate()
                .any(|(index, (center, (length, radius)))| {
                    let lengths = own[column] + length;
                    let excess = lengths - 2.0 * products[(index, column)] - radius;
                    let slack = SLACK * lengths;
                    excess < -slack || (excess <= slack && squared_distance(row, center) <= *radius)
                });
        }
        if inside.iter().all(|found| *found) {
            break;
        }
    }
    inside.into_iter().filter(|found| *found).count()
}

/// Returns the numbers as `f64`.
fn to_f64(rows: &[f32]) -> Vec<f64> {
    rows.iter().map(|v| f64::from(*v)).collect()
}

fn squared_length(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v).powi(2)).sum()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let term = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    a.iter().zip(b).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;
    use crate::progress::AlwaysCancelled;

    fn line(values: &[f32]) -> Embeddings {
        Embeddings::new(values.to_vec(), 1).unwrap()
    }

    fn measure(reference: &Embeddings, samples: &Embeddings, k: usize) -> PrecisionRecall {
        precision_recall(reference, samples, k, &Device::Cpu, &Silent).unwrap()
    }

    #[test]
    fn on_a_line_by_hand() {
        // Radii for k = 1: 1, 1, 2 around 0, 1, 3: the union is [-1, 5].
        let reference = line(&[0.0, 1.0, 3.0]);
        assert_eq!(radii(&reference, 1, &Device::Cpu).unwrap(), [1.0, 1.0, 2.0]);
        assert_eq!(radii(&reference, 2, &Device::Cpu).unwrap(), [3.0, 2.0, 3.0]);
        // 5 lies on the surface. Radii of the samples are 0.5, 0.5, 4: their union is [4.5, 13.5].
        let samples = line(&[5.0, 5.5, 9.5]);
        let found = measure(&reference, &samples, 1);
        assert_eq!(found.precision, 1.0 / 3.0);
        assert_eq!(found.recall, 0.0);
    }

    #[test]
    fn copies_have_balls_of_radius_zero_and_lie_in_them() {
        let reference = line(&[0.1, 0.1, 0.7, 0.7]);
        let found = measure(&reference, &line(&[0.1, 0.7, 0.3]), 1);
        assert_eq!(found.precision, 2.0 / 3.0);
        assert_eq!(found.recall, 1.0);
    }

    #[test]
    fn blocks_agree_with_all_pairs() {
        let (reference, samples) = (random(1300, 3, 1), random(700, 3, 2));
        let k = 3;
        let share = |points: &Embeddings, centers: &Embeddings| {
            let radii = radii(centers, k, &Device::Cpu).unwrap();
            let inside = points.data().chunks_exact(3).filter(|point| {
                let centers = centers.data().chunks_exact(3);
                centers
                    .zip(&radii)
                    .any(|(center, radius)| squared_distance(point, center).sqrt() <= *radius)
            });
            inside.count() as f64 / points.len() as f64
        };
        let found = measure(&reference, &samples, k);
        assert_eq!(found.precision, share(&samples, &reference));
        assert_eq!(found.recall, share(&reference, &samples));
        assert!(found.precision > 0.8 && found.precision < 1.0, "{found:?}");
    }

    #[test]
    fn invalid_requests_are_refused() {
        let set = random(4, 2, 0);
        let run =
            |reference: &Embeddings, k| precision_recall(reference, &set, k, &Device::Cpu, &Silent);
        assert!(matches!(run(&set, 4), Err(MetricsError::TooFew { .. })));
        assert!(matches!(run(&set, 0), Err(MetricsError::Config { .. })));
        assert!(run(&random(9, 3, 0), 1).is_err());
        let nan = line(&[f32::NAN, 1.0, 2.0]);
        assert!(matches!(
            precision_recall(&nan, &line(&[1.0, 2.0]), 1, &Device::Cpu, &Silent),
            Err(MetricsError::NotFinite { .. })
        ));
        assert!(matches!(
            precision_recall(&set, &set, 1, &Device::Cpu, &AlwaysCancelled),
            Err(MetricsError::Cancelled(_))
        ));
    }
}
