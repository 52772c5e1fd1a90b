//! Selection of parents by the noisy histogram. It is post-processing: it costs no privacy budget.

use serde::{Deserialize, Serialize};

use crate::schedule::{Scalar, Scheduled};
use crate::streams::KeyedRng;

/// Rule that selects parents within a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionMode {
    /// Sampling with replacement, in proportion to the thresholded votes (the paper's Algorithm 1).
    #[default]
    Sample,
    /// Systematic sampling (Kitagawa 1996, doi 10.2307/1390750): each sample as often as
    /// [`SelectionMode::Sample`] selects it on average, rounded down or up.
    Systematic,
    /// The samples with the most votes, each once.
    Rank,
}

impl Scheduled for SelectionMode {
    const EXPECTED: &'static str = "\"sample\", \"systematic\" or \"rank\"";
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Text(text) if text == "sample" => Some(Self::Sample),
            Scalar::Text(text) if text == "systematic" => Some(Self::Systematic),
            Scalar::Text(text) if text == "rank" => Some(Self::Rank),
            _ => None,
        }
    }
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

/// Selects `count` parents in one class by its thresholded votes, none more than `most` times.
///
/// Samples that were selected `most` times are left out of the further draws. If no other sample
/// has votes, the others are sampled uniformly. Fewer than `count` are selected where there are
/// fewer than `count / most` samples.
///
/// If every vote is zero (where the authors' implementation divides by zero), parents are sampled
/// uniformly and [`Selection::uniform_fallback`] is set. [`SelectionMode::Rank`] orders samples of
/// equal votes, such as those below the threshold, by `noisy`, their counts before the threshold,
/// then by index; if `count` exceeds the number of samples, it starts over with the best.
#[must_use]
pub fn select(
    votes: &[f64],
    noisy: &[f64],
    count: usize,
    mode: SelectionMode,
    most: usize,
    rng: &mut KeyedRng,
) -> Selection {
    let total: f64 = votes.iter().sum();
    let count = count.min(votes.len().saturating_mul(most));
    let is_bounded = most < count;
    let uniform_fallback = total <= 0.0 && !votes.is_empty();
    let indices = match mode {
        _ if votes.is_empty() => Vec::new(),
        _ if is_bounded && (uniform_fallback || mode == SelectionMode::Sample) => {
            sample_bounded(votes, count, most, rng)
        }
        _ if uniform_fallback => (0..count)
            .map(|_| rng.below(votes.len() as u64) as usize)
            .collect(),
        SelectionMode::Sample => sample(votes, total, count, rng),
        SelectionMode::Systematic => systematic(votes, count, most, rng),
        // No sample is selected again before all others were, so the bound holds.
        SelectionMode::Rank => {
            let noisy = |index: usize| noisy.get(index).copied().unwrap_or(f64::NEG_INFINITY);
            let mut order: Vec<usize> = (0..votes.len()).collect();
            order.sort_by(|&a, &b| {
                let by_noisy = noisy(b).total_cmp(&noisy(a));
                votes[b].total_cmp(&votes[a]).then(by_noisy).then(a.cmp(&b))
            });
            order.into_iter().cycle().take(count).collect()
        }
    };
    Selection {
        indices,
        uniform_fallback,
    }
}

/// Samples systematically: point `i` of `count` is at `(i + u) / count` of the sum of the weights,
/// with one uniform number `u`. Weights of which more than `most` points were expected are reduced
/// to that; what is missing then is sampled from the others.
fn systematic(votes: &[f64], count: usize, most: usize, rng: &mut KeyedRng) -> Vec<usize> {
    // The expected numbers, at most `most` each.
    let mut expected = vec![0f64; votes.len()];
    let mut open: Vec<usize> = (0..votes.len()).filter(|i| votes[*i] > 0.0).collect();
    let mut left = count as f64;
    let bound = most as f64;
    loop {
        let total: f64 = open.iter().map(|i| votes[*i]).sum();
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|i| votes[**i] * left / total > bound);
        for i in &full {
            expected[*i] = bound;
            left -= bound;
        }
        if full.is_empty() {
            for i in &rest {
                expected[*i] = votes[*i] * left / total;
            }
            break;
        }
        open = rest;
        if open.is_empty() {
            // All that have votes are full: the others share the rest.
            let others: Vec<usize> = (0..votes.len()).filter(|i| expected[*i] == 0.0).collect();
            for i in &others {
                expected[*i] = left.max(0.0) / others.len() as f64;
            }
            break;
        }
    }
    let offset = rng.uniform();
    let mut drawn = vec![0usize; votes.len()];
    let mut sum = 0.0;
    let mut point = 0;
    for (index, expected) in expected.iter().enumerate() {
        sum += expected;
        while point < count && point as f64 + offset < sum && drawn[index] < most {
            drawn[index] += 1;
            point += 1;
        }
    }
    // Rounding can leave the last sum slightly below `count`.
    let can_take = |drawn: &[usize], index: usize| expected[index] > 0.0 && drawn[index] < most;
    while point < count {
        let Some(index) = (0..votes.len()).rfind(|index| can_take(&drawn, *index)) else {
            break;
        };
        drawn[index] += 1;
        point += 1;
    }
    let repeat = |(index, times): (usize, &usize)| std::iter::repeat_n(index, *times);
    drawn.iter().enumerate().flat_map(repeat).collect()
}

