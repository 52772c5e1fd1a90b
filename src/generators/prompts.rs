//! Prompts as public conditions of images.
//!
//! A [`Condition`] is the index of a prompt. [`Prompts`] assigns prompts to the initial population,
//! `samples.npz` stores the indices as `conditions`, variations inherit the condition of their
//! parent, and the privacy statement lists the texts in the order of the indices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Condition, ConditionRequest};
use crate::sections::InvalidKey;

/// The key `prompts`: a text, a list of texts, or a table of them by private class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a prompt, a list of prompts, or a table of them by class"
)]
pub enum PromptsConfig {
    /// One prompt for all images.
    One(String),
    /// Prompts with an equal share of the images each.
    List(Vec<String>),
    /// The prompts of each private class, by the name of the class.
    PerClass(BTreeMap<String, ClassPrompts>),
}

/// The prompts of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a prompt or a list of prompts")]
pub enum ClassPrompts {
    /// One prompt for all images of the class.
    One(String),
    /// Prompts with an equal share of the images of the class each.
    List(Vec<String>),
}

impl ClassPrompts {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::List(texts) => texts,
        }
    }
}

impl PromptsConfig {
    /// Returns the key of the table by class, with its section, and the names of its classes;
    /// `None` if all classes have the same prompts.
    #[must_use]
    pub fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        match self {
            Self::PerClass(classes) => {
                let names = classes.keys().map(String::as_str).collect();
                Some(("model.prompts", names))
            }
            Self::One(_) | Self::List(_) => None,
        }
    }

    /// Checks that no list and no prompt is empty.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `prompts` or `prompts.<class>`.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        match self {
            Self::One(text) => check("prompts", std::slice::from_ref(text)),
            Self::List(texts) => check("prompts", texts),
            Self::PerClass(classes) if classes.is_empty() => check("prompts", &[]),
            Self::PerClass(classes) => classes
                .iter()
                .try_for_each(|(class, prompts)| check(&key_of(class), prompts.texts())),
        }
    }
}

fn check(key: &str, texts: &[String]) -> Result<(), InvalidKey> {
    if texts.is_empty() {
        return Err(InvalidKey::new(
            key,
            "is empty: expected at least one prompt",
        ));
    }
    if texts.iter().any(|text| text.trim().is_empty()) {
        return Err(InvalidKey::new(key, "has an empty prompt: expected a text"));
    }
    Ok(())
}

fn key_of(class: &str) -> String {
    format!("prompts.{class}")
}

/// The prompts of a run in the order of their indices, and their assignment to samples.
#[derive(Debug, Clone)]
pub struct Prompts {
    config: PromptsConfig,
    texts: Vec<String>,
}

impl Prompts {
    /// Numbers the prompts: those of a list in its order, those of a table by class, in the order
    /// of the names of the classes.
    ///
    /// # Errors
    /// As [`PromptsConfig::validate`].
    pub fn new(config: &PromptsConfig) -> Result<Self, InvalidKey> {
        config.validate()?;
        let texts = match config {
            PromptsConfig::One(text) => vec![text.clone()],
            PromptsConfig::List(texts) => texts.clone(),
            PromptsConfig::PerClass(classes) => classes
                .values()
                .flat_map(ClassPrompts::texts)
                .cloned()
                .collect(),
        };
        Ok(Self {
            config: config.clone(),
            texts,
        })
    }

    /// Returns all prompts; a condition is an index into them.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Returns the number of prompts, which conditions index.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.texts.len()).unwrap_or(u32::MAX)
    }

    /// Returns the prompt of a condition; `None` for an index without a prompt.
    #[must_use]
    pub fn text(&self, condition: Condition) -> Option<&str> {
        let text = self.texts.get(condition.0 as usize);
        text.map(String::as_str)
    }

    /// Assigns prompts to the samples of an initial population.
    ///
    /// A list is distributed over the whole population as in DPSDA
    /// (`apis/stable_diffusion_api.py`): of N images and P prompts, prompt i gets ⌊(N + i) / P⌋
    /// images, which are consecutive. The list of a class is distributed over the images of that
    /// class in the same way.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `prompts` if prompts are given by class and a class has none, or the
    /// run is not class-conditional.
    pub fn assign(&self, requests: &[ConditionRequest<'_>]) -> Result<Vec<Condition>, InvalidKey> {
        let PromptsConfig::PerClass(classes) = &self.config else {
            let share = shares(requests.len(), self.texts.len());
            return Ok(share.map(Condition).collect());
        };
        // The index of the first prompt of each class, and an iterator over its images' prompts.
        let mut first = 0;
        let mut remaining = BTreeMap::new();
        for (class, prompts) in classes {
            let images = requests
                .iter()
                .filter(|request| request.class == Some(class));
            let count = prompts.texts().len();
            remaining.insert(class.as_str(), (first, shares(images.count(), count)));
            first += count as u32;
        }
        let mut conditions = Vec::with_capacity(requests.len());
        for request in requests {
            let class = request.class.ok_or_else(|| {
                let message = "are given by class, but data.class_conditional is false";
                InvalidKey::new("prompts", message)
            })?;
            let next = remaining
                .get_mut(class)
                .and_then(|(first, share)| share.next().map(|index| *first + index));
            let Some(index) = next else {
                let known: Vec<&String> = classes.keys().collect();
                let message = format!("has no entry for class \"{class}\", only for {known:?}");
                return Err(InvalidKey::new("prompts", message));
            };
            conditions.push(Condition(index));
        }
        Ok(conditions)
    }

    /// Describes the prompts of a class (`None`: the whole unconditional run), for the privacy
    /// statement.
    #[must_use]
    pub fn describe(&self, class: Option<&str>) -> Vec<String> {
        let texts = match (&self.config, class) {
            (PromptsConfig::PerClass(classes), Some(class)) => {
                classes.get(class).map_or(&[][..], ClassPrompts::texts)
            }
            (PromptsConfig::PerClass(_), None) => &[],
            _ => &self.texts,
        };
        texts
            .iter()
            .map(|text| format!("prompt \"{text}\""))
            .collect()
    }
}

