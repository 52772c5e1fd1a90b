//! The texts to draw, as public conditions of images.
//!
//! A [`Condition`] is the index of a text. The initial population draws one of the texts of each
//! sample's class; variations keep the text of their parent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::generators::{Condition, ConditionRequest};
use crate::sections::InvalidKey;

/// The key `texts`: a text, a list of texts, or a table of them by private class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, a list of texts, or a table of them by class"
)]
pub enum TextsConfig {
    /// Texts of all images.
    All(ClassTexts),
    /// The texts of each private class, by the name of the class.
    PerClass(BTreeMap<String, ClassTexts>),
}

/// The texts of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum ClassTexts {
    /// One text.
    One(String),
    /// Texts with the same probability.
    List(Vec<String>),
}

impl ClassTexts {
    fn list(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::List(texts) => texts,
        }
    }
}

impl TextsConfig {
    /// Returns the key of the table by class, with its section, and the names of its classes;
    /// `None` if all classes have the same texts.
    #[must_use]
    pub fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        match self {
            Self::PerClass(classes) => {
                let names = classes.keys().map(String::as_str).collect();
                Some(("model.texts", names))
            }
            Self::All(_) => None,
        }
    }

    /// Checks that there are texts, and that each has a visible character and no control
    /// characters.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `texts` or `texts.<class>`.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        match self {
            Self::All(texts) => check("texts", texts.list()),
            Self::PerClass(classes) if classes.is_empty() => check("texts", &[]),
            Self::PerClass(classes) => classes
                .iter()
                .try_for_each(|(class, texts)| check(&format!("texts.{class}"), texts.list())),
        }
    }
}

fn check(key: &str, texts: &[String]) -> Result<(), InvalidKey> {
    if texts.is_empty() {
        let message = "is empty: expected at least one text";
        return Err(InvalidKey::new(key, message));
    }
    for text in texts {
        if text.trim().is_empty() {
            let message = "has an empty text: expected visible characters";
            return Err(InvalidKey::new(key, message));
        }
        if text.chars().any(char::is_control) {
            let message = format!(
                "has the text {text:?} with a control character: expected one line of visible \
                 characters"
            );
            return Err(InvalidKey::new(key, message));
        }
    }
    Ok(())
}

/// The texts of a run in the order of their indices: those of a list in its order, those of a table
/// in the order of the names of the classes.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    all: Vec<String>,
    /// First index and number of the texts of each class.
    classes: Option<BTreeMap<String, (u32, u32)>>,
}

impl Texts {
    pub(super) fn new(config: &TextsConfig) -> Result<Self, InvalidKey> {
        config.validate()?;
        let (mut all, mut ranges) = (Vec::new(), BTreeMap::new());
        let classes = match config {
            TextsConfig::All(texts) => {
                all.extend_from_slice(texts.list());
                None
            }
            TextsConfig::PerClass(classes) => {
                for (class, texts) in classes {
                    let range = (all.len() as u32, texts.list().len() as u32);
                    ranges.insert(class.clone(), range);
                    all.extend_from_slice(texts.list());
                }
                Some(ranges)
            }
        };
        Ok(Self { all, classes })
    }

    /// Returns all texts; a condition is an index into them.
    pub(super) fn all(&self) -> &[String] {
        &self.all
    }

    /// Draws the text of a sample of the initial population.
    pub(super) fn choose(&self, request: &ConditionRequest<'_>) -> Result<Condition, InvalidKey> {
        let (first, count) = match &self.classes {
            None => (0, self.all.len() as u32),
            Some(classes) => {
                let class = request.class.ok_or_else(|| {
                    let message = "is given by class, but data.class_conditional is false";
                    InvalidKey::new("texts", message)
                })?;
                *classes.get(class).ok_or_else(|| {
                    let known: Vec<&String> = classes.keys().collect();
                    let message = format!("has no entry for class \"{class}\", only for {known:?}");
                    InvalidKey::new("texts", message)
                })?
            }
        };
        let chosen = request.rng_key.rng().below(u64::from(count));
        Ok(Condition(first + chosen as u32))
    }

    /// Describes the texts of a class (`None`: the whole unconditional run), for the privacy
    /// statement.
    pub(super) fn describe(&self, class: Option<&str>) -> Vec<String> {
        let range = match (&self.classes, class) {
            (None, _) => 0..self.all.len(),
            (Some(classes), Some(class)) => match classes.get(class) {
                Some((first, count)) => *first as usize..(first + count) as usize,
                None => 0..0,
            },
            (Some(_), None) => 0..0,
        };
        let texts = self.all.get(range).unwrap_or_default();
        texts
            .iter()
            .map(|text| format!("text \"{text}\""))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn parse(text: &str) -> TextsConfig {
        #[derive(Deserialize)]
        struct Model {
            texts: TextsConfig,
        }
        toml::from_str::<Model>(text).unwrap().texts
    }

    fn chosen(texts: &Texts, class: Option<&str>) -> Vec<u32> {
        let condition = |sample| {
            let rng_key = RngKey {
                seed: 0,
                phase: Phase::Condition,
                iteration: 0,
                repeat: 0,
                sample,
            };
            let request = ConditionRequest { class, rng_key };
            texts.choose(&request).unwrap().0
        };
        let mut found: Vec<u32> = (0..60).map(condition).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn texts_belong_to_classes() {
        let config = parse("[texts]\none = [\"1\", \"I\"]\ntwo = \"2\"");
        assert_eq!(config.classes(), Some(("model.texts", vec!["one", "two"])));
        let texts = Texts::new(&config).unwrap();
        assert_eq!(texts.all(), ["1", "I", "2"]);
        assert_eq!(chosen(&texts, Some("one")), [0, 1]);
        assert_eq!(chosen(&texts, Some("two")), [2]);
        assert_eq!(texts.describe(Some("one")), ["text \"1\"", "text \"I\""]);
        for (class, expected) in [(Some("six"), "\"six\""), (None, "class_conditional")] {
            let rng_key = RngKey {
                seed: 0,
                phase: Phase::Condition,
                iteration: 0,
                repeat: 0,
                sample: 0,
            };
            let error = texts.choose(&ConditionRequest { class, rng_key });
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with("texts: ") && error.contains(expected),
                "{error}"
            );
        }
        let list = Texts::new(&parse("texts = [\"a\", \"b\", \"c\"]")).unwrap();
        assert_eq!(chosen(&list, None), [0, 1, 2]);
        assert_eq!(chosen(&list, Some("any")), [0, 1, 2]);
        assert_eq!(list.describe(None).len(), 3);
        let one = parse("texts = \"a\"");
        assert_eq!(one.classes(), None);
        assert_eq!(Texts::new(&one).unwrap().all(), ["a"]);
    }

    #[test]
    fn texts_without_visible_characters_are_refused() {
        for (text, key) in [
            ("texts = []", "texts: "),
            ("texts = \" \"", "texts: "),
            ("texts = [\"a\", \"b\\nc\"]", "texts: "),
            ("[texts]\na = []", "texts.a: "),
            ("[texts]\nb = \"\"", "texts.b: "),
            ("texts = {}", "texts: "),
        ] {
            let error = parse(text).validate().unwrap_err().to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}
