//! The plan of a run and its cost, known before anything is charged.

mod describe;
mod votes;

use super::threshold::{Threshold, VoteStrength};
use super::{EvolutionConfig, IterationRules, PopulationSpec};
use crate::artifacts::{ArtifactsError, ClassLayout};
use crate::generators::{Generator, GeneratorError, Operation, PlannedWork, Variation};
use crate::images::DataConfig;
use crate::privacy::{MOST_BINS_OF_CLIENTS, PrivacyError, ResolvedPrivacy, Unit};
use crate::sections::InvalidKey;
use crate::voting::SelectionMode;

/// The populations, classes and privacy parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The `[evolution]` section.
    pub evolution: EvolutionConfig,
    /// The `1 + T` populations.
    pub populations: Vec<PopulationSpec>,
    /// The rules of the T iterations.
    pub rules: Vec<IterationRules>,
    /// The threshold of each iteration in votes.
    pub thresholds: Vec<f64>,
    /// The votes of each iteration beside its noise, if the number of private images (or clients)
    /// is declared.
    pub strengths: Option<Vec<VoteStrength>>,
    /// The classes of each population.
    pub layouts: Vec<ClassLayout>,
    /// Names of the classes in the order of labels.
    pub classes: Vec<String>,
    /// Number of private images that the configuration declares; it is never counted.
    pub declared_size: Option<usize>,
    /// Number of clients that the configuration declares, if the unit is a client.
    pub declared_clients: Option<usize>,
    /// True if the first images of the source take part only (`data.num_samples`), so that nothing
    /// is claimed under add-remove adjacency.
    pub is_truncated: bool,
    /// Noise and accounting.
    pub privacy: ResolvedPrivacy,
}

/// The resources that a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Evaluations of the network of the foundation model, for one image each.
    pub network_evaluations: u64,
    /// Images to embed.
    pub embeddings: u64,
    /// Most bytes in the result folder.
    pub disk_bytes: u64,
    /// Most bytes of embeddings in memory; the model and one batch are not included.
    pub memory_bytes: u64,
    /// The part of each private image, which the numbers above do not contain if the number of
    /// private images is not declared.
    pub unknown: Option<PerImage>,
}

/// The resources that each private image takes, beside being embedded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerImage {
    /// Bytes in the result folder.
    pub disk_bytes: u64,
    /// Bytes of embeddings in memory.
    pub memory_bytes: u64,
}

impl Plan {
    /// Fits a validated configuration to the declared classes and the declared numbers of private
    /// images and clients. The images themselves have no influence.
    ///
    /// # Errors
    /// [`InvalidKey`], whose key includes the section, that does not fit the declarations.
    pub fn new(
        evolution: &EvolutionConfig,
        classes: Vec<String>,
        data: &DataConfig,
        privacy: ResolvedPrivacy,
    ) -> Result<Self, InvalidKey> {
        let declared_size = data.declared_size;
        let declared_clients = declared_units(data, Unit::Client);
        let units = declared_units(data, privacy.unit());
        let rules = evolution.rules()?;
        let populations = evolution.populations()?;
        let voters = declared_voters(data, privacy.unit());
        let strengths =
            voters.map(|voters| votes::strengths(voters, &rules, &populations, &privacy));
        let thresholds = votes::thresholds(&rules, strengths.as_deref())?;
        if let Some(units) = units {
            check_delta(units, &privacy)?;
            check_threshold(&thresholds, units, &privacy)?;
        }
        check_bins(&populations, &privacy)?;
        let layouts = layouts(evolution, &rules, &populations, &classes)?;
        check_children(evolution, &rules, &layouts)?;
        check_agreement(&rules, &classes)?;
        Ok(Self {
            rules,
            thresholds,
            strengths,
            evolution: evolution.clone(),
            populations,
            layouts,
            classes,
            declared_size,
            declared_clients,
            is_truncated: data.num_samples.is_some(),
            privacy,
        })
    }

    /// Returns lines for the owner of the private images about the real number of protected units:
    /// what the checks of a declared number would refuse, and a declaration that differs. They are
    /// private.
    #[must_use]
    pub fn compare_units(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let (key, declared, units) = match self.privacy.unit() {
            Unit::Image => ("data.declared_size", self.declared_size, "private images"),
            Unit::Client => (
                "data.clients.declared_size",
                self.declared_clients,
                "clients",
            ),
        };
        if let Some(size) = declared.filter(|size| *size != count) {
            lines.push(format!(
                "warning: {key} is {size}, but there are {count} {units}"
            ));
        }
        let refused = [
            check_delta(count, &self.privacy),
            check_threshold(&self.thresholds, count, &self.privacy),
        ];
        let refused = refused.into_iter().filter_map(Result::err);
        lines.extend(refused.map(|error| format!("warning: {error}")));
        lines
    }

