//! What a run will do and what it will cost, known before anything is spent.

use std::fmt::Write as _;

use super::PopulationSpec;
use crate::artifacts::ClassLayout;
use crate::config::{ConfigError, Loaded};
use crate::generators::{Generator, GeneratorError, Operation, PlannedWork};
use crate::privacy::{Adjacency, ResolvedPrivacy, round_up};

/// A run in numbers.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `1 + T` populations.
    pub generations: Vec<PopulationSpec>,
    /// Their classes' samples.
    pub layouts: Vec<ClassLayout>,
    /// The classes by name, in label order.
    pub classes: Vec<String>,
    /// Number of private images (declared public).
    pub private_images: usize,
    /// Noise and accounting.
    pub privacy: ResolvedPrivacy,
}

/// What a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Evaluations of the foundation model's network, for one image each.
    pub network_evaluations: u64,
    /// Images that are embedded.
    pub embeddings: u64,
    /// Bytes that the result folder comes to hold at most.
    pub disk_bytes: u64,
    /// Bytes of embeddings in memory at most; the model and one batch come on top.
    pub memory_bytes: u64,
}

impl Plan {
    /// Fits a checked configuration to the data.
    ///
    /// # Errors
    /// [`ConfigError`] pointing at the key that does not fit the data.
    pub fn new(
        loaded: &Loaded,
        classes: Vec<String>,
        private_images: usize,
        privacy: ResolvedPrivacy,
    ) -> Result<Self, ConfigError> {
        let evolution = &loaded.settings.evolution;
        let error = |key: &str, message: String| loaded.locations.error(key, message);
        privacy
            .check_private_images(private_images)
            .map_err(|e| error("privacy.delta", e.to_string()))?;
        // A vote is at most one an image, and noise of six standard deviations is one in 10⁹.
        let reached = private_images as f64
            + 6.0 * privacy.noise_multiplier() * f64::from(evolution.nearest_neighbors).sqrt();
        if evolution.threshold >= reached {
            return Err(error(
                "evolution.threshold",
                format!(
                    "is {}, which no votes of {private_images} images reach: every iteration would be charged and then \
                     choose its parents blindly",
                    evolution.threshold
                ),
            ));
        }
        let shares = evolution.class_shares.as_ref();
        let key = if shares.is_some() {
            "evolution.class_shares"
        } else {
            "evolution.num_samples"
        };
        let mut layouts = Vec::with_capacity(loaded.generations.len());
        for (index, generation) in loaded.generations.iter().enumerate() {
            let fold = if index == 0 {
                evolution.initial_fold()
            } else {
                evolution.next_fold()
            };
            let layout = ClassLayout::new(generation.num_samples, &classes, shares, fold)
                .map_err(|message| error(key, format!("population {index}: {message}")))?;
            let smallest = layout.counts().iter().copied().min().unwrap_or(0);
            // Nobody votes on the last population.
            let voted_on = index + 1 < loaded.generations.len();
            if voted_on && u64::from(evolution.nearest_neighbors) > smallest {
                return Err(error(
                    "evolution.nearest_neighbors",
                    format!(
                        "{} neighbours in population {index}, where a class has only {smallest} samples",
                        evolution.nearest_neighbors
                    ),
                ));
            }
            layouts.push(layout);
        }
        Ok(Self {
            generations: loaded.generations.clone(),
            layouts,
            classes,
            private_images,
            privacy,
        })
    }

