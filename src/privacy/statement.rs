//! `privacy.json`: the privacy claim of a run and its assumptions, for programs and for people.

use std::path::Path;

use num_bigint::BigUint;
use serde::Serialize;

use super::accountant::Adjacency;
use super::earlier::EarlierRun;
use super::error::PrivacyError;
use super::histogram::NoisyHistogram;
use super::lattice::LATTICE_BITS;
use super::ledger::Ledger;
use super::rounding::{ShownEpsilon, round_up};
use super::settings::ResolvedPrivacy;
use super::unit::Unit;
use crate::atomic;
use crate::schedule::Schedule;

/// Everything that the run treats as public. The guarantee does not cover it, so none of it may
/// have been chosen by looking at individual private images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublicInputs {
    /// The number of private images that the operator declared; `None` if none was. It is never
    /// counted.
    pub declared_size: Option<usize>,
    /// The number of clients that the operator declared, if the unit is a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared_clients: Option<usize>,
    /// Height and width in pixels to which every image is resized.
    pub image_size: [usize; 2],
    /// Number of synthetic samples in the population.
    pub samples: usize,
    /// The declared classes, in the order of the histogram. Empty in an unconditional run.
    pub class_names: Vec<String>,
    /// The share of each class in the synthetic samples, in the same order; sums to 1.
    pub class_shares: Vec<f64>,
    /// The conditions under which the foundation model generates images of each class.
    pub conditions: Vec<ClassConditions>,
    /// The prompts, to which the array `conditions` of each `samples.npz` refers by index, from 0.
    /// Empty for a model with class labels.
    pub prompts: Vec<String>,
    /// A description of the images of the source that were used.
    pub selection: String,
    /// N if the first N images of the source were used at most (`data.num_samples`); `None` if all
    /// were. With it, an image that is added to the source takes the place of another one, so that
    /// the statement has nothing under add-remove adjacency.
    pub num_samples: Option<usize>,
    /// SHA-256 of the foundation model's weights; `None` for a hosted model.
    pub model_weights_sha256: Option<String>,
    /// SHA-256 of the embedder's weights; `None` where it has none.
    pub embedder_weights_sha256: Option<String>,
    /// SHA-256 of the samples with which the run started; `None` if it started with random images.
    pub initial_samples_sha256: Option<String>,
}

/// The device that embeds the private images, for the assumption that the vector of an image
/// depends on this image only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingDevice<'a> {
    /// Name of the device, as the option `--device` has it.
    pub name: &'a str,
    /// True if public images were embedded there before the run, at several places of batches and
    /// beside other images, with the same vectors to the last bit. False on the CPU, where the
    /// program computes each image by itself.
    pub is_checked: bool,
}

/// The public conditions (class labels of the model, or prompts) that represent a private class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassConditions {
    /// The private class's name; `None` in an unconditional run.
    pub class: Option<String>,
    /// Prompts, or the model's labels.
    pub conditions: Vec<String>,
}

/// An iteration in which all noisy counts of a class were below the threshold, so its parents were
/// selected uniformly. This fact follows from the noisy histogram alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UniformFallback {
    /// The iteration.
    pub iteration: u32,
    /// The class's name; `None` in an unconditional run.
    pub class: Option<String>,
}

/// The privacy statement of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statement {
    statement: &'static str,
    version: u32,
    software: String,
    summary: String,
    /// The reason why no output is private; null for a private run.
    non_private: Option<&'static str>,
    run_id: String,
    config_sha256: String,
    unit: Unit,
    adjacency: Adjacency,
    delta: f64,
    releases_planned: u32,
    /// Number of charged releases, whether or not their histogram was ever sampled.
    releases_executed: u32,
    /// Charges of earlier runs on the same private images, which the guarantees include.
    earlier_runs: Vec<EarlierRun>,
    guarantees: Vec<Guarantee>,
    mechanism: Mechanism,
    declared_public: PublicInputs,
    uniform_fallbacks: Vec<UniformFallback>,
    assumptions: Vec<String>,
}

