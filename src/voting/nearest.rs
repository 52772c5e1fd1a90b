//! Exact k nearest neighbours by tiles of a matrix product.
//!
//! For each query `q` and candidate `p` the squared L2 distance is `|q|² + |p|² − 2 q·p`; `|q|²` does
//! not change the order, so candidates are ranked by `|p|²/2 − q·p` (inner product: by `−q·p`). The
//! products come from `f32` matrix products of a block of queries and a tile of candidates. A tile is
//! folded into the queries' shortlists while it is in the cache, so the full matrix never exists. A
//! shortlist holds every candidate whose rough `f32` score is so close to the k-th that rounding could
//! hide a true neighbour; it is ranked in `f64` from the vectors as they came. Where no such guarantee
//! can be had (a query that is not finite, thousands of equally near candidates) the query is searched
//! exhaustively in `f64`. Ties go to the lower index.
//!
//! Where the processor multiplies numbers of 16 bits faster, bf16 or (with AVX2) integers, the products are of rounded
//! vectors at first, with a margin that is as much larger as that rounding can matter (Cauchy and Schwarz); a
//! query whose shortlist gets too long is searched again in `f32`.
//!
//! On a GPU the products and the search for the best of each tile are done there; what comes back are shortlists with the
//! same guarantee, ranked by the host in the same way.
//!
//! The result is exact, so it cannot depend on the number of threads, the sizes of blocks and tiles, or
//! the processor. Memory beyond the arguments: one copy of the candidates (of 16 bits half of one, and
//! another where `f32` is needed), and a few MB a thread.

mod coarse;
mod shortlist;
mod space;

use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::embedders::Embeddings;
use crate::progress::Cancellation;
use coarse::{CoarseScorer, Pass, Products};
use shortlist::Shortlist;
use space::MetricTransform;

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

/// The most queries in one block on the CPU: more would push the candidates out of a core's cache.
const MOST_IN_BLOCK: usize = 64;
/// The fewest, so that a small set is spread over threads, too.
const FEWEST_IN_BLOCK: usize = 18;
/// On a GPU.
const DEVICE_BLOCK: usize = 1024;

/// The `k` nearest candidates of each query, nearest first: `u32[queries, k]`, row-major; the same on
/// every device.
///
/// `device` does the matrix products; `cancellation` is checked between blocks and stops the
/// search by returning `false`.
///
/// # Errors
/// See [`NearestError`].
pub fn nearest_neighbors(
    queries: &Embeddings,
    candidates: &Embeddings,
    k: usize,
    metric: Metric,
    device: &Device,
    cancellation: &dyn Cancellation,
) -> Result<Vec<u32>, NearestError> {
    let everyone: Vec<usize> = (0..queries.len()).collect();
    let queries = Queries {
        vectors: queries,
        members: &everyone,
    };
    let dimension = candidates.dimension();
    search(
        &queries,
        (candidates.data(), dimension),
        k,
        metric,
        device,
        cancellation,
    )
}

/// Some rows of a matrix, in the order of `members`, without a copy.
pub(super) struct Queries<'a> {
    pub vectors: &'a Embeddings,
    pub members: &'a [usize],
}

/// [`nearest_neighbors`] among `candidates`: rows, and numbers in one row.
pub(super) fn search(
    queries: &Queries<'_>,
    candidates: (&[f32], usize),
    k: usize,
    metric: Metric,
    device: &Device,
    cancellation: &dyn Cancellation,
) -> Result<Vec<u32>, NearestError> {
    search_by(
        queries,
        candidates,
        k,
        metric,
        &Products::on(device),
        cancellation,
    )
}

