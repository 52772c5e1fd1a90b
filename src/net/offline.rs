//! Offline mode.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Process-wide switch. Global, so that code deep in the program cannot open a connection because a
/// caller forgot to pass the flag on.
static DISABLED: AtomicBool = AtomicBool::new(false);

/// Disables all network access of this process: `--offline`.
pub fn disable() {
    DISABLED.store(true, Ordering::SeqCst);
}

/// Setting that disables network access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// `--offline`: all network access is disabled.
    Flag,
    /// `HF_HUB_OFFLINE`: downloads are disabled.
    Variable,
}

impl Offline {
    /// Returns the setting that disables all network access, if any.
    #[must_use]
    pub fn network() -> Option<Self> {
        DISABLED.load(Ordering::SeqCst).then_some(Self::Flag)
    }

    /// Returns the setting that disables downloads, if any.
    #[must_use]
    pub fn downloads() -> Option<Self> {
        Self::network().or_else(|| {
            let value = std::env::var("HF_HUB_OFFLINE").ok()?;
            is_enabled(&value).then_some(Self::Variable)
        })
    }
}

/// Parses a boolean environment variable. The hub's own tools accept 1, ON, YES and TRUE as true
/// and everything else as false. Here every value except the usual words for false counts as true,
/// because an unintended download is worse than a refused one.
fn is_enabled(value: &str) -> bool {
    let disabled = ["", "0", "off", "no", "false", "n", "f"];
    !disabled.contains(&value.trim().to_ascii_lowercase().as_str())
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
    fn the_variable_accepts_the_hub_s_values() {
        for enabled in ["1", "ON", "Yes", "TRUE", "true", "2"] {
            assert!(is_enabled(enabled), "{enabled}");
        }
        for disabled in ["", "0", "OFF", "no", "False", " "] {
            assert!(!is_enabled(disabled), "{disabled}");
        }
    }
}
