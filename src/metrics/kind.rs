//! Which figures there are, and what each needs to know of the two sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A figure of quality. Adding one takes a variant, its rows in the tables here, and an arm in
/// [`measure`](super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Fréchet distance of the features.
    Fid,
    /// Improved precision and recall.
    PrecisionRecall,
    /// Kernel distance.
    Kid,
    /// Inception Score; looks at the samples only.
    InceptionScore,
    /// Distances to the nearest reference images.
    #[serde(rename = "memorisation", alias = "memorization")]
    Memorization,
    /// Accuracy of a classifier trained on samples, tested on a held-out reference.
    Downstream,
}

/// What is kept of a set's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureSet {
    /// Mean and covariance: memory does not grow with the number of images.
    pub moments: bool,
    /// Every vector.
    pub vectors: bool,
}

impl FeatureSet {
    /// What two figures need together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
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
const NOTHING: FeatureSet = FeatureSet {
    moments: false,
    vectors: false,
};

impl MetricKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Fid,
        Self::PrecisionRecall,
        Self::Kid,
        Self::InceptionScore,
        Self::Memorization,
        Self::Downstream,
    ];

    /// What it is called.
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

    /// What it needs of the samples.
    #[must_use]
    pub fn of_samples(self) -> FeatureSet {
        match self {
            Self::Fid => MOMENTS,
            Self::PrecisionRecall
            | Self::Kid
            | Self::InceptionScore
            | Self::Memorization
            | Self::Downstream => VECTORS,
        }
    }

    /// What it needs of the reference.
    #[must_use]
    pub fn of_reference(self) -> FeatureSet {
        match self {
            Self::Fid => MOMENTS,
            Self::PrecisionRecall | Self::Kid | Self::Memorization | Self::Downstream => VECTORS,
            Self::InceptionScore => NOTHING,
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
        let error = "fd".parse::<MetricKind>().unwrap_err();
        assert!(error.contains("fid, precision-recall"), "{error}");
    }
}
