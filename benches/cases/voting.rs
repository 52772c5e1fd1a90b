//! The nearest-neighbor search.

use std::hint::black_box;

use candle_core::Device;
use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::progress::Silent;
use dpsyn::internals::voting::{Metric, SearchOptions, nearest_neighbors};

use super::Work;
use super::weights::numbers;

/// Finds the nearest of `candidates` for each of `queries`, by L2.
pub fn nearest(queries: usize, candidates: usize, dimension: usize) -> Work {
    let mut all = numbers((queries + candidates) * dimension);
    let queries = Embeddings::new(all.split_off(candidates * dimension), dimension).unwrap();
    let candidates = Embeddings::new(all, dimension).unwrap();
    Box::new(move || {
        let options = SearchOptions {
            k: 1,
            metric: Metric::L2,
            device: &Device::Cpu,
            cancellation: &Silent,
        };
        black_box(nearest_neighbors(&queries, &candidates, &options).unwrap());
    })
}
