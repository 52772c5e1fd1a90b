//! Whether the network may be used.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, by the command line. Everything that opens a connection looks here first, however deep in the
/// program it stands.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Forbids every further connection of this process: `--offline`.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::SeqCst);
}

/// What forbids the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// `--offline`: nobody may be asked.
    Flag,
    /// `HF_HUB_OFFLINE`: nothing may be downloaded.
    Variable,
}

impl Offline {
    /// Whether nobody may be asked.
    #[must_use]
    pub fn of_everything() -> Option<Self> {
        FORBIDDEN.load(Ordering::SeqCst).then_some(Self::Flag)
    }

    /// Whether nothing may be downloaded.
    #[must_use]
    pub fn of_downloads() -> Option<Self> {
        Self::of_everything().or_else(|| {
            let value = std::env::var("HF_HUB_OFFLINE").ok()?;
            says_yes(&value).then_some(Self::Variable)
        })
    }
}

/// Whether a variable's value switches it on. The hub's own tools take 1, ON, YES and TRUE for yes and all else
/// for no; what is none of the usual words for no is here taken for yes, since that does less harm.
fn says_yes(value: &str) -> bool {
    let no = ["", "0", "off", "no", "false", "n", "f"];
    !no.contains(&value.trim().to_ascii_lowercase().as_str())
}

impl fmt::Display for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--offline",
            Self::Variable => "HF_HUB_OFFLINE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_has_the_hub_s_words() {
        for yes in ["1", "ON", "Yes", "TRUE", "true", "2"] {
            assert!(says_yes(yes), "{yes}");
        }
        for no in ["", "0", "OFF", "no", "False", " "] {
            assert!(!says_yes(no), "{no}");
        }
    }
}
