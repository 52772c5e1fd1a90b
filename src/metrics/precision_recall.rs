//! Improved precision and recall: what share of the samples looks real, and of the real is covered.
//!
//! Kynkäänniemi et al. 2019 (arXiv 1904.06991, eq. 1 and 2). Each point of a set stands for a ball that
//! reaches to its k-th nearest *other* point (the authors' k = 3). Precision is the share of samples in
//! any ball of the reference, recall the share of reference images in any ball of the samples; a point
//! on a ball's surface is in it. (A library that counts the point itself says k + 1 for the same.)
//!
//! Distances are exact: they come in `f64` from blocks of a matrix product, and where rounding could
//! decide, once more from the difference. Memory beyond the vectors is a few blocks a thread.

use candle_core::Device;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::MetricsError;
use crate::embedders::Embeddings;
use crate::progress::{Cancellation, Silent};
use crate::voting::{Metric, NearestError, nearest_neighbors};

/// Points looked up together, and balls they are compared with together.
const BLOCK: usize = 128;
const TILE: usize = 512;
/// What rounding can make of a squared distance, relative to the squared lengths.
const SLACK: f64 = 1e-11;

/// Shares between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the samples that lie among the reference.
    pub precision: f64,
    /// Share of the reference that lies among the samples.
    pub recall: f64,
}

/// Precision and recall of `samples`. `device` searches for the k-th neighbours.
///
/// # Errors
/// [`MetricsError::TooFew`] when a set has not more than `k` points, [`MetricsError::Dimension`],
/// [`MetricsError::NotFinite`], [`MetricsError::Nearest`], and [`MetricsError::Interrupted`] when
/// `cancellation` requests it.
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

/// The distance of each point to its k-th nearest other point of the set.
///
/// # Errors
/// As [`precision_recall`].
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
        return Err(MetricsError::Config {
            key: "nearest_neighbors",
            message: "is 0: expected at least 1".to_owned(),
        });
    }
    if set.len() <= k {
        return Err(MetricsError::TooFew {
            metric: "precision and recall",
            what,
            needed: k + 1,
            found: set.len(),
        });
    }
    // A point is its own nearest; among copies of it the order does not matter, all are at distance 0.
    let near =
        nearest_neighbors(set, set, k + 1, Metric::L2, device, cancellation).map_err(|error| {
            match error {
                NearestError::Interrupted => MetricsError::Interrupted,
                // Which one it is, is not for a message.
                NearestError::NotFinite { .. } => MetricsError::NotFinite { what },
                other => other.into(),
            }
        })?;
    let farthest = near.chunks_exact(k + 1).enumerate().map(|(point, near)| {
        let last = near.last().map_or(point, |index| *index as usize);
        squared_distance(set.rows(point..point + 1), set.rows(last..last + 1))
    });
    Ok(farthest.collect())
}

/// The share of `points` that lie in a ball around any of `centres`.
fn covered(
    points: &Embeddings,
    centres: &Embeddings,
    squared_radii: &[f64],
    cancellation: &dyn Cancellation,
) -> Result<f64, MetricsError> {
    let d = points.dimension();
    let lengths: Vec<f64> = centres
        .data()
        .par_chunks_exact(d)
        .map(squared_length)
        .collect();
    let inside = points
        .data()
        .par_chunks(BLOCK * d)
        .map(|block| {
            if cancellation.is_cancelled() {
                return Err(MetricsError::Interrupted);
            }
            Ok(covered_in_block(block, centres, &lengths, squared_radii))
        })
        .try_reduce(|| 0, |a, b| Ok(a + b))?;
    Ok(inside as f64 / points.len() as f64)
}

fn covered_in_block(
    block: &[f32],
    centres: &Embeddings,
    lengths: &[f64],
    squared_radii: &[f64],
) -> usize {
    let d = centres.dimension();
    let rows: Vec<&[f32]> = block.chunks_exact(d).collect();
    let wide = widened(block);
    let points = MatRef::from_column_major_slice(&wide, d, rows.len());
    let own: Vec<f64> = rows.iter().map(|row| squared_length(row)).collect();
    let mut inside = vec![false; rows.len()];
    let mut products = Mat::<f64>::zeros(TILE, rows.len());
    let tiles = centres.data().chunks(TILE * d).zip(lengths.chunks(TILE));
    for ((tile, lengths), radii) in tiles.zip(squared_radii.chunks(TILE)) {
        let wide = widened(tile);
        let centres = MatRef::from_column_major_slice(&wide, d, lengths.len());
        let mut products = products.as_mut().subrows_mut(0, lengths.len());
        matmul(
            products.as_mut(),
            Accum::Replace,
            centres.transpose(),
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
                .any(|(index, (centre, (length, radius)))| {
                    let lengths = own[column] + length;
                    let rough = lengths - 2.0 * products[(index, column)] - radius;
                    let slack = SLACK * lengths;
                    rough < -slack || (rough <= slack && squared_distance(row, centre) <= *radius)
                });
        }
        if inside.iter().all(|found| *found) {
            break;
        }
    }
    inside.into_iter().filter(|found| *found).count()
}

fn widened(rows: &[f32]) -> Vec<f64> {
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
    fn copies_have_balls_of_no_size_and_lie_in_them() {
        let reference = line(&[0.1, 0.1, 0.7, 0.7]);
        let found = measure(&reference, &line(&[0.1, 0.7, 0.3]), 1);
        assert_eq!(found.precision, 2.0 / 3.0);
        assert_eq!(found.recall, 1.0);
    }

    #[test]
    fn blocks_give_what_all_pairs_give() {
        let (reference, samples) = (random(1300, 3, 1), random(700, 3, 2));
        let k = 3;
        let share = |points: &Embeddings, centres: &Embeddings| {
            let radii = radii(centres, k, &Device::Cpu).unwrap();
            let inside = points.data().chunks_exact(3).filter(|point| {
                let centres = centres.data().chunks_exact(3);
                centres
                    .zip(&radii)
                    .any(|(centre, radius)| squared_distance(point, centre).sqrt() <= *radius)
            });
            inside.count() as f64 / points.len() as f64
        };
        let found = measure(&reference, &samples, k);
        assert_eq!(found.precision, share(&samples, &reference));
        assert_eq!(found.recall, share(&reference, &samples));
        assert!(found.precision > 0.8 && found.precision < 1.0, "{found:?}");
    }

    #[test]
    fn bad_requests_are_named() {
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
            Err(MetricsError::Interrupted)
        ));
    }
}
