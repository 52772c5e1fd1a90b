//! `dpsyn run`: puts configuration, data, weights and device together, then runs the plan.

use std::path::Path;

use super::args::RunArguments;
use super::device::Devices;
use super::error::CliError;
use super::evaluation::{check_public, classifier, digest, feature_space, open_reference};
use super::missing;
use super::progress::{TerminalProgress, catch_interrupts};
use crate::artifacts::{Existing, RunDir};
use crate::config::{ConfigError, Loaded, Settings};
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, OpenedEmbedder};
use crate::evaluation::{Evaluation, ReferenceSource};
use crate::fetch::Catalogue;
use crate::generators::{ConditionRequest, Generator, GeneratorError, OpenedGenerator, Operation};
use crate::hub::FilesError;
use crate::logging;
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::FeatureSpace;
use crate::metrics::{EvaluationConfig, SetSizes};
use crate::net::Offline;
use crate::pe::{InitialSamples, PeError, Plan, Run, RunIdentity};
use crate::privacy::{NonPrivateConsent, PrivateFolder};
use crate::progress::{Observer, Progress as _};
use crate::streams::{Phase, RngKey};

/// Runs the command.
pub(super) fn run(arguments: &RunArguments) -> Result<(), CliError> {
    let progress = TerminalProgress::new();
    let mut loaded = Settings::load(&arguments.config, &arguments.set)?;
    if let Some(out) = &arguments.out {
        loaded.settings.output.folder.clone_from(out);
    }
    let devices = arguments.device.open()?;
    let privacy = resolve_privacy(&loaded, arguments.non_private)?;
    let existing = match (arguments.resume, arguments.fresh) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::MoveAside,
        _ => Existing::Refuse,
    };
    let root = loaded.settings.output.folder.clone();
    if !arguments.dry_run {
        // A folder that may not be touched is refused before the data are read.
        RunDir::examine(&root, existing)?;
    }
    catch_interrupts()?;

    missing::check(
        &Catalogue::built_in()?,
        &missing::requirements(&loaded.settings),
    )?;
    if let (true, Some(by), false) = (
        loaded.settings.model.section().is_hosted(),
        Offline::network(),
        arguments.dry_run,
    ) {
        let message = format!("a hosted model cannot be asked with {by}");
        return Err(loaded.locations.error("model", message).into());
    }
    let mut images = PrivateImages::open(&loaded.settings.data)?;
    let make_plan = |images: &PrivateImages, privacy| {
        let evolution = &loaded.settings.evolution;
        Plan::new(evolution, images.classes().to_vec(), images.len(), privacy)
            .map_err(|error| loaded.locations.error(&error.key, error.message))
    };
    let plan = make_plan(&images, privacy)?;
    let OpenedGenerator {
        generator,
        weights_digest: generator_digest,
        ..
    } = open_generator(&loaded, &devices, &progress)
        .map_err(|error| with_command(error, &loaded.settings, &arguments.config))?;
    check_plan(&loaded, &*generator, &plan)?;
    let image_size = generator.image_size();
    let embedder_config = &loaded.settings.embedder;
    let OpenedEmbedder {
        embedder,
        weights_digest: embedder_digest,
    } = embedder_config.open(image_size, &devices.all())?;
    progress.message(&format!("device: {}", devices.chosen));
    let (fingerprint, skipped) = images.check(&progress)?;
    // Files that were skipped change what the plan stands on.
    let plan = if images.len() == plan.private_images {
        plan
    } else {
        let plan = make_plan(&images, plan.privacy)?;
        check_plan(&loaded, &*generator, &plan)?;
        plan
    };
    let opened = open_evaluation(
        &loaded,
        (&*embedder, embedder_digest.as_deref()),
        image_size,
        &devices,
        &plan,
        &progress,
    )?;
    for (path, reason) in skipped {
        progress.message(&format!("skipped {}: {reason}", path.display()));
    }
    if arguments.dry_run {
        let cost = plan
            .cost(
                loaded.settings.output.plot_images,
                &*generator,
                embedder.dimension(),
            )
            .map_err(PeError::from)?;
        super::output::print(&plan.describe(&cost));
        for line in announce(&loaded, &*generator, &plan)? {
            super::output::print(&line);
        }
        if let Some(config) = &loaded.settings.evaluation {
            super::output::print(&describe(config));
        }
        return Ok(());
    }
    for line in announce(&loaded, &*generator, &plan)? {
        progress.message(&line);
    }
    // Settings that cannot be written are found before the folder is created.
    let resolved_config = loaded.settings.to_toml()?;
    let initial = &loaded.settings.evolution.initial_samples;
    let identity = RunIdentity {
        settings: loaded.settings.identity()?,
        model_weights: generator_digest,
        embedder_weights: embedder_digest,
        initial_samples: initial.as_deref().map(digest).transpose()?,
    };
    let (folder, moved) = RunDir::prepare(&root, existing)?;
    let private = PrivateFolder::create(folder.private())?;
    logging::open_private(private.open_log()?).map_err(PeError::io(private.path()))?;
    if let Some(moved) = moved {
        progress.message(&format!(
            "the earlier run is kept as {}; what it released still counts against the private images",
            moved.display()
        ));
    }
    let mut reference = None;
    let own: OwnEmbedder;
    let evaluation = match (&loaded.settings.evaluation, opened) {
        (Some(config), Some(opened)) => {
            reference = opened.reference;
            own = opened.own;
            Some(Evaluation {
                config,
                shares_vote: own.is_none(),
                embedder: own.as_ref().map_or(&*embedder, |own| &*own.embedder),
                space: opened.space,
                classifier: opened.classifier,
                device: &devices.first,
                observer: &progress,
            })
        }
        _ => None,
    };
    let run = Run {
        plan: &plan,
        identity: &identity,
        resolved_config: &resolved_config,
        class_conditional: loaded.settings.data.class_conditional,
        private_image_size: loaded.settings.data.image_size,
        plot_images: loaded.settings.output.plot_images,
        generator: &*generator,
        embedder: &*embedder,
        evaluation: evaluation.as_ref(),
        device: &devices.first,
        observer: &progress,
    };
    let samples = run.execute(&folder, &mut images, &fingerprint, reference)?;
    super::output::print(&samples.display());
    Ok(())
}

