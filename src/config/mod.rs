//! From one TOML file to validated settings.
//!
//! Input: the text of a configuration and `--set` overrides. Output: [`Settings`], whose values
//! have passed every check that needs no data, and [`Locations`](document::Locations), with which a
//! later check (of data or weights) can name the line of a value. The struct of each section
//! belongs to its own module; this module only composes them.
//!
//! The text layer (sources, document) is written here because two requirements exclude a
//! ready-made one: an error must name the file, line and column of a value, or the `--set` option
//! that it comes from, and it must do so also for checks that take place long after parsing.

mod classes;
mod document;
mod error;
mod model;
mod passed_on;
mod secrets;
mod settings;
mod sources;

pub use error::ConfigError;
pub use settings::{Loaded, Settings};
pub use sources::ConfigSources;
