//! Pictures of a population: a sample of each class, and those with the most and the fewest votes.

use std::path::Path;

use super::{ArtifactsError, ClassLayout, Population};
use crate::atomic;
use crate::images::{BatchError, ImageBatch, PictureError, grid, png};

/// Most classes in a picture, one in a row.
const ROWS: usize = 20;
/// Most samples in a row.
const COLUMNS: usize = 20;
/// Pixels between samples.
const PADDING: usize = 2;
/// Width of the frame around a non-private picture, in pixels.
const FRAME: usize = 6;
/// Color of that frame: red, as no picture of a private run has one.
const FRAME_COLOR: [u8; 3] = [200, 0, 0];

/// The end of the order by votes that a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The samples with the most votes.
    MostVotes,
    /// The samples with the fewest votes.
    FewestVotes,
}

/// Shows the first samples of each class, one class in a row (a single class in several rows).
///
/// # Errors
/// [`ArtifactsError`].
pub fn overview(
    population: &Population,
    layout: &ClassLayout,
) -> Result<ImageBatch, ArtifactsError> {
    let ranges = layout.ranges();
    let per_class = if ranges.len() == 1 {
        COLUMNS * 10
    } else {
        COLUMNS
    };
    let rows = ranges
        .iter()
        .take(ROWS)
        .map(|range| range.clone().take(per_class).collect());
    arrange(population, rows.collect())
}

/// Shows the samples of each class at one end of the order by noisy votes.
///
/// # Errors
/// [`ArtifactsError`].
pub fn by_votes(
    population: &Population,
    layout: &ClassLayout,
    votes: &[f64],
    order: Order,
) -> Result<ImageBatch, ArtifactsError> {
    let vote = |sample: &usize| votes.get(*sample).copied().unwrap_or(0.0);
    let rows = layout.ranges().into_iter().take(ROWS).map(|range| {
        let mut samples: Vec<usize> = range.collect();
        samples.sort_by(|a, b| {
            let ascending = vote(a).total_cmp(&vote(b));
            match order {
                Order::MostVotes => ascending.reverse(),
                Order::FewestVotes => ascending,
            }
        });
        samples.truncate(COLUMNS / 2);
        samples
    });
    arrange(population, rows.collect())
}

/// Arranges samples in a grid as wide as the longest row.
fn arrange(population: &Population, rows: Vec<Vec<usize>>) -> Result<ImageBatch, ArtifactsError> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(1);
    let columns = longest.clamp(1, COLUMNS);
    let samples: Vec<usize> = rows.into_iter().flatten().collect();
    let samples = population.gather(&samples)?;
    grid(&samples.images, columns, PADDING).map_err(ArtifactsError::batch(population.path()))
}

/// Writes a batch of one image as PNG, in a red frame if it is not private.
///
/// # Errors
/// [`ArtifactsError::Io`] or [`ArtifactsError::Picture`].
pub fn write(picture: &ImageBatch, non_private: bool, path: &Path) -> Result<(), ArtifactsError> {
    let framed = non_private
        .then(|| framed(picture))
        .transpose()
        .map_err(ArtifactsError::batch(path))?;
    let bytes = png(framed.as_ref().unwrap_or(picture)).map_err(|error| match error {
        PictureError::Io(source) => ArtifactsError::io(path)(source),
        source => ArtifactsError::Picture {
            path: path.to_owned(),
            cause: source,
        },
    })?;
    atomic::write(path, &bytes).map_err(ArtifactsError::io(path))
}

/// Puts the frame of non-private pictures around one.
fn framed(picture: &ImageBatch) -> Result<ImageBatch, BatchError> {
    let (height, width) = (picture.height(), picture.width());
    let (framed_height, framed_width) = (height + 2 * FRAME, width + 2 * FRAME);
    let mut data = FRAME_COLOR.repeat(framed_height * framed_width);
    for (row, inside) in data
        .chunks_exact_mut(framed_width * 3)
        .skip(FRAME)
        .zip(picture.data().chunks_exact(width.max(1) * 3))
    {
        for (pixel, from) in row.iter_mut().skip(FRAME * 3).zip(inside) {
            *pixel = *from;
        }
    }
    ImageBatch::new(data, 1, framed_height, framed_width)
}