/// Adds the command that fetches the model to the error that the hub may not be asked.
fn with_command(error: CliError, settings: &Settings, config: &Path) -> CliError {
    match error {
        CliError::Run(PeError::Generator(GeneratorError::Files(FilesError::Offline {
            ..
        }))) => CliError::Fetchable {
            error: Box::new(error),
            command: missing::model_command(settings, config),
        },
        other => other,
    }
}

fn resolve_privacy(
    loaded: &Loaded,
    non_private: bool,
) -> Result<crate::privacy::ResolvedPrivacy, ConfigError> {
    let evolution = &loaded.settings.evolution;
    let releases = (loaded.populations.len() as u32).saturating_sub(1);
    loaded
        .settings
        .privacy
        .resolve(
            releases,
            evolution.nearest_neighbors,
            None,
            non_private.then(NonPrivateConsent::given),
        )
        .map_err(|error| loaded.locations.error("privacy", error.to_string()))
}

fn open_generator(
    loaded: &Loaded,
    devices: &Devices,
    progress: &TerminalProgress,
) -> Result<OpenedGenerator, CliError> {
    let model = loaded.settings.model.section();
    let opened = model
        .open(&devices.all(), progress)
        .map_err(|error| model_error(loaded, error))?;
    for warning in &opened.warnings {
        progress.message(&format!("warning: {warning}"));
    }
    Ok(opened)
}

/// What the model has to say about the plan, or the key of `[model]` that forbids it.
fn announce(
    loaded: &Loaded,
    generator: &dyn Generator,
    plan: &Plan,
) -> Result<Vec<String>, CliError> {
    generator
        .preflight(&plan.generator_work())
        .map_err(|error| model_error(loaded, error))
}

/// Points at the key of `[model]` that the model complains about.
fn model_error(loaded: &Loaded, error: GeneratorError) -> CliError {
    match error {
        GeneratorError::Config(error) => loaded.locations.invalid("model", error).into(),
        other => other.into(),
    }
}

/// The evaluation's embedder, where it has its own.
type OwnEmbedder = Option<OpenedEmbedder>;

