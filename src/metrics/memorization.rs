//! Whether synthetic images are copies of private ones.
//!
//! For each synthetic image, the distance to its nearest private image, beside the distances of private
//! images to their nearest fellow. A model that has seen neither should lie about as far from private
//! images as they lie from each other; synthetic images that lie much nearer deserve a look, for which
//! [`Pairs`] makes a picture of the nearest pairs. Differential privacy bounds what can be learned about
//! any one image whatever this shows; this is for people who want to see for themselves.
//!
//! Functions are pure: of a private reference they are called behind the wall, and what comes of them stays
//! there.

use candle_core::Device;
use rayon::prelude::*;
use thiserror::Error;

use crate::embedders::Embeddings;
use crate::exit_code::{self, ExitCode};
use crate::images::{
    BatchError, Filter, ImageBatch, PictureError, Resampler, ResizeError, grid, png,
};
use crate::progress::Cancellation;
use crate::voting::{Metric, NearestError, nearest_neighbors};

/// Quantiles that a summary gives.
pub const QUANTILES: [f64; 8] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

/// Why the check failed. No text is made of anything private.
#[derive(Debug, Error)]
pub enum MemorizationError {
    /// There must be a synthetic image, and a private one with a fellow.
    #[error(
        "{synthetic} synthetic and {private} reference images cannot be compared: expected at least 1 and 2"
    )]
    TooFew {
        /// Synthetic images.
        synthetic: usize,
        /// Private images.
        private: usize,
    },
    /// The nearest neighbours were not found.
    #[error("failed to find nearest reference images: {0}")]
    Nearest(NearestError),
    /// A private image has an embedding that is not finite; which one is not told.
    #[error("an embedding of a reference image is not finite")]
    NotFinite,
    /// A picture could not be made.
    #[error("failed to lay out the pairs: {0}")]
    Resize(#[from] ResizeError),
    /// A picture could not be made.
    #[error("failed to lay out the pairs: {0}")]
    Batch(#[from] BatchError),
    /// A picture could not be made.
    #[error("failed to draw the pairs: {0}")]
    Picture(#[from] PictureError),
    /// Not every image of a pair was handed over.
    #[error("the pairs lack an image: expected all synthetic and all reference images")]
    Incomplete,
}

impl ExitCode for MemorizationError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::TooFew { .. } => exit_code::DATA,
            _ => exit_code::COMPUTE,
        }
    }
}

impl From<NearestError> for MemorizationError {
    fn from(error: NearestError) -> Self {
        match error {
            // The candidates are private here, unlike in a vote.
            NearestError::NotFinite { .. } => Self::NotFinite,
            other => Self::Nearest(other),
        }
    }
}

/// Nearest private images of synthetic and of private images.
pub struct Distances {
    /// Of each synthetic image: its nearest private image, and how far it is.
    synthetic: Vec<(u32, f64)>,
    /// Of each private image: how far its nearest fellow is.
    private: Vec<f64>,
}

/// The check in numbers, of Euclidean distances between embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Synthetic images.
    pub synthetic_images: usize,
    /// Private images.
    pub private_images: usize,
    /// Distances of synthetic images to the nearest private one: [`QUANTILES`].
    pub synthetic_to_private: Vec<f64>,
    /// Distances of private images to the nearest other one: [`QUANTILES`].
    pub private_to_private: Vec<f64>,
    /// Share of synthetic images that are nearer to a private image than that one's nearest fellow is.
    /// For samples of the private images' own distribution it is about one half.
    pub closer_than_its_fellow: f64,
    /// Share of synthetic images nearer to a private one than all but 1 % of private images are to their
    /// fellows. For samples of the private images' own distribution it is about 0.01.
    pub closer_than_1_percent_of_private: f64,
    /// Share of synthetic images whose embedding is that of a private image.
    pub identical: f64,
}

fn distance(a: &Embeddings, index: usize, b: &Embeddings, id: u32) -> f64 {
    let id = id as usize;
    let pairs = a.rows(index..index + 1).iter().zip(b.rows(id..id + 1));
    let squares = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>().sqrt()
}