    /// Returns what the samples depend on beside the settings that are part of a run's identity:
    /// automatic thresholds, because declared numbers may change and the rule may in another
    /// version, and the order of equal votes. `None` where no rule depends on either, so that runs
    /// of earlier versions keep their identity.
    #[must_use]
    pub fn identity(&self) -> Option<serde_json::Value> {
        let mut identity = serde_json::Map::new();
        let is_auto = |rules: &IterationRules| rules.threshold == Threshold::Auto;
        if self.rules.iter().any(is_auto) {
            identity.insert("thresholds".to_owned(), self.thresholds.clone().into());
        }
        let is_rank = |rules: &IterationRules| rules.selection == SelectionMode::Rank;
        if self.rules.iter().any(is_rank) {
            identity.insert("equal_votes".to_owned(), "noisy counts".into());
        }
        (!identity.is_empty()).then(|| identity.into())
    }

    /// Returns the number of iterations, T.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        (self.populations.len() as u32).saturating_sub(1)
    }

    /// Returns the rules of an iteration, counted from 1.
    ///
    /// # Errors
    /// [`ArtifactsError::Unplanned`] beyond the last one.
    pub fn rules(&self, iteration: u32) -> Result<IterationRules, ArtifactsError> {
        let index = (iteration as usize).checked_sub(1);
        let rules = index.and_then(|index| self.rules.get(index));
        rules.copied().ok_or(ArtifactsError::Unplanned(iteration))
    }

    /// Returns a value of the rules of each iteration.
    #[must_use]
    pub fn each<T>(&self, of: impl Fn(&IterationRules) -> T) -> Vec<T> {
        self.rules.iter().map(of).collect()
    }

    /// Returns the settings of the variations from which a population is made.
    #[must_use]
    pub fn variation(&self, population: u32) -> Variation {
        let spec = self.populations.get(population as usize);
        let degree = spec.map_or(0.0, |spec| spec.variation_degree);
        Variation::new(degree, population)
    }

    /// Returns all work of the generator, in order.
    #[must_use]
    pub fn generator_work(&self) -> Vec<PlannedWork> {
        let evolution = &self.evolution;
        let mut work = Vec::new();
        let mut before = 0;
        for (index, population) in self.populations.iter().enumerate() {
            let n = population.num_samples;
            let vary = |images, each| PlannedWork {
                operation: Operation::Vary(self.variation(index as u32)),
                images,
                each,
            };
            if index == 0 {
                let random = n / evolution.initial_fold();
                if evolution.initial_samples.is_none() {
                    work.push(PlannedWork {
                        operation: Operation::Random,
                        images: random,
                        each: 1,
                    });
                    work.push(vary(n - random, 1));
                }
            } else if let Some(rules) = self.rules.get(index - 1) {
                work.push(vary(before, rules.lookahead_degree));
                let parents = n / rules.next_fold().max(1);
                work.push(vary(parents * u64::from(rules.next_variations), 1));
            }
            before = n;
        }
        work.retain(|work| work.images > 0 && work.each > 0);
        work
    }

    /// Returns the resources of the run; `plot_images` counts a PNG of every sample.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for a degree that the model does not support.
    pub fn cost(
        &self,
        plot_images: bool,
        generator: &dyn Generator,
        dimension: usize,
    ) -> Result<Cost, GeneratorError> {
        let (height, width) = generator.image_size();
        let mut network = 0;
        for work in self.generator_work() {
            let images = work.images * u64::from(work.each);
            network += images * generator.evaluations(work.operation)?;
        }
        let private = self.declared_size.unwrap_or(0) as u64;
        let mut embeddings = private;
        let (mut images, mut largest) = (0, 0);
        for (index, population) in self.populations.iter().enumerate() {
            let n = population.num_samples;
            images += n;
            largest = largest.max(n);
            // The last population is not voted on.
            if let Some(rules) = self.rules.get(index) {
                embeddings += n * u64::from(rules.lookahead_degree.max(1));
            }
        }
        let image_bytes = (height * width * 3) as u64;
        let vector = dimension as u64 * 4;
        let unknown = PerImage {
            disk_bytes: vector,
            memory_bytes: 2 * vector,
        };
        Ok(Cost {
            network_evaluations: network,
            embeddings,
            // All populations (twice with pictures), shards of one, its embeddings, the private
            // embeddings.
            disk_bytes: images * image_bytes * (1 + u64::from(plot_images))
                + largest * (image_bytes + vector)
                + private * vector,
            // The vote holds both sets twice: as stored, and prepared for the search.
            memory_bytes: 2 * (largest + private) * vector,
            unknown: self.declared_size.is_none().then_some(unknown),
        })
    }
}

/// Returns the number of private images or clients that vote, as far as it is declared.
fn declared_voters(data: &DataConfig, unit: Unit) -> Option<usize> {
    let units = declared_units(data, unit)?;
    Some(data.num_samples.map_or(units, |most| units.min(most)))
}

