//! The covariance of the pixels of many images, and its eigenvectors.
//!
//! Pixels are integers (for means of three channels, thirds of integers), so sums of products of
//! so few images that they stay below 2²⁴ are exact in `f32`, in any order and on any processor.
//! They are added up in `f64`, which is exact for up to 2⁵³: the covariance is that of the numbers
//! themselves, at the speed of `f32` products. faer computes the eigenvectors.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, MatRef, Par, Side};
use rayon::prelude::*;

use super::Components;
use crate::embedders::{Embedder, EmbedderError, PixelsEmbedder};
use crate::progress::{Observer, Unit};
use crate::public_images::PublicImages;

/// Below this, every integer is an `f32`.
const EXACT: usize = 1 << 24;
/// Most images of one product.
const MAX_ROWS: usize = 1024;

/// Sums over images: of their pixels, and of products of two pixels.
pub struct Covariance {
    count: usize,
    /// A pixel is `(value + offset) / levels`.
    levels: f64,
    offset: f64,
    /// Images that one `f32` product adds up exactly.
    rows: usize,
    /// Sum of the values of each pixel.
    sums: Vec<f64>,
    /// Sum of the products of two values, lower triangle: `[numbers, numbers]`.
    products: Mat<f64>,
}

impl Covariance {
    /// Creates sums over no images of `numbers` pixels, which are multiples of `1 / levels`.
    #[must_use]
    pub fn new(numbers: usize, levels: u8) -> Self {
        let levels = usize::from(levels.max(1));
        // 0 to 255 are moved to -128 to 127, so that sums are as small as they can be.
        let offset = 128 * levels;
        Self {
            count: 0,
            levels: levels as f64,
            offset: offset as f64,
            rows: (EXACT / (offset * offset)).clamp(1, MAX_ROWS),
            sums: vec![0.0; numbers],
            products: Mat::zeros(numbers, numbers),
        }
    }

    /// Sums over all of `images`, as `pixels` embeds them.
    ///
    /// # Errors
    /// [`EmbedderError::Public`] if the images cannot be read or the user requests to stop.
    pub fn of(
        images: &PublicImages,
        pixels: &PixelsEmbedder,
        levels: u8,
        observer: &dyn Observer,
    ) -> Result<Self, EmbedderError> {
        let mut covariance = Self::new(pixels.dimension(), levels);
        let stage = "principal components";
        observer.begin(stage, Some(images.len() as u64), Unit::Steps);
        for rows in images.blocks() {
            let batch = pixels.embed(&images.block(&rows)?)?;
            // Cancellation is checked while one block is worked on, which takes long if it has many
            // small images.
            let part = covariance.rows * covariance.sums.len();
            for part in batch.data().chunks(part.max(1)) {
                observer
                    .end_if_cancelled()
                    .map_err(crate::public_images::PublicImagesError::from)?;
                covariance.push(part);
                observer.advance(covariance.count as u64);
            }
        }
        observer.end();
        Ok(covariance)
    }

    /// Adds images, `f32 [images, numbers]`.
    pub fn push(&mut self, pixels: &[f32]) {
        let numbers = self.sums.len();
        let (levels, offset) = (self.levels as f32, self.offset as f32);
        for block in pixels.chunks(self.rows * numbers) {
            let moved: Vec<f32> = block
                .par_iter()
                .map(|value| (value * levels).round() - offset)
                .collect();
            self.count += moved.len() / numbers;
            for image in moved.chunks_exact(numbers) {
                for (sum, value) in self.sums.iter_mut().zip(image) {
                    *sum += f64::from(*value);
                }
            }
            let columns = MatRef::from_column_major_slice(&moved, numbers, moved.len() / numbers);
            let mut products = Mat::<f32>::zeros(numbers, numbers);
            matmul(
                products.as_mut(),
                BlockStructure::TriangularLower,
                Accum::Replace,
                columns,
                BlockStructure::Rectangular,
                columns.transpose(),
                BlockStructure::Rectangular,
                1.0,
                Par::rayon(0),
            );
            let into = self.products.as_mut();
            into.par_col_iter_mut()
                .enumerate()
                .for_each(|(column, into)| {
                    let from = products.col(column);
                    let sums = into.iter_mut().zip(from.iter());
                    sums.skip(column)
                        .for_each(|(sum, value)| *sum += f64::from(*value));
                });
        }
    }

    /// Returns the first `count` principal components of the images. The sign of a component is
    /// that with which its entry of the largest magnitude is positive.
    ///
    /// # Errors
    /// [`EmbedderError::Components`] if there are not so many, or the eigenvectors were not found.
    pub fn components(&self, count: usize) -> Result<Components, EmbedderError> {
        let numbers = self.sums.len();
        let images = self.count as f64;
        if self.count < 2 || count > numbers {
            return Err(EmbedderError::Components);
        }
        let means: Vec<f64> = self.sums.iter().map(|sum| sum / images).collect();
        let scale = (images - 1.0) * self.levels * self.levels;
        let covariance = Mat::from_fn(numbers, numbers, |row, column| {
            let (row, column) = (row.max(column), row.min(column));
            (self.products[(row, column)] - self.sums[row] * means[column]) / scale
        });
        let decomposed = covariance.self_adjoint_eigen(Side::Lower);
        let decomposed = decomposed.map_err(|_| EmbedderError::Components)?;
        let (vectors, values) = (decomposed.U(), decomposed.S().column_vector());
        let (mut directions, mut variances) = (Vec::with_capacity(count * numbers), Vec::new());
        // Eigenvalues are in ascending order.
        for index in (0..numbers).rev().take(count) {
            let vector = vectors.col(index);
            let largest = vector.iter().fold(0f64, |largest, value| {
                if value.abs() > largest.abs() {
                    *value
                } else {
                    largest
                }
            });
            let sign = if largest < 0.0 { -1.0 } else { 1.0 };
            directions.extend(vector.iter().map(|value| sign * value));
            variances.push(values[index].max(0.0));
        }
        let mean = means.iter().map(|mean| (mean + self.offset) / self.levels);
        Components::new(mean.collect(), directions, variances).ok_or(EmbedderError::Components)
    }
}