fn search_by(
    queries: &Queries<'_>,
    candidates: (&[f32], usize),
    k: usize,
    metric: Metric,
    products: &Products,
    cancellation: &dyn Cancellation,
) -> Result<Vec<u32>, NearestError> {
    let (vectors, dimension) = candidates;
    if queries.vectors.dimension() != dimension {
        return Err(NearestError::Dimension {
            queries: queries.vectors.dimension(),
            candidates: dimension,
        });
    }
    let candidates = vectors.len() / dimension;
    if k == 0 || k > candidates || candidates > u32::MAX as usize {
        return Err(NearestError::TooFew { k, candidates });
    }
    let space = MetricTransform::new(vectors, dimension, metric)?;
    let mut rough = CoarseScorer::new(&space, products)?;
    let first = rough.first();
    rough.prepare(first)?;
    let total = queries.members.len();
    let (in_block, at_once) = match products {
        Products::Packed => {
            let in_block = total.div_ceil(16).clamp(FEWEST_IN_BLOCK, MOST_IN_BLOCK);
            (in_block, 2 * rayon::current_num_threads())
        }
        Products::Tiled(_) => (DEVICE_BLOCK, 1),
    };
    let mut ids = vec![0u32; total * k];
    let wave = at_once * in_block;
    let waves = queries.members.chunks(wave).zip(ids.chunks_mut(wave * k));
    for (members, ids) in waves {
        if cancellation.is_cancelled() {
            return Err(NearestError::Interrupted);
        }
        let vectors = queries.vectors;
        let unresolved = pass(first, (vectors, members), &space, &rough, in_block, ids)?;
        if unresolved.is_empty() {
            continue;
        }
        rough.prepare(Pass::Fine)?;
        let places = unresolved.iter().filter_map(|place| members.get(*place));
        let members: Vec<usize> = places.copied().collect();
        let mut found = vec![0u32; members.len() * k];
        let members = (vectors, members.as_slice());
        pass(Pass::Fine, members, &space, &rough, in_block, &mut found)?;
        for (place, found) in unresolved.into_iter().zip(found.chunks_exact(k)) {
            if let Some(ids) = ids.get_mut(place * k..(place + 1) * k) {
                ids.copy_from_slice(found);
            }
        }
    }
    Ok(ids)
}

/// Writes the nearest of each query, `k` ids each, and returns the places of those queries of which a coarse pass
/// could not tell.
fn pass(
    pass: Pass,
    (vectors, members): (&Embeddings, &[usize]),
    space: &MetricTransform<'_>,
    rough: &CoarseScorer<'_>,
    in_block: usize,
    ids: &mut [u32],
) -> Result<Vec<usize>, NearestError> {
    let k = ids.len() / members.len().max(1);
    let placed = |members: &[usize]| {
        let mut block = Vec::with_capacity(members.len() * space.dimension());
        for &member in members {
            let start = block.len();
            block.extend_from_slice(vectors.rows(member..member + 1));
            space.place(&mut block[start..]);
        }
        block
    };
    // Whether the shortlist does for the query; then its nearest are written.
    let rerank = |shortlist: Shortlist, member: usize, ids: &mut [u32]| {
        let shortlist = shortlist.finish();
        if shortlist.is_none() && pass == Pass::Coarse {
            return false;
        }
        space.rank(vectors.rows(member..member + 1), shortlist, ids);
        true
    };
    let blocks = || members.chunks(in_block).zip(0..);
    let unresolved = |block: usize, settled: Vec<bool>| -> Vec<usize> {
        let places = settled.into_iter().enumerate();
        let unresolved = places.filter(|(_, settled)| !settled);
        unresolved
            .map(|(place, _)| block * in_block + place)
            .collect()
    };
    let mut all = Vec::new();
    if rough.is_tiled() {
        // The device's work stays on this thread; ranking is the host's, and for all of its cores.
        for ((members, block), ids) in blocks().zip(ids.chunks_mut(in_block * k)) {
            let settled = rough
                .shortlists(&placed(members), k, pass)?
                .into_par_iter()
                .zip(members.par_iter().zip(ids.par_chunks_exact_mut(k)))
                .map(|(shortlist, (&member, ids))| rerank(shortlist, member, ids))
                .collect();
            all.extend(unresolved(block, settled));
        }
        return Ok(all);
    }
    let found = members
        .par_chunks(in_block)
        .zip(ids.par_chunks_mut(in_block * k))
        .enumerate()
        .map(|(block, (members, ids))| {
            let shortlists = rough.shortlists(&placed(members), k, pass)?;
            let rows = members.iter().zip(ids.chunks_exact_mut(k));
            let settled = shortlists
                .into_iter()
                .zip(rows)
                .map(|(shortlist, (&member, ids))| rerank(shortlist, member, ids));
            Ok(unresolved(block, settled.collect()))
        })
        .collect::<Result<Vec<_>, NearestError>>()?;
    Ok(found.concat())
}

#[cfg(test)]
mod tests {
    use super::space::squared_norm;
    use super::*;
    use crate::kernels::testing::on_each_isa;
    use crate::progress::{AlwaysCancelled, Silent};
    use crate::streams::{Phase, RngKey};
    use proptest::prelude::*;

    fn sort(entries: &mut [(f64, u32)]) {
        entries.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    }

