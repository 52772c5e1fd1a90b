//! The nearest images of a pool: an exact search by one pass over its vectors.
//!
//! The vectors are read block by block. The squared distance of query `q` and image `p` is
//! `|q|² + |p|² − 2 q·p`; the products of a tile of images with a group of queries are one `f32`
//! matrix product. An image whose approximate distance cannot be ruled out, rounding included, is
//! measured in `f64` and offered to the query's shortlist. The result is exact, so it depends
//! neither on the processor nor on the number of threads.
//!
//! The search of the vote ([`crate::voting`]) keeps all candidates in memory and few neighbors of
//! each query. Here the candidates are on disk, and thousands of neighbors are wanted.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::shortlist::Shortlist;
use crate::voting::sum_over;

/// Images of a tile: the scores of a group of queries stay in a cache.
const TILE: usize = 1024;
/// Most queries of a group.
const GROUP: usize = 32;

/// The queries of one pass over the vectors of a pool.
pub(super) struct Queries {
    dimension: usize,
    /// `f32 [queries, dimension]`.
    vectors: Vec<f32>,
    lists: Vec<Shortlist>,
}

/// The queries of one thread.
struct Group<'a> {
    /// Number of the first query.
    first: usize,
    vectors: &'a [f32],
    lists: &'a mut [Shortlist],
}

/// Vectors of images with consecutive numbers.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Number of the first image.
    pub(super) first: usize,
    /// `f32 [images, dimension]`, all finite.
    pub(super) vectors: &'a [f32],
}

impl Queries {
    /// Creates queries for the `wanted` nearest images of each of `vectors`,
    /// `f32 [queries, dimension]`.
    pub(super) fn new(vectors: Vec<f32>, dimension: usize, wanted: &[usize]) -> Self {
        Self {
            dimension,
            vectors,
            lists: wanted
                .iter()
                .map(|wanted| Shortlist::new(*wanted))
                .collect(),
        }
    }

    /// Searches the images of a block of vectors. `allowed` tells whether an image (second number)
    /// may be a neighbor of a query (first number).
    pub(super) fn search(
        &mut self,
        block: Tile<'_>,
        allowed: &(impl Fn(usize, usize) -> bool + Sync),
    ) {
        let dimension = self.dimension;
        if dimension == 0 {
            return;
        }
        let squares: Vec<f64> = block
            .vectors
            .par_chunks_exact(dimension)
            .map(|vector| sum_over(vector, vector, |a, b| a * b))
            .collect();
        let threads = 2 * rayon::current_num_threads();
        let group = self.lists.len().div_ceil(threads).clamp(1, GROUP);
        self.lists
            .par_chunks_mut(group)
            .zip(self.vectors.par_chunks(group * dimension))
            .enumerate()
            .for_each(|(index, (lists, vectors))| {
                let mut queries = Group {
                    first: index * group,
                    vectors,
                    lists,
                };
                queries.search(block, &squares, dimension, allowed);
            });
    }

    /// Returns the nearest images of each query, nearest first.
    pub(super) fn finish(self) -> Vec<Vec<u32>> {
        let lists = self.lists.into_par_iter();
        lists.map(Shortlist::finish).collect()
    }
}

impl Group<'_> {
    fn search(
        &mut self,
        block: Tile<'_>,
        squares: &[f64],
        dimension: usize,
        allowed: &(impl Fn(usize, usize) -> bool + Sync),
    ) {
        let queries = self.lists.len();
        let mut products = vec![0f32; TILE.min(squares.len()) * queries];
        let norms: Vec<f64> = self
            .vectors
            .chunks_exact(dimension)
            .map(|vector| sum_over(vector, vector, |a, b| a * b).sqrt())
            .collect();
        let tiles = block
            .vectors
            .chunks(TILE * dimension)
            .zip(squares.chunks(TILE));
        for (tile, (vectors, squares)) in tiles.enumerate() {
            let images = squares.len();
            let products = products.get_mut(..images * queries).unwrap_or_default();
            multiply(products, vectors, self.vectors, dimension);
            let largest = squares.iter().copied().fold(0.0, f64::max).sqrt();
            let first = block.first + tile * TILE;
            let each = self.lists.iter_mut().zip(products.chunks_exact(images));
            let each = each.zip(self.vectors.chunks_exact(dimension).zip(&norms));
            for (query, ((list, products), (vector, norm))) in each.enumerate() {
                let slack = slack(dimension, *norm, largest);
                let square = norm * norm;
                let candidates = products
                    .iter()
                    .zip(squares)
                    .zip(vectors.chunks_exact(dimension));
                for (image, ((product, p_square), p_vector)) in candidates.enumerate() {
                    let approximate = square + p_square - 2.0 * f64::from(*product);
                    // The negation holds for products that overflowed, too.
                    let excluded = approximate - slack > list.limit();
                    if !excluded && allowed(self.first + query, first + image) {
                        let distance = sum_over(vector, p_vector, |a, b| (a - b) * (a - b));
                        list.offer(distance, (first + image) as u32);
                    }
                }
            }
        }
    }
}

