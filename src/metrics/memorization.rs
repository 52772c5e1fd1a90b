//! Memorization check: tests whether synthetic images are copies of reference images.
//!
//! It compares the distance of each synthetic image to its nearest reference image with the
//! distances between reference images. Samples of a model that has not seen the reference lie about
//! as far from reference images as these lie from each other; samples that lie much nearer deserve
//! a look, for which [`ClosestPairs`] makes a picture. Differential privacy bounds what can be
//! learned about any one image whatever this check shows; the check is an illustration of that
//! bound.
//!
//! The functions are pure: for a private reference they run inside [`crate::privacy::Sensitive`],
//! and their results stay there.

use candle_core::Device;
use rayon::prelude::*;
use thiserror::Error;

use crate::embedders::Embeddings;
use crate::exit_code::{self, ExitCode};
use crate::images::{
    BatchError, Filter, ImageBatch, PictureError, Resampler, ResizeError, grid, png,
};
use crate::progress::{Cancellation, Cancelled};
use crate::voting::{Metric, NearestError, SearchOptions, nearest_neighbors};

/// Quantiles of the distances in a [`Summary`].
pub const QUANTILES: [f64; 8] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

/// Reason why the check failed. No message contains anything private.
#[derive(Debug, Error)]
pub enum MemorizationError {
    /// A set has too few images: the check needs one synthetic and two reference images.
    #[error(
        "{synthetic} synthetic and {reference} reference images cannot be compared: expected at least 1 and 2"
    )]
    TooFew {
        /// Number of synthetic images.
        synthetic: usize,
        /// Number of reference images.
        reference: usize,
    },
    /// The nearest-neighbor search failed.
    #[error("failed to find nearest reference images: {0}")]
    Nearest(NearestError),
    /// A reference image has an embedding that is not finite. The message does not say which image.
    #[error("an embedding of a reference image is not finite")]
    NotFinite,
    /// A reference image could not be resized to the size of the samples.
    #[error(transparent)]
    Resize(#[from] ResizeError),
    /// The images of the pairs do not have one size.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The picture could not be encoded.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// An image of a pair was not passed to [`ClosestPairs`].
    #[error("the pairs lack an image: expected all synthetic and all reference images")]
    Incomplete,
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ExitCode for MemorizationError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::TooFew { .. } => exit_code::DATA,
            Self::Cancelled(_) => exit_code::INTERRUPTED,
            _ => exit_code::COMPUTE,
        }
    }
}

impl From<NearestError> for MemorizationError {
    fn from(error: NearestError) -> Self {
        match error {
            // The candidates may be private here, unlike in a vote, so their index is dropped.
            NearestError::NotFinite { .. } => Self::NotFinite,
            NearestError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Nearest(other),
        }
    }
}

/// Distances of synthetic and of reference images to their nearest reference images.
pub struct Distances {
    /// Nearest reference image of each synthetic image.
    synthetic: Vec<Neighbor>,
    /// Distance of each reference image to the nearest other one.
    reference: Vec<f64>,
}

/// The nearest reference image of a synthetic image.
#[derive(Debug, Clone, Copy)]
struct Neighbor {
    /// Index among the reference images.
    index: usize,
    /// Euclidean distance between the embeddings.
    distance: f64,
}

/// A synthetic image and its nearest reference image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairIndices {
    /// Index among the synthetic images.
    pub synthetic: usize,
    /// Index among the reference images.
    pub reference: usize,
}

/// Summary of the Euclidean distances between embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Number of synthetic images.
    pub synthetic_images: usize,
    /// Number of reference images.
    pub reference_images: usize,
    /// [`QUANTILES`] of the distances of synthetic images to the nearest reference image.
    pub synthetic_to_reference: Vec<f64>,
    /// [`QUANTILES`] of the distances of reference images to the nearest other one.
    pub reference_to_reference: Vec<f64>,
    /// Share of synthetic images that are nearer to a reference image than the nearest other
    /// reference image is. About 0.5 for samples of the reference's own distribution.
    pub closer_than_its_fellow: f64,
    /// Share of synthetic images that are nearer to a reference image than 99 % of reference images
    /// are to theirs. About 0.01 for samples of the reference's own distribution.
    pub closer_than_1_percent: f64,
    /// Share of synthetic images whose embedding equals that of a reference image.
    pub identical: f64,
}

