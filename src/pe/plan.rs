//! The plan of a run and its cost, known before anything is charged.

use std::fmt::Write as _;

use super::threshold::VoteStrength;
use super::{EvolutionConfig, IterationRules, PopulationSpec};
use crate::artifacts::{ArtifactsError, ClassLayout};
use crate::generators::{Generator, GeneratorError, Operation, PlannedWork, Variation};
use crate::images::{DataConfig, LARGEST_IMAGE_MEMORY, MAX_PIXELS, READING_MEMORY};
use crate::privacy::{
    Adjacency, MOST_BINS_OF_CLIENTS, PrivacyError, ResolvedPrivacy, Unit, round_up,
};
use crate::schedule::Schedule;
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
        let noise = privacy.noise_votes();
        let strengths = units.map(|units| evolution.strengths(units, &noise, privacy.unit()));
        let strengths = strengths.transpose()?;
        let thresholds = evolution.thresholds(strengths.as_deref());
        let thresholds = thresholds.map_err(|error| {
            let key = format!("evolution.{}", error.key);
            InvalidKey::new(key, error.message)
        })?;
        if let Some(units) = units {
            check_delta(units, &privacy)?;
            check_threshold(&thresholds, units, &privacy)?;
        }
        let populations = evolution.populations()?;
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

    /// Describes the declared numbers and the terms of privacy.
    fn describe_inputs(&self) -> String {
        let mut text = String::new();
        let privacy = &self.privacy;
        let number = match self.declared_size {
            Some(size) => format!("{size} (data.declared_size)"),
            None => "number not declared".to_owned(),
        };
        let classes = match self.classes.len() {
            1 => "class",
            _ => "classes",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "private images: {number} in {} {classes}",
            self.classes.len(),
        );
        if privacy.unit() == Unit::Client {
            let number = match self.declared_clients {
                Some(count) => format!("{count} (data.clients.declared_size)"),
                None => "number not declared".to_owned(),
            };
            let _ = writeln!(text, "clients: {number}");
        }
        let _ = writeln!(
            text,
            "privacy: one {}, adjacency {}, delta {:e}, noise multiplier {}, {} nearest neighbor(s)",
            privacy.unit(),
            privacy.adjacency(),
            privacy.delta(),
            privacy.noise_multiplier(),
            privacy.nearest_neighbors()
        );
        for run in privacy.earlier() {
            let _ = writeln!(text, "epsilon includes {run}");
        }
        if let Some(reason) = privacy.non_private() {
            let _ = writeln!(text, "NOT PRIVATE: {reason}");
        }
        text
    }

    /// Returns the columns of the vote from which a population is made, or their headings: nothing
    /// if the number of private images is not declared, or without noise.
    fn vote_columns(&self, population: Option<usize>) -> String {
        let columns = |ratio: &str, threshold: &str, blind: &str| {
            format!(" {ratio:>11} {threshold:>9} {blind:>13}")
        };
        let Some(strengths) = &self.strengths else {
            return String::new();
        };
        if strengths.iter().all(|strength| strength.noise == 0.0) {
            return String::new();
        }
        let Some(population) = population else {
            return columns("votes/noise", "threshold", "blind parents");
        };
        let iteration = population.checked_sub(1);
        let vote = iteration.and_then(|iteration| {
            let (strength, threshold) =
                (strengths.get(iteration)?, self.thresholds.get(iteration)?);
            let blind = self.blind_share(iteration);
            let blind = blind.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
            let ratio = format!("{:.2}", strength.ratio);
            Some(columns(&ratio, &threshold.to_string(), &blind))
        });
        vote.unwrap_or_else(|| columns("-", "-", "-"))
    }

    /// Returns the expected share of the parents of an iteration, counted from 0, that are sampled
    /// for their noise alone; `None` if parents are not sampled in proportion to votes, or if the
    /// number of private images is not declared.
    fn blind_share(&self, iteration: usize) -> Option<f64> {
        let strength = self.strengths.as_ref()?.get(iteration)?;
        let threshold = self.thresholds.get(iteration)?;
        match self.rules.get(iteration)?.selection {
            SelectionMode::Rank => None,
            SelectionMode::Sample | SelectionMode::Systematic => {
                Some(strength.blind_share(*threshold))
            }
        }
    }

    /// Returns warnings about votes that are weak beside their noise, from declared numbers alone.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        // Votes below this share of the noise were measured to improve nothing, or to do harm.
        const WEAK: f64 = 0.25;
        const MANY_BLIND: f64 = 1.0 / 3.0;
        let mut warnings = Vec::new();
        let strengths = self.strengths.iter().flatten().enumerate();
        let weakest = strengths.min_by(|(_, a), (_, b)| a.ratio.total_cmp(&b.ratio));
        if let Some((iteration, strength)) = weakest.filter(|(_, weak)| weak.ratio < WEAK) {
            warnings.push(format!(
                "iteration {}: the votes for each sample are {:.2} times the noise: below {WEAK}, \
                 votes improve little (use fewer evolution.num_samples, fewer iterations, or a \
                 larger epsilon)",
                iteration + 1,
                strength.ratio
            ));
        }
        let blind = (0..self.rules.len()).filter_map(|t| Some((t, self.blind_share(t)?)));
        let blindest = blind.max_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((iteration, share)) = blindest.filter(|(_, share)| *share > MANY_BLIND) {
            warnings.push(format!(
                "iteration {}: about {:.0} % of the parents are expected to be sampled for their \
                 noise alone (evolution.threshold = \"auto\" or fewer evolution.num_samples lower \
                 that)",
                iteration + 1,
                100.0 * share
            ));
        }
        warnings
    }

    /// Describes populations, ε after every iteration, and cost in a table for people.
    #[must_use]
    pub fn describe(&self, cost: &Cost) -> String {
        let mut text = self.describe_inputs();
        let privacy = &self.privacy;
        // A column where σ changes; the initial population has none.
        let sigma = |value: Option<String>| match privacy.noise_multiplier() {
            Schedule::Constant(_) => String::new(),
            Schedule::List(_) => format!(" {:>10}", value.unwrap_or("-".to_owned())),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>10} {:>10} {:>10}{} {:>22} {:>22}{}",
            "population",
            "samples",
            "degree",
            sigma(Some("sigma".to_owned())),
            "epsilon (add-remove)",
            "epsilon (replace-one)",
            self.vote_columns(None)
        );
        for (index, population) in self.populations.iter().enumerate() {
            let epsilon = |adjacency| round_up(privacy.epsilon_after(index as u32, adjacency), 3);
            let _ = writeln!(
                text,
                "{:>10} {:>10} {:>10}{} {:>22} {:>22}{}",
                index,
                population.num_samples,
                population.variation_degree,
                sigma(
                    privacy
                        .noise_multiplier_of(index as u32)
                        .map(|sigma| sigma.to_string())
                ),
                match self.is_truncated {
                    true => "-".to_owned(),
                    false => epsilon(Adjacency::AddRemove),
                },
                epsilon(Adjacency::ReplaceOne),
                self.vote_columns(Some(index)),
            );
        }
        let _ = writeln!(
            text,
            "network evaluations: {} ({:.2e})",
            cost.network_evaluations, cost.network_evaluations as f64
        );
        let (private, disk, memory) = match cost.unknown {
            Some(each) => (
                ", and each private image (data.declared_size is not set)".to_owned(),
                format!(", and {} for each private image", bytes(each.disk_bytes)),
                format!(" and {} for each private image", bytes(each.memory_bytes)),
            ),
            None => Default::default(),
        };
        let _ = writeln!(text, "images to embed: {}{private}", cost.embeddings);
        let _ = writeln!(text, "disk: at most {}{disk}", bytes(cost.disk_bytes));
        let _ = write!(
            text,
            "memory: embeddings {}{memory}, plus the model and one batch; at most {} to read \
             private images, or {} for one at the limit of {} million pixels",
            bytes(cost.memory_bytes),
            bytes(READING_MEMORY),
            bytes(LARGEST_IMAGE_MEMORY),
            (MAX_PIXELS + 500_000) / 1_000_000,
        );
        if self.classes.len() > 1 {
            let _ = write!(
                text,
                "\nsamples.npz: sorted by class, as declared; shuffle it before training on it"
            );
        }
        text
    }
}

/// Returns the declared number of private images or clients.
#[must_use]
pub fn declared_units(data: &DataConfig, unit: Unit) -> Option<usize> {
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
    let message = "compares the classes of samples, but there is one class only: remove it, or set \
                   data.class_conditional = true";
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

fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
