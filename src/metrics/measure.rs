//! Two sets to figures.

use candle_core::Device;

use super::features::Features;
use super::frechet::Frechet;
use super::inception_score::{Classifier, SPLITS, inception_score};
use super::kid::kernel_distance;
use super::memorization::{Distances, QUANTILES, Summary};
use super::precision_recall::precision_recall;
use super::{EvaluationConfig, MetricKind, MetricsError};
use crate::embedders::Embeddings;
use crate::progress::Cancellation;

/// A reference with everything that can be computed from it alone.
pub struct Reference {
    features: Features,
    frechet: Option<Frechet>,
}

impl Reference {
    /// Prepares distances from a set.
    ///
    /// # Errors
    /// As [`Frechet::new`].
    pub fn new(features: Features) -> Result<Self, MetricsError> {
        let frechet = features.gaussian.as_ref().map(Frechet::new).transpose()?;
        Ok(Self { features, frechet })
    }

    /// All vectors, where they were kept.
    #[must_use]
    pub fn vectors(&self) -> Option<&Embeddings> {
        self.features.vectors.as_ref()
    }
}

/// What a figure is computed with.
pub struct MetricContext<'a> {
    /// k, subsets, seeds.
    pub config: &'a EvaluationConfig,
    /// Where the embedder's weights have one.
    pub classifier: Option<&'a Classifier>,
    /// Where neighbours are searched.
    pub device: &'a Device,
    /// Checked between blocks of work.
    pub cancellation: &'a dyn Cancellation,
}

/// One number of quality.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue {
    /// What it is called.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// From where to where it is known, if that is estimated.
    pub interval: Option<(f64, f64)>,
    /// Samples that it was computed on.
    pub samples: usize,
    /// Images of the reference; `None` where the file of statistics does not say.
    pub reference: Option<usize>,
    /// How, for people.
    pub details: String,
}

/// What one metric found.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricOutput {
    /// Its figures.
    pub figures: Vec<MetricValue>,
    /// Of [`MetricKind::Memorization`], the closest pairs: (sample, reference image), the closest first.
    pub closest: Vec<(usize, usize)>,
}

impl From<Vec<MetricValue>> for MetricOutput {
    fn from(figures: Vec<MetricValue>) -> Self {
        Self {
            figures,
            closest: Vec::new(),
        }
    }
}

/// Closest pairs that are kept.
const PAIRS: usize = 10;

/// The figures of one metric. `reference_images` is their number, if it is known.
///
/// # Errors
/// [`MetricsError`] of the metric; [`MetricsError::Config`] when a set was not prepared for it.
pub fn measure(
    metric: MetricKind,
    samples: &Features,
    reference: &Reference,
    reference_images: Option<usize>,
    with: &MetricContext<'_>,
) -> Result<MetricOutput, MetricsError> {
    let unprepared = || MetricsError::Config {
        key: "metrics",
        message: format!("the sets were not prepared for `{metric}`"),
    };
    fn vectors(features: &Features) -> Option<&Embeddings> {
        features.vectors.as_ref()
    }
    let figure = |name, value, interval, details: String| MetricValue {
        name,
        value,
        interval,
        samples: samples.count,
        reference: reference_images,
        details,
    };
    let figures = match metric {
        MetricKind::Fid => {
            let frechet = reference.frechet.as_ref().ok_or_else(unprepared)?;
            let gaussian = samples.gaussian.as_ref().ok_or_else(unprepared)?;
            let details = match samples.drawn {
                drawn if drawn == samples.count => String::new(),
                drawn if drawn < samples.count => {
                    format!("{drawn} of {} samples without replacement", samples.count)
                }
                drawn => format!("{drawn} of {} samples with replacement", samples.count),
            };
            vec![MetricValue {
                samples: samples.drawn,
                ..figure("fid", frechet.distance(gaussian)?, None, details)
            }]
        }
        MetricKind::PrecisionRecall => {
            let k = with.config.nearest_neighbors;
            let found = precision_recall(
                vectors(&reference.features).ok_or_else(unprepared)?,
                vectors(samples).ok_or_else(unprepared)?,
                k,
                with.device,
                with.cancellation,
            )?;
            let details = format!("k = {k}");
            vec![
                figure("precision", found.precision, None, details.clone()),
                figure("recall", found.recall, None, details),
            ]
        }
        MetricKind::Kid => {
            let options = with.config.kid();
            let kid = kernel_distance(
                vectors(&reference.features).ok_or_else(unprepared)?,
                vectors(samples).ok_or_else(unprepared)?,
                options,
                with.cancellation,
            )?;
            let details = format!(
                "mean of {} subsets of {}; standard deviation {:.3e}; 95 % interval of the mean over subsets",
                options.subsets, kid.subset_size, kid.deviation
            );
            vec![figure("kid", kid.mean, Some(kid.interval), details)]
        }
        MetricKind::InceptionScore => {
            let classifier = with.classifier.ok_or_else(unprepared)?;
            let score = inception_score(
                vectors(samples).ok_or_else(unprepared)?,
                classifier,
                with.config.seed,
            )?;
            let details = format!(
                "mean of {SPLITS} splits; standard deviation {:.3e}",
                score.deviation
            );
            vec![MetricValue {
                reference: Some(0),
                ..figure("inception-score", score.mean, None, details)
            }]
        }
        MetricKind::Memorization => {
            let distances = Distances::of(
                vectors(samples).ok_or_else(unprepared)?,
                reference.vectors().ok_or_else(unprepared)?,
                with.device,
                with.cancellation,
            )?;
            let found = distances.summary();
            let figures = memorisation_figures(&found)
                .map(|(name, value, details)| figure(name, value, None, details));
            return Ok(MetricOutput {
                figures: figures.into(),
                closest: distances.closest(PAIRS),
            });
        }
        // Needs labels, which features have not.
        MetricKind::Downstream => return Err(unprepared()),
    };
    Ok(figures.into())
}