/// Returns the Euclidean distance between two vectors.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>().sqrt()
}

impl Distances {
    /// Finds the nearest reference image of each synthetic image and of each reference image.
    /// Exact, by Euclidean distance; ties go to the lower index. `device` computes the matrix
    /// products.
    ///
    /// # Errors
    /// [`MemorizationError::TooFew`], [`MemorizationError::NotFinite`],
    /// [`MemorizationError::Nearest`], and [`MemorizationError::Cancelled`].
    pub fn new(
        synthetic: &Embeddings,
        reference: &Embeddings,
        device: &Device,
        cancellation: &dyn Cancellation,
    ) -> Result<Self, MemorizationError> {
        if synthetic.is_empty() || reference.len() < 2 {
            return Err(MemorizationError::TooFew {
                synthetic: synthetic.len(),
                reference: reference.len(),
            });
        }
        let search = |queries, k| {
            let options = SearchOptions {
                k,
                metric: Metric::L2,
                device,
                cancellation,
            };
            nearest_neighbors(queries, reference, &options)
        };
        let nearest = search(synthetic, 1)?;
        let others = search(reference, 2)?;
        let row = |index: usize| reference.rows(index..index + 1);
        let of_synthetic = nearest
            .into_par_iter()
            .enumerate()
            .map(|(place, id)| {
                let index = id as usize;
                Neighbor {
                    index,
                    distance: distance(synthetic.rows(place..place + 1), row(index)),
                }
            })
            .collect();
        let of_reference = others
            .par_chunks_exact(2)
            .enumerate()
            .map(|(index, pair)| {
                // Among several equal images, an image may be neither the first nor the second of
                // its own neighbors.
                let other = pair.iter().find(|id| **id as usize != index);
                other.map_or(0.0, |id| distance(row(index), row(*id as usize)))
            })
            .collect();
        Ok(Self {
            synthetic: of_synthetic,
            reference: of_reference,
        })
    }

    /// Summarizes the distances.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let synthetic = sorted(self.synthetic.iter().map(|near| near.distance).collect());
        let reference = sorted(self.reference.clone());
        let list = |sorted: &[f64]| QUANTILES.iter().map(|q| quantile(sorted, *q)).collect();
        let count = self.synthetic.len() as f64;
        let share = |holds: &dyn Fn(&Neighbor) -> bool| {
            self.synthetic.iter().filter(|near| holds(near)).count() as f64 / count
        };
        let to_other = |index: usize| self.reference.get(index).copied().unwrap_or(0.0);
        let first_percent = quantile(&reference, 0.01);
        Summary {
            synthetic_images: self.synthetic.len(),
            reference_images: self.reference.len(),
            synthetic_to_reference: list(&synthetic),
            reference_to_reference: list(&reference),
            closer_than_its_fellow: share(&|near| near.distance < to_other(near.index)),
            closer_than_1_percent: share(&|near| near.distance < first_percent),
            identical: share(&|near| near.distance == 0.0),
        }
    }

    /// Returns the `count` closest pairs, the closest first.
    #[must_use]
    pub fn closest(&self, count: usize) -> Vec<PairIndices> {
        let mut order: Vec<(usize, &Neighbor)> = self.synthetic.iter().enumerate().collect();
        order.sort_by(|a, b| a.1.distance.total_cmp(&b.1.distance).then(a.0.cmp(&b.0)));
        order.truncate(count);
        let pair = |(synthetic, near): (usize, &Neighbor)| PairIndices {
            synthetic,
            reference: near.index,
        };
        order.into_iter().map(pair).collect()
    }
}

/// Returns a quantile of sorted values, linear between neighbors (the default of numpy).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = q * last as f64;
    let below = place.floor();
    let at = |index: f64| sorted.get((index as usize).min(last)).copied();
    let (Some(low), Some(high)) = (at(below), at(below + 1.0)) else {
        return 0.0;
    };
    low + (high - low) * (place - below)
}