/// Returns the declared number of private images or clients.
fn declared_units(data: &DataConfig, unit: Unit) -> Option<usize> {
    match unit {
        Unit::Image => data.declared_size,
        Unit::Client => data.clients.as_ref()?.declared_size,
    }
}

/// Fails if δ is not below 1/n.
fn check_delta(units: usize, privacy: &ResolvedPrivacy) -> Result<(), InvalidKey> {
    privacy.check_units(units).map_err(|error| {
        let message = match error {
            PrivacyError::Config(error) => error.message,
            other => other.to_string(),
        };
        InvalidKey::new("privacy.delta", message)
    })
}

/// Fails if no possible number of votes exceeds the threshold.
fn check_threshold(
    thresholds: &[f64],
    units: usize,
    privacy: &ResolvedPrivacy,
) -> Result<(), InvalidKey> {
    // Each unit has at most one vote for a sample, and noise beyond six standard deviations has a
    // probability of 10⁻⁹.
    let noise = privacy.noise_votes();
    let reachable = |t| units as f64 + 6.0 * noise.get(t).copied().unwrap_or(0.0);
    let mut thresholds = thresholds.iter().enumerate();
    let Some((_, out_of_reach)) = thresholds.find(|(t, votes)| **votes >= reachable(*t)) else {
        return Ok(());
    };
    let message = format!(
        "is {}, which no votes of {units} {}s reach: the iteration would be charged and then draw \
         its parents uniformly",
        out_of_reach,
        privacy.unit()
    );
    Err(InvalidKey::new("evolution.threshold", message))
}

/// Fails if clients would vote on more samples than the accountant's reserve covers.
fn check_bins(populations: &[PopulationSpec], privacy: &ResolvedPrivacy) -> Result<(), InvalidKey> {
    let largest = populations.iter().map(|spec| spec.num_samples).max();
    let largest = largest.unwrap_or_default();
    if privacy.unit() == Unit::Image || largest <= MOST_BINS_OF_CLIENTS {
        return Ok(());
    }
    let message = format!(
        "has {largest} samples: expected at most {MOST_BINS_OF_CLIENTS} with privacy.unit = \
         \"client\", because the accountant's reserve covers no more"
    );
    Err(InvalidKey::new("evolution.num_samples", message))
}

/// Fails if a class has too few samples for the next one, none of which may have more than
/// `evolution.max_children`.
fn check_children(
    evolution: &EvolutionConfig,
    rules: &[IterationRules],
    layouts: &[ClassLayout],
) -> Result<(), InvalidKey> {
    let Some(most) = evolution.max_children else {
        return Ok(());
    };
    for ((pair, rules), iteration) in layouts.windows(2).zip(rules).zip(1..) {
        let [before, after] = pair else { continue };
        let selections = evolution.max_selections(rules) as u64;
        for (before, after) in before.counts().iter().zip(after.counts()) {
            if before.saturating_mul(selections) < after / rules.next_fold().max(1) {
                let message = format!(
                    "is {most}: iteration {iteration} needs {after} children of {before} samples \
                     in a class"
                );
                return Err(InvalidKey::new("evolution.max_children", message));
            }
        }
    }
    Ok(())
}

/// Fails if near samples could have no other class.
fn check_agreement(rules: &[IterationRules], classes: &[String]) -> Result<(), InvalidKey> {
    if classes.len() > 1 || rules.iter().all(|rules| rules.class_agreement == 0.0) {
        return Ok(());
    }
    let message = "compares the classes of samples, but there is one class only: expected 0, or at \
                   least two classes (data.class_conditional)";
    Err(InvalidKey::new("evolution.class_agreement", message))
}

/// Splits each population into classes.
fn layouts(
    evolution: &EvolutionConfig,
    rules: &[IterationRules],
    populations: &[PopulationSpec],
    classes: &[String],
) -> Result<Vec<ClassLayout>, InvalidKey> {
    let shares = evolution.class_shares.as_ref();
    let key = if shares.is_some() {
        "evolution.class_shares"
    } else {
        "evolution.num_samples"
    };
    let mut layouts = Vec::with_capacity(populations.len());
    for (index, population) in populations.iter().enumerate() {
        let made_by = index.checked_sub(1).and_then(|before| rules.get(before));
        let fold = made_by.map_or(evolution.initial_fold(), IterationRules::next_fold);
        let layout = ClassLayout::new(population.num_samples, classes, shares, fold)
            .map_err(|message| InvalidKey::new(key, format!("population {index}: {message}")))?;
        let smallest = layout.counts().iter().copied().min().unwrap_or(0);
        // The last population is not voted on.
        let neighbors = rules.get(index).map_or(0, |rules| rules.nearest_neighbors);
        if u64::from(neighbors) > smallest {
            let message = format!(
                "{neighbors} neighbors in population {index}, where a class has only {smallest} \
                 samples"
            );
            return Err(InvalidKey::new("evolution.nearest_neighbors", message));
        }
        layouts.push(layout);
    }
    Ok(layouts)
}
