//! Options of the downstream classifier.

use std::fmt;
use std::str::FromStr;

use super::DownstreamError;
use crate::sections::InvalidKey;

/// Kind of the classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassifierKind {
    /// Logistic regression on embeddings; it is deterministic.
    #[default]
    Logistic,
    /// Small wide residual network on pixels; the seed determines weights, order and augmentation.
    Cnn,
    /// The class of the nearest sample in the space of the embeddings, by L2; it is deterministic.
    NearestNeighbor,
}

impl ClassifierKind {
    /// Name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::Cnn => "cnn",
            Self::NearestNeighbor => "nearest-neighbor",
        }
    }
}

impl fmt::Display for ClassifierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClassifierKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Logistic, Self::Cnn, Self::NearestNeighbor]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| "expected logistic, cnn or nearest-neighbor".to_owned())
    }
}

/// Classifier and number of trainings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownstreamOptions {
    /// Kind of the classifier.
    pub classifier: ClassifierKind,
    /// Number of trainings, which differ by their seed.
    pub seeds: u32,
}

impl Default for DownstreamOptions {
    fn default() -> Self {
        Self {
            classifier: ClassifierKind::default(),
            seeds: 1,
        }
    }
}

impl DownstreamOptions {
    /// Default number of seeds of a network.
    const SEEDS: u32 = 3;

    /// Checks the number of seeds; the default is 3 for a network and 1 for a regression.
    ///
    /// # Errors
    /// [`DownstreamError::Config`] naming `seeds`, for 0 and for several seeds of a deterministic
    /// classifier.
    pub fn new(classifier: ClassifierKind, seeds: Option<u32>) -> Result<Self, DownstreamError> {
        let refuse = |message: &str| {
            Err(DownstreamError::Config(InvalidKey::new(
                "seeds",
                message.to_owned(),
            )))
        };
        let seeds = match (classifier, seeds) {
            (_, Some(0)) => return refuse("is 0: expected at least 1"),
            (ClassifierKind::Logistic | ClassifierKind::NearestNeighbor, Some(2..)) => {
                return refuse(&format!(
                    "`{classifier}` is deterministic, so every seed gives the same result: omit it, \
                     or choose `cnn`"
                ));
            }
            (ClassifierKind::Logistic | ClassifierKind::NearestNeighbor, _) => 1,
            (ClassifierKind::Cnn, seeds) => seeds.unwrap_or(Self::SEEDS),
        };
        Ok(Self { classifier, seeds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_has_several_seeds() {
        let seeds = |kind: &str, seeds| {
            let options = DownstreamOptions::new(kind.parse().unwrap(), seeds);
            options.map(|options| options.seeds).ok()
        };
        assert_eq!(seeds("cnn", None), Some(3));
        assert_eq!(seeds("cnn", Some(5)), Some(5));
        assert_eq!(seeds("cnn", Some(0)), None);
        assert_eq!(seeds("logistic", None), Some(1));
        assert_eq!(seeds("logistic", Some(1)), Some(1));
        assert_eq!(seeds("logistic", Some(2)), None);
        assert_eq!(seeds("nearest-neighbor", None), Some(1));
        assert_eq!(seeds("nearest-neighbor", Some(2)), None);
        assert!("svm".parse::<ClassifierKind>().is_err());
    }
}