/// The guarantee after a number of iterations, under one adjacency.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Guarantee {
    after_iteration: u32,
    adjacency: Adjacency,
    unit: Unit,
    /// True for the adjacency of the run's claim; false for the other, given for information.
    declared: bool,
    epsilon: ShownEpsilon,
    delta: f64,
    /// ρ of zero-concentrated DP, which has no δ.
    zcdp_rho: ShownEpsilon,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Mechanism {
    name: &'static str,
    noise: &'static str,
    /// A number, or a list with one for each planned release.
    noise_multiplier: Schedule<f64>,
    nearest_neighbors: Schedule<u32>,
    /// σ·√k, and σ if the unit is a client.
    noise_parameter_votes: Schedule<f64>,
    l2_sensitivity_votes: Vec<Sensitivity>,
    lattice_spacing_votes: f64,
    lattice_sigma: Option<Schedule<String>>,
    lattice_deviation_bound: f64,
    accounting: &'static str,
    references: [&'static str; 3],
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Sensitivity {
    adjacency: Adjacency,
    l2: Schedule<f64>,
}

impl Statement {
    /// Creates the statement of a run from its ledger, as of now.
    #[must_use]
    pub fn new(
        ledger: &Ledger,
        declared_public: PublicInputs,
        uniform_fallbacks: Vec<UniformFallback>,
        device: EmbeddingDevice<'_>,
    ) -> Self {
        let privacy = ledger.privacy();
        let adjacencies = adjacencies(&declared_public);
        let executed = ledger.charged();
        Self {
            statement: "dpsyn privacy statement",
            version: 2,
            software: format!("dpsyn {}", env!("CARGO_PKG_VERSION")),
            summary: summary(privacy, executed),
            non_private: privacy.non_private(),
            run_id: ledger.run_id().to_owned(),
            config_sha256: ledger.config_sha256().to_owned(),
            unit: privacy.unit(),
            adjacency: privacy.adjacency(),
            delta: privacy.delta(),
            releases_planned: privacy.releases(),
            releases_executed: executed,
            earlier_runs: privacy.earlier().to_vec(),
            guarantees: guarantees(privacy, executed, adjacencies),
            mechanism: mechanism(privacy, adjacencies),
            declared_public,
            uniform_fallbacks,
            assumptions: assumptions(privacy, device),
        }
    }

    /// Returns a summary for people: the claim with its unit, adjacency and number of releases, or
    /// the reason why there is none.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Writes the statement to `path` as indented JSON, atomically.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Io`] from the file system.
    pub fn write(&self, path: &Path) -> Result<(), PrivacyError> {
        let write = || {
            let mut text = serde_json::to_string_pretty(self)?;
            text.push('\n');
            atomic::write(path, text.as_bytes())
        };
        write().map_err(PrivacyError::io("write", path))
    }
}

fn summary(privacy: &ResolvedPrivacy, executed: u32) -> String {
    if let Some(reason) = privacy.non_private() {
        return format!("NOT PRIVATE: {reason}. Do not publish anything from this run.");
    }
    let epsilon = privacy.epsilon_after(executed, privacy.adjacency());
    let planned = privacy.epsilon_after(privacy.releases(), privacy.adjacency());
    let earlier: u64 = privacy
        .earlier()
        .iter()
        .map(|run| u64::from(run.releases))
        .sum();
    let with_earlier = match earlier {
        0 => String::new(),
        count => format!(" of this run and {count} of earlier runs on the same images"),
    };
    format!(
        "After {executed} of {} planned releases{with_earlier}, what was released is \
         ({}, {})-differentially private: unit one {}, adjacency {} ({} {}). After all planned \
         releases, epsilon will be {}.",
        privacy.releases(),
        round_up(epsilon, 3),
        privacy.delta(),
        privacy.unit(),
        privacy.adjacency(),
        privacy.adjacency().meaning(),
        privacy.unit(),
        round_up(planned, 3),
    )
}

/// Returns the adjacencies under which the mechanism has a guarantee.
fn adjacencies(inputs: &PublicInputs) -> &'static [Adjacency] {
    match inputs.num_samples {
        Some(_) => &[Adjacency::ReplaceOne],
        None => &Adjacency::ALL,
    }
}

fn guarantees(
    privacy: &ResolvedPrivacy,
    executed: u32,
    adjacencies: &[Adjacency],
) -> Vec<Guarantee> {
    let guarantee = |after_iteration, adjacency| Guarantee {
        after_iteration,
        adjacency,
        unit: privacy.unit(),
        declared: adjacency == privacy.adjacency(),
        epsilon: ShownEpsilon(privacy.epsilon_after(after_iteration, adjacency)),
        delta: privacy.delta(),
        zcdp_rho: ShownEpsilon(privacy.rho_after(after_iteration, adjacency)),
    };
    if privacy.non_private().is_some() {
        return Vec::new();
    }
    (1..=executed)
        .flat_map(|after| {
            let rows = adjacencies.iter();
            rows.map(move |adjacency| guarantee(after, *adjacency))
        })
        .collect()
}

fn mechanism(privacy: &ResolvedPrivacy, adjacencies: &[Adjacency]) -> Mechanism {
    let sensitivity = |adjacency: &Adjacency| Sensitivity {
        adjacency: *adjacency,
        l2: privacy
            .nearest_neighbors()
            .map(|k| f64::from(adjacency.squared_sensitivity() * privacy.squared_votes(*k)).sqrt()),
    };
    Mechanism {
        name: "discrete gaussian on a histogram of votes",
        noise: privacy.noise.name(),
        noise_multiplier: privacy.noise_multiplier().clone(),
        nearest_neighbors: privacy.nearest_neighbors().clone(),
        noise_parameter_votes: privacy.noise_votes(),
        l2_sensitivity_votes: adjacencies.iter().map(sensitivity).collect(),
        lattice_spacing_votes: NoisyHistogram::spacing(),
        lattice_sigma: privacy
            .lattice_sigmas()
            .map(|all| all.map(BigUint::to_string)),
        lattice_deviation_bound: privacy.deviation(),
        accounting: match privacy.noise_multiplier() {
            Schedule::Constant(_) => {
                "exact epsilon(delta) of Gaussian DP, rounded up, with \
                 mu = s*sqrt(releases)/noise_multiplier, \
                 s = 1 (add-remove) or sqrt(2) (replace-one)"
            }
            Schedule::List(_) => {
                "exact epsilon(delta) of Gaussian DP, rounded up, with mu^2 = the sum of \
                 s^2/noise_multiplier^2 over the releases, s = 1 (add-remove) or sqrt(2) \
                 (replace-one)"
            }
        },
        references: [
            "Canonne, Kamath, Steinke 2020, arXiv 2004.00010 (noise)",
            "Balle, Wang 2018, arXiv 1805.06530 (epsilon of delta)",
            "Dong, Roth, Su 2019, arXiv 1905.02383 (composition)",
        ],
    }
}

fn assumptions(privacy: &ResolvedPrivacy, device: EmbeddingDevice<'_>) -> Vec<String> {
    let spacing = LATTICE_BITS;
    let most_neighbors = privacy.nearest_neighbors().values().iter().max();
    vec![
        "Everything under declared_public is public: the operator declared it, it was not chosen \
         by looking at individual private images, and the guarantee does not cover it. The program \
         computed none of it from the private images: class_names are declared, with or without \
         images, and so is declared_size (null if it is not declared), which need not be the number \
         of images."
            .to_owned(),
        match privacy.unit() {
            Unit::Image => "The unit is one image. Whoever contributed several is protected less, by \
                            group privacy."
                .to_owned(),
            Unit::Client => "The unit is all images of one client. The operator declared which \
                             images are whose, and in the same way for all runs on these images; a \
                             person behind several clients is protected less, by group privacy, \
                             and an image that shows another client's person is protected as an \
                             image of its own client only."
                .to_owned(),
        },
        "The foundation model, the embedder and their weights are public and were made without \
         the private images."
            .to_owned(),
        "Samples that the run started from (initial_samples_sha256), if any, are public, or come \
         from a run on the same images that is listed under earlier_runs."
            .to_owned(),
        "The result folder without its sub-folder private/ is what may be published; private/ may \
         not, nor the private images."
            .to_owned(),
        "No setting, iteration or sample was or will be chosen by a result that depends on the \
         private images other than the noisy histograms, such as an evaluation in private/."
            .to_owned(),
        "The guarantees cover this run and those under earlier_runs. Other runs on the same private \
         images, also abandoned ones, add to what was spent (privacy.budget adds them up)."
            .to_owned(),
        "The noise is computational: it is derived by HMAC-SHA-256 and ChaCha20 from a key that the \
         operating system's cryptographically secure generator drew once for the run. A copied or \
         restored result folder that is resumed draws the same noise for the same population and \
         counts; where a population cannot be generated again to the bit (a hosted model, a GPU), \
         no copy was resumed beside the original."
            .to_owned(),
        "The machine that ran this is trusted: nobody observes its memory, its timing, its \
         temporary files or private/."
            .to_owned(),
        format!(
            "Each private image casts its votes by itself, by comparison with public samples \
             only, one vote in each of at most {} bins; numerical error may change which, not how \
             many.{}",
            most_neighbors.copied().unwrap_or_default(),
            match privacy.unit() {
                Unit::Image => "",
                Unit::Client => " The votes of a client are scaled down together, in integers and \
                                 rounded toward zero, to an L2 norm of at most 1 over the bins of \
                                 all classes.",
            }
        ),
        format!(
            "The embedding vector of a private image depends on this image only, not on its place \
             in a batch nor on other images. This process embeds private images on {}: {}. Vectors \
             that an earlier process of the run stored are used as they are; log.txt names the \
             device of each process.",
            device.name,
            if device.is_checked {
                "before the run, public images were embedded there alone, at several places of \
                 batches and beside other images, with the same vectors to the last bit, which is \
                 a test and no proof"
            } else {
                "there the program computes each image by itself, which its tests check and the \
                 run does not check again"
            }
        ),
        format!(
            "Noise lives on the lattice of 2^-{spacing} votes; zcdp_rho holds for it exactly, \
             epsilon up to lattice_deviation_bound, which the rounding of epsilon covers."
        ),
    ]
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
