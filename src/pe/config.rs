//! The `[evolution]` and `[output]` sections.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;
use crate::sections::{InvalidKey, Section};
use crate::voting::{Metric, SelectionMode};

/// `[evolution]`: the parameters of Algorithms 1 and 2 of arXiv 2305.15560.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvolutionConfig {
    /// Images in each population (N_syn); a list begins with the initial population.
    pub num_samples: Schedule<u64>,
    /// Strength of variations, in the unit of the model; a list begins with the initial population.
    pub variation_degree: Schedule<f64>,
    /// Number of iterations (T); needed where no schedule is a list, and must agree with those
    /// that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    /// Variations whose mean embedding represents a sample in the vote; 0 embeds the sample itself.
    #[serde(default)]
    pub lookahead_degree: u32,
    /// Votes of each private image, for its `k` nearest samples.
    #[serde(default = "one")]
    pub nearest_neighbors: u32,
    /// Distance in the embedding space.
    #[serde(default)]
    pub metric: Metric,
    /// Threshold (H) that is subtracted from the noisy votes; less than it counts as no vote.
    #[serde(default)]
    pub threshold: f64,
    /// Selection of parents by their votes.
    #[serde(default)]
    pub selection: SelectionMode,
    /// Adds the parents to the next population, beside their variations.
    #[serde(default)]
    pub keep_selected: bool,
    /// Variations of each random image that join the initial population.
    #[serde(default)]
    pub initial_variations: u32,
    /// Variations of each parent that join the next population.
    #[serde(default = "one")]
    pub next_variations: u32,
    /// Declared (public) share of each class in a population; equal shares otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_shares: Option<BTreeMap<String, f64>>,
    /// File of samples that replaces random images as the initial population.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_samples: Option<PathBuf>,
    /// Seed of all random numbers except the privacy noise.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> u32 {
    1
}

/// `[output]`: the result folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// Path of the result folder.
    pub folder: PathBuf,
    /// Also writes every sample as `<iteration>/<index>.png`.
    #[serde(default)]
    pub plot_images: bool,
}

/// The public shape of one population.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PopulationSpec {
    /// Number of images.
    pub num_samples: u64,
    /// Degree of the variations from which the population is made.
    pub variation_degree: f64,
}

// Larger values are typing errors. With these limits, the products of sizes stay far below 64 bits.
const MAX_ITERATIONS: u32 = 100_000;
const MAX_FOLD: u32 = 10_000;
const MAX_SAMPLES: u64 = 1_000_000_000;

impl Section for EvolutionConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["initial_samples"];
}

