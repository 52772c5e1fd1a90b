//! The list of metrics, and the features that each needs of the two sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A metric. A new one needs a variant, its rows in the tables of this file, and an arm in
/// [`measure`](fn@super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Fréchet distance (FID) of the features.
    Fid,
    /// Improved precision and recall.
    PrecisionRecall,
    /// Kernel distance (KID).
    Kid,
    /// Inception Score; it uses the samples only.
    InceptionScore,
    /// Distances to the nearest reference images.
    // Configurations and result folders have the British spelling; both are accepted.
    #[serde(rename = "memorisation", alias = "memorization")]
    Memorization,
    /// Accuracy of a classifier that is trained on samples and tested on a held-out reference.
    Downstream,
}

/// Features of a set that a metric needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureSet {
    /// Mean and covariance: memory does not grow with the number of images.
    pub moments: bool,
    /// All feature vectors.
    pub vectors: bool,
}

impl FeatureSet {
    /// Returns the features that two metrics need together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            moments: self.moments || other.moments,
            vectors: self.vectors || other.vectors,
        }
    }
}

const MOMENTS: FeatureSet = FeatureSet {
    moments: true,
    vectors: false,
};
const VECTORS: FeatureSet = FeatureSet {
    moments: false,
    vectors: true,
};
const NO_FEATURES: FeatureSet = FeatureSet {
    moments: false,
    vectors: false,
};

impl MetricKind {
    /// All metrics, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Fid,
        Self::PrecisionRecall,
        Self::Kid,
        Self::InceptionScore,
        Self::Memorization,
        Self::Downstream,
    ];

    /// Name in configurations, on the command line and in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fid => "fid",
            Self::PrecisionRecall => "precision-recall",
            Self::Kid => "kid",
            Self::InceptionScore => "inception-score",
            Self::Memorization => "memorisation",
            Self::Downstream => "downstream",
        }
    }

    /// Features that the metric needs of the samples.
    #[must_use]
    pub fn sample_features(self) -> FeatureSet {
        match self {
            Self::Fid => MOMENTS,
            Self::PrecisionRecall
            | Self::Kid
            | Self::InceptionScore
            | Self::Memorization
            | Self::Downstream => VECTORS,
        }
    }

    /// Features that the metric needs of the reference.
    #[must_use]
    pub fn reference_features(self) -> FeatureSet {
        match self {
            Self::Fid => MOMENTS,
            Self::PrecisionRecall | Self::Kid | Self::Memorization | Self::Downstream => VECTORS,
            Self::InceptionScore => NO_FEATURES,
        }
    }
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MetricKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = match text {
            "memorization" => "memorisation",
            other => other,
        };
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("expected one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_in_toml_too() {
        for kind in MetricKind::ALL {
            assert_eq!(kind.name().parse::<MetricKind>().unwrap(), kind);
            assert_eq!(
                serde_json::to_value(kind).unwrap(),
                serde_json::Value::from(kind.name())
            );
        }
        for spelling in ["memorisation", "memorization"] {
            let kind = MetricKind::Memorization;
            assert_eq!(spelling.parse::<MetricKind>().unwrap(), kind);
            let value = serde_json::Value::from(spelling);
            assert_eq!(serde_json::from_value::<MetricKind>(value).unwrap(), kind);
        }
        let error = "fd".parse::<MetricKind>().unwrap_err();
        assert!(error.contains("fid, precision-recall"), "{error}");
    }
}
