//! The low bits of released numbers carry nothing about the counts (Mironov 2012): noise of
//! floating-point numbers would leave traces in them.
//!
//! By construction, a released number is an integer, 2²⁰ times a count of votes plus integer noise,
//! so its 20 low bits are those of the noise alone (`noise_does_not_depend_on_the_counts` in
//! `src/privacy/mechanism_tests.rs`), whose distribution modulo 2²⁰ is uniform up to e⁻⁴⁰ for the
//! σ = 1.5 votes of these runs. Here, this is tested on the files of the real binary.

use dpsyn::internals::images::NpzReader;

use crate::support::{RunFixture, SIZE};

/// Many bins and iterations of little work.
const MANY: [&str; 10] = [
    "--set",
    "evolution.num_samples=1600",
    "--set",
    "model.timestep_respacing=\"2\"",
    "--set",
    "model.batch_size=400",
    "--set",
    "evolution.lookahead_degree=0",
    "--set",
    "evolution.variation_degree=[0, 1, 1, 1, 1, 1]",
];
/// Released numbers of a run.
const COUNT: usize = 5 * 1600;
/// Bits of a vote on the lattice.
const BITS: u32 = 20;
/// Normal score that is exceeded with probability 10⁻⁷.
const SCORE: f64 = 5.2;

/// Returns all released numbers of a run, after checking that they are exact.
fn released(fixture: &RunFixture) -> Vec<i64> {
    fixture.succeed(&MANY);
    let mut all = Vec::new();
    for iteration in 1..=5 {
        let path = fixture.path(&format!("out/{iteration}/votes.npz"));
        let mut votes = NpzReader::open(&path).unwrap();
        let (_, lattice) = votes.i64s("lattice").unwrap();
        let (_, noisy) = votes.f64s("noisy").unwrap();
        let (_, above) = votes.f64s("votes").unwrap();
        for ((lattice, noisy), votes) in lattice.iter().zip(noisy).zip(above) {
            // Every other number is the integer in another unit, or the difference to the threshold
            // 0.5, without rounding.
            let exact = |value: f64| (value * f64::from(1u32 << BITS)) as i64;
            assert!(lattice.abs() < 1 << 40);
            assert_eq!(exact(noisy), *lattice);
            assert_eq!(exact(votes), (lattice - (1 << (BITS - 1))).max(0));
        }
        all.extend(lattice);
    }
    assert_eq!(all.len(), COUNT);
    all
}

/// Counts the values of the eight bits from `shift` on.
fn byte(numbers: &[i64], shift: u32) -> [f64; 256] {
    let mut counts = [0.0; 256];
    for number in numbers {
        counts[((number >> shift) & 0xff) as usize] += 1.0;
    }
    counts
}

/// Converts a chi-square statistic to a normal score (Wilson and Hilferty).
fn score(statistic: f64, freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// Returns the score of the hypothesis that all values are equally likely.
fn uniformity(numbers: &[i64], shift: u32) -> f64 {
    let expected = numbers.len() as f64 / 256.0;
    let counts = byte(numbers, shift);
    let statistic: f64 = counts.iter().map(|c| (c - expected).powi(2)).sum();
    score(statistic / expected, 255.0)
}

/// Returns the score of the hypothesis that two samples have the same distribution.
fn homogeneity(one: &[i64], other: &[i64], shift: u32) -> f64 {
    let (m, n) = (one.len() as f64, other.len() as f64);
    let cells = byte(one, shift).into_iter().zip(byte(other, shift));
    let cells = cells.filter(|(a, b)| a + b > 0.0);
    let terms = cells.map(|(a, b)| (a * (n / m).sqrt() - b * (m / n).sqrt()).powi(2) / (a + b));
    let terms: Vec<f64> = terms.collect();
    score(terms.iter().sum(), terms.len() as f64 - 1.0)
}

/// False alarms: 14 tests at 10⁻⁷ each.
#[test]
fn low_bits_of_released_counts_carry_nothing() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    let plain =
        dpsyn::internals::images::ImageBatch::new(vec![255; SIZE * SIZE * 3], 1, SIZE, SIZE);
    let plain = dpsyn::internals::images::png(&plain.unwrap()).unwrap();
    std::fs::write(other.path("data/nested/cat_90.png"), plain).unwrap();
    let (one, other) = (released(&one), released(&other));
    let mut scores = Vec::new();
    for shift in [0, 4, 8, 12] {
        for numbers in [&one, &other] {
            scores.push(uniformity(numbers, shift));
        }
        // The data set with the image and the one without it.
        scores.push(homogeneity(&one, &other, shift));
    }
    // Large and small numbers of one data set, which differ in the votes that they contain. Above
    // bit 12, they also differ in the part of a vote, because they are divided at one number.
    let mut sorted = one.clone();
    sorted.sort_unstable();
    let (small, large) = sorted.split_at(COUNT / 2);
    scores.extend([0, 4].map(|shift| homogeneity(small, large, shift)));
    assert_eq!(scores.len(), 14);
    assert!(scores.iter().all(|score| *score < SCORE), "{scores:?}");
    // The tests find numbers of which one in 30 was rounded to whole 16ths of a vote.
    let mut rounded = other.clone();
    for number in rounded.iter_mut().step_by(30) {
        *number &= !0xffff;
    }
    assert!(uniformity(&rounded, 0) > SCORE && homogeneity(&one, &rounded, 0) > SCORE);
}
