//! [`Document`]: a TOML table with overrides merged in, and the position of every value.

use std::collections::HashMap;
use std::ops::Range;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::secrets::secrets;
use super::sources::ConfigSources;
use crate::sections::InvalidKey;

/// A parsed configuration.
pub struct Document<'a> {
    sources: &'a ConfigSources,
    root: DeTable<'a>,
    locations: Locations,
}

/// The positions of the values of a configuration, by path.
#[derive(Debug, Clone, Default)]
pub struct Locations {
    file: String,
    places: HashMap<String, String>,
}

impl Locations {
    /// Returns an error about the value at `key` with its line, or with the file alone if the value
    /// is a default.
    #[must_use]
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        // A part of a list or table without an entry has the position of the whole.
        let mut path = key;
        let place = loop {
            if let Some(place) = self.places.get(path) {
                break place.clone();
            }
            match path.rsplit_once(['.', '[']) {
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
    /// Parses the sources and merges the overrides; a later override replaces an earlier one.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if a text is not TOML.
    pub fn parse(sources: &'a ConfigSources) -> Result<Self, ConfigError> {
        let parse = |text: &'a str| {
            DeTable::parse(text)
                .map(Spanned::into_inner)
                .map_err(|error| parse_error(sources, &error))
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

    /// Returns the positions of all values.
    #[must_use]
    pub fn locations(&self) -> &Locations {
        &self.locations
    }

    /// Refuses sections that are not among `known`.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] with the name of the section and the most similar known one.
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

    /// Refuses credentials of services at any place, because a configuration is copied into the
    /// published result folder. The message does not repeat the credential.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] with the line.
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
            // The position without the line, which contains the credential.
            place: format!("{}\n", place.lines().next().unwrap_or_default()),
            message: format!(
                "`{path}` contains a credential, which a configuration must not: set the \
                 environment variable that model.api_key_env names"
            ),
        })
    }

    /// Returns true if there is a section of this name.
    #[must_use]
    pub fn has(&self, section: &str) -> bool {
        self.root.get(section).is_some()
    }

    /// Makes the table `key` of a section a section of its own with the name `section.key`. Returns
    /// false if there is no such table.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if the value is not a table.
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

    /// Removes the key `type` from a section and returns its value, which selects the struct for
    /// the other keys.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if the key is missing or its value is not among `known`.
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

    /// Makes each table of a list of tables a section of its own: `[[model.members]]` becomes
    /// `model.members[0]`, `model.members[1]` and so on. Returns their names; none if there is no
    /// such key.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] if the value is not a list of tables.
    pub fn promote_tables(&mut self, section: &str, key: &str) -> Result<Vec<String>, ConfigError> {
        let Some(DeValue::Table(table)) = self.root.get_mut(section).map(Spanned::get_mut) else {
            return Ok(Vec::new());
        };
        let Some(list) = table.remove(key) else {
            return Ok(Vec::new());
        };
        let refuse = |span: Range<usize>| ConfigError::Text {
            place: self.sources.place(&span),
            message: format!("`{section}.{key}` must be sections: [[{section}.{key}]]"),
        };
        let span = list.span();
        let DeValue::Array(tables) = list.into_inner() else {
            return Err(refuse(span));
        };
        let mut names = Vec::new();
        for (index, value) in tables.into_iter().enumerate() {
            if !value.get_ref().is_table() {
                return Err(refuse(value.span()));
            }
            let name = format!("{section}.{key}[{index}]");
            let span = value.span();
            self.root
                .insert(Spanned::new(span, name.clone().into()), value);
            names.push(name);
        }
        Ok(names)
    }

    /// Returns true if the key `type` of a section has this value.
    #[must_use]
    pub fn has_type(&self, section: &str, tag: &str) -> bool {
        let table = self.root.get(section).and_then(|v| v.get_ref().as_table());
        let value = table.and_then(|table| table.get("type"));
        value.and_then(|value| value.get_ref().as_str()) == Some(tag)
    }