/// Samples like [`sample`], none of the indices more than `most` times; `count` is at most `most`
/// for each.
fn sample_bounded(votes: &[f64], count: usize, most: usize, rng: &mut KeyedRng) -> Vec<usize> {
    // A draw of an index that is full is repeated. The weights of full indices are removed after
    // this many repetitions, so that the work stays in proportion to `count`.
    const REPETITIONS: usize = 64;
    let mut drawn = vec![0_usize; votes.len()];
    let mut indices = Vec::with_capacity(count);
    while indices.len() < count {
        let open = |index: usize| drawn.get(index).is_some_and(|times| *times < most);
        let weigh = |(index, vote): (usize, &f64)| if open(index) { *vote } else { 0.0 };
        let mut weights: Vec<f64> = votes.iter().enumerate().map(weigh).collect();
        if weights.iter().sum::<f64>() <= 0.0 {
            let uniform = (0..votes.len()).map(|index| f64::from(u8::from(open(index))));
            weights = uniform.collect();
        }
        let total = weights.iter().sum();
        let draws = (count - indices.len()).max(REPETITIONS);
        let mut repeated = 0;
        for index in sample(&weights, total, draws, rng) {
            let times = drawn.get_mut(index).filter(|times| **times < most);
            match times {
                _ if indices.len() == count => break,
                Some(times) => {
                    *times += 1;
                    indices.push(index);
                }
                None => repeated += 1,
            }
            if repeated == REPETITIONS {
                break;
            }
        }
    }
    indices
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
        let chosen = select(
            &votes,
            &votes,
            n,
            SelectionMode::Sample,
            usize::MAX,
            &mut rng(),
        );
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
    fn systematic_sampling_rounds_the_expected_numbers() {
        let votes = [0.0, 1.0, 0.0, 3.0, 6.5, 0.0];
        for count in [1, 7, 100] {
            let chosen = select(
                &votes,
                &votes,
                count,
                SelectionMode::Systematic,
                usize::MAX,
                &mut rng(),
            );
            assert_eq!(chosen.indices.len(), count);
            for (found, votes) in counts(&chosen, 6).iter().zip(votes) {
                let expected = count as f64 * votes / 10.5;
                assert!(
                    (*found as f64 - expected).abs() < 1.0,
                    "{found}, {expected}"
                );
            }
        }
        // The bound moves what is too much to the others in proportion.
        let bounded = select(&votes, &votes, 21, SelectionMode::Systematic, 9, &mut rng());
        assert_eq!(counts(&bounded, 6), [0, 3, 0, 9, 9, 0]);
        // All that have votes are full.
        let bounded = select(
            &[4.0, 0.0, 0.0],
            &[],
            6,
            SelectionMode::Systematic,
            2,
            &mut rng(),
        );
        assert_eq!(counts(&bounded, 3), [2; 3]);
        // On average, the numbers are those of `Sample`: half of 10,000 offsets round up.
        let mut rng = rng();
        let drawn = (0..10_000).map(|_| {
            let chosen = select(
                &[1.0, 1.0],
                &[],
                1,
                SelectionMode::Systematic,
                usize::MAX,
                &mut rng,
            );
            chosen.indices[0]
        });
        // Five standard deviations: false alarms 6 in 10 million.
        assert!((drawn.sum::<usize>() as f64 - 5000.0).abs() < 250.0);
    }

    #[test]
    fn rank_selects_the_best_once_and_starts_over() {
        for most in [2, usize::MAX] {
            let votes = [1.0, 5.0, 5.0, 0.0];
            let chosen = select(&votes, &votes, 6, SelectionMode::Rank, most, &mut rng());
            assert_eq!(chosen.indices, [1, 2, 0, 3, 1, 2]);
        }
        // Of equal votes, such as those below the threshold, the larger noisy count is first.
        let (votes, noisy) = ([0.0, 0.0, 3.0, 0.0], [-4.0, 1.0, 9.0, 5.0]);
        let chosen = select(
            &votes,
            &noisy,
            4,
            SelectionMode::Rank,
            usize::MAX,
            &mut rng(),
        );
        assert_eq!(chosen.indices, [2, 3, 1, 0]);
    }

    #[test]
    fn without_votes_parents_are_uniform() {
        for mode in [
            SelectionMode::Sample,
            SelectionMode::Systematic,
            SelectionMode::Rank,
        ] {
            let chosen = select(&[0.0; 4], &[0.0; 4], 400, mode, usize::MAX, &mut rng());
            assert!(chosen.uniform_fallback);
            assert!((0..4).all(|i| chosen.indices.contains(&i)));
            let bounded = select(&[0.0; 4], &[0.0; 4], 8, mode, 2, &mut rng());
            assert!(bounded.uniform_fallback);
            assert_eq!(counts(&bounded, 4), [2; 4]);
        }
    }

    fn counts(selection: &Selection, samples: usize) -> Vec<usize> {
        let mut counts = vec![0; samples];
        for index in &selection.indices {
            counts[*index] += 1;
        }
        counts
    }

    #[test]
    fn no_parent_is_selected_more_often_than_the_bound() {
        let mode = SelectionMode::Sample;
        let votes = [1000.0, 1.0, 1.0, 1.0, 0.0];
        let bounded = select(&votes, &votes, 40, mode, 20, &mut rng());
        let found = counts(&bounded, 5);
        assert_eq!((found[0], found[4], bounded.indices.len()), (20, 0, 40));
        // Without other votes, the others are drawn uniformly; all are full at the end.
        let bounded = select(&[3.0, 0.0, 0.0, 0.0], &[], 400, mode, 100, &mut rng());
        assert_eq!(counts(&bounded, 4), [100; 4]);
        assert!(!bounded.uniform_fallback);
        // A bound that does not bind changes nothing, and an impossible one selects all it can.
        let free = select(&votes, &votes, 40, mode, usize::MAX, &mut rng());
        assert_eq!(select(&votes, &votes, 40, mode, 40, &mut rng()), free);
        let impossible = select(&votes, &votes, 40, mode, 2, &mut rng());
        assert_eq!(counts(&impossible, 5), [2; 5]);
    }
}
