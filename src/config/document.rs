//! TOML text with overrides merged in, which remembers where every value came from.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use crate::sections::InvalidKey;

/// The sources that a [`Document`] borrows from. Overrides are padded so that every span of every text lies
/// in a range of its own: one offset tells which text it belongs to.
pub struct ConfigSources {
    name: String,
    file: String,
    overrides: Vec<(usize, String)>,
}

impl ConfigSources {
    /// The text of `path` and `key=value` overrides. A value that is no TOML is taken as a string.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Override`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let file = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(path.display().to_string(), file, overrides)
    }

    /// [`ConfigSources::read`] with the text at hand.
    ///
    /// # Errors
    /// [`ConfigError::Override`].
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

    /// `file:line:column`, then the line with a marker below.
    fn place(&self, span: &Range<usize>) -> String {
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

/// A parsed configuration.
pub struct Document<'a> {
    sources: &'a ConfigSources,
    root: DeTable<'a>,
    locations: Locations,
}

/// Where the values of a configuration stand, by path.
#[derive(Debug, Clone, Default)]
pub struct Locations {
    file: String,
    places: HashMap<String, String>,
}

impl Locations {
    /// An error about the value at `key`, pointing at its line, or at the file where it is a default.
    #[must_use]
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        // A list's or table's own entry stands for the parts that have none.
        let mut path = key;
        let place = loop {
            if let Some(place) = self.places.get(path) {
                break place.clone();
            }
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => break self.file.clone(),
            }
        };
        ConfigError::Value {
            place,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

impl Locations {
    /// Returns [`Locations::error`] for a key of `section` that the section itself refused.
    #[must_use]
    pub fn invalid(&self, section: &str, error: InvalidKey) -> ConfigError {
        self.error(&format!("{section}.{}", error.key), error.message)
    }
}

impl<'a> Document<'a> {
    /// Parses the sources and merges the overrides in, the later the stronger.
    ///
    /// # Errors
    /// [`ConfigError::Text`] for what is not TOML.
    pub fn parse(sources: &'a ConfigSources) -> Result<Self, ConfigError> {
        let parse = |text: &'a str| {
            DeTable::parse(text)
                .map(Spanned::into_inner)
                .map_err(|error| parse_error(sources, &error, None))
        };
        let mut root = parse(&sources.file)?;
        for (_, text) in &sources.overrides {
            merge(&mut root, parse(text)?);
        }
        let mut locations = Locations {
            file: sources.name.clone(),
            places: HashMap::new(),
        };
        locate(&root, "", &mut |path, span| {
            locations.places.insert(path, sources.place(&span));
        });
        Ok(Self {
            sources,
            root,
            locations,
        })
    }

    /// Where every value stands.
    #[must_use]
    pub fn locations(&self) -> &Locations {
        &self.locations
    }

    /// Refuses a section that is not among `known`.
    ///
    /// # Errors
    /// [`ConfigError::Text`] naming it and the nearest known one.
    pub fn only_sections(&self, known: &[&str]) -> Result<(), ConfigError> {
        for (key, value) in &self.root {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                return Err(ConfigError::Text {
                    place: self.sources.place(&key.span()),
                    message: unknown(name, "section", known.iter().copied()),
                });
            }
            if !value.get_ref().is_table() {
                return Err(ConfigError::Text {
                    place: self.sources.place(&value.span()),
                    message: format!("`{name}` must be a section: [{name}]"),
                });
            }
        }
        Ok(())
    }

    /// Refuses a key to somebody's service, wherever it stands, without repeating it: a configuration is
    /// shown, copied and published.
    ///
    /// # Errors
    /// [`ConfigError::Text`] naming the line.
    pub fn refuse_secrets(&self) -> Result<(), ConfigError> {
        let mut found = None;
        secrets(&self.root, "", &mut |path, span| {
            found.get_or_insert((path, span));
        });
        let Some((path, span)) = found else {
            return Ok(());
        };
        let place = self.sources.place(&span);
        Err(ConfigError::Text {
            // The position alone, not the line.
            place: format!("{}\n", place.lines().next().unwrap_or_default()),
            message: format!(
                "`{path}` holds a key, which does not belong into a configuration: set an environment variable (model.api_key_env names it)"
            ),
        })
    }

    /// Whether there is a section of this name.
    #[must_use]
    pub fn has(&self, section: &str) -> bool {
        self.root.get(section).is_some()
    }

    /// Makes the table under `key` in a section a section of its own, named `section.key`. Whether there
    /// was one.
    ///
    /// # Errors
    /// [`ConfigError::Text`] when the key stands for something else.
    pub fn promote_table(&mut self, section: &str, key: &str) -> Result<bool, ConfigError> {
        let name = format!("{section}.{key}");
        let Some(DeValue::Table(table)) = self.root.get_mut(section).map(Spanned::get_mut) else {
            return Ok(false);
        };
        let Some(value) = table.remove(key) else {
            return Ok(false);
        };
        if !value.get_ref().is_table() {
            return Err(ConfigError::Text {
                place: self.sources.place(&value.span()),
                message: format!("`{name}` must be a section: [{name}]"),
            });
        }
        self.root
            .insert(Spanned::new(value.span(), name.into()), value);
        Ok(true)
    }

    /// Takes the key `type` out of a section: it says which struct the rest is.
    ///
    /// # Errors
    /// [`ConfigError::Text`] when it is missing or not among `known`.
    pub fn take_type(&mut self, section: &str, known: &[&str]) -> Result<String, ConfigError> {
        let expected = known.join(", ");
        let file = self.sources.name.clone();
        let missing = || ConfigError::Text {
            place: file.clone(),
            message: format!("missing key `type` in [{section}]: expected one of {expected}"),
        };
        let Some(DeValue::Table(table)) = self.root.get_mut(section).map(Spanned::get_mut) else {
            return Err(missing());
        };
        let value = table.remove("type").ok_or_else(missing)?;
        match value.get_ref().as_str() {
            Some(name) if known.contains(&name) => Ok(name.to_owned()),
            other => Err(ConfigError::Text {
                place: self.sources.place(&value.span()),
                message: match other {
                    Some(name) => unknown(name, &format!("{section} type"), known.iter().copied()),
                    None => format!("type must be a string: one of {expected}"),
                },
            }),
        }
    }

    /// Reads a whole section; a missing one is empty.
    ///
    /// # Errors
    /// [`ConfigError::Text`] for unknown and missing keys and wrong types.
    pub fn section<T: DeserializeOwned>(&mut self, section: &str) -> Result<T, ConfigError> {
        let (table, span) = match self.root.remove(section) {
            Some(value) => {
                let span = value.span();
                match value.into_inner() {
                    DeValue::Table(table) => (table, span),
                    _ => (DeTable::new(), span),
                }
            }
            None => (DeTable::new(), 0..0),
        };
        let value = Spanned::new(span, table);
        T::deserialize(toml::Deserializer::from(value))
            .map_err(|error| parse_error(self.sources, &error, Some(section)))
    }
}