impl EvolutionConfig {
    /// Checks everything that can be checked without data.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        for (key, fold) in [
            ("lookahead_degree", self.lookahead_degree),
            ("initial_variations", self.initial_variations),
            ("next_variations", self.next_variations),
        ] {
            if fold > MAX_FOLD {
                let message = format!("is {fold}: expected at most {MAX_FOLD}");
                return Err(InvalidKey::new(key, message));
            }
        }
        let populations = self.populations()?;
        let valid = |spec: &PopulationSpec| (1..=MAX_SAMPLES).contains(&spec.num_samples);
        if let Some(spec) = populations.iter().find(|spec| !valid(spec)) {
            let count = spec.num_samples;
            let message = format!("is {count}: expected 1 to {MAX_SAMPLES} in every population");
            return Err(InvalidKey::new("num_samples", message));
        }
        if self.nearest_neighbors == 0 {
            let key = "nearest_neighbors";
            return Err(InvalidKey::new(key, "expected at least 1"));
        }
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            let message = format!("is {}: expected a number of at least 0", self.threshold);
            return Err(InvalidKey::new("threshold", message));
        }
        if self.next_variations == 0 && !self.keep_selected {
            let message = "0 without keep_selected leaves no next population";
            return Err(InvalidKey::new("next_variations", message));
        }
        if self.seed > i64::MAX as u64 {
            let message = format!("expected at most {}", i64::MAX);
            return Err(InvalidKey::new("seed", message));
        }
        Ok(())
    }

    /// Returns the settings of a run that goes on from a finished run of these settings, for
    /// `iterations` more: its initial population is the last one of the finished run, in the file
    /// `samples`.
    ///
    /// Schedules continue with their last value: a list is for exactly `1 + T` populations, so it
    /// says nothing about later ones. The seed is the next one, because iterations are counted
    /// from 1 again and would otherwise generate variations with the same random numbers.
    ///
    /// # Errors
    /// As [`EvolutionConfig::populations`].
    pub fn extended(&self, iterations: u32, samples: PathBuf) -> Result<Self, InvalidKey> {
        let populations = self.populations()?;
        let mut extended = Self {
            iterations: Some(iterations),
            initial_samples: Some(samples),
            seed: self.seed.wrapping_add(1) & i64::MAX as u64,
            ..self.clone()
        };
        if let Some(last) = populations.last() {
            extended.num_samples = Schedule::Constant(last.num_samples);
            extended.variation_degree = Schedule::Constant(last.variation_degree);
        }
        if populations.len() > 1 {
            // Classes of the last population are multiples of the later fold, and those of the
            // initial population are multiples of the initial one.
            let fold = u32::try_from(self.next_fold()).unwrap_or(u32::MAX);
            extended.initial_variations = fold.saturating_sub(1);
        }
        Ok(extended)
    }

    /// Expands the schedules to the `1 + T` populations.
    ///
    /// # Errors
    /// The key that does not agree with the others on T.
    pub fn populations(&self) -> Result<Vec<PopulationSpec>, InvalidKey> {
        let count = self.population_count()?;
        let wrong_length = |key| move || InvalidKey::new(key, "wrong number of entries");
        let counts = self.num_samples.expand(count);
        let degrees = self.variation_degree.expand(count);
        Ok(counts
            .ok_or_else(wrong_length("num_samples"))?
            .into_iter()
            .zip(degrees.ok_or_else(wrong_length("variation_degree"))?)
            .map(|(num_samples, variation_degree)| PopulationSpec {
                num_samples,
                variation_degree,
            })
            .collect())
    }

    /// Returns the number of populations, `1 + T`, on which `iterations` and the schedules agree.
    fn population_count(&self) -> Result<usize, InvalidKey> {
        if self.iterations.is_some_and(|t| t > MAX_ITERATIONS) {
            let message = format!("expected at most {MAX_ITERATIONS}");
            return Err(InvalidKey::new("iterations", message));
        }
        let mut count = self.iterations.map(|t| t as usize + 1);
        for (key, length) in [
            ("num_samples", self.num_samples.len()),
            ("variation_degree", self.variation_degree.len()),
        ] {
            match (count, length) {
                (Some(expected), Some(found)) if expected != found => {
                    let message = format!(
                        "{found} entries where {expected} were expected: one for the initial \
                         population and one for each of {} iterations",
                        expected - 1
                    );
                    return Err(InvalidKey::new(key, message));
                }
                (None, Some(0)) => return Err(InvalidKey::new(key, "an empty list")),
                (None, Some(found)) => count = Some(found),
                _ => {}
            }
        }
        count.ok_or_else(|| {
            let message = "missing: needed when no schedule is a list or a range";
            InvalidKey::new("iterations", message)
        })
    }

    /// Returns the number of images that each random image contributes to the initial population.
    #[must_use]
    pub fn initial_fold(&self) -> u64 {
        1 + u64::from(self.initial_variations)
    }

    /// Returns the number of images that each parent contributes to a later population.
    #[must_use]
    pub fn next_fold(&self) -> u64 {
        u64::from(self.next_variations) + u64::from(self.keep_selected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_goes_on_with_the_last_values() {
        let parse = |text: &str| toml::from_str::<EvolutionConfig>(text).unwrap();
        let finished = parse(
            "num_samples = [20, 30]\nvariation_degree = 4\nkeep_selected = true\n\
             next_variations = 2\ninitial_variations = 1\nseed = 9223372036854775807",
        );
        let extended = finished.extended(2, "s.npz".into()).unwrap();
        extended.validate().unwrap();
        let spec = PopulationSpec {
            num_samples: 30,
            variation_degree: 4.0,
        };
        assert_eq!(extended.populations().unwrap(), [spec; 3]);
        assert_eq!(extended.initial_samples, Some("s.npz".into()));
        // The initial population is divided as the last one was.
        assert_eq!(extended.initial_fold(), finished.next_fold());
        assert_eq!(extended.seed, 0);
        // Without iterations, the last population is the initial one.
        let none = parse("num_samples = 20\nvariation_degree = [4]\ninitial_variations = 1");
        let extended = none.extended(1, "s.npz".into()).unwrap();
        assert_eq!((extended.initial_fold(), extended.seed), (2, 1));
        assert_eq!(extended.populations().unwrap().len(), 2);
    }
}
