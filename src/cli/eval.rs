//! `dpsyn eval`: figures of a file of samples against a reference.

use std::path::Path;

use super::args::EvalArguments;
use super::error::CliError;
use super::evaluation::{against, classifier, digest, space};
use super::missing::check;
use super::progress::{TerminalProgress, catch_interrupts};
use crate::config::ConfigError;
use crate::embedders::{
    ClipConfig, EmbedderConfig, EmbedderError, InceptionConfig, OpenedEmbedder, PixelsConfig,
};
use crate::evaluation::{Evaluation, Evaluator, SampleSource, Training};
use crate::exit_code;
use crate::fetch::Catalogue;
use crate::hub::Requirement;
use crate::images::{ImageBatch, ImagesError, NpzError, SamplesReader};
use crate::metrics::downstream::{ClassifierKind, DownstreamOptions, match_classes};
use crate::metrics::features::{SampleFeatures, fid_subsample};
use crate::metrics::{EvaluationConfig, MetricKind, MetricsError, SetSizes};
use crate::pe::PeError;
use crate::progress::{Cancellation as _, Progress as _, Unit};

/// Samples read at a time.
const CHUNK: usize = 512;

/// Runs the command.
pub(super) fn run(arguments: &EvalArguments) -> Result<(), CliError> {
    evaluate(arguments).map_err(|error| match error {
        // There is nothing to resume.
        CliError::Run(PeError::Interrupted) => CliError::Stopped,
        other => other,
    })
}

fn evaluate(arguments: &EvalArguments) -> Result<(), CliError> {
    let progress = TerminalProgress::new();
    let config = config(arguments)?;
    let devices = arguments.device.open()?;
    catch_interrupts()?;
    let need = |path: &Path, code: u8| (Requirement::path(path), code);
    let mut needs = vec![need(&arguments.against, exit_code::DATA)];
    needs.extend(
        arguments
            .weights
            .iter()
            .map(|path| need(path, exit_code::WEIGHTS)),
    );
    check(&Catalogue::built_in()?, &needs)?;
    let path = &arguments.samples;
    let failed = |source: NpzError| ImagesError::Npz {
        path: path.clone(),
        source,
    };
    let mut reader = SamplesReader::open(path).map_err(failed)?;
    let (height, width) = (reader.height(), reader.width());
    let resolution = match arguments.resolution {
        Some(resolution) => resolution,
        None if height == width => height,
        None => {
            let message = format!("needed, as the samples are of {height}x{width} pixels");
            return Err(refuse("--resolution", message));
        }
    };
    let downstream = config.metrics.contains(&MetricKind::Downstream);
    let pixels = downstream && config.downstream.classifier == ClassifierKind::Cnn;
    if pixels && (height, width) != (resolution, resolution) {
        let message = format!(
            "`cnn` learns from the samples as they are, of {height}x{width} pixels: images of \
             {resolution}x{resolution} are another size"
        );
        return Err(refuse("--classifier", message));
    }
    let labels = match downstream {
        true => reader.labels().map_err(failed)?,
        false => Vec::new(),
    };
    let embedder_config = embedder(arguments, resolution)?;
    embedder_config
        .section()
        .validate()
        .map_err(EmbedderError::from)?;
    let OpenedEmbedder {
        embedder,
        weights_digest: weights,
    } = embedder_config.open((height, width), &devices.all())?;
    let space = space(&embedder_config, weights.as_deref(), resolution)?;
    let classifier = classifier(&config.metrics, &embedder_config)?;
    let against = against(&config, resolution, &*embedder, &space, &progress)?
        .ok_or_else(|| refuse("--against", "is a path".to_owned()))?;
    config
        .check_sizes(SetSizes {
            samples: reader.len(),
            reference: against.images(),
            dimension: embedder.dimension(),
        })
        .map_err(|error| refuse(flag(&error.key), error.message))?;
    let mut training = None;
    if let Some(classes) = against.classes().filter(|_| downstream) {
        let names = class_names(path)?;
        training = Some(Training {
            labels: match_classes(&labels, names.as_deref(), classes)
                .map_err(|error| PeError::from(MetricsError::from(error)))?,
            images: pixels.then(|| ImageBatch::empty(height, width)),
        });
    }
    let name = digest(path)?;
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out).map_err(|source| PeError::Io {
            path: out.clone(),
            source,
        })?;
    }
    progress.message(&format!("device: {}", devices.chosen));
    let evaluation = Evaluation {
        config: &config,
        embedder: &*embedder,
        space,
        classifier,
        shares_vote: false,
        device: &devices.first,
        observer: &progress,
    };
    let mut evaluator = Evaluator::new(&evaluation, Some(against), arguments.out.as_deref())?;

    let total = reader.len();
    let times = fid_subsample(total, config.num_fid_samples, config.seed, 0);
    let mut features = SampleFeatures::new(&*embedder, config.sample_features(), times);
    let mut done = 0;
    progress.begin("embedding samples", Some(total as u64), Unit::Steps);
    reader.for_each_batch(
        total,
        CHUNK,
        |source| PeError::from(failed(source)),
        |batch| {
            progress.check()?;
            features.push(&batch)?;
            if let Some(images) = training.as_mut().and_then(|t| t.images.as_mut()) {
                images.extend(&batch).map_err(ImagesError::from)?;
            }
            done += batch.len();
            progress.advance(done as u64);
            Ok(())
        },
    )?;
    progress.end();
    let features = features.finish().map_err(PeError::from)?;
    let samples = SampleSource::File(path, &name);
    evaluator.file(&samples, &features, training.as_ref(), &mut |line| {
        super::output::print(&line);
    })?;
    let drawn = evaluator.draw_pairs(&samples, &mut |take| {
        reader.for_each_batch(
            total,
            CHUNK,
            |source| PeError::from(failed(source)),
            |batch| {
                take(&batch);
                Ok(())
            },
        )
    })?;
    if let Some(drawn) = drawn {
        progress.message(&format!("closest pairs: {}", drawn.display()));
    }
    Ok(())
}

