//! Selection of parents by the noisy histogram. It is post-processing: it costs no privacy budget.

use serde::{Deserialize, Serialize};

use crate::streams::KeyedRng;

/// Rule that selects parents within a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionMode {
    /// Sampling with replacement, in proportion to the thresholded votes (the paper's Algorithm 1).
    #[default]
    Sample,
    /// The samples with the most votes, each once.
    Rank,
}

/// Parents selected in one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Indices into the samples of the class.
    pub indices: Vec<usize>,
    /// True if no vote passed the threshold, so that parents were sampled uniformly.
    pub uniform_fallback: bool,
}

/// Clips at the threshold from below and subtracts it: `max(votes, threshold) − threshold`.
///
/// Source: `dp_nn_histogram` of the authors' implementation.
#[must_use]
pub fn threshold(votes: &[f64], threshold: f64) -> Vec<f64> {
    votes.iter().map(|v| v.max(threshold) - threshold).collect()
}

/// Selects `count` parents in one class by its thresholded votes.
///
/// If every vote is zero (where the authors' implementation divides by zero), parents are sampled
/// uniformly and [`Selection::uniform_fallback`] is set. [`SelectionMode::Rank`] breaks ties
/// towards the lower index and, if `count` exceeds the number of samples, starts over with the
/// best.
#[must_use]
pub fn select(votes: &[f64], count: usize, mode: SelectionMode, rng: &mut KeyedRng) -> Selection {
    let total: f64 = votes.iter().sum();
    if votes.is_empty() {
        return Selection {
            indices: Vec::new(),
            uniform_fallback: false,
        };
    }
    if total <= 0.0 {
        return Selection {
            indices: (0..count)
                .map(|_| rng.below(votes.len() as u64) as usize)
                .collect(),
            uniform_fallback: true,
        };
    }
    let indices = match mode {
        SelectionMode::Sample => sample(votes, total, count, rng),
        SelectionMode::Rank => {
            let mut order: Vec<usize> = (0..votes.len()).collect();
            order.sort_by(|a, b| votes[*b].total_cmp(&votes[*a]).then(a.cmp(b)));
            order.into_iter().cycle().take(count).collect()
        }
    };
    Selection {
        indices,
        uniform_fallback: false,
    }
}

/// Samples indices in proportion to `votes` with replacement, by inverse transform sampling.
fn sample(votes: &[f64], total: f64, count: usize, rng: &mut KeyedRng) -> Vec<usize> {
    let mut cumulative = Vec::with_capacity(votes.len());
    let mut sum = 0.0;
    for vote in votes {
        sum += vote;
        cumulative.push(sum);
    }
    // Rounding can leave the last sum slightly below `total`; a number beyond it selects the last
    // sample that has votes.
    let last = votes.iter().rposition(|v| *v > 0.0).unwrap_or(0);
    (0..count)
        .map(|_| {
            let point = rng.uniform() * total;
            cumulative.partition_point(|c| *c <= point).min(last)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn rng() -> KeyedRng {
        RngKey {
            seed: 11,
            phase: Phase::Select,
            iteration: 1,
            repeat: 0,
            sample: 0,
        }
        .rng()
    }

    #[test]
    fn thresholds_clip_and_subtract() {
        assert_eq!(threshold(&[-3.0, 2.0, 2.5, 7.0], 2.0), [0.0, 0.0, 0.5, 5.0]);
    }

    #[test]
    fn sampling_is_in_proportion_to_the_votes() {
        // Chi-square with 2 degrees of freedom; 20 is exceeded by chance once in 22,000 times.
        let votes = [0.0, 1.0, 0.0, 3.0, 6.0, 0.0];
        let n = 20_000;
        let chosen = select(&votes, n, SelectionMode::Sample, &mut rng());
        let mut counts = [0usize; 6];
        for index in chosen.indices {
            counts[index] += 1;
        }
        assert_eq!((counts[0], counts[2], counts[5]), (0, 0, 0));
        let chi: f64 = [1, 3, 4]
            .into_iter()
            .map(|i| {
                let expected = n as f64 * votes[i] / 10.0;
                (counts[i] as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi < 20.0, "{chi}");
    }

    #[test]
    fn rank_selects_the_best_once_and_starts_over() {
        let chosen = select(&[1.0, 5.0, 5.0, 0.0], 6, SelectionMode::Rank, &mut rng());
        assert_eq!(chosen.indices, [1, 2, 0, 3, 1, 2]);
    }

    #[test]
    fn without_votes_parents_are_uniform() {
        for mode in [SelectionMode::Sample, SelectionMode::Rank] {
            let chosen = select(&[0.0; 4], 400, mode, &mut rng());
            assert!(chosen.uniform_fallback);
            assert!((0..4).all(|i| chosen.indices.contains(&i)));
        }
    }
}
