//! Opening the evaluation of a run: its embedder, its reference and its classifier.

use super::embedder_error;
use super::overlap::refuse_public;
use crate::cli::device::Devices;
use crate::cli::error::CliError;
use crate::cli::evaluation::{check_public, classifier, feature_space, open_reference, overlap};
use crate::config::Loaded;
use crate::dataset::PrivateImages;
use crate::embedders::OpenedEmbedder;
use crate::evaluation::ReferenceSource;
use crate::metrics::inception_score::Classifier;
use crate::metrics::table::FeatureSpace;
use crate::metrics::{EvaluationConfig, SetSizes};
use crate::pe::Plan;
use crate::privacy::ImageDigests;
use crate::progress::Observer;

/// Everything that `[evaluation]` refers to, opened and checked.
pub(super) struct OpenedEvaluation {
    /// The embedder of the metrics, if it is not that of the vote.
    pub(super) own: Option<OpenedEmbedder>,
    pub(super) space: FeatureSpace,
    pub(super) classifier: Option<Classifier>,
    /// The reference; `None` for the private images of the run.
    pub(super) reference: Option<ReferenceSource>,
}

/// Opens everything that `[evaluation]` refers to; `None` if evaluation is off.
///
/// `vote` is the embedder of the vote, which is also that of the metrics unless they have one of
/// their own. `image_size` is (height, width) of the samples. `images` have been checked: a
/// reference that is declared public and contains one of them is refused.
pub(super) fn open(
    loaded: &Loaded,
    vote: &OpenedEmbedder,
    image_size: (usize, usize),
    devices: &Devices,
    plan: &Plan,
    images: &PrivateImages,
    observer: &dyn Observer,
) -> Result<Option<OpenedEvaluation>, CliError> {
    let Some(config) = &loaded.settings.evaluation else {
        return Ok(None);
    };
    let size = loaded.settings.data.image_size;
    let chosen = config.embedder.as_ref();
    let own = chosen
        .map(|config| config.open(image_size, &devices.all(), observer))
        .transpose()
        .map_err(|error| embedder_error(loaded, "evaluation.embedder", error))?;
    let embedder = chosen.unwrap_or(&loaded.settings.embedder.embedder);
    let opened = own.as_ref().unwrap_or(vote);
    let weights = opened.weights_digest.as_deref();
    let space = feature_space(embedder, weights, size)?;
    if let Some(declared) = own.as_ref().and_then(|own| own.public_images.as_deref()) {
        let key = "evaluation.embedder.public";
        refuse_public(loaded, key, declared, images, observer)?;
    }
    check_public(config, &loaded.settings.data.path).map_err(|message| {
        loaded
            .locations
            .error("evaluation.reference_is_public", message)
    })?;
    let classifier = classifier(&config.metrics, embedder)?;
    let mut declared = ImageDigests::none();
    let reference = open_reference(
        config,
        size,
        &*opened.embedder,
        &space,
        observer,
        |pixels| declared.push(pixels),
    )?;
    if let Some(path) = config.path().filter(|_| images.are_in(&declared, observer)) {
        let message = overlap(path, &loaded.settings.data.path);
        let key = "evaluation.reference_is_public";
        return Err(loaded.locations.error(key, message).into());
    }
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
                Some(reference) if config.reference_is_public => reference.images(),
                // The number of private images that are not those of the run is not declared, so it
                // is not checked here; a metric that needs more fails during the run, marked.
                Some(reference) => reference.images().map(|_| usize::MAX),
                None => Some(plan.declared_size.unwrap_or(usize::MAX)),
            },
            dimension: opened.embedder.dimension(),
        })
        .map_err(|invalid| loaded.locations.invalid("evaluation", invalid))?;
    Ok(Some(OpenedEvaluation {
        own,
        space,
        classifier,
        reference,
    }))
}

/// Returns the line of the plan about the evaluation.
pub(super) fn describe(config: &EvaluationConfig) -> String {
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
        "evaluation: {} against {reference}, written to {place}",
        names.join(", ")
    )
}
