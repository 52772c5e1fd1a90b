//! Parts of an evaluation that `dpsyn run` and `dpsyn eval` open alike: feature space, reference,
//! classifier.

use std::path::Path;

use super::error::CliError;
use crate::artifacts::ArtifactsError;
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, EmbedderConfig, EmbedderError};
use crate::evaluation::{CHUNK, EvaluationError, ReferenceSource};
use crate::hub::{Checkpoint, sha256_file};
use crate::images::{DataConfig, ImageSize, ImageSource, OccurringClasses};
use crate::metrics::frechet::Frechet;
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::FeatureSpace;
use crate::metrics::{EvaluationConfig, MetricKind, MetricsError, Statistics};
use crate::models::inception::FEATURES;
use crate::privacy::sha256_hex;
use crate::progress::Observer;
use crate::sections::InvalidKey;

/// First digits of a weights' digest that a row shows: 48 bits, enough to recognize a file.
const SHOWN_DIGITS: usize = 12;

/// Returns the SHA-256 of a file in hexadecimal digits.
pub(super) fn digest(path: &Path) -> Result<String, ArtifactsError> {
    sha256_file(path).map_err(ArtifactsError::io(path))
}

/// Describes an embedder whose weights have the digest `weights`. `image_size` counts if the
/// embedder does not resize images.
pub(super) fn feature_space(
    config: &EmbedderConfig,
    weights: Option<&str>,
    image_size: ImageSize,
) -> Result<FeatureSpace, CliError> {
    let section = config.section();
    let mut settings = serde_json::to_value(config).map_err(EvaluationError::Settings)?;
    if let Some(table) = settings.as_object_mut() {
        for key in config.non_identity_keys() {
            table.remove(*key);
        }
    }
    let resolution = section.resolution().map_or(image_size, ImageSize::square);
    let identity = serde_json::json!([settings, weights, resolution]);
    let embedder = match weights {
        Some(digest) => {
            let digits: String = digest.chars().take(SHOWN_DIGITS).collect();
            format!("{} (weights {digits})", section.name())
        }
        None => section.name().to_owned(),
    };
    Ok(FeatureSpace {
        embedder,
        resolution: resolution.height,
        dtype: section.dtype().name(),
        digest: sha256_hex(identity.to_string().as_bytes()),
    })
}

/// Refuses a reference that is declared public and overlaps the private images of the run. Symbolic
/// links are resolved first.
pub(super) fn check_public(config: &EvaluationConfig, private: &Path) -> Result<(), String> {
    let Some(reference) = config.path().filter(|_| config.reference_is_public) else {
        return Ok(());
    };
    check_paths(reference, private)
}

/// Refuses a path of public images that contains the path of the private images, or is in it.
/// Symbolic links are resolved first.
pub(super) fn check_paths(public: &Path, private: &Path) -> Result<(), String> {
    // A path that does not exist is reported when it is opened.
    let (Ok(resolved), Ok(own)) = (public.canonicalize(), private.canonicalize()) else {
        return Ok(());
    };
    if resolved.starts_with(&own) || own.starts_with(&resolved) {
        return Err(overlap(public, private));
    }
    Ok(())
}

/// Returns the message of images that are declared public and overlap the private images: the same,
/// whether a path or the pixels of some or all images show it.
pub(super) fn overlap(reference: &Path, private: &Path) -> String {
    format!(
        "{} and the private images of {} overlap, which cannot be declared public",
        reference.display(),
        private.display()
    )
}

/// Opens the reference; `None` for the private images of the run. Each image is read once, so that
/// a damaged one is found before anything is computed, and those that are declared public are
/// passed to `visit`. Only the metric `downstream` needs classes, which are those that occur in the
/// reference: nothing of an evaluation is published.
pub(super) fn open_reference(
    config: &EvaluationConfig,
    image_size: ImageSize,
    embedder: &dyn Embedder,
    space: &FeatureSpace,
    observer: &dyn Observer,
    mut visit: impl FnMut(&[u8]),
) -> Result<Option<ReferenceSource>, EvaluationError> {
    let Some(path) = config.path() else {
        return Ok(None);
    };
    let public = config.reference_is_public;
    if Statistics::is_file(path) {
        let statistics = Statistics::open(path)?;
        statistics.check(path, embedder.dimension(), space.resolution, &space.digest)?;
        // A matrix that is not a covariance is refused here, before anything is computed.
        Frechet::new(&statistics.gaussian)?;
        return Ok(Some(ReferenceSource::statistics(statistics, public)));
    }
    let layout = config.reference_layout.clone().unwrap_or_default();
    let mut data = DataConfig::with_layout(path, image_size, &layout);
    if config.metrics.contains(&MetricKind::Downstream) {
        data.classes = Some(OccurringClasses::of(&data)?.names());
        data.class_conditional = true;
    }
    Ok(Some(if public {
        let mut source = ImageSource::open(&data)?;
        source.check::<EvaluationError>(CHUNK, |batch| {
            batch.iter().for_each(&mut visit);
            Ok(observer.check()?)
        })?;
        ReferenceSource::public_images(source)
    } else {
        let mut images = PrivateImages::open(&data)?;
        let checked = images.check(observer)?;
        ReferenceSource::private_images(images, checked.fingerprint)
    }))
}

/// Opens the classifier of the Inception Score, if it is one of the metrics. Only Inception's
/// weights have a classifier.
pub(super) fn classifier(
    metrics: &[MetricKind],
    config: &EmbedderConfig,
) -> Result<Option<Classifier>, EvaluationError> {
    if !metrics.contains(&MetricKind::InceptionScore) {
        return Ok(None);
    }
    let EmbedderConfig::Inception(inception) = config else {
        let message = format!(
            "`inception-score` needs Inception's classifier, but the embedder is {}",
            config.section().name()
        );
        return Err(MetricsError::from(InvalidKey::new("metrics", message)).into());
    };
    let checkpoint = Checkpoint::open(&inception.weights).map_err(EmbedderError::from)?;
    Ok(Some(Classifier::open(&checkpoint, FEATURES)?))
}
