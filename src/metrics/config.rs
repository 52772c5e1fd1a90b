//! The `[evaluation]` section.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::downstream::{ClassifierKind, DownstreamOptions};
use super::frechet::MAX_DIMENSION;
use super::inception_score::SPLITS;
use super::kid::KidOptions;
use super::{FeatureSet, MetricKind};
use crate::embedders::EmbedderConfig;
use crate::images::Layout;
use crate::sections::InvalidKey;

/// The value of `reference` that means the run's own private images.
pub const PRIVATE: &str = "private";

/// `[evaluation]`: metrics of each population; off unless `metrics` names some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Metrics to compute.
    pub metrics: Vec<MetricKind>,
    /// Populations 0, `every`, 2·`every`, … and the last are evaluated.
    #[serde(default = "one")]
    pub every: u32,
    /// Samples that FID is computed on; all of a population by default. Fewer are chosen without
    /// replacement, more with replacement, as in the authors' implementation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fid_samples: Option<usize>,
    /// Number of neighbors (k) of precision and recall.
    #[serde(default = "three")]
    pub nearest_neighbors: usize,
    /// Number of random subsets that KID is averaged over.
    #[serde(default = "default_subsets")]
    pub kid_subsets: usize,
    /// Largest number of images of each set in one subset.
    #[serde(default = "default_subset_size")]
    pub kid_subset_size: usize,
    /// [`PRIVATE`], a folder, an `.npz` of images, or an `.npz` with `mu` and `sigma`.
    #[serde(default = "default_reference")]
    pub reference: String,
    /// Layout of the reference, if its path does not imply it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_layout: Option<Layout>,
    /// Declaration by the user that the reference at that path is public. Without it, the reference
    /// counts as private.
    #[serde(default)]
    pub reference_is_public: bool,
    /// Seed of the random subsets and splits.
    #[serde(default)]
    pub seed: u64,
    /// Classifier of [`MetricKind::Downstream`]; available in `dpsyn eval` only.
    #[serde(skip)]
    pub downstream: DownstreamOptions,
    /// Embedder of the metrics; that of the vote by default. It is read as a section of its own.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub embedder: Option<EmbedderConfig>,
}

fn one() -> u32 {
    1
}

fn three() -> usize {
    3
}

fn default_subsets() -> usize {
    KidOptions::default().subsets
}

fn default_subset_size() -> usize {
    KidOptions::default().subset_size
}

fn default_reference() -> String {
    PRIVATE.to_owned()
}

/// Sizes of the two sets, known before either is read, so that sets that do not fit are refused
/// early.
#[derive(Debug, Clone, Copy)]
pub struct SetSizes {
    /// Number of samples in the smallest population that is evaluated.
    pub samples: usize,
    /// Number of reference images; `None` where only their statistics are given.
    pub reference: Option<usize>,
    /// Dimension of a feature vector.
    pub dimension: usize,
}

impl EvaluationConfig {
    /// Returns the default configuration of these metrics.
    #[must_use]
    pub fn with_metrics(metrics: Vec<MetricKind>) -> Self {
        Self {
            metrics,
            every: one(),
            num_fid_samples: None,
            nearest_neighbors: three(),
            kid_subsets: default_subsets(),
            kid_subset_size: default_subset_size(),
            reference: default_reference(),
            reference_layout: None,
            reference_is_public: false,
            seed: 0,
            downstream: DownstreamOptions::default(),
            embedder: None,
        }
    }

