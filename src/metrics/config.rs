//! The `[evaluation]` section.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::downstream::{ClassifierKind, DownstreamOptions};
use super::frechet::MAX_DIMENSION;
use super::inception_score::SPLITS;
use super::kid::KidOptions;
use super::{FeatureSet, MetricKind};
use crate::embedders::EmbedderConfig;
use crate::sections::InvalidKey;

/// The value of `reference` that means the run's own private images.
pub const PRIVATE: &str = "private";

/// `[evaluation]`: figures of each population, off unless `metrics` names some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Which figures.
    pub metrics: Vec<MetricKind>,
    /// Populations 0, `every`, 2·`every`, … and the last are evaluated.
    #[serde(default = "one")]
    pub every: u32,
    /// Samples that FID is computed on; all of a population by default. Fewer than it has are drawn
    /// without replacement, more with, as the original's code does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fid_samples: Option<usize>,
    /// k of precision and recall.
    #[serde(default = "three")]
    pub nearest_neighbors: usize,
    /// Random subsets that KID is averaged over.
    #[serde(default = "default_subsets")]
    pub kid_subsets: usize,
    /// Images of each set in one of them, at most.
    #[serde(default = "default_subset_size")]
    pub kid_subset_size: usize,
    /// [`PRIVATE`], or a folder, an `.npz` of images, or an `.npz` with `mu` and `sigma`.
    #[serde(default = "default_reference")]
    pub reference: String,
    /// The user's declaration that the reference at that path is public. Otherwise it counts as private.
    #[serde(default)]
    pub reference_is_public: bool,
    /// Which subsets are drawn.
    #[serde(default)]
    pub seed: u64,
    /// What [`MetricKind::Downstream`] trains; only `dpsyn eval` has it.
    #[serde(skip)]
    pub downstream: DownstreamOptions,
    /// The space of the figures; the vote's one by default. Read as a section of its own.
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

/// What is known of the two sets before either is read, to say early what will not do.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Samples in the smallest set that is evaluated.
    pub samples: usize,
    /// Images of the reference; `None` where only its statistics are given.
    pub reference: Option<usize>,
    /// Numbers in a feature vector.
    pub dimension: usize,
}

impl EvaluationConfig {
    /// These figures, everything else by default.
    #[must_use]
    pub fn of(metrics: Vec<MetricKind>) -> Self {
        Self {
            metrics,
            every: one(),
            num_fid_samples: None,
            nearest_neighbors: three(),
            kid_subsets: default_subsets(),
            kid_subset_size: default_subset_size(),
            reference: default_reference(),
            reference_is_public: false,
            seed: 0,
            downstream: DownstreamOptions::default(),
            embedder: None,
        }
    }

    /// Checks the values by themselves (not the embedder's).
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        let at_least = |key, value: usize, least: usize| {
            if value < least {
                return Err(InvalidKey::new(
                    key,
                    format!("is {value}: expected at least {least}"),
                ));
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
            let message = "the run's own private images cannot be declared public";
            return Err(InvalidKey::new("reference_is_public", message.to_owned()));
        }
        if self.seed > i64::MAX as u64 {
            return Err(InvalidKey::new(
                "seed",
                format!("expected at most {}", i64::MAX),
            ));
        }
        Ok(())
    }

    /// Checks what depends on the sets' sizes.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check_sizes(&self, sizes: Sizes) -> Result<(), InvalidKey> {
        for metric in &self.metrics {
            if metric.of_reference().vectors && sizes.reference.is_none() {
                let message = format!(
                    "`{metric}` compares images, and the reference is a mean and a covariance"
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
            if metric.of_samples().moments && sizes.dimension > MAX_DIMENSION {
                let message = format!(
                    "`{metric}` of {} features: expected at most {MAX_DIMENSION} (give the embedder a smaller size)",
                    sizes.dimension
                );
                return Err(InvalidKey::new("metrics", message));
            }
        }
        Ok(())
    }

    /// Where the reference lies; `None` for the run's own private images.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        (self.reference != PRIVATE).then_some(Path::new(&self.reference))
    }

    /// Whether a population is evaluated.
    #[must_use]
    pub fn wants(&self, population: u32, last: u32) -> bool {
        population == last || population.is_multiple_of(self.every.max(1))
    }

    /// What the figures need of the reference.
    #[must_use]
    pub fn of_reference(&self) -> FeatureSet {
        let needs = self.of_features().map(MetricKind::of_reference);
        needs.fold(FeatureSet::default(), FeatureSet::and)
    }

    /// What the figures need of the samples.
    #[must_use]
    pub fn of_samples(&self) -> FeatureSet {
        let needs = self.of_features().map(MetricKind::of_samples);
        needs.fold(FeatureSet::default(), FeatureSet::and)
    }

    /// The figures that look at features. A network looks at pixels.
    fn of_features(&self) -> impl Iterator<Item = MetricKind> {
        let pixels = self.downstream.classifier == ClassifierKind::Cnn;
        let metrics = self.metrics.iter().copied();
        metrics.filter(move |metric| !(pixels && *metric == MetricKind::Downstream))
    }

    /// The options of KID.
    #[must_use]
    pub fn kid(&self) -> KidOptions {
        KidOptions {
            subsets: self.kid_subsets,
            subset_size: self.kid_subset_size,
            seed: self.seed,
        }
    }

    /// What a figure depends on beside the two sets and the embedder.
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
            let mut config = EvaluationConfig::of(vec![MetricKind::Fid]);
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
    fn sizes_that_do_not_suffice_are_found_early() {
        let check = |metric, samples, reference, dimension| {
            let sizes = Sizes {
                samples,
                reference,
                dimension,
            };
            EvaluationConfig::of(vec![metric]).check_sizes(sizes)
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
    fn every_so_many_and_the_last() {
        let mut config = EvaluationConfig::of(vec![MetricKind::Fid]);
        config.every = 3;
        let wanted: Vec<u32> = (0..=8).filter(|p| config.wants(*p, 8)).collect();
        assert_eq!(wanted, [0, 3, 6, 8]);
    }
}