/// The class names of the run that made the samples, in the order of their labels: from the `privacy.json`
/// of the result folder in which they lie, if they do.
fn class_names(samples: &Path) -> Result<Option<Vec<String>>, CliError> {
    let Some(folder) = samples.parent().and_then(Path::parent) else {
        return Ok(None);
    };
    let path = folder.join("privacy.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PeError::Io { path, source }.into()),
    };
    let names = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|statement| statement.pointer("/declared_public/class_names").cloned())
        .and_then(|names| serde_json::from_value(names).ok());
    match names {
        Some(names) => Ok(Some(names)),
        None => Err(PeError::State(format!(
            "{}: expected a run's privacy statement with declared_public.class_names",
            path.display()
        ))
        .into()),
    }
}

/// The options as the configuration that `[evaluation]` would be.
fn config(arguments: &EvalArguments) -> Result<EvaluationConfig, CliError> {
    let reference = arguments.against.to_str().map(str::to_owned);
    let mut config = EvaluationConfig {
        // A folder may be called like the word that means the run's own images.
        reference: reference.map_or_else(
            || Err(refuse("--against", "is not UTF-8".to_owned())),
            |path| {
                Ok(format!(
                    "{}{path}",
                    if path == crate::metrics::PRIVATE {
                        "./"
                    } else {
                        ""
                    }
                ))
            },
        )?,
        reference_is_public: arguments.public,
        num_fid_samples: arguments.num_fid_samples,
        ..EvaluationConfig::with_metrics(arguments.metrics.clone())
    };
    config.nearest_neighbors = arguments
        .nearest_neighbors
        .unwrap_or(config.nearest_neighbors);
    config.kid_subsets = arguments.kid_subsets.unwrap_or(config.kid_subsets);
    config.kid_subset_size = arguments.kid_subset_size.unwrap_or(config.kid_subset_size);
    config.seed = arguments.seed;
    let downstream = config.metrics.contains(&MetricKind::Downstream);
    for (flag, given) in [
        ("--classifier", arguments.classifier.is_some()),
        ("--seeds", arguments.seeds.is_some()),
    ] {
        if given && !downstream {
            return Err(refuse(flag, "goes with --metrics downstream".to_owned()));
        }
    }
    let classifier = arguments.classifier.unwrap_or_default();
    config.downstream = DownstreamOptions::new(classifier, arguments.seeds)
        .map_err(|error| PeError::from(MetricsError::from(error)))?;
    config
        .validate()
        .map_err(|error| refuse(flag(&error.key), error.message))?;
    Ok(config)
}

fn embedder(arguments: &EvalArguments, resolution: usize) -> Result<EmbedderConfig, CliError> {
    let weights = arguments.weights.clone();
    match (arguments.embedder.as_str(), weights) {
        ("inception", Some(weights)) => Ok(EmbedderConfig::Inception(InceptionConfig {
            resolution,
            ..InceptionConfig::of(weights)
        })),
        ("inception", None) => Err(refuse(
            "--weights",
            "missing: `inception` needs its weights (or --embedder pixels)".to_owned(),
        )),
        ("clip", Some(weights)) => Ok(EmbedderConfig::Clip(ClipConfig {
            resolution,
            ..ClipConfig::of(weights)
        })),
        ("clip", None) => Err(refuse(
            "--weights",
            "missing: `clip` needs its weights (or --embedder pixels)".to_owned(),
        )),
        ("pixels", None) => Ok(EmbedderConfig::Pixels(PixelsConfig {
            size: Some(resolution),
            grayscale: arguments.greyscale,
        })),
        ("pixels", Some(_)) => Err(refuse("--weights", "pixels have none".to_owned())),
        (other, _) => Err(refuse(
            "--embedder",
            format!("`{other}` is none of {}", EmbedderConfig::TYPES.join(", ")),
        )),
    }
}

/// The option that stands for a key of `[evaluation]`.
fn flag(key: &str) -> &'static str {
    match key {
        "num_fid_samples" => "--num-fid-samples",
        "nearest_neighbors" => "--nearest-neighbors",
        "kid_subsets" => "--kid-subsets",
        "kid_subset_size" => "--kid-subset-size",
        "seed" => "--seed",
        _ => "--metrics",
    }
}

fn refuse(flag: &str, message: String) -> CliError {
    ConfigError::Value {
        place: "dpsyn eval".to_owned(),
        key: flag.to_owned(),
        message,
    }
    .into()
}