    /// Checks each value by itself, the embedder's excluded.
    ///
    /// # Errors
    /// [`InvalidKey`] naming the key.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        let at_least = |key, value: usize, least: usize| {
            if value < least {
                let message = format!("is {value}: expected at least {least}");
                return Err(InvalidKey::new(key, message));
            }
            Ok(())
        };
        at_least("every", self.every as usize, 1)?;
        at_least("num_fid_samples", self.num_fid_samples.unwrap_or(2), 2)?;
        at_least("nearest_neighbors", self.nearest_neighbors, 1)?;
        at_least("kid_subsets", self.kid_subsets, 1)?;
        at_least("kid_subset_size", self.kid_subset_size, 2)?;
        for (index, metric) in self.metrics.iter().enumerate() {
            if self.metrics.iter().take(index).any(|m| m == metric) {
                return Err(InvalidKey::new(
                    "metrics",
                    format!("`{metric}` is listed twice"),
                ));
            }
        }
        if self.path().is_none() && self.reference_is_public {
            return Err(InvalidKey::new(
                "reference_is_public",
                "the run's own private images cannot be declared public".to_owned(),
            ));
        }
        if self.seed > i64::MAX as u64 {
            // TOML has no larger integers, and the resolved configuration must be readable again.
            return Err(InvalidKey::new(
                "seed",
                format!("expected at most {}", i64::MAX),
            ));
        }
        Ok(())
    }

    /// Checks the values that depend on the sizes of the sets.
    ///
    /// # Errors
    /// [`InvalidKey`] naming the key.
    pub fn check_sizes(&self, sizes: SetSizes) -> Result<(), InvalidKey> {
        for metric in &self.metrics {
            if metric.reference_features().vectors && sizes.reference.is_none() {
                let message = format!(
                    "`{metric}` compares images, but the reference is a mean and a covariance"
                );
                return Err(InvalidKey::new("metrics", message));
            }
            let (key, least) = match metric {
                MetricKind::Fid => ("metrics", 2),
                MetricKind::PrecisionRecall => ("nearest_neighbors", self.nearest_neighbors + 1),
                MetricKind::Kid => ("metrics", 2),
                MetricKind::InceptionScore => ("metrics", SPLITS),
                MetricKind::Memorization | MetricKind::Downstream => ("metrics", 2),
            };
            let reference = match metric {
                MetricKind::InceptionScore => least,
                _ => sizes.reference.unwrap_or(least),
            };
            for (what, count) in [("samples", sizes.samples), ("reference images", reference)] {
                if count < least {
                    let message = format!("`{metric}` needs at least {least} {what}, not {count}");
                    return Err(InvalidKey::new(key, message));
                }
            }
            if metric.sample_features().moments && sizes.dimension > MAX_DIMENSION {
                let message = format!(
                    "`{metric}` of {} features: expected at most {MAX_DIMENSION}; give the embedder a \
                     smaller size",
                    sizes.dimension
                );
                return Err(InvalidKey::new("metrics", message));
            }
        }
        Ok(())
    }

    /// Path of the reference; `None` for the run's own private images.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        (self.reference != PRIVATE).then_some(Path::new(&self.reference))
    }

    /// Returns true if population number `population` is evaluated; `last` is the number of the
    /// last one.
    #[must_use]
    pub fn is_due(&self, population: u32, last: u32) -> bool {
        population == last || population.is_multiple_of(self.every.max(1))
    }

    /// Features that the metrics need of the reference.
    #[must_use]
    pub fn reference_features(&self) -> FeatureSet {
        let sets = self.feature_metrics().map(MetricKind::reference_features);
        sets.fold(FeatureSet::default(), FeatureSet::union)
    }

    /// Features that the metrics need of the samples.
    #[must_use]
    pub fn sample_features(&self) -> FeatureSet {
        let sets = self.feature_metrics().map(MetricKind::sample_features);
        sets.fold(FeatureSet::default(), FeatureSet::union)
    }

    /// The metrics that use features. A downstream network uses pixels instead.
    fn feature_metrics(&self) -> impl Iterator<Item = MetricKind> {
        let pixels = self.downstream.classifier == ClassifierKind::Cnn;
        let metrics = self.metrics.iter().copied();
        metrics.filter(move |metric| !(pixels && *metric == MetricKind::Downstream))
    }

    /// Options of [`kernel_distance`](super::kid::kernel_distance).
    #[must_use]
    pub fn kid(&self) -> KidOptions {
        KidOptions {
            subsets: self.kid_subsets,
            subset_size: self.kid_subset_size,
            seed: self.seed,
        }
    }

    /// Settings that the values of `metric` depend on, beside the two sets and the embedder.
    #[must_use]
    pub fn identity(&self, metric: MetricKind) -> serde_json::Value {
        match metric {
            MetricKind::Fid => serde_json::json!([self.num_fid_samples, self.seed]),
            MetricKind::PrecisionRecall => serde_json::json!([self.nearest_neighbors]),
            MetricKind::Kid => {
                serde_json::json!([self.kid_subsets, self.kid_subset_size, self.seed])
            }
            MetricKind::InceptionScore => serde_json::json!([SPLITS, self.seed]),
            MetricKind::Memorization => serde_json::json!([]),
            MetricKind::Downstream => {
                let options = self.downstream;
                serde_json::json!([options.classifier.name(), options.seeds, self.seed])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_name_their_key() {
        let refused = |change: fn(&mut EvaluationConfig)| {
            let mut config = EvaluationConfig::with_metrics(vec![MetricKind::Fid]);
            config.validate().unwrap();
            change(&mut config);
            config.validate().unwrap_err().key
        };
        assert_eq!(refused(|c| c.every = 0), "every");
        assert_eq!(refused(|c| c.num_fid_samples = Some(1)), "num_fid_samples");
        assert_eq!(refused(|c| c.nearest_neighbors = 0), "nearest_neighbors");
        assert_eq!(refused(|c| c.kid_subsets = 0), "kid_subsets");
        assert_eq!(refused(|c| c.kid_subset_size = 1), "kid_subset_size");
        assert_eq!(refused(|c| c.metrics.push(MetricKind::Fid)), "metrics");
        assert_eq!(
            refused(|c| c.reference_is_public = true),
            "reference_is_public"
        );
    }

    #[test]
    fn sets_that_are_too_small_are_refused_early() {
        let check = |metric, samples, reference, dimension| {
            let sizes = SetSizes {
                samples,
                reference,
                dimension,
            };
            EvaluationConfig::with_metrics(vec![metric]).check_sizes(sizes)
        };
        assert!(check(MetricKind::Fid, 2, None, 8).is_ok());
        assert!(check(MetricKind::Fid, 1, None, 8).is_err());
        assert!(check(MetricKind::Fid, 2, None, 10_000).is_err());
        assert!(check(MetricKind::Kid, 2, None, 8).is_err());
        assert!(check(MetricKind::Kid, 2, Some(2), 10_000).is_ok());
        assert_eq!(
            check(MetricKind::PrecisionRecall, 9, Some(3), 8)
                .unwrap_err()
                .key,
            "nearest_neighbors"
        );
        assert!(check(MetricKind::InceptionScore, 9, Some(100), 8).is_err());
        assert!(check(MetricKind::InceptionScore, 10, Some(0), 8).is_ok());
    }

    #[test]
    fn every_third_population_and_the_last_are_due() {
        let mut config = EvaluationConfig::with_metrics(vec![MetricKind::Fid]);
        config.every = 3;
        let due: Vec<u32> = (0..=8).filter(|p| config.is_due(*p, 8)).collect();
        assert_eq!(due, [0, 3, 6, 8]);
    }
}