fn parse_error(
    sources: &ConfigSources,
    error: &toml::de::Error,
    section: Option<&str>,
) -> ConfigError {
    let place = match error.span() {
        Some(span) if span != (0..0) => sources.place(&span),
        _ => sources.name.clone(),
    };
    let mut names = error.message().split('`').skip(1).step_by(2);
    let message = if error.message().starts_with("unknown field") {
        let name = names.next().unwrap_or_default().to_owned();
        unknown(&name, "key", names)
    } else if error.message().starts_with("unknown variant") {
        let name = names.next().unwrap_or_default().to_owned();
        unknown(&name, "value", names)
    } else if error.message().starts_with("missing field") {
        format!("missing key `{}`", names.next().unwrap_or_default())
    } else {
        error.message().to_owned()
    };
    ConfigError::Text {
        place,
        message: match section {
            Some(section) => format!("{message} (in [{section}])"),
            None => message,
        },
    }
}

/// "unknown key `thresold`, did you mean `threshold`?", or all known ones where none is near.
fn unknown<'k>(name: &str, what: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((similarity, candidate)) if similarity > 0.75 => {
            format!("unknown {what} `{name}`, did you mean `{candidate}`?")
        }
        _ => format!(
            "unknown {what} `{name}`, expected one of {}",
            known.join(", ")
        ),
    }
}