impl Distances {
    /// Finds the nearest private image of each synthetic one, and of each private one. Exact, by Euclidean
    /// distance; ties go to the lower index. `device` does the matrix products; `cancellation` stops it.
    ///
    /// # Errors
    /// [`MemorizationError::TooFew`], [`MemorizationError::NotFinite`] and [`MemorizationError::Nearest`].
    pub fn of(
        synthetic: &Embeddings,
        private: &Embeddings,
        device: &Device,
        cancellation: &dyn Cancellation,
    ) -> Result<Self, MemorizationError> {
        if synthetic.is_empty() || private.len() < 2 {
            return Err(MemorizationError::TooFew {
                synthetic: synthetic.len(),
                private: private.len(),
            });
        }
        let search =
            |queries, k| nearest_neighbors(queries, private, k, Metric::L2, device, cancellation);
        let nearest = search(synthetic, 1)?;
        let fellows = search(private, 2)?;
        let of_synthetic = nearest
            .into_par_iter()
            .enumerate()
            .map(|(index, id)| (id, distance(synthetic, index, private, id)))
            .collect();
        let of_private = fellows
            .par_chunks_exact(2)
            .enumerate()
            .map(|(index, pair)| {
                // Among equal images, an image need not be the first of its own neighbours, nor the second.
                let fellow = pair.iter().find(|id| **id as usize != index);
                fellow.map_or(0.0, |id| distance(private, index, private, *id))
            })
            .collect();
        Ok(Self {
            synthetic: of_synthetic,
            private: of_private,
        })
    }

    /// Sums up what was found.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let sorted = |values: Vec<f64>| {
            let mut values = values;
            values.sort_by(f64::total_cmp);
            values
        };
        let synthetic = sorted(self.synthetic.iter().map(|(_, far)| *far).collect());
        let private = sorted(self.private.clone());
        let list = |sorted: &[f64]| QUANTILES.iter().map(|q| quantile(sorted, *q)).collect();
        let count = self.synthetic.len() as f64;
        let share = |holds: &dyn Fn(u32, f64) -> bool| {
            let found = self.synthetic.iter().filter(|(id, far)| holds(*id, *far));
            found.count() as f64 / count
        };
        let fellow = |id: u32| self.private.get(id as usize).copied().unwrap_or(0.0);
        let near = quantile(&private, 0.01);
        Summary {
            synthetic_images: self.synthetic.len(),
            private_images: self.private.len(),
            synthetic_to_private: list(&synthetic),
            private_to_private: list(&private),
            closer_than_its_fellow: share(&|id, far| far < fellow(id)),
            closer_than_1_percent_of_private: share(&|_, far| far < near),
            identical: share(&|_, far| far == 0.0),
        }
    }

    /// Indices of the `count` nearest pairs, (synthetic, private), the nearest first.
    #[must_use]
    pub fn closest(&self, count: usize) -> Vec<(usize, usize)> {
        let mut order: Vec<usize> = (0..self.synthetic.len()).collect();
        let far = |index: usize| self.synthetic.get(index).map_or(f64::NAN, |pair| pair.1);
        order.sort_by(|a, b| far(*a).total_cmp(&far(*b)).then(a.cmp(b)));
        order.truncate(count);
        let nearest = |index: usize| self.synthetic.get(index).map_or(0, |pair| pair.0 as usize);
        order
            .into_iter()
            .map(|index| (index, nearest(index)))
            .collect()
    }
}

/// Of sorted values, linear between neighbours (numpy's default).
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

/// The images of the nearest pairs, gathered while all images are read once, in order: which ones are kept
/// may be private, and the order of reading does not show it.
pub struct Pairs {
    wanted: Vec<Pair>,
    synthetic_seen: usize,
    private_seen: usize,
}

/// One pair, and its images once they have come by.
struct Pair {
    synthetic: usize,
    private: usize,
    pictures: [Option<ImageBatch>; 2],
}

impl Pairs {
    /// The pairs of these indices, see [`Distances::closest`].
    #[must_use]
    pub fn new(closest: &[(usize, usize)]) -> Self {
        let pair = |(synthetic, private): &(usize, usize)| Pair {
            synthetic: *synthetic,
            private: *private,
            pictures: [None, None],
        };
        Self {
            wanted: closest.iter().map(pair).collect(),
            synthetic_seen: 0,
            private_seen: 0,
        }
    }

    /// Takes the next synthetic images, in the order of their embeddings.
    pub fn add_synthetic(&mut self, batch: &ImageBatch) {
        for pair in &mut self.wanted {
            let [picture, _] = &mut pair.pictures;
            keep(picture, pair.synthetic, self.synthetic_seen, batch);
        }
        self.synthetic_seen += batch.len();
    }

    /// Takes the next private images, in the order of their embeddings.
    pub fn add_private(&mut self, batch: &ImageBatch) {
        for pair in &mut self.wanted {
            let [_, picture] = &mut pair.pictures;
            keep(picture, pair.private, self.private_seen, batch);
        }
        self.private_seen += batch.len();
    }

