//! Computes the values of one metric from the features of two sets.

use candle_core::Device;

use super::features::Features;
use super::frechet::Frechet;
use super::inception_score::{Classifier, SPLITS, inception_score};
use super::kid::{Interval, kernel_distance};
use super::memorization::{Distances, PairIndices, QUANTILES, Summary};
use super::precision_recall::precision_recall;
use super::{EvaluationConfig, MetricKind, MetricsError};
use crate::embedders::Embeddings;
use crate::progress::Cancellation;
use crate::sections::InvalidKey;

/// Features of a reference, with everything that can be computed from them alone.
pub struct Reference {
    features: Features,
    frechet: Option<Frechet>,
}

impl Reference {
    /// Decomposes the covariance, if the features have one.
    ///
    /// # Errors
    /// See [`Frechet::new`].
    pub fn new(features: Features) -> Result<Self, MetricsError> {
        let frechet = features.gaussian.as_ref().map(Frechet::new).transpose()?;
        Ok(Self { features, frechet })
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.features.count
    }

    /// All feature vectors, if they were kept.
    #[must_use]
    pub fn vectors(&self) -> Option<&Embeddings> {
        self.features.vectors.as_ref()
    }
}

/// Settings and devices of the computation.
pub struct MetricContext<'a> {
    /// Number of neighbors, subsets, seeds.
    pub config: &'a EvaluationConfig,
    /// Classifier of the Inception Score, if the embedder's weights have one.
    pub classifier: Option<&'a Classifier>,
    /// Device of the nearest-neighbor search.
    pub device: &'a Device,
    /// Checked between blocks of work.
    pub cancellation: &'a dyn Cancellation,
}

/// The two sets that a metric compares.
#[derive(Clone, Copy)]
pub struct ComparedSets<'a> {
    /// Features of the samples.
    pub samples: &'a Features,
    /// The prepared reference.
    pub reference: &'a Reference,
    /// Number of reference images; `None` where the file of statistics does not say.
    pub reference_images: Option<usize>,
}

/// Number of reference images that a value was computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceCount {
    /// The metric uses no reference.
    Unused,
    /// The file of statistics does not say.
    Unknown,
    /// So many images.
    Images(usize),
}

impl From<Option<usize>> for ReferenceCount {
    fn from(count: Option<usize>) -> Self {
        count.map_or(Self::Unknown, Self::Images)
    }
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue {
    /// Name of the value, the `figure` column of `metrics.csv`.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// Interval of the value, if it is an estimate.
    pub interval: Option<Interval>,
    /// Number of samples that the value was computed on.
    pub samples: usize,
    /// Number of reference images that the value was computed on.
    pub reference: ReferenceCount,
    /// Method, in words.
    pub details: String,
}

/// Result of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricOutput {
    /// Values of the metric.
    pub values: Vec<MetricValue>,
    /// Closest pairs of [`MetricKind::Memorization`], the closest first; empty for other metrics.
    pub closest: Vec<PairIndices>,
}

impl From<Vec<MetricValue>> for MetricOutput {
    fn from(values: Vec<MetricValue>) -> Self {
        Self {
            values,
            closest: Vec::new(),
        }
    }
}

/// Closest pairs that are kept: as many as a picture shows at a glance.
const PAIRS: usize = 10;

/// Computes the values of one metric.
///
/// # Errors
/// [`MetricsError`] of the metric; [`MetricsError::Config`] when a set lacks the features that it
/// needs.
pub fn measure(
    metric: MetricKind,
    sets: ComparedSets<'_>,
    context: &MetricContext<'_>,
) -> Result<MetricOutput, MetricsError> {
    let measured = match metric {
        MetricKind::Fid => sets.fid()?,
        MetricKind::PrecisionRecall => sets.precision_recall(context)?,
        MetricKind::Kid => sets.kid(context)?,
        MetricKind::InceptionScore => sets.inception_score(context)?,
        MetricKind::Memorization => sets.memorization(context)?,
        // Needs labels, which features do not have.
        MetricKind::Downstream => None,
    };
    measured.ok_or_else(|| missing_features(metric).into())
}

/// Returns the error for a metric whose features were not collected.
#[must_use]
pub fn missing_features(metric: MetricKind) -> InvalidKey {
    InvalidKey::new(
        "metrics",
        format!("the features that `{metric}` needs were not collected"),
    )
}