fn merge<'a>(into: &mut DeTable<'a>, from: DeTable<'a>) {
    for (key, value) in from {
        match (
            into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut),
            value,
        ) {
            (Some(DeValue::Table(old)), new) if new.get_ref().is_table() => {
                if let DeValue::Table(new) = new.into_inner() {
                    merge(old, new);
                }
            }
            (_, new) => {
                // The key goes too: its span then points at the override.
                into.remove(key.get_ref().as_ref());
                into.insert(key, new);
            }
        }
    }
}

/// Names under which keys to services are written.
const SECRET_NAMES: &[&str] = &[
    "api_key",
    "api_token",
    "apikey",
    "authorization",
    "key",
    "openai_api_key",
    "password",
    "secret",
    "token",
];

/// What stands under such a name, or begins like a key whatever it is called.
fn secrets(table: &DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, Range<usize>)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        // Deeper down, names are classes.
        let named = !prefix.contains('.');
        let name = key.get_ref().to_ascii_lowercase().replace('-', "_");
        match value.get_ref() {
            DeValue::Table(inner) => secrets(inner, &path, found),
            DeValue::String(text)
                if named && SECRET_NAMES.contains(&name.as_str()) || looks_like_a_key(text) =>
            {
                found(path, value.span());
            }
            _ => {}
        }
    }
}

/// `sk-…`, or `Bearer …`, of a length that no word has.
fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim();
    let rest = text
        .strip_prefix("sk-")
        .or_else(|| text.strip_prefix("Bearer "));
    rest.is_some_and(|rest| rest.len() >= 16 && rest.chars().all(|c| c.is_ascii_graphic()))
}

