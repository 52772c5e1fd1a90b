//! `dpsyn eval`: metrics of a file of samples against a reference.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::args::EvalArguments;
use super::core_dumps;
use super::error::CliError;
use super::evaluation::{classifier, digest, feature_space, open_reference};
use super::missing::check;
use super::progress::{TerminalProgress, catch_interrupts};
use crate::artifacts::{ArtifactsError, RunDir};
use crate::config::ConfigError;
use crate::embedders::{
    ClipConfig, Dinov2EmbedderConfig, EmbedderConfig, EmbedderError, InceptionConfig,
    OpenedEmbedder, PixelsConfig,
};
use crate::evaluation::{
    CHUNK, Evaluation, EvaluationError, Evaluator, ReferenceSource, SampleSetId, Training,
};
use crate::exit_code;
use crate::fetch::Catalogue;
use crate::hub::Requirement;
use crate::images::{ImageBatch, ImageSize, ImagesError, NpzError, SamplesReader};
use crate::metrics::downstream::{ClassifierKind, DownstreamOptions, match_classes};
use crate::metrics::features::{Features, SampleFeatures, fid_subsample};
use crate::metrics::{EvaluationConfig, MetricKind, MetricsError, PRIVATE, SetSizes};
use crate::progress::{Progress as _, Unit};

