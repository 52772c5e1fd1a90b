//! From the noisy histogram to the parents of the next generation: post-processing, so free of charge.

use serde::{Deserialize, Serialize};

use crate::streams::KeyedRng;

/// How parents are chosen within a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionMode {
    /// Draw with replacement, in proportion to the thresholded votes (the paper's Algorithm 1).
    #[default]
    Sample,
    /// Take those with the most votes, each once.
    Rank,
}

/// The parents that were chosen in one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Indices into the class' samples.
    pub indices: Vec<usize>,
    /// Whether no vote passed the threshold, so that parents were drawn uniformly.
    pub uniform_fallback: bool,
}

/// Clips at the threshold from below and subtracts it: `max(votes, threshold) − threshold`.
///
/// Source: `dp_nn_histogram` of the original.
#[must_use]
pub fn threshold(votes: &[f64], threshold: f64) -> Vec<f64> {
    votes.iter().map(|v| v.max(threshold) - threshold).collect()
}

/// Chooses `count` parents in one class by its thresholded votes.
///
/// Where every vote is zero there is nothing to go by (the original divides by zero): parents are then
/// drawn uniformly and the result says so. [`SelectionMode::Rank`] breaks ties towards the lower index
/// and, wanting more than there are samples, starts over with the best.
#[must_use]
pub fn select(
    votes: &[f64],
    count: usize,
    mode: SelectionMode,
    stream: &mut KeyedRng,
) -> Selection {
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
                .map(|_| stream.below(votes.len() as u64) as usize)
                .collect(),
            uniform_fallback: true,
        };
    }
    let indices = match mode {
        SelectionMode::Sample => sample(votes, total, count, stream),
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

/// Inverse transform sampling, with replacement.
fn sample(votes: &[f64], total: f64, count: usize, stream: &mut KeyedRng) -> Vec<usize> {
    let mut cumulative = Vec::with_capacity(votes.len());
    let mut sum = 0.0;
    for vote in votes {
        sum += vote;
        cumulative.push(sum);
    }
    // Rounding can leave the last sum a hair from `total`; a draw beyond it belongs to the last sample
    // that has votes.
    let last = votes.iter().rposition(|v| *v > 0.0).unwrap_or(0);
    (0..count)
        .map(|_| {
            let draw = stream.uniform() * total;
            cumulative.partition_point(|c| *c <= draw).min(last)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn stream() -> KeyedRng {
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
    fn draws_are_in_proportion_and_never_of_the_voteless() {
        // Chi-square with 2 degrees of freedom; 20 is exceeded by chance once in 22,000 times.
        let votes = [0.0, 1.0, 0.0, 3.0, 6.0, 0.0];
        let n = 20_000;
        let chosen = select(&votes, n, SelectionMode::Sample, &mut stream());
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
    fn rank_takes_the_best_once_and_starts_over() {
        let chosen = select(&[1.0, 5.0, 5.0, 0.0], 6, SelectionMode::Rank, &mut stream());
        assert_eq!(chosen.indices, [1, 2, 0, 3, 1, 2]);
    }

    #[test]
    fn no_votes_at_all_fall_back_to_uniform_and_say_so() {
        for mode in [SelectionMode::Sample, SelectionMode::Rank] {
            let chosen = select(&[0.0; 4], 400, mode, &mut stream());
            assert!(chosen.uniform_fallback);
            assert!((0..4).all(|i| chosen.indices.contains(&i)));
        }
    }
}
