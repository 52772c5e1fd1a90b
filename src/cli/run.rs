//! `dpsyn run`: puts configuration, data, weights and device together, then runs the plan.

use std::path::Path;

use candle_core::Device;

use super::args::RunArguments;
use super::exit::CliError;
use super::progress::{Progress, catch_interrupts};
use crate::config::{ConfigError, EmbedderConfig, Loaded, ModelConfig, Settings};
use crate::embedders::{Embedder, InceptionEmbedder, PixelsEmbedder};
use crate::evolution::{
    EvolutionError, Existing, Observer, Plan, PrivateImages, ResultFolder, Run, open_initial,
};
use crate::generators::{Generator, ImprovedDiffusion};
use crate::hub::sha256_file;
use crate::privacy::NonPrivate;

/// Runs the command.
pub(super) fn run(arguments: &RunArguments) -> Result<(), CliError> {
    let progress = Progress::new();
    let mut loaded = Settings::load(&arguments.config, &arguments.set)?;
    if let Some(out) = &arguments.out {
        loaded.settings.output.folder.clone_from(out);
    }
    let (device, chosen) = arguments.device.open()?;
    let privacy = resolve_privacy(&loaded, arguments.non_private)?;
    let existing = match (arguments.resume, arguments.fresh) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::MoveAside,
        _ => Existing::Refuse,
    };
    let root = loaded.settings.output.folder.clone();
    if !arguments.dry_run {
        // A folder that may not be touched is refused before the data are read.
        ResultFolder::examine(&root, existing)?;
    }
    catch_interrupts()?;

    let mut images = PrivateImages::open(&loaded.settings.data)?;
    let plan = Plan::new(&loaded, images.classes().to_vec(), images.len(), privacy)?;
    let (generator, generator_digest) = open_generator(&loaded, &device)?;
    check_classes(&loaded, &*generator, &plan)?;
    if let (Some(path), Some(layout)) = (
        &loaded.settings.evolution.initial_samples,
        plan.layouts.first(),
    ) {
        open_initial(path, layout, generator.image_size()).map_err(|error| {
            loaded
                .locations
                .error("evolution.initial_samples", error.to_string())
        })?;
    }
    let image_size = generator.image_size();
    let (embedder, embedder_digest) = open_embedder(&loaded, image_size, &device)?;
    progress.line(&format!("device: {chosen}"));
    let (fingerprint, skipped) = images.check(&progress)?;
    // Files that were skipped change what the plan stands on.
    let plan = if images.len() == plan.private_images {
        plan
    } else {
        Plan::new(
            &loaded,
            images.classes().to_vec(),
            images.len(),
            plan.privacy,
        )?
    };
    for (path, reason) in skipped {
        progress.line(&format!("skipped {}: {reason}", path.display()));
    }
    if arguments.dry_run {
        let cost = plan
            .cost(&loaded, &*generator, embedder.dimension())
            .map_err(EvolutionError::from)?;
        println!("{}", plan.describe(&cost));
        return Ok(());
    }
    let (folder, moved) = ResultFolder::prepare(&root, existing)?;
    if let Some(moved) = moved {
        progress.line(&format!(
            "the earlier run is kept as {}; what it released still counts against the private images",
            moved.display()
        ));
    }
    let run = Run {
        settings: &loaded.settings,
        plan: &plan,
        generator: &*generator,
        generator_digest: &generator_digest,
        embedder: &*embedder,
        embedder_digest: &embedder_digest,
        device: &device,
        observer: &progress,
    };
    let outcome = run.execute(&folder, &mut images, &fingerprint)?;
    println!("{}", outcome.samples.display());
    Ok(())
}

fn resolve_privacy(
    loaded: &Loaded,
    non_private: bool,
) -> Result<crate::privacy::ResolvedPrivacy, ConfigError> {
    let evolution = &loaded.settings.evolution;
    let releases = (loaded.generations.len() as u32).saturating_sub(1);
    loaded
        .settings
        .privacy
        .resolve(
            releases,
            evolution.nearest_neighbors,
            None,
            non_private.then(NonPrivate::acknowledged),
        )
        .map_err(|error| loaded.locations.error("privacy", error.to_string()))
}

fn open_generator(
    loaded: &Loaded,
    device: &Device,
) -> Result<(Box<dyn Generator>, String), CliError> {
    let ModelConfig::ImprovedDiffusion(config) = &loaded.settings.model;
    let generator = ImprovedDiffusion::load(config, None, device)?;
    Ok((Box::new(generator), digest(&config.checkpoint)?))
}

fn open_embedder(
    loaded: &Loaded,
    image_size: (usize, usize),
    device: &Device,
) -> Result<(Box<dyn Embedder>, String), CliError> {
    Ok(match &loaded.settings.embedder {
        EmbedderConfig::Inception(config) => {
            let embedder = InceptionEmbedder::open(config, device)?;
            (Box::new(embedder), digest(&config.weights)?)
        }
        EmbedderConfig::Pixels(config) => (
            Box::new(PixelsEmbedder::new(config, image_size)?),
            String::new(),
        ),
    })
}

fn digest(path: &Path) -> Result<String, EvolutionError> {
    sha256_file(path).map_err(|source| EvolutionError::Io {
        path: path.to_owned(),
        source,
    })
}

/// A class without a condition is found before anything is spent.
fn check_classes(
    loaded: &Loaded,
    generator: &dyn Generator,
    plan: &Plan,
) -> Result<(), ConfigError> {
    let conditional = loaded.settings.data.class_conditional;
    for class in &plan.classes {
        generator
            .initial_conditions(&[crate::generators::Slot {
                class: Some(class.as_str()).filter(|_| conditional),
                stream: crate::streams::StreamKey {
                    seed: 0,
                    phase: crate::streams::Phase::Condition,
                    iteration: 0,
                    repeat: 0,
                    sample: 0,
                },
            }])
            .map_err(|error| match error {
                crate::generators::GeneratorError::Config { key, message } => {
                    loaded.locations.error(&format!("model.{key}"), message)
                }
                other => loaded.locations.error("model", other.to_string()),
            })?;
    }
    Ok(())
}