/// Values of a metric; `None` where a set lacks the features that it needs.
type Measured = Result<Option<MetricOutput>, MetricsError>;

impl ComparedSets<'_> {
    fn value(&self, name: &'static str, value: f64, details: String) -> MetricValue {
        MetricValue {
            name,
            value,
            interval: None,
            samples: self.samples.count,
            reference: self.reference_images.into(),
            details,
        }
    }

    /// Feature vectors of the samples and of the reference.
    fn vectors(&self) -> Option<(&Embeddings, &Embeddings)> {
        self.samples.vectors.as_ref().zip(self.reference.vectors())
    }

    fn fid(&self) -> Measured {
        let frechet = self.reference.frechet.as_ref();
        let Some((frechet, gaussian)) = frechet.zip(self.samples.gaussian.as_ref()) else {
            return Ok(None);
        };
        let (used, count) = (self.samples.moment_count, self.samples.count);
        let drawn = match used {
            used if used == count => None,
            used if used < count => Some(format!("{used} of {count} samples without replacement")),
            used => Some(format!("{used} of {count} samples with replacement")),
        };
        // The covariance of fewer images than dimensions is singular, and the distance too large.
        let dimension = gaussian.dimension();
        let fewest = used
            .min(count)
            .min(self.reference_images.unwrap_or(usize::MAX));
        let too_few = (fewest < dimension).then(|| {
            format!("biased upwards by {fewest} images in {dimension} dimensions (see kid)")
        });
        let details: Vec<String> = drawn.into_iter().chain(too_few).collect();
        let details = details.join("; ");
        let value = MetricValue {
            samples: used,
            ..self.value("fid", frechet.distance(gaussian)?, details)
        };
        Ok(Some(vec![value].into()))
    }

    fn precision_recall(&self, context: &MetricContext<'_>) -> Measured {
        let Some((samples, reference)) = self.vectors() else {
            return Ok(None);
        };
        let k = context.config.nearest_neighbors;
        let (device, cancellation) = (context.device, context.cancellation);
        let found = precision_recall(reference, samples, k, device, cancellation)?;
        let details = format!("k = {k}");
        let values = vec![
            self.value("precision", found.precision, details.clone()),
            self.value("recall", found.recall, details),
        ];
        Ok(Some(values.into()))
    }

    fn kid(&self, context: &MetricContext<'_>) -> Measured {
        let Some((samples, reference)) = self.vectors() else {
            return Ok(None);
        };
        let options = context.config.kid();
        let kid = kernel_distance(reference, samples, options, context.cancellation)?;
        let details = format!(
            "mean of {} subsets of {}; standard deviation {:.3e}; 95 % interval of the mean over subsets",
            options.subsets, kid.subset_size, kid.deviation
        );
        let value = MetricValue {
            interval: Some(kid.interval),
            ..self.value("kid", kid.mean, details)
        };
        Ok(Some(vec![value].into()))
    }

    fn inception_score(&self, context: &MetricContext<'_>) -> Measured {
        let vectors = self.samples.vectors.as_ref();
        let Some((samples, classifier)) = vectors.zip(context.classifier) else {
            return Ok(None);
        };
        let score = inception_score(samples, classifier, context.config.seed)?;
        let details = format!(
            "mean of {SPLITS} splits; standard deviation {:.3e}",
            score.deviation
        );
        let value = MetricValue {
            reference: ReferenceCount::Unused,
            ..self.value("inception-score", score.mean, details)
        };
        Ok(Some(vec![value].into()))
    }

    fn memorization(&self, context: &MetricContext<'_>) -> Measured {
        let Some((samples, reference)) = self.vectors() else {
            return Ok(None);
        };
        let distances = Distances::new(samples, reference, context.device, context.cancellation)?;
        Ok(Some(MetricOutput {
            values: self.memorization_values(&distances.summary()),
            closest: distances.closest(PAIRS),
        }))
    }

    fn memorization_values(&self, found: &Summary) -> Vec<MetricValue> {
        let median = |values: &[f64]| {
            let at = QUANTILES.iter().position(|q| *q == 0.5);
            at.and_then(|at| values.get(at))
                .copied()
                .unwrap_or(f64::NAN)
        };
        let quantiles = |values: &[f64]| {
            let all = QUANTILES.iter().zip(values);
            let all: Vec<String> = all
                .map(|(q, v)| format!("{}%: {v:.4}", q * 100.0))
                .collect();
            format!("median; {}", all.join(" "))
        };
        vec![
            self.value(
                "identical",
                found.identical,
                "share of samples whose vector is that of a reference image".to_owned(),
            ),
            self.value(
                "closer-than-its-fellow",
                found.closer_than_its_fellow,
                "share of samples nearer to a reference image than the nearest other reference image \
                 is; about 0.5 for the reference's own distribution"
                    .to_owned(),
            ),
            self.value(
                "closer-than-1-percent",
                found.closer_than_1_percent,
                "share of samples nearer to a reference image than 99 % of reference images are to \
                 their nearest other one; about 0.01 for the reference's own distribution"
                    .to_owned(),
            ),
            self.value(
                "distance-to-reference",
                median(&found.synthetic_to_reference),
                quantiles(&found.synthetic_to_reference),
            ),
            self.value(
                "distance-within-reference",
                median(&found.reference_to_reference),
                quantiles(&found.reference_to_reference),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::FeatureAccumulator;
    use super::super::testing::random;
    use super::*;
    use crate::metrics::FeatureSet;
    use crate::progress::Silent;

    fn features(count: usize, sample: u64, set: FeatureSet) -> Features {
        let mut collector = FeatureAccumulator::new(4, set);
        collector.push(&random(count, 4, sample)).unwrap();
        collector.finish("samples").unwrap()
    }

    #[test]
    fn every_metric_is_computed_from_the_features_that_it_declares() {
        let config = EvaluationConfig::with_metrics(MetricKind::ALL.to_vec());
        let classifier = Classifier::new(
            random(3, 4, 9)
                .data()
                .iter()
                .map(|v| f64::from(*v))
                .collect(),
            4,
        );
        let context = MetricContext {
            config: &config,
            classifier: classifier.as_ref(),
            device: &Device::Cpu,
            cancellation: &Silent,
        };
        let mut names = Vec::new();
        for metric in MetricKind::ALL {
            if metric == MetricKind::Downstream {
                continue;
            }
            let samples = features(40, 1, metric.sample_features());
            let reference = Reference::new(features(50, 2, metric.reference_features())).unwrap();
            let sets = ComparedSets {
                samples: &samples,
                reference: &reference,
                reference_images: Some(50),
            };
            let found = measure(metric, sets, &context).unwrap();
            let pairs = if metric == MetricKind::Memorization {
                PAIRS
            } else {
                0
            };
            assert_eq!(found.closest.len(), pairs);
            let values = found.values;
            assert!(
                values
                    .iter()
                    .all(|f| f.value.is_finite() && f.samples == 40)
            );
            names.extend(values.into_iter().map(|value| value.name));
        }
        assert_eq!(
            names,
            [
                "fid",
                "precision",
                "recall",
                "kid",
                "inception-score",
                "identical",
                "closer-than-its-fellow",
                "closer-than-1-percent",
                "distance-to-reference",
                "distance-within-reference"
            ]
        );
        let nothing = features(40, 1, FeatureSet::default());
        let reference = Reference::new(features(50, 2, FeatureSet::default())).unwrap();
        let sets = ComparedSets {
            samples: &nothing,
            reference: &reference,
            reference_images: None,
        };
        assert!(matches!(
            measure(MetricKind::Kid, sets, &context),
            Err(MetricsError::Config(_))
        ));
    }

    #[test]
    fn fid_of_too_few_images_says_so() {
        let config = EvaluationConfig::with_metrics(vec![MetricKind::Fid]);
        let context = MetricContext {
            config: &config,
            classifier: None,
            device: &Device::Cpu,
            cancellation: &Silent,
        };
        let fid = |count| {
            let samples = features(count, 1, MetricKind::Fid.sample_features());
            let reference = features(50, 2, MetricKind::Fid.reference_features());
            let sets = ComparedSets {
                samples: &samples,
                reference: &Reference::new(reference).unwrap(),
                reference_images: Some(50),
            };
            measure(MetricKind::Fid, sets, &context).unwrap().values[0]
                .details
                .clone()
        };
        assert_eq!(fid(4), "");
        assert!(fid(3).contains("3 images in 4 dimensions"), "{}", fid(3));
    }
}
