//! `dpsyn audit`: a lower bound of ε of the mechanism of this build, from many runs of it.

use std::path::Path;

use candle_core::Device;

use super::args::AuditArguments;
use super::error::CliError;
use super::missing;
use super::output::{print, report};
use super::progress::{TerminalProgress, catch_interrupts};
use crate::artifacts::ArtifactsError;
use crate::atomic;
use crate::audit::{AuditOptions, Subject, audit, votes_of_an_image};
use crate::config::Settings;
use crate::embedders::{EmbedderConfig, PixelsConfig};
use crate::exit_code;
use crate::fetch::Catalogue;
use crate::privacy::{PrivacyConfig, round_up};
use crate::progress::Silent;
use crate::schedule::Schedule;
use crate::voting::Metric;

/// ε, δ and number of releases without a configuration and without options.
const DEFAULT_CLAIM: (f64, f64, u32) = (1.0, 1e-5, 1);
/// Rows and columns of the images without a configuration: enough for the patterns of an audit.
const IMAGE_SIZE: usize = 8;
/// The largest rows and columns of the images with a configuration: the noise does not depend on
/// them, and the images of an audit contain no more detail.
const LARGEST_IMAGE_SIZE: usize = 32;

/// The mechanism that is audited, without its embedder.
struct Plan {
    privacy: PrivacyConfig,
    releases: u32,
    nearest_neighbors: Schedule<u32>,
    metric: Metric,
    threshold: Option<f64>,
    classes: Vec<String>,
    image_size: usize,
    embedder: EmbedderConfig,
}

/// Executes `dpsyn audit`.
pub(super) fn run(arguments: &AuditArguments) -> Result<(), CliError> {
    let options = AuditOptions {
        trials: arguments.trials,
        canaries: arguments.canaries,
        confidence: arguments.confidence,
        seed: arguments.seed,
    };
    options.validate()?;
    let mut plan = match &arguments.config {
        Some(path) => configured(path, &arguments.set)?,
        None => default_plan(),
    };
    if let Some(epsilon) = arguments.epsilon {
        plan.privacy.epsilon = Some(epsilon);
        plan.privacy.noise_multiplier = None;
    }
    plan.privacy.delta = arguments.delta.unwrap_or(plan.privacy.delta);
    plan.privacy.adjacency = arguments.adjacency.unwrap_or(plan.privacy.adjacency);
    plan.privacy.unit = arguments.unit.unwrap_or(plan.privacy.unit);
    plan.releases = arguments.releases.unwrap_or(plan.releases);
    let privacy = plan
        .privacy
        .resolve(plan.releases, plan.nearest_neighbors, None, None)?;
    votes_of_an_image(&privacy)?;
    let weights = plan.embedder.requirements().into_iter();
    let needed: Vec<_> = weights.map(|file| (file, exit_code::WEIGHTS)).collect();
    missing::check(&Catalogue::built_in()?, &needed)?;
    catch_interrupts()?;
    let size = (plan.image_size, plan.image_size);
    let opened = plan.embedder.open(size, &[Device::Cpu], &Silent)?;
    let subject = Subject {
        privacy,
        embedder: &*opened.embedder,
        embedder_name: plan.embedder.section().name().to_owned(),
        metric: plan.metric,
        classes: plan.classes,
        image_size: plan.image_size,
        threshold: plan.threshold,
    };
    let result = audit(&subject, &options, &TerminalProgress::new())?;
    print(&result);
    if let Some(path) = &arguments.json {
        let write = || atomic::write(path, result.to_json()?.as_bytes());
        write().map_err(ArtifactsError::io(path))?;
        report(&format!("report: {}", path.display()));
    }
    match result.above() {
        None => Ok(()),
        Some((bound, claimed)) => Err(CliError::AboveClaim {
            bound: format!("{bound:.3}"),
            claimed: round_up(claimed, 3),
        }),
    }
}

fn default_plan() -> Plan {
    let (epsilon, delta, releases) = DEFAULT_CLAIM;
    Plan {
        privacy: PrivacyConfig {
            noise_multiplier: None,
            epsilon: Some(epsilon),
            delta,
            adjacency: crate::privacy::Adjacency::default(),
            unit: crate::privacy::Unit::default(),
            budget: None,
            pad_release_to: None,
        },
        releases,
        nearest_neighbors: 1.into(),
        metric: Metric::default(),
        threshold: Some(0.0),
        classes: Vec::new(),
        image_size: IMAGE_SIZE,
        embedder: EmbedderConfig::Pixels(PixelsConfig::default()),
    }
}

/// Reads the mechanism of a configuration. Its private images are not read.
fn configured(path: &Path, set: &[String]) -> Result<Plan, CliError> {
    let loaded = Settings::load(path, set)?;
    let releases = (loaded.populations.len() as u32).saturating_sub(1);
    let settings = loaded.settings;
    let classes = loaded.data.classes.map(audited_classes).unwrap_or_default();
    Ok(Plan {
        privacy: settings.privacy,
        releases,
        nearest_neighbors: settings.evolution.nearest_neighbors,
        metric: settings.evolution.metric,
        threshold: settings
            .evolution
            .threshold
            .last()
            .map_or(Some(0.0), |last| last.votes()),
        classes,
        image_size: settings.data.image_size.height.min(LARGEST_IMAGE_SIZE),
        embedder: settings.embedder.embedder,
    })
}

/// Returns the class names that a configuration declares. Names that cannot begin the name of a
/// file (and one class alone, which has no neighbor of another class) are replaced by two made-up
/// ones, because names do not influence the noise.
fn audited_classes(mut classes: Vec<String>) -> Vec<String> {
    let plain = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if classes.len() < 2 || !classes.iter().all(plain) {
        classes = vec!["first".to_owned(), "second".to_owned()];
    }
    classes
}
