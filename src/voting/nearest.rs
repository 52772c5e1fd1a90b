//! Exact k nearest neighbours by tiles of a matrix product.
//!
//! For each query `q` and candidate `p` the squared L2 distance is `|q|² + |p|² − 2 q·p`; `|q|²` does
//! not change the order, so candidates are ranked by `|p|²/2 − q·p` (inner product: by `−q·p`). The
//! products come from one `f32` matrix product a tile; a running list of the best candidates is kept a
//! query, so the full matrix never exists. The `f32` ranking only shortlists: the shortlist is ranked
//! again in `f64` from the vectors themselves, and where the shortlist's last entry is too close to the
//! k-th to exclude that rounding left a true neighbour out, that query is searched exhaustively in `f64`.
//! Ties go to the lower index.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::embedders::Embeddings;

/// Which candidate is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The smallest Euclidean distance.
    #[default]
    L2,
    /// The largest inner product.
    InnerProduct,
    /// The largest cosine similarity.
    Cosine,
}

/// Why neighbours could not be found.
#[derive(Debug, Error)]
pub enum NearestError {
    /// The vectors do not live in one space.
    #[error("queries have {queries} dimensions but candidates have {candidates}")]
    Dimension {
        /// Dimension of the queries.
        queries: usize,
        /// Dimension of the candidates.
        candidates: usize,
    },
    /// Fewer candidates than neighbours wanted.
    #[error("{k} nearest neighbours were asked for among {candidates} candidates")]
    TooFew {
        /// Neighbours wanted.
        k: usize,
        /// Candidates there are.
        candidates: usize,
    },
    /// A vector of the (public) candidates holds a NaN or an infinity.
    #[error("candidate {index} has an embedding that is not finite")]
    NotFinite {
        /// Index of the candidate.
        index: usize,
    },
    /// The matrix product failed.
    #[error("matrix product failed: {0}")]
    Product(#[from] candle_core::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Queries in one tile.
const QUERY_TILE: usize = 1024;
/// Candidates in one tile. On a GPU a row is sorted within one block, which holds 1024 entries.
const CANDIDATE_TILE: usize = 1024;
/// Candidates kept beyond `k`, to be ranked again in `f64`.
const MARGIN: usize = 7;

/// The `k` nearest candidates of each query, nearest first: `u32[queries, k]`, row-major.
///
/// `device` does the matrix products; `keep_going(done, queries)` is asked between tiles and stops the
/// search by returning `false`.
///
/// # Errors
/// See [`NearestError`].
pub fn nearest_neighbours(
    queries: &Embeddings,
    candidates: &Embeddings,
    k: usize,
    metric: Metric,
    device: &Device,
    keep_going: &dyn Fn(usize, usize) -> bool,
) -> Result<Vec<u32>, NearestError> {
    if queries.dimension() != candidates.dimension() {
        return Err(NearestError::Dimension {
            queries: queries.dimension(),
            candidates: candidates.dimension(),
        });
    }
    if k == 0 || k > candidates.len() || candidates.len() > u32::MAX as usize {
        return Err(NearestError::TooFew {
            k,
            candidates: candidates.len(),
        });
    }
    let space = Space::new(queries, candidates, metric)?;
    let mut ids = Vec::with_capacity(queries.len() * k);
    let tiles = space.upload_candidates(device)?;
    for start in (0..queries.len()).step_by(QUERY_TILE) {
        if !keep_going(start, queries.len()) {
            return Err(NearestError::Interrupted);
        }
        let end = (start + QUERY_TILE).min(queries.len());
        let shortlists = space.shortlist(start..end, &tiles, k + MARGIN, device)?;
        let rows: Vec<Vec<u32>> = shortlists
            .into_par_iter()
            .enumerate()
            .map(|(row, shortlist)| space.rank(start + row, shortlist, k))
            .collect();
        ids.extend(rows.into_iter().flatten());
    }
    Ok(ids)
}

/// A shortlist entry: the rough score (small is near), then the index.
type Entry = (f32, u32);

fn before(a: &Entry, b: &Entry) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// The vectors as they are compared: centred for L2 (distances do not change, rounding shrinks with the
/// norms), of unit length for cosine.
struct Space {
    metric: Metric,
    dimension: usize,
    queries: Vec<f32>,
    candidates: Vec<f32>,
    /// `|p|²/2` for L2, zero otherwise.
    offsets: Vec<f32>,
    /// The largest `|p|`.
    longest: f64,
}

impl Space {
    fn new(
        queries: &Embeddings,
        candidates: &Embeddings,
        metric: Metric,
    ) -> Result<Self, NearestError> {
        let dimension = candidates.dimension();
        let rows = || candidates.data().par_chunks_exact(dimension);
        if let Some(index) = rows().position_first(|row| row.iter().any(|v| !v.is_finite())) {
            return Err(NearestError::NotFinite { index });
        }
        let centre = match metric {
            Metric::L2 => mean(candidates),
            Metric::InnerProduct | Metric::Cosine => vec![0.0; dimension],
        };
        let prepare = |data: &[f32]| -> Vec<f32> {
            let mut out = data.to_vec();
            out.par_chunks_exact_mut(dimension).for_each(|row| {
                for (value, c) in row.iter_mut().zip(&centre) {
                    *value -= c;
                }
                if metric == Metric::Cosine {
                    let norm = squared_norm(row).sqrt();
                    if norm > 0.0 {
                        for value in row {
                            *value = (f64::from(*value) / norm) as f32;
                        }
                    }
                }
            });
            out
        };
        let candidates = prepare(candidates.data());
        let squares: Vec<f64> = candidates
            .par_chunks_exact(dimension)
            .map(squared_norm)
            .collect();
        Ok(Self {
            metric,
            dimension,
            queries: prepare(queries.data()),
            offsets: squares
                .iter()
                .map(|s| match metric {
                    Metric::L2 => (s / 2.0) as f32,
                    Metric::InnerProduct | Metric::Cosine => 0.0,
                })
                .collect(),
            longest: squares.iter().copied().fold(0.0, f64::max).sqrt(),
            candidates,
        })
    }

    fn upload_candidates(&self, device: &Device) -> Result<Vec<Tensor>, NearestError> {
        self.candidates
            .chunks(CANDIDATE_TILE * self.dimension)
            .map(|tile| {
                let rows = tile.len() / self.dimension;
                Ok(Tensor::from_slice(tile, (rows, self.dimension), device)?)
            })
            .collect()
    }

    /// The `keep` best candidates of each query of `range` by rough score, best first.
    fn shortlist(
        &self,
        range: std::ops::Range<usize>,
        tiles: &[Tensor],
        keep: usize,
        device: &Device,
    ) -> Result<Vec<Vec<Entry>>, NearestError> {
        let count = range.len();
        let queries = Tensor::from_slice(
            &self.queries[range.start * self.dimension..range.end * self.dimension],
            (count, self.dimension),
            device,
        )?;
        let mut lists: Vec<Vec<Entry>> = vec![Vec::with_capacity(keep + 1); count];
        for (tile_index, tile) in tiles.iter().enumerate() {
            let first = tile_index * CANDIDATE_TILE;
            let width = tile.dim(0)?;
            let offsets = &self.offsets[first..first + width];
            let products = queries.matmul(&tile.t()?)?;
            if device.is_cpu() {
                let products = products.flatten_all()?.to_vec1::<f32>()?;
                lists
                    .par_iter_mut()
                    .zip(products.par_chunks_exact(width))
                    .for_each(|(list, row)| {
                        for (column, (product, offset)) in row.iter().zip(offsets).enumerate() {
                            push(list, keep, (offset - product, (first + column) as u32));
                        }
                    });
            } else {
                // Only the tile's best entries leave the device.
                let offsets = Tensor::from_slice(offsets, (1, width), device)?;
                let scores = offsets.broadcast_sub(&products)?.contiguous()?;
                let order = scores.arg_sort_last_dim(true)?;
                let order = order.narrow(1, 0, keep.min(width))?.contiguous()?;
                let best = scores.gather(&order, 1)?.to_vec2::<f32>()?;
                let order = order.to_vec2::<u32>()?;
                for ((list, best), order) in lists.iter_mut().zip(best).zip(order) {
                    for (score, column) in best.into_iter().zip(order) {
                        push(list, keep, (score, first as u32 + column));
                    }
                }
            }
        }
        Ok(lists)
    }

    /// Ranks a shortlist again in `f64` and returns its first `k`.
    fn rank(&self, query: usize, shortlist: Vec<Entry>, k: usize) -> Vec<u32> {
        let row = &self.queries[query * self.dimension..(query + 1) * self.dimension];
        let complete = shortlist.len() == self.offsets.len();
        let last = shortlist.last().map_or(f64::INFINITY, |e| f64::from(e.0));
        let mut exact: Vec<(f64, u32)> = shortlist
            .into_iter()
            .map(|(_, index)| (self.score(row, index), index))
            .collect();
        sort(&mut exact);
        // A rough score is a dot product of `dimension` rounded terms: its error's standard deviation is
        // below sqrt(dimension)·2⁻²⁴·|q||p|. Eight of them on both sides leave no realistic doubt.
        let error = 8.0
            * (self.dimension as f64).sqrt()
            * f64::from(f32::EPSILON)
            * (squared_norm(row).sqrt() + self.longest)
            * self.longest;
        let kth = exact
            .get(k.saturating_sub(1))
            .map_or(f64::NAN, |entry| entry.0);
        let certain = complete || kth + error < last;
        if !certain {
            exact = (0..self.offsets.len() as u32)
                .map(|index| (self.score(row, index), index))
                .collect();
            sort(&mut exact);
        }
        exact.truncate(k);
        exact.into_iter().map(|(_, index)| index).collect()
    }

    /// The exact score: half the squared distance less `|q|²/2`, or minus the inner product.
    fn score(&self, query: &[f32], index: u32) -> f64 {
        let start = index as usize * self.dimension;
        let candidate = &self.candidates[start..start + self.dimension];
        let pairs = query.iter().zip(candidate);
        match self.metric {
            Metric::L2 => pairs
                .map(|(q, p)| {
                    let (q, p) = (f64::from(*q), f64::from(*p));
                    p * (0.5 * p - q)
                })
                .sum(),
            Metric::InnerProduct | Metric::Cosine => -pairs
                .map(|(q, p)| f64::from(*q) * f64::from(*p))
                .sum::<f64>(),
        }
    }
}

/// Keeps the `keep` best entries in order. Candidates come in rising index within a tile, so among equal
/// scores the lower index is already there.
fn push(list: &mut Vec<Entry>, keep: usize, entry: Entry) {
    if list.len() == keep {
        match list.last() {
            Some(last) if before(&entry, last) => {
                list.pop();
            }
            _ => return,
        }
    }
    let at = list.partition_point(|other| before(other, &entry));
    list.insert(at, entry);
}

fn sort(entries: &mut [(f64, u32)]) {
    entries.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
}

fn squared_norm(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

fn mean(vectors: &Embeddings) -> Vec<f32> {
    let mut sum = vec![0.0f64; vectors.dimension()];
    for row in vectors.data().chunks_exact(vectors.dimension()) {
        for (s, v) in sum.iter_mut().zip(row) {
            *s += f64::from(*v);
        }
    }
    let count = vectors.len().max(1) as f64;
    sum.into_iter().map(|s| (s / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, StreamKey};

    fn random(count: usize, dimension: usize, sample: u64) -> Embeddings {
        let mut data = vec![0.0; count * dimension];
        let key = StreamKey {
            seed: 1,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample,
        };
        key.open().fill_normal(&mut data);
        Embeddings::new(data, dimension).unwrap()
    }

    fn brute_force(queries: &Embeddings, candidates: &Embeddings, k: usize, m: Metric) -> Vec<u32> {
        let dimension = queries.dimension();
        let mut ids = Vec::new();
        for q in queries.data().chunks_exact(dimension) {
            let mut all: Vec<(f64, u32)> = candidates
                .data()
                .chunks_exact(dimension)
                .enumerate()
                .map(|(i, p)| {
                    let dot: f64 = q
                        .iter()
                        .zip(p)
                        .map(|(a, b)| f64::from(a * 1.0) * f64::from(*b))
                        .sum();
                    let l2: f64 = q
                        .iter()
                        .zip(p)
                        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                        .sum();
                    let score = match m {
                        Metric::L2 => l2,
                        Metric::InnerProduct => -dot,
                        Metric::Cosine => -dot / squared_norm(p).sqrt(),
                    };
                    (score, i as u32)
                })
                .collect();
            sort(&mut all);
            ids.extend(all[..k].iter().map(|e| e.1));
        }
        ids
    }

    #[test]
    fn agrees_with_brute_force_across_tiles() {
        let (queries, candidates) = (random(1100, 5, 0), random(2100, 5, 1));
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            for k in [1, 4] {
                let found =
                    nearest_neighbours(&queries, &candidates, k, metric, &Device::Cpu, &|_, _| {
                        true
                    })
                    .unwrap();
                assert!(
                    found == brute_force(&queries, &candidates, k, metric),
                    "{metric:?} {k}"
                );
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_index_even_among_many_copies() {
        let one = random(1, 8, 3);
        let copies = Embeddings::new(one.data().repeat(3000), 8).unwrap();
        let queries = random(20, 8, 4);
        let found =
            nearest_neighbours(&queries, &copies, 2, Metric::L2, &Device::Cpu, &|_, _| true)
                .unwrap();
        assert_eq!(found, [0, 1].repeat(20));
    }

    #[test]
    fn a_large_common_offset_does_not_confuse_it() {
        let shift = |e: Embeddings| {
            let data = e
                .data()
                .iter()
                .map(|v| (v * 64.0).round() / 64.0 + 512.0)
                .collect();
            Embeddings::new(data, 6).unwrap()
        };
        let (queries, candidates) = (shift(random(200, 6, 5)), shift(random(300, 6, 6)));
        let found = nearest_neighbours(
            &queries,
            &candidates,
            3,
            Metric::L2,
            &Device::Cpu,
            &|_, _| true,
        )
        .unwrap();
        assert!(found == brute_force(&queries, &candidates, 3, Metric::L2));
    }

    #[test]
    fn bad_requests_are_named() {
        let (a, b) = (random(3, 4, 0), random(3, 5, 1));
        let go = |_: usize, _: usize| true;
        let run = |q: &Embeddings, c: &Embeddings, k: usize| {
            nearest_neighbours(q, c, k, Metric::L2, &Device::Cpu, &go)
        };
        assert!(matches!(
            run(&a, &b, 1),
            Err(NearestError::Dimension { .. })
        ));
        assert!(matches!(run(&a, &a, 4), Err(NearestError::TooFew { .. })));
        let nan = Embeddings::new(vec![0.0, f32::NAN, 0.0, 0.0], 4).unwrap();
        assert!(matches!(
            run(&a, &nan, 1),
            Err(NearestError::NotFinite { index: 0 })
        ));
        let stopped = nearest_neighbours(&a, &a, 1, Metric::L2, &Device::Cpu, &|_, _| false);
        assert!(matches!(stopped, Err(NearestError::Interrupted)));
    }
}