fn locate(table: &DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, Range<usize>)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        if let Some(inner) = value.get_ref().as_table() {
            locate(inner, &path, found);
        }
        found(path, value.span());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Section {
        threshold: f64,
        #[serde(default)]
        name: String,
        #[serde(default)]
        inner: HashMap<String, i64>,
    }

    fn read(text: &str, overrides: &[&str]) -> Result<Section, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let sources = ConfigSources::new("c.toml".into(), text.into(), &overrides)?;
        let mut document = Document::parse(&sources)?;
        document.only_sections(&["a"])?;
        document.section("a")
    }

    fn message(text: &str, overrides: &[&str]) -> String {
        read(text, overrides).unwrap_err().to_string()
    }

    #[test]
    fn overrides_win_and_bare_words_are_strings() {
        let section = read(
            "[a]\nthreshold = 1\ninner = { x = 1, y = 2 }\n",
            &["a.threshold=2.5", "a.name=results/new run", "a.inner.y=7"],
        )
        .unwrap();
        assert_eq!(section.threshold, 2.5);
        assert_eq!(section.name, "results/new run");
        assert_eq!(
            section.inner,
            HashMap::from([("x".into(), 1), ("y".into(), 7)])
        );
        assert_eq!(read("", &["a.threshold=3"]).unwrap().threshold, 3.0);
    }

    #[test]
    fn an_unknown_key_is_named_with_line_column_and_the_nearest_known_one() {
        let text = message("[a]\nthreshold = 1\n\n  thresold = 2\n", &[]);
        assert!(text.contains("c.toml:4:3"), "{text}");
        assert!(
            text.contains("unknown key `thresold`, did you mean `threshold`?"),
            "{text}"
        );
        assert!(text.contains("|   ^"), "{text}");
        let text = message("[a]\nthreshold = 1\n", &["a.nmae=x"]);
        assert!(
            text.starts_with("--set") && text.contains("did you mean `name`"),
            "{text}"
        );
        let text = message("[b]\nthreshold = 1\n", &[]);
        assert!(text.contains("unknown section `b`"), "{text}");
    }

    #[test]
    fn missing_keys_wrong_types_and_broken_text_are_located() {
        assert!(message("[a]\n", &[]).contains("missing key `threshold` (in [a])"));
        let text = message("[a]\nthreshold = \"x\"\n", &[]);
        assert!(
            text.contains("c.toml:2:13") && text.contains("invalid type"),
            "{text}"
        );
        let text = message("[a]\nthreshold = = 1\n", &[]);
        assert!(text.contains("c.toml:2"), "{text}");
        assert!(message("a = 1", &[]).contains("must be a section"));
        assert!(message("[a]", &["nonsense"]).contains("expected key=value"));
        assert!(message("[a]", &["a b=1"]).contains("expected key=value"));
    }

    #[test]
    fn a_key_is_refused_and_not_repeated() {
        let secret = "sk-proj-0123456789abcdef0123";
        for text in [
            format!("[a]\napi_key = \"{secret}\"\n"),
            format!("[a]\napi_key_env = \"{secret}\"\n"),
            format!("[a.b]\nx = \"Bearer {secret}\"\n"),
            "[a]\nToken = \"hush\"\n".to_owned(),
        ] {
            let sources = ConfigSources::new("c.toml".into(), text.clone(), &[]).unwrap();
            let document = Document::parse(&sources).unwrap();
            let error = document.refuse_secrets().unwrap_err().to_string();
            assert!(
                error.contains("c.toml:2:") && error.contains("`a."),
                "{error}"
            );
            assert!(
                !error.contains(secret) && !error.contains("hush"),
                "{error}"
            );
        }
        let sources = ConfigSources::new(
            "c".into(),
            "[a]\nb = 'sk-short'\n[a.c]\nkey = 'a key'".into(),
            &[],
        )
        .unwrap();
        Document::parse(&sources).unwrap().refuse_secrets().unwrap();
    }

    #[test]
    fn a_table_within_a_section_can_be_read_by_itself() {
        let text = "[a]\nthreshold = 1\n[a.inner]\ntype = 'x'\nthreshold = 'y'\n";
        let sources = ConfigSources::new("c.toml".into(), text.into(), &[]).unwrap();
        let mut document = Document::parse(&sources).unwrap();
        assert!(document.has("a") && !document.has("b"));
        assert!(!document.promote_table("a", "other").unwrap());
        assert!(!document.promote_table("b", "inner").unwrap());
        assert!(document.promote_table("a", "inner").unwrap());
        assert_eq!(document.take_type("a.inner", &["x"]).unwrap(), "x");
        let error = document.section::<Section>("a.inner").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("c.toml:5:13") && error.contains("[a.inner]"),
            "{error}"
        );
        document.section::<Section>("a").unwrap();
        let mut document = Document::parse(&sources).unwrap();
        let error = document
            .promote_table("a", "threshold")
            .unwrap_err()
            .to_string();
        assert!(error.contains("[a.threshold]"), "{error}");
    }

    #[test]
    fn later_checks_can_still_point_at_the_line() {
        let sources =
            ConfigSources::new("c.toml".into(), "[a]\n\nthreshold = 9\n".into(), &[]).unwrap();
        let document = Document::parse(&sources).unwrap();
        let error = document
            .locations()
            .error("a.threshold", "too much")
            .to_string();
        assert!(error.contains("c.toml:3:13"), "{error}");
        let error = document.locations().error("b.other", "no").to_string();
        assert!(error.starts_with("c.toml: b.other: no"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", set in "\\PC{0,30}") {
            let _ = read(&text, &[]);
            let _ = read("[a]\nthreshold = 1\n", &[set.as_str()]);
        }

        #[test]
        fn no_near_toml_panics(text in "[\\[\\]{}a=\n\\.\"'é1 ]{0,40}", set in "[a=\\.\"\\[é{} ]{0,20}") {
            let _ = read(&text, &[set.as_str()]);
        }
    }
}
