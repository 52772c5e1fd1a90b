//! [`Mechanism`]: the subject of an audit, and everything of one run that an observer sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::error::AuditError;
use crate::privacy::NoisyHistogram;

/// A data set on which the mechanism is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// The public images and the canary.
    WithCanary,
    /// The neighbor of that data set: the canary is absent (add-remove) or exchanged (replace-one).
    WithoutCanary,
    /// The public images and many canaries, each of which is included or not by its own coin.
    Coins,
}

/// A randomized algorithm that claims a privacy guarantee.
pub trait Mechanism: Sync {
    /// Runs the algorithm once and returns everything that it publishes. Runs with different
    /// numbers, and two runs with the same number, are independent if the mechanism is correct.
    ///
    /// # Errors
    /// Returns [`AuditError`] if the run failed.
    fn observe(&self, world: World, trial: u64) -> Result<Observation, AuditError>;
}

/// Everything that one run publishes.
#[derive(Debug, Clone)]
pub struct Observation {
    /// For each iteration, the histograms that were released under its charge. A correct mechanism
    /// releases one; a run that was restored from a copy may have released another.
    pub releases: Vec<Vec<NoisyHistogram>>,
    /// Everything that is published besides.
    pub transcript: Arc<Transcript>,
}

/// The part of an observation that should not depend on private images at all.
#[derive(Debug, PartialEq)]
pub struct Transcript(Value);

impl Transcript {
    /// Wraps the published facts.
    #[must_use]
    pub fn new(facts: Value) -> Arc<Self> {
        Arc::new(Self(facts))
    }

    /// Returns the JSON pointers (RFC 6901) of all values in which two transcripts differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare("", &self.0, &other.0, &mut found);
        found
    }
}

fn compare(pointer: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let missing = other.keys().filter(|key| !one.contains_key(*key));
            for key in one.keys().chain(missing) {
                let child = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (one.get(key), other.get(key)) {
                    (Some(one), Some(other)) => compare(&child, one, other, found),
                    _ => found.push(child),
                }
            }
        }
        _ if one == other => {}
        _ => found.push(pointer.to_owned()),
    }
}

/// The votes of one unit or of several, by bin.
pub type Votes = BTreeMap<usize, f64>;

/// A linear score of an observation: the sum over releases of weight·(count − expected), over some
/// bins, where each release has a factor of its own.
///
/// The noise of every bin of release t is Gaussian with the same σ_t in both worlds, and the images
/// are public, so the auditor knows by which votes v the expected histograms differ. The logarithm
/// of the likelihood ratio of T histograms h is then Σ ⟨v, h_t⟩/σ_t² plus a constant: this score
/// with the weights v and factors in proportion to 1/σ_t² is the most powerful one (Neyman, Pearson
/// 1933).
#[derive(Debug, Clone, Default)]
pub struct LinearScore {
    /// Bin, weight, and expected count.
    terms: Vec<(usize, f64, f64)>,
    /// The factor of each release; empty if all have the factor 1.
    factors: Arc<[f64]>,
}

impl LinearScore {
    /// Creates the score for the votes `cast` that are, in the other world, the votes `instead`.
    /// `expected` has the votes of all other units.
    #[must_use]
    pub fn new(cast: &Votes, instead: &Votes, expected: &Votes) -> Self {
        let mut weights = cast.clone();
        for (bin, votes) in instead {
            *weights.entry(*bin).or_default() -= votes;
        }
        let expected = |bin: usize| expected.get(&bin).copied().unwrap_or(0.0);
        Self {
            terms: weights
                .into_iter()
                .filter(|(_, weight)| *weight != 0.0)
                .map(|(bin, weight)| (bin, weight, expected(bin)))
                .collect(),
            factors: Arc::default(),
        }
    }

    /// Multiplies each release by its factor; those beyond the end have the factor 1.
    #[must_use]
    pub fn with_factors(mut self, factors: Arc<[f64]>) -> Self {
        self.factors = factors;
        self
    }

    /// Returns the L2 distance of the expected histograms of the two worlds, in votes.
    #[must_use]
    pub fn distance(&self) -> f64 {
        let squares = self.terms.iter().map(|(_, weight, _)| weight * weight);
        squares.sum::<f64>().sqrt()
    }

    /// Returns the score. Several histograms of the same charge are averaged, which reduces their
    /// noise if they are not equal. A bin that was not released contributes 0.
    #[must_use]
    pub fn of(&self, observation: &Observation) -> f64 {
        let mut score = 0.0;
        for (release, histograms) in observation.releases.iter().enumerate() {
            let factor = self.factors.get(release).copied().unwrap_or(1.0);
            let count = histograms.len() as f64 / factor;
            for histogram in histograms {
                let lattice = histogram.lattice();
                for (bin, weight, expected) in &self.terms {
                    if let Some(value) = lattice.get(*bin) {
                        let votes = *value as f64 * NoisyHistogram::spacing();
                        score += weight * (votes - expected) / count;
                    }
                }
            }
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named_by_their_pointers() {
        let one = Transcript::new(json!({"a": 1, "b": {"c": [1, 2], "d/e": 3}, "f": null}));
        let other = Transcript::new(json!({"a": 1, "b": {"c": [1], "d/e": 4}, "g": 0}));
        let found = one.differences(&other);
        assert_eq!(found, ["/b/c", "/b/d~1e", "/f", "/g"]);
        assert!(one.differences(&one).is_empty());
    }

    #[test]
    fn the_score_is_the_sum_of_the_changed_bins() {
        let histogram =
            |votes: &[i64]| NoisyHistogram::from_lattice(votes.iter().map(|v| v << 20).collect());
        let observation = Observation {
            releases: vec![
                vec![histogram(&[10, 2, 5]), histogram(&[12, 2, 5])],
                vec![histogram(&[9, 1, 7])],
            ],
            transcript: Transcript::new(Value::Null),
        };
        let votes = |votes: &[(usize, f64)]| votes.iter().copied().collect::<Votes>();
        let score = LinearScore::new(
            &votes(&[(0, 1.0), (1, 1.0), (7, 1.0)]),
            &votes(&[(2, 1.0), (1, 1.0)]),
            &votes(&[(0, 8.0), (2, 5.0)]),
        );
        // Bin 1 cancels, and there is no bin 7: (11 − 8) + (9 − 8) − (5 − 5) − (7 − 5)
        assert_eq!(score.of(&observation), 2.0);
        assert_eq!(score.distance(), 3f64.sqrt());
        // 3 − 0 from the first release, 1 − 2 from the second.
        let quarter = score.with_factors([1.0, 0.25].into());
        assert_eq!(quarter.of(&observation), 2.75);
    }
}
