//! The pictures of a population: a sample of each class, and those with the most and the fewest votes.

use std::path::Path;

use super::ClassLayout;
use super::population::Population;
use crate::images::{ImageBatch, ImagesError, PictureError, grid, png};
use crate::pe::PeError;

/// Classes that a picture shows at most, and samples of each.
const ROWS: usize = 20;
/// Samples in a row.
const COLUMNS: usize = 20;
/// Pixels between samples.
const PADDING: usize = 2;

/// The first samples of each class, a row a class (of one class: several rows).
///
/// # Errors
/// [`PeError::Images`] or [`PeError::Io`].
pub fn overview(
    population: &Population,
    layout: &ClassLayout,
    stamp: bool,
    path: &Path,
) -> Result<(), PeError> {
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
    draw(population, rows.collect(), stamp, path)
}

/// The samples of each class with the most votes (or the fewest), by the noisy histogram.
///
/// # Errors
/// [`PeError::Images`] or [`PeError::Io`].
pub fn by_votes(
    population: &Population,
    layout: &ClassLayout,
    votes: &[f64],
    most: bool,
    stamp: bool,
    path: &Path,
) -> Result<(), PeError> {
    let vote = |sample: &usize| votes.get(*sample).copied().unwrap_or(0.0);
    let rows = layout.ranges().into_iter().take(ROWS).map(|range| {
        let mut samples: Vec<usize> = range.collect();
        samples.sort_by(|a, b| {
            let order = vote(a).total_cmp(&vote(b));
            if most { order.reverse() } else { order }
        });
        samples.truncate(COLUMNS / 2);
        samples
    });
    draw(population, rows.collect(), stamp, path)
}

fn draw(
    population: &Population,
    rows: Vec<Vec<usize>>,
    stamp: bool,
    path: &Path,
) -> Result<(), PeError> {
    let columns = rows
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(1)
        .clamp(1, COLUMNS);
    let samples: Vec<usize> = rows.into_iter().flatten().collect();
    let images = population.gather(&samples)?;
    let picture = grid(&images, columns, PADDING).map_err(ImagesError::from)?;
    write(&picture, stamp, path)
}

/// Writes a batch of one image as PNG, in a red frame where nothing is private.
///
/// # Errors
/// [`PeError::Io`] or [`PeError::State`].
pub fn write(picture: &ImageBatch, stamp: bool, path: &Path) -> Result<(), PeError> {
    let framed = if stamp { Some(framed(picture)?) } else { None };
    let bytes = png(framed.as_ref().unwrap_or(picture)).map_err(|error| match error {
        PictureError::Io(source) => PeError::io(path)(source),
        other => PeError::State(format!("{}: {other}", path.display())),
    })?;
    crate::atomic::write(path, &bytes).map_err(PeError::io(path))
}

/// A red frame: what is inside is not private.
fn framed(picture: &ImageBatch) -> Result<ImageBatch, PeError> {
    const FRAME: usize = 6;
    let (height, width) = (picture.height(), picture.width());
    let (tall, wide) = (height + 2 * FRAME, width + 2 * FRAME);
    let mut data = [200, 0, 0].repeat(tall * wide);
    for (row, inside) in data
        .chunks_exact_mut(wide * 3)
        .skip(FRAME)
        .zip(picture.data().chunks_exact(width.max(1) * 3))
    {
        for (pixel, from) in row.iter_mut().skip(FRAME * 3).zip(inside) {
            *pixel = *from;
        }
    }
    Ok(ImageBatch::new(data, 1, tall, wide).map_err(ImagesError::from)?)
}