/// Writes `images queriesᵀ`, query by query: `f32 [queries, images]`.
fn multiply(products: &mut [f32], images: &[f32], queries: &[f32], dimension: usize) {
    // Row-major matrices are the transposes of column-major ones.
    let images = MatRef::from_column_major_slice(images, dimension, images.len() / dimension);
    let queries = MatRef::from_column_major_slice(queries, dimension, queries.len() / dimension);
    let products = MatMut::from_column_major_slice_mut(products, images.ncols(), queries.ncols());
    let images = images.transpose();
    matmul(products, Accum::Replace, images, queries, 1.0, Par::Seq);
}

/// Returns a bound of the error of an approximate squared distance between vectors with these
/// norms.
///
/// A sum of n products in `f32`, in any order, is off by at most n·u/(1 − n·u)·|q||p| with
/// u = 2⁻²⁴ (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1), and it
/// counts twice; underflow and the operations in `f64` add less than the last terms. Infinite
/// where `f32` could overflow or the bound does not hold.
fn slack(dimension: usize, query: f64, image: f64) -> f64 {
    let scale = query * image;
    let roundings = (dimension + 1) as f64 * f64::from(f32::EPSILON) / 2.0;
    if scale >= f64::from(f32::MAX) / 4.0 || roundings >= 0.5 {
        return f64::INFINITY;
    }
    let flushed = dimension as f64 * f64::from(f32::MIN_POSITIVE);
    2.0 * (roundings / (1.0 - roundings) * scale + flushed) + 1e-12 * (query + image).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, with duplicates: vectors `f32 [count, dimension]`.
    fn vectors(count: usize, dimension: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        };
        let mut all = Vec::new();
        for index in 0..count {
            if index % 7 == 3 {
                all.extend_from_within((index - 1) * dimension..index * dimension);
            } else {
                all.extend((0..dimension).map(|_| (next() % 2000) as f32 / 3.0 - 200.0));
            }
        }
        all
    }

    fn found(
        queries: &[f32],
        images: &[f32],
        dimension: usize,
        wanted: usize,
        block: usize,
        allowed: impl Fn(usize, usize) -> bool + Sync,
    ) -> Vec<Vec<u32>> {
        let wanted = vec![wanted; queries.len() / dimension];
        let mut search = Queries::new(queries.to_vec(), dimension, &wanted);
        for (index, vectors) in images.chunks(block * dimension).enumerate() {
            let first = index * block;
            search.search(Tile { first, vectors }, &allowed);
        }
        search.finish()
    }

    #[test]
    fn the_search_is_exact_in_blocks_of_any_size() {
        let dimension = 19;
        let images = vectors(3000, dimension, 1);
        let queries = [vectors(70, dimension, 2), images[..dimension].to_vec()].concat();
        let allowed = |query: usize, image: usize| !(query + image).is_multiple_of(3);
        for wanted in [1, 8, 1500, 5000] {
            let expected: Vec<Vec<u32>> = queries
                .chunks(dimension)
                .enumerate()
                .map(|(query, q)| {
                    let images = images.chunks(dimension).enumerate();
                    let images = images.filter(|(image, _)| allowed(query, *image));
                    let mut all: Vec<(f64, usize)> = images
                        .map(|(image, p)| (sum_over(q, p, |a, b| (a - b) * (a - b)), image))
                        .collect();
                    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
                    let nearest = all.iter().take(wanted);
                    nearest.map(|(_, image)| *image as u32).collect()
                })
                .collect();
            for block in [500, 1024, 3000] {
                let found = found(&queries, &images, dimension, wanted, block, allowed);
                assert_eq!(found, expected, "{wanted} {block}");
            }
        }
    }

    #[test]
    fn an_image_of_the_pool_is_the_nearest_to_itself() {
        let images = vectors(500, 4, 5);
        let found = found(&images, &images, 4, 1, 500, |_, _| true);
        for (index, nearest) in found.iter().enumerate() {
            // A duplicate with a lower number is as near.
            let first = if index % 7 == 3 { index - 1 } else { index };
            assert_eq!(nearest, &[first as u32]);
        }
    }

    #[test]
    fn numbers_that_overflow_products_are_found_too() {
        let images = vec![1e25f32, 0.0, 3e25, 1.0, 2e25, 2.0];
        let found = found(&[2.9e25, 0.0], &images, 2, 2, 3, |_, _| true);
        assert_eq!(found, [[1, 2]]);
    }
}
