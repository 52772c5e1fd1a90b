//! Exact k nearest neighbors by tiles of a matrix product.
//!
//! For each query `q` and candidate `p` the squared L2 distance is `|q|² + |p|² − 2 q·p`; `|q|²`
//! does not change the order, so candidates are ranked by `|p|²/2 − q·p` (inner product: by
//! `−q·p`). The products come from `f32` matrix products of a block of queries and a tile of
//! candidates. A tile is folded into the queries' shortlists while it is in the cache, so the full
//! matrix never exists. A shortlist holds every candidate whose approximate `f32` score is so close
//! to the k-th smallest that rounding could hide a true neighbor; it is re-ranked in `f64` from the
//! original vectors. Where no such guarantee exists (a query that is not finite, thousands of
//! equally near candidates) the query is searched exhaustively in `f64`. Ties go to the lower
//! index.
//!
//! If the processor multiplies 16-bit numbers faster (bf16, or integers with AVX2), a coarse
//! pass uses products of rounded vectors, with a margin that bounds the effect of that rounding
//! (Cauchy-Schwarz); a query whose shortlist gets too long is searched again in `f32` (the fine
//! pass).
//!
//! On a GPU the products and the selection of the best entries of each tile are computed on the
//! device; it returns shortlists with the same guarantee, which the host re-ranks in the same way.
//!
//! The result is exact, so it cannot depend on the number of threads, the sizes of blocks and
//! tiles, or the processor. Memory beyond the arguments: one copy of the candidates (half of one in
//! 16 bits, and a full one where `f32` is needed), and a few MB for each thread.
//!
//! Written by hand because the vote's sensitivity proof needs exactly `k` true neighbors for each
//! private image: usearch and faiss are C++, and faiss's exact index is slower
//! (`benches/README.md`).

mod scorer;
mod shortlist;
mod transform;

use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::embedders::Embeddings;
use crate::progress::{Cancellation, Cancelled};
use scorer::{CandidateScorer, Pass, ProductBackend};
use shortlist::Shortlist;
use transform::MetricTransform;
pub use transform::sum_over;

/// Similarity measure that defines which candidates are nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Smallest Euclidean distance.
    #[default]
    L2,
    /// Largest inner product.
    InnerProduct,
    /// Largest cosine similarity.
    Cosine,
}

/// Reason why a nearest-neighbor search failed.
#[derive(Debug, Error)]
pub enum NearestError {
    /// Queries and candidates have different dimensions.
    #[error("queries have {queries} dimensions but candidates have {candidates}")]
    Dimension {
        /// Dimension of the queries.
        queries: usize,
        /// Dimension of the candidates.
        candidates: usize,
    },
    /// There are fewer candidates than requested neighbors.
    #[error("{k} nearest neighbors were requested from {candidates} candidates")]
    TooFew {
        /// Requested neighbors for each query.
        k: usize,
        /// Available candidates.
        candidates: usize,
    },
    /// A vector of the candidates holds a NaN or an infinity.
    #[error("candidate {index} has an embedding that is not finite")]
    NotFinite {
        /// Index of the candidate.
        index: usize,
    },
    /// The matrix product failed.
    #[error("matrix product failed: {0}")]
    Product(candle_core::Error),
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<candle_core::Error> for NearestError {
    fn from(error: candle_core::Error) -> Self {
        Self::Product(error)
    }
}

/// Parameters of a nearest-neighbor search.
#[derive(Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Neighbors for each query.
    pub k: usize,
    /// Similarity measure.
    pub metric: Metric,
    /// Device of the matrix products. The result is the same on every device.
    pub device: &'a Device,
    /// Checked between blocks of queries.
    pub cancellation: &'a dyn Cancellation,
}

/// Largest number of queries in one block on the CPU: more would evict the candidates from a core's
/// cache.
const MAX_BLOCK: usize = 64;
/// Smallest number of queries in one block on the CPU, so that a small set is spread over threads,
/// too.
const MIN_BLOCK: usize = 18;
/// Queries in one block on a GPU.
const DEVICE_BLOCK: usize = 1024;

/// Finds the `k` nearest candidates of each query, nearest first: `u32[queries, k]`, row-major.
///
/// # Errors
/// See [`NearestError`].
pub fn nearest_neighbors(
    queries: &Embeddings,
    candidates: &Embeddings,
    options: &SearchOptions<'_>,
) -> Result<Vec<u32>, NearestError> {
    let all: Vec<usize> = (0..queries.len()).collect();
    let queries = Rows {
        vectors: queries,
        indices: &all,
    };
    let candidates = Candidates {
        vectors: candidates.data(),
        dimension: candidates.dimension(),
    };
    search(queries, candidates, options)
}

/// Some rows of a matrix, in the order of `indices`, without a copy.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The whole matrix.
    pub vectors: &'a Embeddings,
    /// Selected rows.
    pub indices: &'a [usize],
}

/// Candidate vectors, `f32[candidates, dimension]`.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    /// Row-major numbers.
    pub vectors: &'a [f32],
    /// Numbers in one row.
    pub dimension: usize,
}

/// Finds neighbors as [`nearest_neighbors`] does, for a selection of rows.
pub(super) fn search(
    queries: Rows<'_>,
    candidates: Candidates<'_>,
    options: &SearchOptions<'_>,
) -> Result<Vec<u32>, NearestError> {
    search_with(
        queries,
        candidates,
        options,
        &ProductBackend::new(options.device),
    )
}