    /// PE iterations, T.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        (self.generations.len() as u32).saturating_sub(1)
    }

    /// Everything that the run will ask of its model, in order.
    #[must_use]
    pub fn demands(&self, loaded: &Loaded) -> Vec<PlannedWork> {
        let evolution = &loaded.settings.evolution;
        let mut demands = Vec::new();
        let mut before = 0;
        for (index, generation) in self.generations.iter().enumerate() {
            let n = generation.num_samples;
            let vary = |images, each| PlannedWork {
                operation: Operation::Vary(generation.variation_degree),
                images,
                each,
            };
            if index == 0 {
                let random = n / evolution.initial_fold();
                if evolution.initial_samples.is_none() {
                    demands.push(PlannedWork {
                        operation: Operation::Random,
                        images: random,
                        each: 1,
                    });
                    demands.push(vary(n - random, 1));
                }
            } else {
                demands.push(vary(before, evolution.lookahead_degree));
                let parents = n / evolution.next_fold();
                demands.push(vary(parents * u64::from(evolution.next_variations), 1));
            }
            before = n;
        }
        demands.retain(|demand| demand.images > 0 && demand.each > 0);
        demands
    }

    /// What the run needs.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for a degree that the model does not know.
    pub fn cost(
        &self,
        loaded: &Loaded,
        generator: &dyn Generator,
        dimension: usize,
    ) -> Result<Cost, GeneratorError> {
        let evolution = &loaded.settings.evolution;
        let (height, width) = generator.image_size();
        let mut network = 0;
        for demand in self.demands(loaded) {
            let images = demand.images * u64::from(demand.each);
            network += images * generator.evaluations(demand.operation)?;
        }
        let mut embeddings = self.private_images as u64;
        let (mut images, mut largest) = (0, 0);
        for (index, generation) in self.generations.iter().enumerate() {
            let n = generation.num_samples;
            images += n;
            largest = largest.max(n);
            // Nobody votes on the last population.
            if index + 1 < self.generations.len() {
                embeddings += n * u64::from(evolution.lookahead_degree.max(1));
            }
        }
        let image_bytes = (height * width * 3) as u64;
        let vector = dimension as u64 * 4;
        let private = self.private_images as u64;
        Ok(Cost {
            network_evaluations: network,
            embeddings,
            // Populations (twice with pictures), one of them as units, and its and the private embeddings.
            disk_bytes: images * image_bytes * (1 + u64::from(loaded.settings.output.plot_images))
                + largest * (image_bytes + vector)
                + private * vector,
            // The vote holds both sets twice: as they are, and prepared for the search.
            memory_bytes: 2 * (largest + private) * vector,
        })
    }

    /// The plan and its price for people: populations, ε after every iteration, cost.
    #[must_use]
    pub fn describe(&self, cost: &Cost) -> String {
        let mut text = String::new();
        let privacy = &self.privacy;
        // ShardWriter to a String cannot fail.
        let _ = writeln!(
            text,
            "private images: {} in {} {}",
            self.private_images,
            self.classes.len(),
            if self.classes.len() == 1 {
                "class"
            } else {
                "classes"
            }
        );
        let _ = writeln!(
            text,
            "privacy: one {}, adjacency {}, delta {:e}, noise multiplier {}, {} nearest neighbour(s)",
            privacy.unit(),
            privacy.adjacency(),
            privacy.delta(),
            privacy.noise_multiplier(),
            privacy.nearest_neighbors()
        );
        if let Some(reason) = privacy.non_private() {
            let _ = writeln!(text, "NOT PRIVATE: {reason}");
        }
        let _ = writeln!(
            text,
            "{:>10} {:>10} {:>10} {:>22} {:>22}",
            "population", "samples", "degree", "epsilon (add-remove)", "epsilon (replace-one)"
        );
        for (index, generation) in self.generations.iter().enumerate() {
            let epsilon = |adjacency| round_up(privacy.epsilon_after(index as u32, adjacency), 3);
            let _ = writeln!(
                text,
                "{:>10} {:>10} {:>10} {:>22} {:>22}",
                index,
                generation.num_samples,
                generation.variation_degree,
                epsilon(Adjacency::AddRemove),
                epsilon(Adjacency::ReplaceOne),
            );
        }
        let _ = writeln!(
            text,
            "network evaluations: {} ({:.2e})",
            cost.network_evaluations, cost.network_evaluations as f64
        );
        let _ = writeln!(text, "images to embed: {}", cost.embeddings);
        let _ = writeln!(text, "disk: at most {}", bytes(cost.disk_bytes));
        let _ = write!(
            text,
            "memory: embeddings {}, plus the model and one batch",
            bytes(cost.memory_bytes)
        );
        text
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