    /// The picture: a row a pair, the synthetic image on the left, its nearest private one on the right, at
    /// the size of the synthetic images. A PNG file's bytes.
    ///
    /// # Errors
    /// [`MemorizationError::Incomplete`] when fewer images were handed over than there are; others when the
    /// picture cannot be drawn.
    pub fn picture(&self) -> Result<Vec<u8>, MemorizationError> {
        let mut all: Option<ImageBatch> = None;
        for pair in &self.wanted {
            let [Some(synthetic), Some(private)] = &pair.pictures else {
                return Err(MemorizationError::Incomplete);
            };
            let size = (synthetic.height(), synthetic.width());
            let from = (private.height(), private.width());
            let private = if from == size {
                private.clone()
            } else {
                Resampler::new(Filter::Bicubic, from, size)?.batch_bytes(private)?
            };
            let all = all.get_or_insert_with(|| ImageBatch::empty(size.0, size.1));
            all.extend(synthetic)?;
            all.extend(&private)?;
        }
        let all = all.ok_or(MemorizationError::Incomplete)?;
        Ok(png(&grid(&all, 2, 2)?)?)
    }
}

/// Keeps the image of index `wanted` if it is in a batch that begins with index `first`.
fn keep(place: &mut Option<ImageBatch>, wanted: usize, first: usize, batch: &ImageBatch) {
    if let Some(at) = wanted.checked_sub(first).filter(|at| *at < batch.len()) {
        *place = Some(batch.slice(at..at + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::decode;
    use crate::progress::Silent;

    fn plane(points: &[(f32, f32)]) -> Embeddings {
        let data = points.iter().flat_map(|(x, y)| [*x, *y]).collect();
        Embeddings::new(data, 2).unwrap()
    }

    const SYNTHETIC: [(f32, f32); 4] = [(0.0, 1.0), (10.0, 0.0), (3.0, 4.0), (20.0, 0.0)];
    const PRIVATE: [(f32, f32); 5] = [
        (0.0, 0.0),
        (3.0, 0.0),
        (10.0, 0.0),
        (10.0, 0.0),
        (21.0, 0.0),
    ];

    fn find() -> Distances {
        search(&plane(&SYNTHETIC), &plane(&PRIVATE)).unwrap()
    }

    fn search(
        synthetic: &Embeddings,
        private: &Embeddings,
    ) -> Result<Distances, MemorizationError> {
        Distances::of(synthetic, private, &Device::Cpu, &Silent)
    }

    #[test]
    fn distances_are_summed_up() {
        let found = find().summary();
        // To the nearest private image: 1, 0, 4, 1; among private images: 3, 3, 0, 0, 11.
        assert_eq!((found.synthetic_images, found.private_images), (4, 5));
        let synthetic = found.synthetic_to_private;
        let private = found.private_to_private;
        assert_eq!((synthetic[0], synthetic[4], synthetic[7]), (0.0, 1.0, 4.0));
        assert_eq!((private[0], private[4], private[7]), (0.0, 3.0, 11.0));
        assert_eq!(synthetic[3], 0.75);
        // 1 < 3, 0 = 0, 4 > 3, 1 < 11.
        assert_eq!(found.closer_than_its_fellow, 0.5);
        assert_eq!(found.closer_than_1_percent_of_private, 0.0);
        assert_eq!(found.identical, 0.25);
    }

    #[test]
    fn copies_show() {
        let private: Vec<(f32, f32)> = (0..50).map(|i| (i as f32, 0.0)).collect();
        let found = search(&plane(&private[..20]), &plane(&private)).unwrap();
        let found = found.summary();
        assert_eq!(found.identical, 1.0);
        assert_eq!(found.closer_than_its_fellow, 1.0);
        assert_eq!(found.closer_than_1_percent_of_private, 1.0);
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
        let mut pairs = Pairs::new(&find().closest(3));
        let synthetic = flat(&[10, 20, 30, 40], 4);
        pairs.add_synthetic(&synthetic.slice(0..3));
        pairs.add_synthetic(&synthetic.slice(3..4));
        let private = flat(&[110, 120, 130, 140, 150], 8);
        pairs.add_private(&private.slice(0..1));
        pairs.add_private(&private.slice(1..5));
        let image = decode(&pairs.picture().unwrap()).unwrap();
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
        let mut pairs = Pairs::new(&find().closest(3));
        pairs.add_synthetic(&flat(&[1, 2, 3, 4], 4));
        assert!(matches!(
            pairs.picture(),
            Err(MemorizationError::Incomplete)
        ));
        let compare = |synthetic: &[(f32, f32)], private: &[(f32, f32)]| {
            search(&plane(synthetic), &plane(private)).err()
        };
        assert!(matches!(
            compare(&[], &PRIVATE),
            Some(MemorizationError::TooFew { .. })
        ));
        assert!(matches!(
            compare(&SYNTHETIC, &PRIVATE[..1]),
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