/// Runs the command.
pub(super) fn run(arguments: &EvalArguments) -> Result<(), CliError> {
    core_dumps::forbid()?;
    let progress = TerminalProgress::new();
    let config = config(arguments)?;
    let devices = arguments.device.open()?;
    catch_interrupts()?;
    check_paths(arguments)?;
    let mut samples = SampleFile::open(&arguments.samples)?;
    let resolution = resolution(arguments, &config, &samples)?;
    let labels = match config.metrics.contains(&MetricKind::Downstream) {
        true => Some(samples.labels()?),
        false => None,
    };
    let embedder_config = embedder(arguments, resolution)?;
    embedder_config
        .section()
        .validate()
        .map_err(EmbedderError::from)?;
    let OpenedEmbedder {
        embedder,
        weights_digest,
        public_images: _,
    } = embedder_config.open(samples.image_size(), &devices.all(), &progress)?;
    let space = feature_space(&embedder_config, weights_digest.as_deref(), resolution)?;
    let classifier = classifier(&config.metrics, &embedder_config)?;
    let reference = open_reference(&config, resolution, &*embedder, &space, &progress, |_| ())?
        .ok_or_else(|| refuse("--against", "is a path".to_owned()))?;
    config
        .check_sizes(SetSizes {
            samples: samples.len(),
            reference: reference.images(),
            dimension: embedder.dimension(),
        })
        .map_err(|error| refuse(flag(&error.key), error.message))?;
    let mut training = match labels {
        Some(labels) => training(&config, &samples, &labels, &reference)?,
        None => None,
    };
    let id = SampleSetId::file(&samples.path, &digest(&samples.path)?);
    if let Some(out) = &arguments.out {
        fs::create_dir_all(out).map_err(ArtifactsError::io(out))?;
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
    let mut evaluator = Evaluator::new(&evaluation, Some(reference), arguments.out.as_deref())?;
    let features = samples.features(&evaluation, training.as_mut())?;
    evaluator.file(&id, &features, training.as_ref(), &mut |line| {
        super::output::print(&line);
    })?;
    let picture = evaluator.draw_pairs(&id, &mut |add| {
        samples.for_each_batch(|batch| {
            add(&batch);
            Ok(())
        })
    })?;
    if let Some(picture) = picture {
        progress.message(&format!("closest pairs: {}", picture.display()));
    }
    drop(evaluator);
    match &arguments.out {
        Some(out) => Ok(RunDir::set_times_of_run(out)?),
        None => Ok(()),
    }
}

/// The samples that are evaluated.
struct SampleFile {
    path: PathBuf,
    reader: SamplesReader<BufReader<File>>,
}

impl SampleFile {
    fn open(path: &Path) -> Result<Self, ImagesError> {
        let reader = SamplesReader::open(path).map_err(npz_error(path))?;
        Ok(Self {
            path: path.to_owned(),
            reader,
        })
    }

    /// Number of samples.
    fn len(&self) -> usize {
        self.reader.len()
    }

    /// Rows and columns of the images.
    fn image_size(&self) -> (usize, usize) {
        (self.reader.height(), self.reader.width())
    }

    /// Label of each sample.
    fn labels(&mut self) -> Result<Vec<i64>, ImagesError> {
        self.reader.labels().map_err(npz_error(&self.path))
    }

    /// Passes all samples to `visit`, in order.
    fn for_each_batch(
        &mut self,
        visit: impl FnMut(ImageBatch) -> Result<(), EvaluationError>,
    ) -> Result<(), EvaluationError> {
        let (total, failed) = (self.reader.len(), npz_error(&self.path));
        self.reader
            .for_each_batch(total, CHUNK, |source| failed(source).into(), visit)
    }

    /// Embeds the samples, and copies them to the training set of a classifier of pixels.
    fn features(
        &mut self,
        evaluation: &Evaluation<'_>,
        training: Option<&mut Training>,
    ) -> Result<Features, EvaluationError> {
        let Evaluation {
            config,
            embedder,
            observer,
            ..
        } = *evaluation;
        let (total, mut done) = (self.len(), 0);
        let times = fid_subsample(total, config.num_fid_samples, config.seed, 0);
        let mut features = SampleFeatures::new(embedder, config.sample_features(), times);
        let mut images = training.and_then(|training| training.images.as_mut());
        observer.begin("embedding samples", Some(total as u64), Unit::Steps);
        self.for_each_batch(|batch| {
            observer.end_if_cancelled()?;
            features.push(&batch)?;
            if let Some(images) = &mut images {
                images.extend(&batch).map_err(ImagesError::from)?;
            }
            done += batch.len();
            observer.advance(done as u64);
            Ok(())
        })?;
        observer.end();
        Ok(features.finish()?)
    }
}

/// Returns a function for `map_err` that makes an error about the samples file `path`.
fn npz_error(path: &Path) -> impl Fn(NpzError) -> ImagesError + use<> {
    let path = path.to_owned();
    move |source| ImagesError::Npz {
        path: path.clone(),
        cause: source,
    }
}

/// Checks that reference and weights exist. What `dpsyn fetch` can download is reported with its
/// command.
fn check_paths(arguments: &EvalArguments) -> Result<(), CliError> {
    let requirement = |path: &Path, code: u8| (Requirement::path(path), code);
    let mut required = vec![requirement(&arguments.against, exit_code::DATA)];
    let weights = arguments.weights.iter();
    required.extend(weights.map(|path| requirement(path, exit_code::WEIGHTS)));
    Ok(check(&Catalogue::built_in()?, &required)?)
}

/// Returns the size at which samples and reference are compared: `--resolution`, or that of the
/// samples.
fn resolution(
    arguments: &EvalArguments,
    config: &EvaluationConfig,
    samples: &SampleFile,
) -> Result<ImageSize, CliError> {
    let own = ImageSize::from(samples.image_size());
    let resolution = arguments.resolution.map_or(own, ImageSize::square);
    // The network is trained on the samples in their own size, and tested on reference images.
    if trains_on_pixels(config) && own != resolution {
        let message = format!(
            "`cnn` is trained on samples of {own} pixels and cannot be tested on images of {resolution}"
        );
        return Err(refuse("--classifier", message));
    }
    Ok(resolution)
}

/// Returns true if the downstream classifier is trained on pixels.
fn trains_on_pixels(config: &EvaluationConfig) -> bool {
    config.metrics.contains(&MetricKind::Downstream)
        && config.downstream.classifier == ClassifierKind::Cnn
}

/// Returns the training set of a downstream classifier, whose images are still to be read; `None`
/// for a reference without labels.
fn training(
    config: &EvaluationConfig,
    samples: &SampleFile,
    labels: &[i64],
    reference: &ReferenceSource,
) -> Result<Option<Training>, CliError> {
    let Some(classes) = reference.classes() else {
        return Ok(None);
    };
    let names = class_names(&samples.path)?;
    let labels = match_classes(labels, names.as_deref(), classes).map_err(metrics_error)?;
    let (height, width) = samples.image_size();
    let images = trains_on_pixels(config).then(|| ImageBatch::empty(height, width));
    Ok(Some(Training { labels, images }))
}

fn metrics_error(error: impl Into<MetricsError>) -> EvaluationError {
    error.into().into()
}

/// Returns the class names of the run that made the samples, in the order of their labels. They are
/// read from `privacy.json` if the samples are in the result folder of a run.
fn class_names(samples: &Path) -> Result<Option<Vec<String>>, CliError> {
    let Some(folder) = samples.parent().and_then(Path::parent) else {
        return Ok(None);
    };
    let path = folder.join("privacy.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ArtifactsError::io(&path)(error).into()),
    };
    let names = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|statement| statement.pointer("/declared_public/class_names").cloned())
        .and_then(|names| serde_json::from_value(names).ok());
    match names {
        Some(names) => Ok(Some(names)),
        None => Err(EvaluationError::NotAStatement { path }.into()),
    }
}