/// Name, value and details of each figure of a check for memorisation.
fn memorisation_figures(found: &Summary) -> [(&'static str, f64, String); 5] {
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
    [
        (
            "identical",
            found.identical,
            "share of samples whose vector is that of a reference image".to_owned(),
        ),
        (
            "closer-than-its-fellow",
            found.closer_than_its_fellow,
            "share of samples nearer to a reference image than its nearest fellow is; about 0.5 for the \
             reference's own distribution"
                .to_owned(),
        ),
        (
            "closer-than-1-percent",
            found.closer_than_1_percent_of_private,
            "share of samples nearer to a reference image than 99 % of these are to their fellows; about \
             0.01 for the reference's own distribution"
                .to_owned(),
        ),
        (
            "distance-to-reference",
            median(&found.synthetic_to_private),
            quantiles(&found.synthetic_to_private),
        ),
        (
            "distance-within-reference",
            median(&found.private_to_private),
            quantiles(&found.private_to_private),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::features::FeatureAccumulator;
    use super::super::testing::random;
    use super::*;
    use crate::metrics::FeatureSet;
    use crate::progress::Silent;

    fn features(count: usize, sample: u64, needs: FeatureSet) -> Features {
        let mut collector = FeatureAccumulator::new(4, needs);
        collector.push(&random(count, 4, sample)).unwrap();
        collector.finish("samples").unwrap()
    }

    #[test]
    fn every_metric_gives_its_figures_from_what_it_says_it_needs() {
        let config = EvaluationConfig::of(MetricKind::ALL.to_vec());
        let classifier = Classifier::new(
            random(3, 4, 9)
                .data()
                .iter()
                .map(|v| f64::from(*v))
                .collect(),
            4,
        );
        let with = MetricContext {
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
            let samples = features(40, 1, metric.of_samples());
            let reference = Reference::new(features(50, 2, metric.of_reference())).unwrap();
            let found = measure(metric, &samples, &reference, Some(50), &with).unwrap();
            let pairs = if metric == MetricKind::Memorization {
                PAIRS
            } else {
                0
            };
            assert_eq!(found.closest.len(), pairs);
            let figures = found.figures;
            assert!(
                figures
                    .iter()
                    .all(|f| f.value.is_finite() && f.samples == 40)
            );
            names.extend(figures.into_iter().map(|figure| figure.name));
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
        assert!(measure(MetricKind::Kid, &nothing, &reference, None, &with).is_err());
    }
}
