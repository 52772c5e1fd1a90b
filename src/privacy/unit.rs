//! [`Unit`]: whose participation is protected.

use serde::{Deserialize, Serialize};

/// The unit whose participation is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One private image. A person with several images in the data set is protected less (group
    /// privacy).
    #[default]
    Image,
}

impl Unit {
    /// Returns the name used in configurations, ledgers and statements.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