    fn random(count: usize, dimension: usize, sample: u64) -> Embeddings {
        let mut data = vec![0.0; count * dimension];
        let key = RngKey {
            seed: 1,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample,
        };
        key.rng().fill_normal(&mut data);
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
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
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
                    (score + 0.0, i as u32)
                })
                .collect();
            sort(&mut all);
            ids.extend(all[..k].iter().map(|e| e.1));
        }
        ids
    }

    /// By our own products, with all instructions that there are, and by a device's tiles, whose operators the CPU
    /// has as well.
    fn both(
        queries: &Embeddings,
        candidates: &Embeddings,
        k: usize,
        metric: Metric,
    ) -> Result<Vec<u32>, NearestError> {
        let everyone: Vec<usize> = (0..queries.len()).collect();
        let by = |products: &Products| {
            let queries = Queries {
                vectors: queries,
                members: &everyone,
            };
            let candidates = (candidates.data(), candidates.dimension());
            search_by(&queries, candidates, k, metric, products, &Silent)
        };
        let tiled = by(&Products::Tiled(Device::Cpu))?;
        on_each_isa(|| {
            let packed = by(&Products::Packed).unwrap();
            assert!(packed == tiled, "{metric:?} {k}");
        });
        Ok(tiled)
    }

    /// Many times more near candidates in a tile than come back from it at first, in the second tile alone.
    #[test]
    fn a_crowd_within_one_tile_is_searched_through() {
        let candidates = random(2500, 6, 8);
        let (queries, near) = (random(5, 6, 9), 1100..1600);
        let mut data = candidates.data().to_vec();
        for (place, row) in data.chunks_exact_mut(6).enumerate() {
            if near.contains(&place) {
                // Equal to a query but for a few last bits.
                let query = queries.rows(place % 5..place % 5 + 1);
                for (value, near) in row.iter_mut().zip(query) {
                    *value = near * (1.0 + (place % 37) as f32 * f32::EPSILON);
                }
            }
        }
        let candidates = Embeddings::new(data, 6).unwrap();
        for k in [1, 3, 40] {
            let found = both(&queries, &candidates, k, Metric::L2).unwrap();
            assert!(found == brute_force(&queries, &candidates, k, Metric::L2));
            assert!(found.iter().all(|id| near.contains(&(*id as usize))));
        }
    }

    #[test]
    fn agrees_with_brute_force_across_tiles() {
        let (queries, candidates) = (random(1100, 5, 0), random(2100, 5, 1));
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            for k in [1, 4] {
                let found =
                    nearest_neighbors(&queries, &candidates, k, metric, &Device::Cpu, &Silent)
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
        let found = both(&queries, &copies, 2, Metric::L2).unwrap();
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
        let found = both(&queries, &candidates, 3, Metric::L2).unwrap();
        assert!(found == brute_force(&queries, &candidates, 3, Metric::L2));
    }

    /// The roundings of equal terms all go one way, and here further than the next candidate is away.
    #[test]
    fn flat_images_are_told_apart() {
        let dimension = 3 * 256 * 256;
        let flat = |greys: &[f32]| {
            let data = greys.iter().flat_map(|grey| vec![*grey; dimension]);
            Embeddings::new(data.collect(), dimension).unwrap()
        };
        let mut greys = vec![0.0; 129];
        greys.extend([210.0, 215.0]);
        let (queries, candidates) = (flat(&[210.0]), flat(&greys));
        on_each_isa(|| {
            let space = MetricTransform::new(candidates.data(), dimension, Metric::L2).unwrap();
            let mut rough = CoarseScorer::new(&space, &Products::Packed).unwrap();
            for kind in [rough.first(), Pass::Fine] {
                rough.prepare(kind).unwrap();
                let mut found = [0];
                let unresolved =
                    pass(kind, (&queries, &[0]), &space, &rough, 1, &mut found).unwrap();
                assert!(
                    !unresolved.is_empty() || found == [129],
                    "{kind:?} {found:?}"
                );
            }
        });
    }

    #[test]
    fn products_below_the_smallest_numbers_count() {
        let (small, large) = (2.4e-23, 1.2e-22);
        let mut candidates = vec![0.0; 16];
        candidates[0] = large;
        candidates[8..].fill(small);
        let queries = Embeddings::new(vec![small; 8], 8).unwrap();
        let candidates = Embeddings::new(candidates, 8).unwrap();
        let found = both(&queries, &candidates, 1, Metric::InnerProduct).unwrap();
        assert_eq!(found, [1]);
    }

    /// Vectors of small integers: many ties, and every score is exact.
    fn lattice(rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<i8>>> {
        (1usize..20).prop_flat_map(move |dimension| {
            let row = proptest::collection::vec(-2i8..=2, dimension);
            proptest::collection::vec(row, rows.clone())
        })
    }

    fn embeddings(rows: &[Vec<i8>]) -> Embeddings {
        let data = rows.iter().flatten().map(|v| f32::from(*v)).collect();
        Embeddings::new(data, rows[0].len()).unwrap()
    }

    /// Gathers vectors about the first three, the closer the larger `crowding` is: 16 bits, then `f32`, cannot
    /// tell neighbours apart.
    fn crowded(vectors: Embeddings, crowding: i32) -> Embeddings {
        if crowding == 0 {
            return vectors;
        }
        let rows = || vectors.data().chunks(vectors.dimension());
        let centres: Vec<&[f32]> = rows().take(3).collect();
        let moved = rows().enumerate().flat_map(|(index, row)| {
            let centre = centres[index % centres.len()];
            let toward = |(v, c): (&f32, &f32)| c + 0.1f32.powi(crowding) * v;
            row.iter().zip(centre).map(toward)
        });
        Embeddings::new(moved.collect(), vectors.dimension()).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force_on_ties_too(
            rows in lattice(2..700),
            split in 0.05f64..0.95,
            k in 1usize..9,
            offset in -3i8..=3,
        ) {
            let at = ((rows.len() as f64 * split) as usize).clamp(1, rows.len() - 1);
            let (queries, candidates) = rows.split_at(at);
            let k = k.min(candidates.len());
            let shifted: Vec<Vec<i8>> = queries
                .iter()
                .map(|row| row.iter().map(|v| v + offset).collect())
                .collect();
            let (queries, candidates) = (embeddings(&shifted), embeddings(candidates));
            // Cosine divides, so that equal angles need not give equal numbers; it is tested elsewhere.
            for metric in [Metric::L2, Metric::InnerProduct] {
                let found =
                    both(&queries, &candidates, k, metric);
                prop_assert_eq!(found.unwrap(), brute_force(&queries, &candidates, k, metric));
            }
        }

        #[test]
        fn agrees_with_brute_force_on_any_shape(
            (queries, candidates, dimension) in (1usize..80, 1usize..800, 1usize..70),
            k in 1usize..12,
            seed in 0u64..1000,
            crowding in 0i32..7,
        ) {
            let k = k.min(candidates);
            let (queries, candidates) = (
                random(queries, dimension, 2 * seed),
                crowded(random(candidates, dimension, 2 * seed + 1), crowding),
            );
            for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                let found =
                    both(&queries, &candidates, k, metric);
                prop_assert_eq!(found.unwrap(), brute_force(&queries, &candidates, k, metric));
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let (queries, candidates) = (random(900, 33, 2), random(700, 33, 3));
        let run = || both(&queries, &candidates, 5, Metric::L2).unwrap();
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let many = rayon::ThreadPoolBuilder::new().num_threads(7).build();
        assert_eq!(alone.unwrap().install(run), many.unwrap().install(run));
    }

    #[test]
    fn queries_and_candidates_beyond_f32s_range_are_searched_exactly() {
        // Products overflow to infinity; the exact scores do not.
        let candidates = Embeddings::new(vec![-2e30, 1e30, 3e30, 2e30, f32::MAX], 1).unwrap();
        let queries = Embeddings::new(vec![2.4e30, -1e38, f32::INFINITY, f32::NAN], 1).unwrap();
        let run = |metric| both(&queries, &candidates, 2, metric).unwrap();
        assert_eq!(run(Metric::InnerProduct)[..4], [4, 2, 0, 1]);
        // A query that is no number votes, too: for somebody.
        assert_eq!(run(Metric::InnerProduct).len(), 8);
        assert!(run(Metric::L2).iter().all(|id| *id < 5));
    }

    #[test]
    fn bad_requests_are_named() {
        let (a, b) = (random(3, 4, 0), random(3, 5, 1));
        let run = |q: &Embeddings, c: &Embeddings, k: usize| {
            nearest_neighbors(q, c, k, Metric::L2, &Device::Cpu, &Silent)
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
        let stopped = nearest_neighbors(&a, &a, 1, Metric::L2, &Device::Cpu, &AlwaysCancelled);
        assert!(matches!(stopped, Err(NearestError::Interrupted)));
    }
}
