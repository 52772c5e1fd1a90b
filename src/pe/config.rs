//! The `[evolution]` and `[output]` sections.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::threshold::Threshold;
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
    /// that are. The lists below have one value for each iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    /// Variations whose mean embedding represents a sample in the vote; 0 embeds the sample itself.
    #[serde(default)]
    pub lookahead_degree: Schedule<u32>,
    /// Votes of each private image, for its `k` nearest samples.
    #[serde(default = "one")]
    pub nearest_neighbors: Schedule<u32>,
    /// Distance in the embedding space.
    #[serde(default)]
    pub metric: Metric,
    /// Threshold (H) that is subtracted from the noisy votes; less than it counts as no vote.
    /// `"auto"` follows from the declared number of private images, the samples and the noise.
    #[serde(default)]
    pub threshold: Schedule<Threshold>,
    /// Exponent of the share of a sample's nearest samples that have its class: the votes of each
    /// sample are multiplied by that power before parents are selected. 0 leaves them as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub class_agreement: Schedule<f64>,
    /// Selection of parents by their votes.
    #[serde(default)]
    pub selection: Schedule<SelectionMode>,
    /// Adds the parents to the next population, beside their variations.
    #[serde(default)]
    pub keep_selected: Schedule<bool>,
    /// Variations of each random image that join the initial population.
    #[serde(default)]
    pub initial_variations: u32,
    /// Variations of each parent that join the next population.
    #[serde(default = "one")]
    pub next_variations: Schedule<u32>,
    /// Most samples of a population that may come from one parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_children: Option<u64>,
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

fn one() -> Schedule<u32> {
    Schedule::Constant(1)
}

fn is_zero(schedule: &Schedule<f64>) -> bool {
    *schedule == Schedule::Constant(0.0)
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

/// The rules of one iteration: how the population before it is voted on and how the next one is
/// made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IterationRules {
    /// Variations whose mean embedding represents a sample; 0 embeds the sample itself.
    pub lookahead_degree: u32,
    /// Votes of each private image.
    pub nearest_neighbors: u32,
    /// Threshold (H) of the noisy votes.
    pub threshold: Threshold,
    /// Exponent of the share of near samples that have the class of a sample.
    pub class_agreement: f64,
    /// Selection of parents.
    pub selection: SelectionMode,
    /// Adds the parents to the next population.
    pub keep_selected: bool,
    /// Variations of each parent.
    pub next_variations: u32,
}

