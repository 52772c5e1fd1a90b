//! The threshold H of the noisy votes, and what it lets pass.
//!
//! # The rule of `threshold = "auto"`
//!
//! Let ρ be the votes of a class divided by its samples and by the standard deviation of the noise
//! (all classes are taken as equally large). Suppose that a share f of the samples have votes x,
//! exponentially distributed with mean ρ/f, in standard deviations. Parents are drawn from the
//! distribution that is proportional to max(x + z − c, 0), with standard normal z. The rule is the
//! c that minimizes the expected total variation distance of it from the distribution that is
//! proportional to the votes themselves,
//!
//! ```text
//! TV(c) = ½ E |max(x + z − c, 0) / E max(x + z − c, 0) − x/ρ|
//! ```
//!
//! From ρ = 0.4 on, that is 0.85; it falls to 0.7 at 0.2 and to 0 at 0.1, because a threshold then
//! keeps the samples with the largest noise. f is 0.3: the estimates in `log.txt` for generators
//! that fit were 0.39 to 0.77, and fewer samples with votes have more votes each. `docs/utility.md`
//! compares the rule with fixed thresholds by the accuracy of classifiers.
//!
//! # Parents without votes
//!
//! A sample without votes keeps g(c) = φ(c) − c·(1 − Φ(c)) on average, so the share of parents that
//! are drawn for their noise alone is
//!
//! ```text
//! share(c, ρ) = (1−f)·g(c) / ((1−f)·g(c) + f·E g(c − x))
//! ```

use std::f64::consts::{PI, SQRT_2};

use serde::{Serialize, Serializer};

use crate::schedule::{Scalar, Scheduled};

/// `evolution.threshold`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Chosen by the rule of this module.
    Auto,
    /// A number of votes, at least 0.
    Votes(f64),
}

impl Threshold {
    /// Returns a number of votes that is set by the configuration.
    #[must_use]
    pub fn votes(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Votes(votes) => Some(votes),
        }
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self::Votes(0.0)
    }
}

impl Scheduled for Threshold {
    const EXPECTED: &'static str = "a finite number or \"auto\"";
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Text(text) if text == "auto" => Some(Self::Auto),
            other => f64::from_scalar(other).map(Self::Votes),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Votes(votes) => votes.serialize(serializer),
        }
    }
}

/// Assumed share of the samples that have votes (f).
const VOTED_SHARE: f64 = 0.3;
/// Largest automatic threshold and its steps, in standard deviations of the noise.
const MOST: f64 = 2.0;
const STEP: f64 = 0.05;

/// Votes, samples and noise of one iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoteStrength {
    /// Standard deviation of the noise, in votes.
    pub noise: f64,
    /// Votes for each sample on average, divided by `noise` (ρ).
    pub ratio: f64,
}

impl VoteStrength {
    /// Returns the strength of `votes` votes for `samples` samples.
    #[must_use]
    pub fn new(votes: f64, samples: u64, noise: f64) -> Self {
        Self {
            noise,
            ratio: votes / samples.max(1) as f64 / noise,
        }
    }

    /// Returns the automatic threshold in votes, 0 without noise.
    #[must_use]
    pub fn auto(&self) -> f64 {
        if self.noise <= 0.0 {
            return 0.0;
        }
        // The rule is the same for all stronger votes, whose nodes would be too far apart.
        let prior = Prior::new(self.ratio.min(10.0));
        let steps = (MOST / STEP).round() as u32;
        let factors = (0..=steps).map(|step| f64::from(step) * STEP);
        let distances = factors.map(|factor| (factor, prior.total_variation(factor)));
        let nearest = distances.min_by(|(_, a), (_, b)| a.total_cmp(b));
        let votes = nearest.map_or(0.0, |(factor, _)| factor) * self.noise;
        if votes == 0.0 {
            return 0.0;
        }
        // Three digits, so that the plan shows the number that is used.
        let digits = 10f64.powi(2 - votes.log10().floor() as i32);
        (votes * digits).round() / digits
    }

