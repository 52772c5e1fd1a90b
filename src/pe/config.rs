//! The `[evolution]` and `[output]` sections.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::sections::{InvalidKey, Section};
use crate::voting::{Metric, SelectionMode};

/// `[evolution]`: the PE loop. Paper: Algorithm 1 and 2 of arXiv 2305.15560.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvolutionConfig {
    /// Images in each population; a list starts with the initial population's.
    pub num_samples: Schedule<u64>,
    /// How far variations go, in the model's own unit; a list starts with the initial population's.
    pub variation_degree: Schedule<f64>,
    /// PE iterations; needed where no schedule is a list, and must agree with those that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    /// Variations whose mean embedding stands for a sample in the vote; 0 embeds the sample itself.
    #[serde(default)]
    pub lookahead_degree: u32,
    /// Votes of each private image, for its `k` nearest samples.
    #[serde(default = "one")]
    pub nearest_neighbors: u32,
    /// What "nearest" means.
    #[serde(default)]
    pub metric: Metric,
    /// Noisy votes up to here count as none; it is subtracted from the others.
    #[serde(default)]
    pub threshold: f64,
    /// How parents are chosen.
    #[serde(default)]
    pub selection: SelectionMode,
    /// Whether parents live on beside their variations.
    #[serde(default)]
    pub keep_selected: bool,
    /// Variations of each random image that join the initial population.
    #[serde(default)]
    pub initial_variations: u32,
    /// Variations of each parent that make the next population.
    #[serde(default = "one")]
    pub next_variations: u32,
    /// Declared (public) share of each class in a population; equal shares otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_shares: Option<BTreeMap<String, f64>>,
    /// A `samples.npz` to start from instead of random images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_samples: Option<PathBuf>,
    /// Seed of everything but the privacy noise.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> u32 {
    1
}

/// `[output]`: where results go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// The result folder.
    pub folder: PathBuf,
    /// Whether every sample is also written as `<iteration>/<index>.png`.
    #[serde(default)]
    pub plot_images: bool,
}

/// One population's public shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PopulationSpec {
    /// Images in it.
    pub num_samples: u64,
    /// Degree of the variations that lead to it.
    pub variation_degree: f64,
}

/// More of these are mistyped; products of them stay far below 64 bits.
const MAX_ITERATIONS: u32 = 100_000;
const MAX_FOLD: u32 = 10_000;
const MAX_SAMPLES: u64 = 1_000_000_000;

impl Section for EvolutionConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["initial_samples"];
}

impl EvolutionConfig {
    /// Checks what can be checked without data and expands the schedules: one [`PopulationSpec`] for each of
    /// `1 + T` populations.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn generations(&self) -> Result<Vec<PopulationSpec>, InvalidKey> {
        let lengths = [
            ("num_samples", self.num_samples.populations()),
            ("variation_degree", self.variation_degree.populations()),
        ];
        if self.iterations.is_some_and(|t| t > MAX_ITERATIONS) {
            return Err(InvalidKey::new(
                "iterations",
                format!("expected at most {MAX_ITERATIONS}"),
            ));
        }
        for (key, fold) in [
            ("lookahead_degree", self.lookahead_degree),
            ("initial_variations", self.initial_variations),
            ("next_variations", self.next_variations),
        ] {
            if fold > MAX_FOLD {
                return Err(InvalidKey::new(
                    key,
                    format!("is {fold}: expected at most {MAX_FOLD}"),
                ));
            }
        }
        let mut populations = self.iterations.map(|t| t as usize + 1);
        for (key, length) in lengths {
            match (populations, length) {
                (Some(expected), Some(found)) if expected != found => {
                    return Err(InvalidKey::new(
                        key,
                        format!(
                            "{found} entries where {expected} were expected: the initial population's and one for each of {} iterations",
                            expected - 1
                        ),
                    ));
                }
                (None, Some(0)) => return Err(InvalidKey::new(key, "an empty list".to_owned())),
                (None, Some(found)) => populations = Some(found),
                _ => {}
            }
        }
        let populations = populations.ok_or_else(|| {
            InvalidKey::new(
                "iterations",
                "missing: needed when no schedule is a list or a range",
            )
        })?;
        let expand = |key: &'static str| move || InvalidKey::new(key, "wrong number of entries");
        let counts = self
            .num_samples
            .expand(populations)
            .ok_or_else(expand("num_samples"))?;
        let degrees = self
            .variation_degree
            .expand(populations)
            .ok_or_else(expand("variation_degree"))?;
        if let Some(count) = counts.iter().find(|n| !(1..=MAX_SAMPLES).contains(*n)) {
            let message = format!("is {count}: expected 1 to {MAX_SAMPLES} in every population");
            return Err(InvalidKey::new("num_samples", message));
        }
        if self.nearest_neighbors == 0 {
            return Err(InvalidKey::new(
                "nearest_neighbors",
                "expected at least 1".to_owned(),
            ));
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return Err(InvalidKey::new(
                "threshold",
                format!(
                    "{} where a number of at least 0 was expected",
                    self.threshold
                ),
            ));
        }
        if self.next_variations == 0 && !self.keep_selected {
            return Err(InvalidKey::new(
                "next_variations",
                "0 without keep_selected leaves no next population".to_owned(),
            ));
        }
        if self.seed > i64::MAX as u64 {
            return Err(InvalidKey::new(
                "seed",
                format!("expected at most {}", i64::MAX),
            ));
        }
        Ok(counts
            .into_iter()
            .zip(degrees)
            .map(|(num_samples, variation_degree)| PopulationSpec {
                num_samples,
                variation_degree,
            })
            .collect())
    }

    /// Images that each random image accounts for in the initial population.
    #[must_use]
    pub fn initial_fold(&self) -> u64 {
        1 + u64::from(self.initial_variations)
    }

    /// Images that each parent accounts for in a later population.
    #[must_use]
    pub fn next_fold(&self) -> u64 {
        u64::from(self.next_variations) + u64::from(self.keep_selected)
    }
}
