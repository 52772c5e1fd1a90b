//! The `[model]` section of the generator of sprites.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::generators::{GeneratorError, Operation, evaluations_of_share};
use crate::images::ImageSize;
use crate::sections::InvalidKey;

/// Pictures composed of parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder with a folder of PNG files for each attribute.
    pub parts: PathBuf,
    /// The attributes in the order in which they are drawn; all folders in the order of their names
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Layer>>,
    /// Height and width of the images in pixels.
    pub image_size: ImageSize,
    /// Red, green and blue behind all parts.
    #[serde(default = "white")]
    pub background: [u8; 3],
    /// The parts that each private class may have, by class and attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_parts: Option<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
    /// Images per batch. Results do not depend on it.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Name of its folder.
    pub name: String,
    /// Probability that an image has a part of it.
    #[serde(default = "one")]
    pub probability: f64,
    /// Relative probability of each part that does not have 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
}

impl Layer {
    /// Creates an attribute that every image has, whose parts are equally probable.
    pub(super) fn named(name: String) -> Self {
        Self {
            name,
            probability: one(),
            weights: BTreeMap::new(),
        }
    }
}

fn white() -> [u8; 3] {
    [255; 3]
}

fn one() -> f64 {
    1.0
}

fn default_batch_size() -> usize {
    1000
}

/// Pixels of the longer side of an image.
const MAX_SIDE: usize = 2048;

impl Config {
    /// Checks every key as far as this is possible without the parts.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.parts.as_os_str().is_empty() {
            let message =
                "is empty: expected a folder with a folder of PNG files for each attribute";
            return Err(InvalidKey::new("parts", message));
        }
        if !self.image_size.all(|side| (1..=MAX_SIDE).contains(&side)) {
            let message = format!("is {}: expected 1 to {MAX_SIDE} pixels", self.image_size);
            return Err(InvalidKey::new("image_size", message));
        }
        self.validate_layers()?;
        if let Some(classes) = &self.class_parts {
            if classes.is_empty() {
                let message = "is empty: expected a table for each class";
                return Err(InvalidKey::new("class_parts", message));
            }
            for (class, attributes) in classes {
                for (attribute, parts) in attributes {
                    if parts.is_empty() {
                        let key = format!("class_parts.{class}.{attribute}");
                        let message = "is empty: expected at least one part";
                        return Err(InvalidKey::new(key, message));
                    }
                }
            }
        }
        if self.batch_size == 0 {
            return Err(InvalidKey::new("batch_size", "is 0: expected at least 1"));
        }
        Ok(())
    }

    fn validate_layers(&self) -> Result<(), InvalidKey> {
        let Some(layers) = &self.layers else {
            return Ok(());
        };
        let invalid = |message: String| Err(InvalidKey::new("layers", message));
        if layers.is_empty() {
            return invalid("is empty: expected at least one attribute".to_owned());
        }
        let mut names = BTreeSet::new();
        for layer in layers {
            let name = &layer.name;
            if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                return invalid(format!(
                    "has the name \"{name}\": expected the name of a folder in model.parts"
                ));
            }
            if !names.insert(name) {
                return invalid(format!(
                    "has \"{name}\" twice: expected each attribute once"
                ));
            }
            if !(0.0..=1.0).contains(&layer.probability) {
                return invalid(format!(
                    "has probability {} for \"{name}\": expected 0 to 1",
                    layer.probability
                ));
            }
            for (part, weight) in &layer.weights {
                // The comparison is false for NaN.
                if !(0.0..=1e9).contains(weight) {
                    return invalid(format!(
                        "has the weight {weight} for \"{part}\" of \"{name}\": expected 0 to 1e9"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Returns the cost of one image, in images.
///
/// # Errors
/// [`GeneratorError::Degree`] for a degree that is no probability.
pub(super) fn evaluations(operation: Operation) -> Result<u64, GeneratorError> {
    let expected = "the probability, from 0 to 1, with which each attribute is drawn again";
    evaluations_of_share(operation, expected)
}