    /// Returns the expected share of parents that are sampled for their noise alone, with a
    /// threshold in votes. 0 without noise.
    #[must_use]
    pub fn noise_only_share(&self, threshold: f64) -> f64 {
        // Intervals of the integral over the votes of a sample, up to 20 times their mean.
        const INTERVALS: u32 = 2000;
        if self.noise <= 0.0 {
            return 0.0;
        }
        let factor = threshold / self.noise;
        let mean = self.ratio / VOTED_SHARE;
        let unvoted = (1.0 - VOTED_SHARE) * excess(factor);
        let width = 20.0 / f64::from(INTERVALS);
        let passed = (0..INTERVALS).map(|interval| {
            let multiple = (f64::from(interval) + 0.5) * width;
            (-multiple).exp() * width * excess(factor - multiple * mean)
        });
        let voted = VOTED_SHARE * passed.sum::<f64>();
        if unvoted + voted > 0.0 {
            unvoted / (unvoted + voted)
        } else {
            1.0 - VOTED_SHARE
        }
    }
}

/// Assumed votes x of the samples and their noise z, as nodes with weights that sum to 1.
struct Prior {
    ratio: f64,
    votes: Vec<(f64, f64)>,
    noise: Vec<(f64, f64)>,
}

impl Prior {
    fn new(ratio: f64) -> Self {
        const NODES: u32 = 240;
        let nodes = |node: u32| (f64::from(node) + 0.5) / f64::from(NODES);
        // Midpoints of quantiles: the votes of samples that have some.
        let voted = (0..NODES).map(|node| {
            let votes = -(1.0 - nodes(node)).ln() * ratio / VOTED_SHARE;
            (votes, VOTED_SHARE / f64::from(NODES))
        });
        let noise: Vec<(f64, f64)> = (0..NODES)
            .map(|node| {
                let z = 12.0 * nodes(node) - 6.0;
                (z, (-z * z / 2.0).exp())
            })
            .collect();
        let total: f64 = noise.iter().map(|(_, weight)| weight).sum();
        Self {
            ratio,
            votes: voted.chain([(0.0, 1.0 - VOTED_SHARE)]).collect(),
            noise: noise
                .iter()
                .map(|(z, weight)| (*z, weight / total))
                .collect(),
        }
    }

    /// Returns the expected total variation distance with a threshold of `factor` standard
    /// deviations.
    fn total_variation(&self, factor: f64) -> f64 {
        let mean = self.expect(|votes, z| (votes + z - factor).max(0.0));
        let apart =
            |votes: f64, z: f64| ((votes + z - factor).max(0.0) / mean - votes / self.ratio).abs();
        self.expect(apart) / 2.0
    }

    fn expect(&self, value: impl Fn(f64, f64) -> f64) -> f64 {
        let of_votes = |votes: f64| -> f64 {
            let of_noise = self
                .noise
                .iter()
                .map(|(z, weight)| weight * value(votes, *z));
            of_noise.sum()
        };
        let terms = self
            .votes
            .iter()
            .map(|(votes, weight)| weight * of_votes(*votes));
        terms.sum()
    }
}