/// Collects the images of the closest pairs while all images are read once, in order. Which images
/// are kept may be private; the order of reading does not reveal it.
pub struct ClosestPairs {
    pairs: Vec<Pair>,
    synthetic_seen: usize,
    reference_seen: usize,
}

/// One pair, and its images once they were read.
struct Pair {
    indices: PairIndices,
    synthetic: Option<ImageBatch>,
    reference: Option<ImageBatch>,
}

impl ClosestPairs {
    /// Prepares the collection of these pairs, see [`Distances::closest`].
    #[must_use]
    pub fn new(closest: &[PairIndices]) -> Self {
        let pair = |indices: &PairIndices| Pair {
            indices: *indices,
            synthetic: None,
            reference: None,
        };
        Self {
            pairs: closest.iter().map(pair).collect(),
            synthetic_seen: 0,
            reference_seen: 0,
        }
    }

    /// Adds the next synthetic images, in the order of their embeddings.
    pub fn add_synthetic(&mut self, batch: &ImageBatch) {
        for pair in &mut self.pairs {
            if let Some(image) = image_at(batch, self.synthetic_seen, pair.indices.synthetic) {
                pair.synthetic = Some(image);
            }
        }
        self.synthetic_seen += batch.len();
    }

    /// Adds the next reference images, in the order of their embeddings.
    pub fn add_reference(&mut self, batch: &ImageBatch) {
        for pair in &mut self.pairs {
            if let Some(image) = image_at(batch, self.reference_seen, pair.indices.reference) {
                pair.reference = Some(image);
            }
        }
        self.reference_seen += batch.len();
    }

    /// Returns the picture as the bytes of a PNG file: one row for each pair, the synthetic image
    /// on the left and its nearest reference image on the right, at the size of the synthetic
    /// images.
    ///
    /// # Errors
    /// [`MemorizationError::Incomplete`] when an image of a pair was not added; others when the
    /// picture cannot be made.
    pub fn picture(&self) -> Result<Vec<u8>, MemorizationError> {
        let mut all: Option<ImageBatch> = None;
        for pair in &self.pairs {
            let (Some(synthetic), Some(reference)) = (&pair.synthetic, &pair.reference) else {
                return Err(MemorizationError::Incomplete);
            };
            let size = (synthetic.height(), synthetic.width());
            let from = (reference.height(), reference.width());
            let reference = if from == size {
                reference.clone()
            } else {
                Resampler::new(Filter::Bicubic, from, size)?.batch_bytes(reference)?
            };
            let all = all.get_or_insert_with(|| ImageBatch::empty(size.0, size.1));
            all.extend(synthetic)?;
            all.extend(&reference)?;
        }
        let all = all.ok_or(MemorizationError::Incomplete)?;
        Ok(png(&grid(&all, 2, 2)?)?)
    }
}

