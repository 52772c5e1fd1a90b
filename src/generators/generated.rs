//! Generated images with the parameters that they were made from.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::GeneratorError;
use crate::images::ImageBatch;

/// The public parameters that an image was made from, such as a font and an angle: one JSON value
/// in one line, without a fixed meaning outside its generator; or none.
///
/// They are stored beside the image in the array `parameters` of `samples.npz`. A generator that
/// varies parameters rather than pixels reads those of the parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Option<Arc<str>>);

impl Parameters {
    /// Parameters of a generator that has none.
    pub const NONE: Self = Self(None);

    /// Creates parameters from a value that serializes to JSON.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if it does not, as a map with keys that are not strings.
    pub fn of(value: &impl Serialize) -> Result<Self, GeneratorError> {
        match serde_json::to_string(value) {
            Ok(text) => Ok(Self(Some(text.into()))),
            Err(error) => Err(GeneratorError::Input(format!(
                "parameters of an image cannot be written as JSON: {error}"
            ))),
        }
    }

    /// Reads stored parameters; an empty text is none.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if the text is not JSON in one line.
    pub fn from_text(text: &str) -> Result<Self, GeneratorError> {
        if text.is_empty() {
            return Ok(Self::NONE);
        }
        let json = serde_json::from_str::<serde::de::IgnoredAny>(text);
        if json.is_err() || text.contains('\n') {
            return Err(GeneratorError::Input(format!(
                "parameters of an image are {text:?}: expected JSON in one line"
            )));
        }
        Ok(Self(Some(text.into())))
    }

    /// Returns the text; empty if there are no parameters.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns true if there are no parameters.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Reads the parameters as `T`.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if there are none, or they are not those of this generator.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, GeneratorError> {
        let text = self.text();
        serde_json::from_str(text).map_err(|error| {
            GeneratorError::Input(match self.is_none() {
                true => "an image has no parameters, which this model needs to vary it: expected \
                         samples that this model generated"
                    .to_owned(),
                false => format!("parameters {text} of an image are not of this model: {error}"),
            })
        })
    }
}

/// Images of a generator, with the parameters of each.
#[derive(Clone, PartialEq)]
pub struct Generated {
    /// `uint8 [count, height, width, 3]`.
    pub images: ImageBatch,
    /// One for each image, or nothing at all if none has parameters.
    parameters: Vec<Parameters>,
}

impl From<ImageBatch> for Generated {
    /// Images without parameters.
    fn from(images: ImageBatch) -> Self {
        Self {
            images,
            parameters: Vec::new(),
        }
    }
}

impl Generated {
    /// Combines images and the parameters of each.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if their numbers differ.
    pub fn new(images: ImageBatch, parameters: Vec<Parameters>) -> Result<Self, GeneratorError> {
        if images.len() != parameters.len() {
            return Err(GeneratorError::Input(format!(
                "{} images with the parameters of {}",
                images.len(),
                parameters.len()
            )));
        }
        let has_some = parameters.iter().any(|parameters| !parameters.is_none());
        Ok(Self {
            images,
            parameters: if has_some { parameters } else { Vec::new() },
        })
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns true if an image has parameters.
    #[must_use]
    pub fn has_parameters(&self) -> bool {
        !self.parameters.is_empty()
    }

    /// Returns the parameters of an image.
    #[must_use]
    pub fn parameters(&self, index: usize) -> &Parameters {
        self.parameters.get(index).unwrap_or(&Parameters::NONE)
    }

    /// Copies the images in `range`, clamped to those that exist.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.parameters.len());
        let parameters = self.parameters.get(range.start.min(end)..end);
        Self {
            images: self.images.slice(range),
            parameters: parameters.unwrap_or_default().to_vec(),
        }
    }

    /// Appends images of the same size.
    ///
    /// # Errors
    /// [`GeneratorError::Batch`] if their size differs.
    pub fn extend(&mut self, other: &Self) -> Result<(), GeneratorError> {
        let (before, added) = (self.len(), other.len());
        self.images.extend(&other.images)?;
        if self.has_parameters() || other.has_parameters() {
            self.parameters.resize(before, Parameters::NONE);
            self.parameters.extend_from_slice(&other.parameters);
            self.parameters.resize(before + added, Parameters::NONE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(values: &[u8]) -> ImageBatch {
        ImageBatch::new(values.repeat(3), values.len(), 1, 1).unwrap()
    }

    #[test]
    fn parameters_stay_beside_their_images() {
        let angle = |angle: f64| Parameters::of(&serde_json::json!({ "angle": angle })).unwrap();
        let with = |angles: &[f64]| {
            let parameters = angles.iter().copied().map(angle).collect();
            Generated::new(images(&vec![7; angles.len()]), parameters).unwrap()
        };
        let mut all = Generated::from(images(&[1, 2]));
        all.extend(&with(&[0.5, 1.5])).unwrap();
        all.extend(&images(&[3]).into()).unwrap();
        assert_eq!((all.len(), all.has_parameters()), (5, true));
        let texts: Vec<&str> = (0..6).map(|index| all.parameters(index).text()).collect();
        assert_eq!(
            texts,
            ["", "", r#"{"angle":0.5}"#, r#"{"angle":1.5}"#, "", ""]
        );
        assert!(all.slice(2..3) == with(&[0.5]));
        assert_eq!(all.slice(3..9).parameters(0), &angle(1.5));
        assert!(!Generated::from(images(&[1])).slice(0..1).has_parameters());
        assert!(Generated::new(images(&[1]), vec![]).is_err());
    }

    #[test]
    fn text_that_is_not_json_in_one_line_is_refused() {
        assert_eq!(Parameters::from_text("").unwrap(), Parameters::NONE);
        let read = Parameters::from_text("[1,2]").unwrap();
        assert_eq!(read.read::<Vec<u32>>().unwrap(), [1, 2]);
        assert!(read.read::<String>().is_err());
        for text in ["{", "1\n", "a"] {
            assert!(Parameters::from_text(text).is_err(), "{text}");
        }
        let error = Parameters::NONE.read::<u32>().err().unwrap().to_string();
        assert!(error.contains("no parameters"), "{error}");
    }
}
