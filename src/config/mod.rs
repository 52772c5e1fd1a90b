//! One TOML file to a validated run.
//!
//! In: the text of a configuration and `--set` overrides. Out: [`Settings`], every value of which has been
//! checked as far as that is possible without data, and [`Locations`] to point at a line when a later
//! check (with data, with weights) finds fault. Each section's struct belongs to its module; this one only
//! composes them.

mod document;
mod error;
mod settings;

pub use document::{ConfigSources, Document, Locations};
pub use error::ConfigError;
pub use settings::{Loaded, Settings};