/// Iterates over the prompt of each of `images` images; empty without prompts.
fn shares(images: usize, prompts: usize) -> impl Iterator<Item = u32> {
    (0..prompts).flat_map(move |index| {
        let count = (images + index) / prompts;
        std::iter::repeat_n(index as u32, count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn request(class: Option<&str>) -> ConditionRequest<'_> {
        ConditionRequest {
            class,
            rng_key: RngKey {
                seed: 0,
                phase: Phase::Condition,
                iteration: 0,
                repeat: 0,
                sample: 0,
            },
        }
    }

    fn prompts(text: &str) -> Prompts {
        #[derive(Deserialize)]
        struct Model {
            prompts: PromptsConfig,
        }
        Prompts::new(&toml::from_str::<Model>(text).unwrap().prompts).unwrap()
    }

    fn indices(prompts: &Prompts, classes: &[Option<&str>]) -> Vec<u32> {
        let requests: Vec<ConditionRequest<'_>> =
            classes.iter().map(|class| request(*class)).collect();
        let conditions = prompts.assign(&requests).unwrap();
        conditions.iter().map(|condition| condition.0).collect()
    }

    #[test]
    fn one_prompt_is_used_for_all_images() {
        let one = prompts("prompts = \"a cat\"");
        assert_eq!(indices(&one, &[None; 3]), [0, 0, 0]);
        assert_eq!(indices(&one, &[Some("a"), Some("b")]), [0, 0]);
        assert_eq!(one.text(Condition(0)), Some("a cat"));
        assert_eq!(one.text(Condition(1)), None);
        assert_eq!(one.describe(None), ["prompt \"a cat\""]);
    }

    #[test]
    fn a_list_is_distributed_with_the_rounding_of_dpsda() {
        // (7 + i) / 3 for i = 0, 1, 2: 2, 2 and 3.
        let list = prompts("prompts = [\"x\", \"y\", \"z\"]");
        assert_eq!(indices(&list, &[None; 7]), [0, 0, 1, 1, 2, 2, 2]);
        // With fewer images than prompts, the last prompts are used.
        assert_eq!(indices(&list, &[None; 2]), [1, 2]);
        // The classes of the samples are not considered.
        let classes = [Some("a"), Some("a"), Some("b")];
        assert_eq!(indices(&list, &classes), [0, 1, 2]);
        assert!(indices(&list, &[]).is_empty());
    }

    #[test]
    fn a_table_has_prompts_for_each_class() {
        let table = prompts("[prompts]\nb = \"x\"\na = [\"y\", \"z\"]");
        assert_eq!(table.texts(), ["y", "z", "x"]);
        let classes = [Some("b"), Some("a"), Some("a"), Some("a"), Some("b")];
        assert_eq!(indices(&table, &classes), [2, 0, 1, 1, 2]);
        assert_eq!(table.describe(Some("a")), ["prompt \"y\"", "prompt \"z\""]);
        for (class, expected) in [(Some("c"), "class \"c\""), (None, "class_conditional")] {
            let error = table.assign(&[request(class)]).unwrap_err().to_string();
            assert!(error.starts_with("prompts: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_or_empty_prompt_is_refused() {
        let by_class =
            |prompts| PromptsConfig::PerClass(BTreeMap::from([("a".to_owned(), prompts)]));
        for (config, key) in [
            (PromptsConfig::One(" ".to_owned()), "prompts: "),
            (PromptsConfig::List(vec![]), "prompts: "),
            (
                PromptsConfig::List(vec!["x".to_owned(), String::new()]),
                "prompts: ",
            ),
            (PromptsConfig::PerClass(BTreeMap::new()), "prompts: "),
            (by_class(ClassPrompts::List(vec![])), "prompts.a: "),
            (by_class(ClassPrompts::One(String::new())), "prompts.a: "),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