/// Returns the configuration that the options stand for.
fn config(arguments: &EvalArguments) -> Result<EvaluationConfig, CliError> {
    let against = arguments.against.to_str();
    let reference = match against.ok_or_else(|| refuse("--against", "is not UTF-8".to_owned()))? {
        // The bare word stands for the private images of a run; here it is the name of a folder.
        PRIVATE => format!("./{PRIVATE}"),
        path => path.to_owned(),
    };
    let mut config = EvaluationConfig {
        reference,
        reference_layout: Some(arguments.layout.layout()),
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
            return Err(refuse(flag, "needs --metrics downstream".to_owned()));
        }
    }
    let classifier = arguments.classifier.unwrap_or_default();
    config.downstream =
        DownstreamOptions::new(classifier, arguments.seeds).map_err(metrics_error)?;
    config
        .validate()
        .map_err(|error| refuse(flag(&error.key), error.message))?;
    Ok(config)
}

fn embedder(arguments: &EvalArguments, size: ImageSize) -> Result<EmbedderConfig, CliError> {
    let weights = arguments.weights.clone();
    let is_network = arguments.embedder != "pixels";
    if is_network && !size.is_square() {
        let message =
            format!("missing: the samples have {size} pixels, and a network takes squares");
        return Err(refuse("--resolution", message));
    }
    let resolution = size.height;
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
        ("dinov2", Some(weights)) => Ok(EmbedderConfig::Dinov2(Dinov2EmbedderConfig {
            resolution,
            ..Dinov2EmbedderConfig::of(weights)
        })),
        ("dinov2", None) => Err(refuse(
            "--weights",
            "missing: `dinov2` needs its weights (or --embedder pixels)".to_owned(),
        )),
        ("clip", None) => Err(refuse(
            "--weights",
            "missing: `clip` needs its weights (or --embedder pixels)".to_owned(),
        )),
        ("pixels", None) => Ok(EmbedderConfig::Pixels(PixelsConfig {
            size: size.is_square().then_some(resolution),
            grayscale: arguments.grayscale,
        })),
        ("pixels", Some(_)) => Err(refuse(
            "--weights",
            "the embedder `pixels` has no weights".to_owned(),
        )),
        ("pca", _) => Err(refuse(
            "--embedder",
            "`pca` is fitted to the public images of a configuration: expected another one"
                .to_owned(),
        )),
        (other, _) => Err(refuse(
            "--embedder",
            format!("`{other}` is none of {}", EmbedderConfig::TYPES.join(", ")),
        )),
    }
}

/// Returns the option that stands for a key of `[evaluation]`.
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