    /// Removes a key from a section and deserializes its value; `None` if there is no such key.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] for a wrong type or an unknown value.
    pub fn take_value<T: DeserializeOwned>(
        &mut self,
        section: &str,
        key: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(DeValue::Table(table)) = self.root.get_mut(section).map(Spanned::get_mut) else {
            return Ok(None);
        };
        let Some(value) = table.remove(key) else {
            return Ok(None);
        };
        let value = T::deserialize(toml::de::ValueDeserializer::from(value));
        value
            .map(Some)
            .map_err(|error| match parse_error(self.sources, &error) {
                ConfigError::Text { place, message } => ConfigError::Text {
                    place,
                    message: format!("{section}.{key}: {message}"),
                },
                other => other,
            })
    }

    /// Deserializes a section; a missing section is empty.
    ///
    /// # Errors
    /// Returns [`ConfigError::Text`] for unknown and missing keys and for wrong types.
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
        // The structs refuse unknown keys, too, but their error is an English sentence. Only this
        // check has the name and the known names as data.
        let known = keys_of::<T>();
        let unknown_key = table
            .iter()
            .find(|(key, _)| !known.is_empty() && !known.contains(&key.get_ref().as_ref()));
        if let Some((key, _)) = unknown_key {
            let message = unknown(key.get_ref(), "key", known.iter().copied());
            return Err(ConfigError::Text {
                place: self.sources.place(&key.span()),
                message: format!("{message} (in [{section}])"),
            });
        }
        let value = Spanned::new(span, table);
        T::deserialize(toml::Deserializer::from(value)).map_err(|error| {
            match parse_error(self.sources, &error) {
                ConfigError::Text { place, message } => ConfigError::Text {
                    place,
                    message: format!("{message} (in [{section}])"),
                },
                other => other,
            }
        })
    }
}

/// Returns the keys of the struct `T`, or nothing if `T` is not a struct.
///
/// `T` passes the names of its fields to the deserializer before it reads a value. The crate
/// `serde_ignored` would report unknown keys, but not the known ones, which a suggestion needs.
fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    /// A deserializer without a value that stores the names.
    struct FieldNames<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for FieldNames<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Self::Error::custom("there is no value"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(Self::Error::custom("there is no value"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // Always an error, because there is no value.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

fn parse_error(sources: &ConfigSources, error: &toml::de::Error) -> ConfigError {
    let place = match error.span() {
        Some(span) if span != (0..0) => sources.place(&span),
        _ => sources.name.clone(),
    };
    ConfigError::Text {
        place,
        message: error.message().to_owned(),
    }
}

/// Returns "unknown key `thresold`, did you mean `threshold`?", or a list of the known names if
/// none is similar.
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
                // The key is replaced, too, so that its span is that of the override.
                into.remove(key.get_ref().as_ref());
                into.insert(key, new);
            }
        }
    }
}

fn locate(table: &DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, Range<usize>)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        locate_value(value, path, found);
    }
}

/// Calls `found` for the values within a value, and for the value itself.
fn locate_value(
    value: &Spanned<DeValue<'_>>,
    path: String,
    found: &mut impl FnMut(String, Range<usize>),
) {
    match value.get_ref() {
        DeValue::Table(inner) => locate(inner, &path, found),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                locate_value(value, format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
    found(path, value.span());
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn the_keys_of_a_struct_include_aliases_and_a_map_has_none() {
        #[derive(Deserialize)]
        struct Renamed {
            #[serde(rename = "gray", alias = "grey")]
            _value: bool,
        }
        assert_eq!(keys_of::<Renamed>(), ["gray", "grey"]);
        assert_eq!(keys_of::<Section>(), ["threshold", "name", "inner"]);
        assert!(keys_of::<HashMap<String, String>>().is_empty());
    }

    #[test]
    fn missing_keys_wrong_types_and_broken_text_are_located() {
        assert!(message("[a]\n", &[]).contains("missing field `threshold` (in [a])"));
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
}