impl IterationRules {
    /// Returns the number of images that each parent contributes to the next population.
    #[must_use]
    pub fn next_fold(&self) -> u64 {
        u64::from(self.next_variations) + u64::from(self.keep_selected)
    }
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
        for (key, folds) in [
            ("lookahead_degree", self.lookahead_degree.values()),
            ("initial_variations", &[self.initial_variations]),
            ("next_variations", self.next_variations.values()),
        ] {
            if let Some(fold) = folds.iter().find(|fold| **fold > MAX_FOLD) {
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
        if self.nearest_neighbors.values().contains(&0) {
            let key = "nearest_neighbors";
            return Err(InvalidKey::new(key, "expected at least 1"));
        }
        let thresholds = self.threshold.values().iter();
        let votes = thresholds.filter_map(|threshold| threshold.votes());
        for (key, values) in [
            ("threshold", votes.collect()),
            ("class_agreement", self.class_agreement.values().to_vec()),
        ] {
            let mut values = values.into_iter();
            if let Some(value) = values.find(|value| !(value.is_finite() && *value >= 0.0)) {
                let message = format!("is {value}: expected a number of at least 0");
                return Err(InvalidKey::new(key, message));
            }
        }
        let rules = self.rules()?;
        // Without iterations, the constants are still those that a longer run would have.
        let none =
            self.next_variations.get(0) == Some(&0) && self.keep_selected.get(0) == Some(&false);
        if none || rules.iter().any(|rules| rules.next_fold() == 0) {
            let message = "0 without keep_selected leaves no next population";
            return Err(InvalidKey::new("next_variations", message));
        }
        self.check_children(&rules)?;
        if self.seed > i64::MAX as u64 {
            let message = format!("expected at most {}", i64::MAX);
            return Err(InvalidKey::new("seed", message));
        }
        Ok(())
    }

    /// Refuses a bound on children that is below the children of one selection.
    fn check_children(&self, rules: &[IterationRules]) -> Result<(), InvalidKey> {
        let Some(most) = self.max_children else {
            return Ok(());
        };
        let fold = rules
            .iter()
            .map(IterationRules::next_fold)
            .max()
            .unwrap_or(1);
        if most >= fold.max(1) {
            return Ok(());
        }
        let message = format!(
            "is {most}: expected at least {fold}, because a selected parent has {fold} children \
             (next_variations and keep_selected)"
        );
        Err(InvalidKey::new("max_children", message))
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
        fn last<T: Clone>(schedule: &mut Schedule<T>) {
            if let Some(value) = schedule.last().cloned() {
                *schedule = Schedule::Constant(value);
            }
        }
        last(&mut extended.lookahead_degree);
        last(&mut extended.nearest_neighbors);
        last(&mut extended.threshold);
        last(&mut extended.class_agreement);
        last(&mut extended.selection);
        last(&mut extended.keep_selected);
        last(&mut extended.next_variations);
        if let Some(rules) = self.rules()?.last() {
            // Classes of the last population are multiples of the later fold, and those of the
            // initial population are multiples of the initial one.
            let fold = u32::try_from(rules.next_fold()).unwrap_or(u32::MAX);
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

    /// Expands the schedules to the rules of the T iterations.
    ///
    /// # Errors
    /// The key that does not agree with the others on T.
    pub fn rules(&self) -> Result<Vec<IterationRules>, InvalidKey> {
        let iterations = self.population_count()?.saturating_sub(1);
        let rules = (0..iterations).map(|index| {
            Some(IterationRules {
                lookahead_degree: *self.lookahead_degree.get(index)?,
                nearest_neighbors: *self.nearest_neighbors.get(index)?,
                threshold: *self.threshold.get(index)?,
                class_agreement: *self.class_agreement.get(index)?,
                selection: *self.selection.get(index)?,
                keep_selected: *self.keep_selected.get(index)?,
                next_variations: *self.next_variations.get(index)?,
            })
        });
        // The lengths were compared.
        let rules: Option<Vec<IterationRules>> = rules.collect();
        rules.ok_or_else(|| InvalidKey::new("iterations", "wrong number of entries"))
    }

    /// Returns the number of populations, `1 + T`, on which `iterations` and the schedules agree.
    fn population_count(&self) -> Result<usize, InvalidKey> {
        if self.iterations.is_some_and(|t| t > MAX_ITERATIONS) {
            let message = format!("expected at most {MAX_ITERATIONS}");
            return Err(InvalidKey::new("iterations", message));
        }
        // Values for each population, and values for each iteration.
        let lists = [
            ("num_samples", self.num_samples.len(), 1),
            ("variation_degree", self.variation_degree.len(), 1),
            ("lookahead_degree", self.lookahead_degree.len(), 0),
            ("nearest_neighbors", self.nearest_neighbors.len(), 0),
            ("threshold", self.threshold.len(), 0),
            ("class_agreement", self.class_agreement.len(), 0),
            ("selection", self.selection.len(), 0),
            ("keep_selected", self.keep_selected.len(), 0),
            ("next_variations", self.next_variations.len(), 0),
        ];
        let mut count = self.iterations.map(|t| t as usize + 1);
        for (key, length, initial) in lists {
            let Some(found) = length else { continue };
            match count {
                Some(count) if found + 1 != count + initial => {
                    let expected = count + initial - 1;
                    let each = format!("one for each of {} iterations", count - 1);
                    let meaning = match initial {
                        0 => each,
                        _ => format!("one for the initial population and {each}"),
                    };
                    let message =
                        format!("{found} entries where {expected} were expected: {meaning}");
                    return Err(InvalidKey::new(key, message));
                }
                None if found == 0 => return Err(InvalidKey::new(key, "an empty list")),
                None => count = Some(found + 1 - initial),
                Some(_) => {}
            }
        }
        count.ok_or_else(|| {
            let message = "missing: needed when no schedule is a list or a range";
            InvalidKey::new("iterations", message)
        })
    }

    /// Returns how often a parent may be selected for the next population of `rules`.
    #[must_use]
    pub fn max_selections(&self, rules: &IterationRules) -> usize {
        let most = self
            .max_children
            .map(|most| most / rules.next_fold().max(1));
        most.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        })
    }

    /// Returns the number of images that each random image contributes to the initial population.
    #[must_use]
    pub fn initial_fold(&self) -> u64 {
        1 + u64::from(self.initial_variations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> EvolutionConfig {
        toml::from_str::<EvolutionConfig>(text).unwrap()
    }

    #[test]
    fn rules_have_one_value_for_each_iteration() {
        let config = parse(
            "num_samples = 8\nvariation_degree = [9, 1, 2, 3]\nthreshold = [0, 1.5, 4]\n\
             selection = ['sample', { value = 'rank', times = 2 }]\n\
             keep_selected = [false, true, true]\nnext_variations = [1, 3, 0]\n\
             lookahead_degree = 2\nnearest_neighbors = [3, 2, 1]",
        );
        config.validate().unwrap();
        let rules = config.rules().unwrap();
        let folds: Vec<u64> = rules.iter().map(IterationRules::next_fold).collect();
        assert_eq!(folds, [1, 4, 1]);
        let expected = IterationRules {
            lookahead_degree: 2,
            nearest_neighbors: 2,
            threshold: Threshold::Votes(1.5),
            class_agreement: 0.0,
            selection: SelectionMode::Rank,
            keep_selected: true,
            next_variations: 3,
        };
        assert_eq!(rules[1], expected);
        // They continue with the last value.
        let extended = config.extended(2, "s.npz".into()).unwrap();
        let [first, second] = extended.rules().unwrap()[..] else {
            panic!("two iterations");
        };
        assert_eq!((first, second), (rules[2], rules[2]));
        assert_eq!(extended.initial_fold(), 1);
    }

    #[test]
    fn lists_must_agree_on_the_number_of_iterations() {
        let refusal = |text: &str| {
            let text = format!("num_samples = 8\n{text}");
            parse(&text).validate().unwrap_err().to_string()
        };
        let three = "variation_degree = [1, 1, 1, 1]\n";
        assert_eq!(
            refusal(&format!("{three}threshold = [1, 2, 3, 4]")),
            "threshold: 4 entries where 3 were expected: one for each of 3 iterations"
        );
        let error =
            refusal("variation_degree = 1\nselection = ['rank']\nkeep_selected = [true, true]");
        assert!(
            error.starts_with("keep_selected: 2 entries where 1"),
            "{error}"
        );
        let error = refusal("variation_degree = 1\niterations = 2\nthreshold = []");
        assert!(error.starts_with("threshold: 0 entries where 2"), "{error}");
        assert!(refusal("variation_degree = 1\nthreshold = []").contains("an empty list"));
        let error = refusal(&format!("{three}next_variations = [1, 0, 1]"));
        assert!(error.contains("leaves no next population"), "{error}");
        let error = refusal(&format!("{three}nearest_neighbors = [1, 0, 1]"));
        assert!(error.contains("at least 1"), "{error}");
        let error = refusal(&format!("{three}next_variations = 4\nmax_children = 3"));
        assert!(error.contains("expected at least 4"), "{error}");
    }

    #[test]
    fn an_extension_goes_on_with_the_last_values() {
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
        assert_eq!(extended.initial_fold(), 3);
        assert_eq!(extended.seed, 0);
        // Without iterations, the last population is the initial one.
        let none = parse("num_samples = 20\nvariation_degree = [4]\ninitial_variations = 1");
        let extended = none.extended(1, "s.npz".into()).unwrap();
        assert_eq!((extended.initial_fold(), extended.seed), (2, 1));
        assert_eq!(extended.populations().unwrap().len(), 2);
    }
}
