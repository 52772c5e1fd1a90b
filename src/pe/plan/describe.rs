//! The plan as text for people.

use std::fmt::Write as _;

use super::{Cost, Plan};
use crate::images::{LARGEST_IMAGE_MEMORY, MAX_PIXELS, READING_MEMORY};
use crate::privacy::{Adjacency, Unit, round_up};
use crate::schedule::Schedule;

impl Plan {
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
        let columns = |ratio: &str, threshold: &str, noise_only: &str| {
            format!(" {ratio:>11} {threshold:>9} {noise_only:>18}")
        };
        let Some(strengths) = &self.strengths else {
            return String::new();
        };
        if strengths.iter().all(|strength| strength.noise == 0.0) {
            return String::new();
        }
        let Some(population) = population else {
            return columns("votes/noise", "threshold", "noise-only parents");
        };
        let iteration = population.checked_sub(1);
        let vote = iteration.and_then(|iteration| {
            let (strength, threshold) =
                (strengths.get(iteration)?, self.thresholds.get(iteration)?);
            let share = self.noise_only_share(iteration);
            let share = share.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
            let ratio = format!("{:.2}", strength.ratio);
            Some(columns(&ratio, &threshold.to_string(), &share))
        });
        vote.unwrap_or_else(|| columns("-", "-", "-"))
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

fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
