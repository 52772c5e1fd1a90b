//! Tests of the search against brute force, on both product backends.

use super::transform::squared_norm;
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

fn options(k: usize, metric: Metric) -> SearchOptions<'static> {
    SearchOptions {
        k,
        metric,
        device: &Device::Cpu,
        cancellation: &Silent,
    }
}

/// Searches with the CPU backend on every instruction set of the processor, and with the device
/// backend, whose operators candle has on the CPU as well.
fn both(
    queries: &Embeddings,
    candidates: &Embeddings,
    k: usize,
    metric: Metric,
) -> Result<Vec<u32>, NearestError> {
    let all: Vec<usize> = (0..queries.len()).collect();
    let by = |backend: &ProductBackend| {
        let queries = Rows {
            vectors: queries,
            indices: &all,
        };
        let candidates = Candidates {
            vectors: candidates.data(),
            dimension: candidates.dimension(),
        };
        search_with(queries, candidates, &options(k, metric), backend)
    };
    let tiled = by(&ProductBackend::Device(Device::Cpu))?;
    on_each_isa(|| {
        let packed = by(&ProductBackend::Cpu).unwrap();
        assert!(packed == tiled, "{metric:?} {k}");
    });
    Ok(tiled)
}

/// The second tile alone holds many more near candidates than the device returns at first.
#[test]
fn many_near_candidates_within_one_tile_are_all_considered() {
    let candidates = random(2500, 6, 8);
    let (queries, near) = (random(5, 6, 9), 1100..1600);
    let mut data = candidates.data().to_vec();
    for (place, row) in data.chunks_exact_mut(6).enumerate() {
        if near.contains(&place) {
            // Differs from a query in the last bits only.
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
            let found = nearest_neighbors(&queries, &candidates, &options(k, metric)).unwrap();
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
fn a_large_common_offset_does_not_change_the_result() {
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

/// Roundings of equal terms add up with one sign, here to more than the distance between
/// candidates.
#[test]
fn flat_images_are_separated() {
    let dimension = 3 * 256 * 256;
    let flat = |grays: &[f32]| {
        let data = grays.iter().flat_map(|gray| vec![*gray; dimension]);
        Embeddings::new(data.collect(), dimension).unwrap()
    };
    let mut grays = vec![0.0; 129];
    grays.extend([210.0, 215.0]);
    let (queries, candidates) = (flat(&[210.0]), flat(&grays));
    on_each_isa(|| {
        let transform = MetricTransform::new(candidates.data(), dimension, Metric::L2).unwrap();
        let mut scorer = CandidateScorer::new(&transform, &ProductBackend::Cpu).unwrap();
        for kind in [scorer.first_pass(), Pass::Fine] {
            scorer.prepare(kind).unwrap();
            let mut found = [0];
            let search = BlockSearch {
                scorer: &scorer,
                block: 1,
                k: 1,
            };
            let rows = Rows {
                vectors: &queries,
                indices: &[0],
            };
            let unresolved = search.run(kind, rows, &mut found).unwrap();
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

/// Moves vectors towards the first three, the closer the larger `crowding` is, until 16-bit numbers
/// and then `f32` cannot separate neighbors.
fn crowded(vectors: Embeddings, crowding: i32) -> Embeddings {
    if crowding == 0 {
        return vectors;
    }
    let rows = || vectors.data().chunks(vectors.dimension());
    let centers: Vec<&[f32]> = rows().take(3).collect();
    let moved = rows().enumerate().flat_map(|(index, row)| {
        let center = centers[index % centers.len()];
        let toward = |(v, c): (&f32, &f32)| c + 0.1f32.powi(crowding) * v;
        row.iter().zip(center).map(toward)
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
    // A query of NaN still gets valid ids.
    assert_eq!(run(Metric::InnerProduct).len(), 8);
    assert!(run(Metric::L2).iter().all(|id| *id < 5));
}

#[test]
fn invalid_requests_are_refused() {
    let (a, b) = (random(3, 4, 0), random(3, 5, 1));
    let run =
        |q: &Embeddings, c: &Embeddings, k: usize| nearest_neighbors(q, c, &options(k, Metric::L2));
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
    let cancelled = SearchOptions {
        cancellation: &AlwaysCancelled,
        ..options(1, Metric::L2)
    };
    let stopped = nearest_neighbors(&a, &a, &cancelled);
    assert!(matches!(stopped, Err(NearestError::Cancelled(_))));
}
