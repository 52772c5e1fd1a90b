//! [`ConfigSources`]: the texts of a configuration, and the position of each value in them.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::ConfigError;

/// The texts of a configuration: a file and overrides. A [`Document`](super::document::Document)
/// borrows from them.
///
/// Each override is padded with spaces up to the end of the text before it. The spans of all texts
/// are therefore disjoint, and an offset alone identifies its text.
pub struct ConfigSources {
    pub(super) name: String,
    pub(super) file: String,
    /// The offset at which each override begins, and its padded text.
    pub(super) overrides: Vec<(usize, String)>,
}

impl ConfigSources {
    /// Reads the file `path` and adds `key=value` overrides. A value that is not TOML is a string.
    ///
    /// # Errors
    /// Returns [`ConfigError::Read`] or [`ConfigError::Override`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let file = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            cause: source,
        })?;
        Self::new(path.display().to_string(), file, overrides)
    }

    /// Creates the sources from text: `name` stands for the path in messages.
    ///
    /// # Errors
    /// Returns [`ConfigError::Override`].
    pub fn new(name: String, file: String, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut base = file.len() + 1;
        let mut padded = Vec::new();
        for text in overrides {
            let invalid = || ConfigError::Override { text: text.clone() };
            let (key, value) = text.split_once('=').ok_or_else(invalid)?;
            let plain = format!("{key} = {value}");
            let line = if DeTable::parse(&plain).is_ok() {
                plain
            } else {
                format!("{key} = {}", toml::Value::from(value.trim()))
            };
            if line.contains('\n') || DeTable::parse(&line).is_err() {
                return Err(invalid());
            }
            let start = base;
            base += line.len() + 1;
            padded.push((start, format!("{}{line}", " ".repeat(start))));
        }
        Ok(Self {
            name,
            file,
            overrides: padded,
        })
    }

    /// Returns `file:line:column`, then the line with a marker below it.
    pub(super) fn place(&self, span: &Range<usize>) -> String {
        let (name, text, offset) = self
            .overrides
            .iter()
            .rev()
            .find(|(start, _)| span.start >= *start)
            .map_or(
                (self.name.as_str(), self.file.as_str(), 0),
                |(start, text)| ("--set", &text[*start..], *start),
            );
        let at = (span.start - offset).min(text.len());
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let number = before.matches('\n').count() + 1;
        let column = before.get(line_start..).map_or(0, |s| s.chars().count()) + 1;
        let line = text.get(line_start..).unwrap_or("");
        let line = line.lines().next().unwrap_or("");
        let position = if name == "--set" {
            name.to_owned()
        } else {
            format!("{name}:{number}:{column}")
        };
        format!("{position}\n  | {line}\n  | {}^\n", " ".repeat(column - 1))
    }
}