fn search_with(
    queries: Rows<'_>,
    candidates: Candidates<'_>,
    options: &SearchOptions<'_>,
    backend: &ProductBackend,
) -> Result<Vec<u32>, NearestError> {
    let Candidates { vectors, dimension } = candidates;
    let k = options.k;
    if queries.vectors.dimension() != dimension {
        return Err(NearestError::Dimension {
            queries: queries.vectors.dimension(),
            candidates: dimension,
        });
    }
    let count = vectors.len() / dimension;
    // Indices are `u32`, here and on the device.
    if k == 0 || k > count || count > u32::MAX as usize {
        return Err(NearestError::TooFew {
            k,
            candidates: count,
        });
    }
    let transform = MetricTransform::new(vectors, dimension, options.metric)?;
    let mut scorer = CandidateScorer::new(&transform, backend)?;
    let first_pass = scorer.first_pass();
    scorer.prepare(first_pass)?;
    let total = queries.indices.len();
    let (block, parallel_blocks) = match backend {
        ProductBackend::Cpu => {
            let block = total.div_ceil(16).clamp(MIN_BLOCK, MAX_BLOCK);
            (block, 2 * rayon::current_num_threads())
        }
        ProductBackend::Device(_) => (DEVICE_BLOCK, 1),
    };
    let mut ids = vec![0u32; total * k];
    // Cancellation is checked once for each group of blocks that all threads work on.
    let group = parallel_blocks * block;
    let groups = queries.indices.chunks(group).zip(ids.chunks_mut(group * k));
    for (indices, ids) in groups {
        options.cancellation.check()?;
        let rows = Rows { indices, ..queries };
        let unresolved = BlockSearch {
            scorer: &scorer,
            block,
            k,
        }
        .run(first_pass, rows, ids)?;
        if unresolved.is_empty() {
            continue;
        }
        scorer.prepare(Pass::Fine)?;
        let places = unresolved.iter().filter_map(|place| indices.get(*place));
        let indices: Vec<usize> = places.copied().collect();
        let rows = Rows {
            indices: &indices,
            ..queries
        };
        let mut found = vec![0u32; indices.len() * k];
        BlockSearch {
            scorer: &scorer,
            block,
            k,
        }
        .run(Pass::Fine, rows, &mut found)?;
        for (place, found) in unresolved.into_iter().zip(found.chunks_exact(k)) {
            if let Some(ids) = ids.get_mut(place * k..(place + 1) * k) {
                ids.copy_from_slice(found);
            }
        }
    }
    Ok(ids)
}

/// One pass over blocks of queries.
struct BlockSearch<'a> {
    scorer: &'a CandidateScorer<'a>,
    /// Queries in one block.
    block: usize,
    k: usize,
}

impl BlockSearch<'_> {
    /// Writes the `k` nearest ids of each query, and returns the places of the queries that a
    /// coarse pass could not resolve.
    fn run(
        &self,
        pass: Pass,
        queries: Rows<'_>,
        ids: &mut [u32],
    ) -> Result<Vec<usize>, NearestError> {
        let (block, k) = (self.block, self.k);
        let vectors = queries.vectors;
        let blocks = queries.indices.chunks(block).enumerate();
        if self.scorer.is_on_device() {
            let mut unresolved = Vec::new();
            // The device's work stays on this thread; all host cores share the re-ranking.
            for ((index, members), ids) in blocks.zip(ids.chunks_mut(block * k)) {
                let resolved: Vec<bool> = self
                    .scorer
                    .shortlists(&self.transformed(vectors, members), k, pass)?
                    .into_par_iter()
                    .zip(members.par_iter().zip(ids.par_chunks_exact_mut(k)))
                    .map(|(list, (&member, ids))| {
                        self.rerank(pass, list, vectors.rows(member..member + 1), ids)
                    })
                    .collect();
                unresolved.extend(places_of_unresolved(index * block, &resolved));
            }
            return Ok(unresolved);
        }
        let unresolved = queries
            .indices
            .par_chunks(block)
            .zip(ids.par_chunks_mut(block * k))
            .enumerate()
            .map(|(index, (members, ids))| {
                let resolved: Vec<bool> = self
                    .scorer
                    .shortlists(&self.transformed(vectors, members), k, pass)?
                    .into_iter()
                    .zip(members.iter().zip(ids.chunks_exact_mut(k)))
                    .map(|(list, (&member, ids))| {
                        self.rerank(pass, list, vectors.rows(member..member + 1), ids)
                    })
                    .collect();
                Ok(places_of_unresolved(index * block, &resolved))
            })
            .collect::<Result<Vec<_>, NearestError>>()?;
        Ok(unresolved.concat())
    }

    /// Copies and transforms the rows `members`.
    fn transformed(&self, vectors: &Embeddings, members: &[usize]) -> Vec<f32> {
        let transform = self.scorer.transform();
        let mut rows = Vec::with_capacity(members.len() * transform.dimension());
        for &member in members {
            let start = rows.len();
            rows.extend_from_slice(vectors.rows(member..member + 1));
            transform.apply(&mut rows[start..]);
        }
        rows
    }

    /// Writes the nearest ids of one query by exact scores. Returns false, and writes nothing,
    /// where a coarse shortlist gives no guarantee; a fine pass then falls back on all candidates.
    fn rerank(&self, pass: Pass, shortlist: Shortlist, query: &[f32], ids: &mut [u32]) -> bool {
        let shortlist = shortlist.finish();
        if shortlist.is_none() && pass == Pass::Coarse {
            return false;
        }
        self.scorer.transform().rank(query, shortlist, ids);
        true
    }
}

/// Places of the unresolved queries of a block whose first query is number `first`.
fn places_of_unresolved(first: usize, resolved: &[bool]) -> Vec<usize> {
    let places = (first..).zip(resolved);
    let unresolved = places.filter(|(_, resolved)| !**resolved);
    unresolved.map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests;