/// Returns image number `index` if it is in `batch`, whose first image has number `first`.
fn image_at(batch: &ImageBatch, first: usize, index: usize) -> Option<ImageBatch> {
    let at = index.checked_sub(first).filter(|at| *at < batch.len())?;
    Some(batch.slice(at..at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{DecodeOptions, decode};
    use crate::progress::Silent;

    fn plane(points: &[(f32, f32)]) -> Embeddings {
        let data = points.iter().flat_map(|(x, y)| [*x, *y]).collect();
        Embeddings::new(data, 2).unwrap()
    }

    const SYNTHETIC: [(f32, f32); 4] = [(0.0, 1.0), (10.0, 0.0), (3.0, 4.0), (20.0, 0.0)];
    const REFERENCE: [(f32, f32); 5] = [
        (0.0, 0.0),
        (3.0, 0.0),
        (10.0, 0.0),
        (10.0, 0.0),
        (21.0, 0.0),
    ];

    fn find() -> Distances {
        search(&plane(&SYNTHETIC), &plane(&REFERENCE)).unwrap()
    }

    fn search(
        synthetic: &Embeddings,
        reference: &Embeddings,
    ) -> Result<Distances, MemorizationError> {
        Distances::new(synthetic, reference, &Device::Cpu, &Silent)
    }

    #[test]
    fn distances_are_summarized() {
        let found = find().summary();
        // To the nearest reference image: 1, 0, 4, 1; among reference images: 3, 3, 0, 0, 11.
        assert_eq!((found.synthetic_images, found.reference_images), (4, 5));
        let synthetic = found.synthetic_to_reference;
        let reference = found.reference_to_reference;
        assert_eq!((synthetic[0], synthetic[4], synthetic[7]), (0.0, 1.0, 4.0));
        assert_eq!((reference[0], reference[4], reference[7]), (0.0, 3.0, 11.0));
        assert_eq!(synthetic[3], 0.75);
        // 1 < 3, 0 = 0, 4 > 3, 1 < 11.
        assert_eq!(found.closer_than_its_fellow, 0.5);
        assert_eq!(found.closer_than_1_percent, 0.0);
        assert_eq!(found.identical, 0.25);
    }

    #[test]
    fn copies_are_detected() {
        let reference: Vec<(f32, f32)> = (0..50).map(|i| (i as f32, 0.0)).collect();
        let found = search(&plane(&reference[..20]), &plane(&reference)).unwrap();
        let found = found.summary();
        assert_eq!(found.identical, 1.0);
        assert_eq!(found.closer_than_its_fellow, 1.0);
        assert_eq!(found.closer_than_1_percent, 1.0);
    }

    fn flat(levels: &[u8], side: usize) -> ImageBatch {
        let data = levels
            .iter()
            .flat_map(|l| vec![*l; side * side * 3])
            .collect();
        ImageBatch::new(data, levels.len(), side, side).unwrap()
    }

    #[test]
    fn the_nearest_pairs_are_drawn_side_by_side() {
        let mut pairs = ClosestPairs::new(&find().closest(3));
        let synthetic = flat(&[10, 20, 30, 40], 4);
        pairs.add_synthetic(&synthetic.slice(0..3));
        pairs.add_synthetic(&synthetic.slice(3..4));
        let reference = flat(&[110, 120, 130, 140, 150], 8);
        pairs.add_reference(&reference.slice(0..1));
        pairs.add_reference(&reference.slice(1..5));
        let image = decode(&pairs.picture().unwrap(), &DecodeOptions::default())
            .unwrap()
            .image;
        assert_eq!((image.height, image.width), (2 + 3 * 6, 2 + 2 * 6));
        let level = |row: usize, column: usize| {
            let (y, x) = (3 + 6 * row, 3 + 6 * column);
            image.pixels[(y * image.width + x) * 3]
        };
        let found: Vec<[u8; 2]> = (0..3).map(|row| [level(row, 0), level(row, 1)]).collect();
        assert_eq!(found, [[20, 130], [10, 110], [40, 150]]);
    }

    #[test]
    fn missing_images_and_impossible_sets_are_refused() {
        let mut pairs = ClosestPairs::new(&find().closest(3));
        pairs.add_synthetic(&flat(&[1, 2, 3, 4], 4));
        assert!(matches!(
            pairs.picture(),
            Err(MemorizationError::Incomplete)
        ));
        let compare = |synthetic: &[(f32, f32)], reference: &[(f32, f32)]| {
            search(&plane(synthetic), &plane(reference)).err()
        };
        assert!(matches!(
            compare(&[], &REFERENCE),
            Some(MemorizationError::TooFew { .. })
        ));
        assert!(matches!(
            compare(&SYNTHETIC, &REFERENCE[..1]),
            Some(MemorizationError::TooFew { .. })
        ));
        let error = compare(&SYNTHETIC, &[(0.0, 0.0), (f32::NAN, 0.0)]).unwrap();
        assert_eq!(
            error.to_string(),
            "an embedding of a reference image is not finite"
        );
    }

    #[test]
    fn quantiles_are_numpy_s() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), 1.0);
        assert_eq!(quantile(&sorted, 0.5), 3.0);
        assert_eq!(quantile(&sorted, 0.25), 1.75);
        assert_eq!(quantile(&sorted, 1.0), 8.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