/// Returns E max(z − c, 0) for a standard normal z.
fn excess(c: f64) -> f64 {
    let density = (-c * c / 2.0).exp() / (2.0 * PI).sqrt();
    density - c * 0.5 * libm::erfc(c / SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use crate::streams::{Phase, RngKey};

    const SAMPLES: usize = 300_000;

    /// Draws votes and noise of samples, in standard deviations, by the assumption of the rule.
    fn simulated(seed: u64, ratio: f64) -> Vec<(f64, f64)> {
        let key = RngKey {
            seed,
            phase: Phase::Select,
            iteration: 1,
            repeat: 0,
            sample: 0,
        };
        let mut rng = key.rng();
        let mut noise = vec![0f32; SAMPLES];
        rng.fill_normal(&mut noise);
        let draw = |z: &f32| match rng.uniform() < VOTED_SHARE {
            true => (-rng.uniform().ln() * ratio / VOTED_SHARE, f64::from(*z)),
            false => (0.0, f64::from(*z)),
        };
        noise.iter().map(draw).collect()
    }

    #[test]
    fn the_noise_only_share_is_that_of_a_simulation() {
        for (ratio, factor) in [(0.2, 1.0), (1.0, 1.5), (4.0, 0.0)] {
            let strength = VoteStrength { noise: 5.0, ratio };
            let (mut unvoted, mut all) = (0.0, 0.0);
            for (votes, z) in simulated(3, ratio) {
                let passed = (votes + z - factor).max(0.0);
                all += passed;
                unvoted += if votes > 0.0 { 0.0 } else { passed };
            }
            // Standard deviations of the estimate are below 0.002: false alarms below 10⁻⁵.
            let found = strength.noise_only_share(factor * 5.0);
            assert!(
                (found - unvoted / all).abs() < 0.01,
                "{found}, {}",
                unvoted / all
            );
        }
    }

    #[test]
    fn the_rule_minimizes_the_distance_and_falls_for_weak_votes() {
        let auto = |ratio| VoteStrength { noise: 1.0, ratio }.auto();
        for (ratio, expected) in [
            (0.02, 0.0),
            (0.1, 0.0),
            (0.25, 0.75),
            (1.0, 0.85),
            (10.0, 0.85),
            (1000.0, 0.85),
        ] {
            let found = auto(ratio);
            assert!((found - expected).abs() < 0.03, "{ratio}: {found}");
        }
        let ratios = [0.02, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0];
        assert!(ratios.windows(2).all(|pair| auto(pair[0]) <= auto(pair[1])));
        // The distance beside one of a simulation of 300,000 samples, whose error is below 0.005.
        let prior = Prior::new(1.0);
        let drawn = simulated(4, 1.0);
        for factor in [0.0, 0.9, 2.0] {
            let passed = |(x, z): &(f64, f64)| (x + z - factor).max(0.0);
            let mean = drawn.iter().map(passed).sum::<f64>() / SAMPLES as f64;
            let apart = drawn.iter().map(|one| (passed(one) / mean - one.0).abs());
            let expected = apart.sum::<f64>() / (2 * SAMPLES) as f64;
            let found = prior.total_variation(factor);
            assert!((found - expected).abs() < 0.01, "{found}, {expected}");
        }
        // In the unit of the noise, rounded to three digits.
        let strength = VoteStrength::new(30_000.0, 4_000, 7.4612);
        assert!((strength.auto() / 7.4612 - 0.85).abs() < 0.01);
        assert_eq!((strength.auto() * 100.0).round() / 100.0, strength.auto());
        assert_eq!(VoteStrength::new(9.0, 3, 0.0).auto(), 0.0);
        assert_eq!(VoteStrength::new(9.0, 3, 0.0).noise_only_share(4.0), 0.0);
    }

    #[test]
    fn the_share_falls_with_the_threshold_and_the_votes() {
        for ratio in [0.01, 0.3, 5.0] {
            let share = |c: f64| VoteStrength { noise: 2.0, ratio }.noise_only_share(2.0 * c);
            assert!(share(0.0) > share(1.0) && share(1.0) > share(2.5));
            let stronger = VoteStrength {
                noise: 2.0,
                ratio: 2.0 * ratio,
            };
            assert!(stronger.noise_only_share(2.0) < share(1.0));
            // Beyond all that can pass, the shares of the samples remain.
            assert!((0.0..=1.0).contains(&share(60.0)));
        }
    }

    #[test]
    fn the_word_and_numbers_are_read_and_written() {
        #[derive(serde::Deserialize, Serialize, PartialEq, Debug)]
        struct Keys {
            threshold: Schedule<Threshold>,
        }
        let keys: Keys = toml::from_str("threshold = ['auto', 4, 2.5]").unwrap();
        let expected = [
            Threshold::Auto,
            Threshold::Votes(4.0),
            Threshold::Votes(2.5),
        ];
        assert_eq!(keys.threshold, Schedule::List(expected.to_vec()));
        let written = toml::to_string(&keys).unwrap();
        assert_eq!(toml::from_str::<Keys>(&written).unwrap(), keys);
        let error = toml::from_str::<Keys>("threshold = 'often'").unwrap_err();
        assert!(error.to_string().contains("\"auto\""), "{error}");
    }
}
