//! Memory of a histogram of Camelyon17's size.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use candle_core::Device;
use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::privacy::Sensitive;
use dpsyn::internals::progress::{Cancellation, Progress, Unit};
use dpsyn::internals::streams::{Phase, RngKey};
use dpsyn::internals::voting::{
    Metric, PrivateEmbeddings, SampleEmbeddings, SearchOptions, VotingError, nn_histogram,
};

use crate::memory::of_this_process as memory;

/// Number of training patches of Camelyon17 (two classes), and of samples.
const IMAGES: usize = 302_436;
/// Number of features of Inception.
const DIMENSION: usize = 2048;

fn vectors(sample: u64) -> Embeddings {
    let mut data = vec![0.0; IMAGES * DIMENSION];
    let key = RngKey {
        seed: 1,
        phase: Phase::Random,
        iteration: 0,
        repeat: 0,
        sample,
    };
    key.rng().fill_normal(&mut data);
    Embeddings::new(data, DIMENSION).unwrap()
}

/// Cancels the histogram after some passes.
struct StopAfter {
    passes: u64,
    all: AtomicU64,
    done: AtomicU64,
}

impl Progress for StopAfter {
    fn begin(&self, _: &str, passes: Option<u64>, _: Unit) {
        self.all.store(passes.unwrap_or(0), SeqCst);
    }

    fn resume(&self, _: u64) {}

    fn advance(&self, done: u64) {
        self.done.store(done, SeqCst);
    }

    fn end(&self) {}

    fn message(&self, _: &str) {}
}

impl Cancellation for StopAfter {
    fn is_cancelled(&self) -> bool {
        self.done.load(SeqCst) >= self.passes
    }
}

/// Every pass takes the same memory and time, so one is enough; `DPSYN_VOTE_PASSES=10` runs all of
/// them.
#[test]
#[ignore = "a minute and 7 GB of memory: figures for benches/README.md"]
fn camelyon17_votes_in_bounded_memory() {
    let (private, population) = (vectors(0), vectors(1));
    let labels = (0..IMAGES as u32).map(|image| image % 2).collect();
    let private = PrivateEmbeddings::new(
        Sensitive::new(private),
        &Sensitive::new(labels),
        Sensitive::new(None),
        2,
        IMAGES,
    );
    let ranges = [0..IMAGES / 2, IMAGES / 2..IMAGES];
    let before = memory().1;
    let passes = std::env::var("DPSYN_VOTE_PASSES").map_or(1, |passes| passes.parse().unwrap());
    let observer = StopAfter {
        passes,
        all: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    let begun = Instant::now();
    let samples = SampleEmbeddings {
        embeddings: &population,
        class_ranges: &ranges,
    };
    let options = SearchOptions {
        k: 1,
        metric: Metric::L2,
        device: &Device::Cpu,
        cancellation: &observer,
    };
    let histogram = nn_histogram(&samples, &private, &options, &observer);
    let seconds = begun.elapsed().as_secs_f64();
    let (peak, _) = memory();
    let (done, all) = (observer.done.load(SeqCst), observer.all.load(SeqCst));
    println!("{done} of {all} passes in {seconds:.1} s; {before} MB before, peak {peak} MB");
    let cancelled = matches!(histogram, Err(VotingError::Cancelled(_)));
    assert!(cancelled || (histogram.is_ok() && done == all));
    // One copy of the candidates of one class, and little else.
    let copy = (IMAGES / 2 * DIMENSION * size_of::<f32>()) as u64 / 1_000_000;
    assert!(peak < before + copy + 200, "one copy takes {copy} MB");
}