/// Everything that an evaluation needs, opened and checked.
struct Opened {
    own: OwnEmbedder,
    space: FeatureSpace,
    classifier: Option<Classifier>,
    reference: Option<ReferenceSource>,
}

fn open_evaluation(
    loaded: &Loaded,
    vote: (&dyn Embedder, Option<&str>),
    image_size: (usize, usize),
    devices: &Devices,
    plan: &Plan,
    observer: &dyn Observer,
) -> Result<Option<Opened>, CliError> {
    let Some(config) = &loaded.settings.evaluation else {
        return Ok(None);
    };
    let error = |key: &str, message: String| {
        loaded
            .locations
            .error(&format!("evaluation.{key}"), message)
    };
    let size = loaded.settings.data.image_size;
    let chosen = config.embedder.as_ref();
    let own = chosen
        .map(|config| config.open(image_size, &devices.all()))
        .transpose()?;
    let embedder = chosen.unwrap_or(&loaded.settings.embedder);
    let (opened, weights) = match &own {
        Some(own) => (&*own.embedder, own.weights_digest.as_deref()),
        None => vote,
    };
    let space = feature_space(embedder, weights, size)?;
    check_public(config, &loaded.settings.data.path)
        .map_err(|message| error("reference_is_public", message))?;
    let classifier = classifier(&config.metrics, embedder)?;
    let reference = open_reference(config, size, opened, &space, observer)?;
    let last = plan.iterations();
    let evaluated = plan.populations.iter().zip(0..);
    let smallest = evaluated
        .filter(|(_, number)| config.is_due(*number, last))
        .map(|(generation, _)| generation.num_samples as usize)
        .min();
    config
        .check_sizes(SetSizes {
            samples: smallest.unwrap_or(0),
            reference: match &reference {
                Some(reference) => reference.images(),
                None => Some(plan.private_images),
            },
            dimension: opened.dimension(),
        })
        .map_err(|invalid| loaded.locations.invalid("evaluation", invalid))?;
    Ok(Some(Opened {
        own,
        space,
        classifier,
        reference,
    }))
}

/// A line of the plan.
fn describe(config: &EvaluationConfig) -> String {
    let names: Vec<&str> = config.metrics.iter().map(|metric| metric.name()).collect();
    let (reference, place) = match (config.path(), config.reference_is_public) {
        (Some(path), true) => (path.display().to_string(), "metrics.csv"),
        (Some(path), false) => (
            path.display().to_string(),
            "private/metrics.csv, not for release",
        ),
        (None, _) => (
            "the private images".to_owned(),
            "private/metrics.csv, not for release",
        ),
    };
    format!(
        "evaluation: {} against {reference}; figures go to {place}",
        names.join(", ")
    )
}

/// A class without a condition, a degree that the loaded model cannot take, or samples to start from that do
/// not fit, are found before anything is spent.
fn check_plan(loaded: &Loaded, generator: &dyn Generator, plan: &Plan) -> Result<(), CliError> {
    let conditional = loaded.settings.data.class_conditional;
    for class in &plan.classes {
        let slot = ConditionRequest {
            class: Some(class.as_str()).filter(|_| conditional),
            rng_key: RngKey {
                seed: 0,
                phase: Phase::Condition,
                iteration: 0,
                repeat: 0,
                sample: 0,
            },
        };
        generator
            .initial_conditions(&[slot])
            .map_err(|error| model_error(loaded, error))?;
    }
    // The first degree is only used for the initial population's variations.
    let unused = usize::from(loaded.settings.evolution.initial_variations == 0);
    for generation in plan.populations.iter().skip(unused) {
        let vary = Operation::Vary(generation.variation_degree);
        generator.evaluations(vary).map_err(|error| {
            let key = "evolution.variation_degree";
            loaded.locations.error(key, error.to_string())
        })?;
    }
    let initial = &loaded.settings.evolution.initial_samples;
    if let (Some(path), Some(layout)) = (initial, plan.layouts.first()) {
        let stamp = plan.privacy.non_private().is_some();
        InitialSamples::open(path, layout, generator, stamp).map_err(|error| {
            let key = "evolution.initial_samples";
            loaded.locations.error(key, error.to_string())
        })?;
    }
    Ok(())
}
