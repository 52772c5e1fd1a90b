//! What `dpsyn run` and `dpsyn eval` share: opening embedders, references and classifiers.

use std::path::Path;

use super::error::CliError;
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, EmbedderConfig};
use crate::evaluation::ReferenceSource;
use crate::hub::{Checkpoint, sha256_file};
use crate::images::{DataConfig, ImageSource, OnBadImage};
use crate::metrics::frechet::Frechet;
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::FeatureSpace;
use crate::metrics::{EvaluationConfig, MetricKind, MetricsError, Statistics};
use crate::models::inception::FEATURES;
use crate::pe::PeError;
use crate::privacy::sha256_hex;
use crate::progress::Observer;
use crate::sections::InvalidKey;

/// Digits of a digest that a figure shows.
const SHOWN: usize = 12;

pub(super) fn digest(path: &Path) -> Result<String, PeError> {
    sha256_file(path).map_err(|source| PeError::Io {
        path: path.to_owned(),
        source,
    })
}

/// An embedder in words. `image_size` counts where it takes images as they are.
pub(super) fn space(
    config: &EmbedderConfig,
    weights: Option<&str>,
    image_size: usize,
) -> Result<FeatureSpace, CliError> {
    let section = config.section();
    let mut settings = serde_json::to_value(config)
        .map_err(|error| PeError::State(format!("the embedder's settings: {error}")))?;
    if let Some(table) = settings.as_object_mut() {
        for key in config.non_identity_keys() {
            table.remove(*key);
        }
    }
    let resolution = section.resolution().unwrap_or(image_size);
    let identity = serde_json::json!([settings, weights, resolution]);
    let embedder = match weights {
        Some(digest) => {
            let shown: String = digest.chars().take(SHOWN).collect();
            format!("{} (weights {shown})", section.name())
        }
        None => section.name().to_owned(),
    };
    Ok(FeatureSpace {
        embedder,
        resolution,
        dtype: section.dtype().name(),
        digest: sha256_hex(identity.to_string().as_bytes()),
    })
}

/// Refuses a reference that is declared public and holds the run's own private images, or lies among them: by
/// whatever path they are reached.
pub(super) fn check_public(config: &EvaluationConfig, private: &Path) -> Result<(), String> {
    let Some(reference) = config.path().filter(|_| config.reference_is_public) else {
        return Ok(());
    };
    // What is not there is reported by whoever opens it.
    let (Ok(whole), Ok(own)) = (reference.canonicalize(), private.canonicalize()) else {
        return Ok(());
    };
    if whole.starts_with(&own) || own.starts_with(&whole) {
        return Err(format!(
            "{} and the private images of {} overlap, which cannot be declared public",
            reference.display(),
            private.display()
        ));
    }
    Ok(())
}

/// The reference, every image of which is read once so that a broken one is found early; `None` for the
/// run's own private images.
pub(super) fn against(
    config: &EvaluationConfig,
    image_size: usize,
    embedder: &dyn Embedder,
    space: &FeatureSpace,
    observer: &dyn Observer,
) -> Result<Option<ReferenceSource>, CliError> {
    let Some(path) = config.path() else {
        return Ok(None);
    };
    let public = config.reference_is_public;
    if Statistics::is_file(path) {
        let statistics = Statistics::open(path).map_err(PeError::from)?;
        statistics
            .check(path, embedder.dimension(), space.resolution, &space.digest)
            .map_err(PeError::from)?;
        // A covariance that is none is found out here, where it costs nothing.
        Frechet::new(&statistics.gaussian).map_err(PeError::from)?;
        return Ok(Some(ReferenceSource::statistics(statistics, public)));
    }
    let data = DataConfig {
        path: path.to_owned(),
        image_size,
        class_conditional: config.metrics.contains(&MetricKind::Downstream),
        num_samples: None,
        on_bad_image: OnBadImage::Error,
    };
    Ok(Some(if public {
        let mut source = ImageSource::open(&data)?;
        source.check::<PeError>(512, |_| Ok(observer.check()?))?;
        ReferenceSource::Public(Box::new(source))
    } else {
        let mut images = PrivateImages::open(&data)?;
        let (fingerprint, _) = images.check(observer)?;
        ReferenceSource::Private(Box::new(images), fingerprint)
    }))
}

/// The classifier, where a figure needs one. An embedder without weights cannot have any.
pub(super) fn classifier(
    metrics: &[MetricKind],
    config: &EmbedderConfig,
) -> Result<Option<Classifier>, CliError> {
    if !metrics.contains(&MetricKind::InceptionScore) {
        return Ok(None);
    }
    let EmbedderConfig::Inception(inception) = config else {
        let message = format!(
            "`inception-score` needs Inception's classifier, but the embedder is {}",
            config.section().name()
        );
        let error = InvalidKey::new("metrics", message);
        return Err(PeError::from(MetricsError::from(error)).into());
    };
    let checkpoint =
        Checkpoint::open(&inception.weights).map_err(|error| PeError::Embedder(error.into()))?;
    let classifier = Classifier::open(&checkpoint, FEATURES).map_err(PeError::from)?;
    Ok(Some(classifier))
}
