//! What a vote of Camelyon17's size holds in memory.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use candle_core::Device;
use dpsyn::embedders::Embeddings;
use dpsyn::privacy::Sensitive;
use dpsyn::progress::{Cancellation, Progress, Unit};
use dpsyn::streams::{Phase, RngKey};
use dpsyn::voting::{Metric, PrivateEmbeddings, VotingError, nn_histogram};

use crate::memory::of_this_process as memory;

/// Camelyon17's training patches, of two classes, and as many samples.
const IMAGES: usize = 302_436;
/// Inception's features.
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

/// Stops the vote after so many rounds.
struct StopAfter {
    rounds: u64,
    all: AtomicU64,
    done: AtomicU64,
}

impl Progress for StopAfter {
    fn begin(&self, _: &str, rounds: Option<u64>, _: Unit) {
        self.all.store(rounds.unwrap_or(0), SeqCst);
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
        self.done.load(SeqCst) >= self.rounds
    }
}

/// Memory is the same from the first round to the last, and so is the time of a round: one is enough. All of
/// them are in `DPSYN_VOTE_ROUNDS=10`.
#[test]
#[ignore = "a minute and 7 GB of memory: figures for benches/README.md"]
fn camelyon17_votes_in_bounded_memory() {
    let (private, population) = (vectors(0), vectors(1));
    let labels = (0..IMAGES as u32).map(|image| image % 2).collect();
    let voters =
        PrivateEmbeddings::new(Sensitive::new(private), &Sensitive::new(labels), 2, IMAGES);
    let ranges = [0..IMAGES / 2, IMAGES / 2..IMAGES];
    let before = memory().1;
    let rounds = std::env::var("DPSYN_VOTE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let poll = StopAfter {
        rounds,
        all: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    let begun = Instant::now();
    let voted = nn_histogram(
        &population,
        &ranges,
        &voters,
        1,
        Metric::L2,
        &Device::Cpu,
        &poll,
    );
    let seconds = begun.elapsed().as_secs_f64();
    let (peak, _) = memory();
    let (done, all) = (poll.done.load(SeqCst), poll.all.load(SeqCst));
    println!("{done} of {all} rounds in {seconds:.1} s; {before} MB before, peak {peak} MB");
    assert!(matches!(voted, Err(VotingError::Interrupted)) || (voted.is_ok() && done == all));
    // One copy of one class' candidates, and little else.
    let copy = (IMAGES / 2 * DIMENSION * size_of::<f32>()) as u64 / 1_000_000;
    assert!(peak < before + copy + 200, "a copy is of {copy} MB");
}
