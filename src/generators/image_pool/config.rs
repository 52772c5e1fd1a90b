//! The `[model]` section of an image pool.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Deserializer, Serialize};

use super::ImagePool;
use crate::embedders::{EmbedderConfig, EmbedderError, PcaConfig};
use crate::generators::{GeneratorError, GeneratorSection, OpenedGenerator, Operation};
use crate::hub::Requirement;
use crate::images::{Format, ImageSize, Labels, Orientation, SixteenBit};
use crate::progress::Observer;
use crate::public_images::{OpenedSets, PublicImagesConfig};
use crate::sections::{InvalidKey, Section};

/// Samples of a batch, unless no image may occur twice: enough that one pass over the vectors
/// serves many.
pub(super) const BATCH_SIZE: usize = 4096;
/// Most bytes of the pixels of one batch.
pub(super) const BATCH_BYTES: usize = 1 << 28;
/// Largest side of images of which the default embedder takes the pixels as they are.
const PIXELS: usize = 32;

/// A pool of public images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder or file of the images, as `data.path`.
    pub path: PathBuf,
    /// Declaration that the images are public. It must be true.
    #[serde(default)]
    pub public: bool,
    /// Height and width of the images, resized and cropped as by `data.image_size`.
    pub image_size: ImageSize,
    /// As `data.format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// As `data.split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// As `data.labels`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// As `data.label_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// As `data.sixteen_bit`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sixteen_bit: SixteenBit,
    /// As `data.alpha`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha: [u8; 3],
    /// As `data.orientation`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orientation: Orientation,
    /// As `data.page`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub page: usize,
    /// Labels of the pool whose images represent each private class; without it, no label of the
    /// pool is read.
    #[serde(
        default,
        deserialize_with = "label_names",
        skip_serializing_if = "Option::is_none"
    )]
    pub class_labels: Option<BTreeMap<String, Vec<String>>>,
    /// Restricts variations to the images of the labels of their class.
    #[serde(default = "yes")]
    pub keep_labels: bool,
    /// Draws no image twice for one population.
    #[serde(default)]
    pub unique: bool,
    /// Folder in which pixels and vectors are kept; that of the user if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The images, once they are opened.
    #[serde(skip)]
    pub opened: OpenedSets,
    /// The space in which images are near each other. It is read as a section of its own.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub embedder: Option<EmbedderConfig>,
}

fn yes() -> bool {
    true
}

/// Returns true for the default of a type.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads lists of labels by class. A label is a text or, as in files of many images, a number.
fn label_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, Vec<String>>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a label: a text or a number")]
    enum Name {
        Text(String),
        Number(i64),
    }
    let lists = BTreeMap::<String, Vec<Name>>::deserialize(deserializer)?;
    let text = |name| match name {
        Name::Text(text) => text,
        Name::Number(number) => number.to_string(),
    };
    let lists = lists.into_iter();
    let lists = lists.map(|(class, names)| (class, names.into_iter().map(text).collect()));
    Ok(Some(lists.collect()))
}

/// Number of the nearest images that a variation is drawn from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Degree(f64);

impl Degree {
    /// Checks a variation degree.
    pub(super) fn new(degree: f64) -> Result<Self, GeneratorError> {
        let is_count = degree >= 1.0 && degree.fract() == 0.0 && degree <= f64::from(u32::MAX);
        let is_share = degree > 0.0 && degree < 1.0;
        if is_count || is_share {
            return Ok(Self(degree));
        }
        Err(GeneratorError::Degree {
            degree,
            expected: "a number of images from 1 (no change), or a share of the pool between 0 \
                       and 1"
                .to_owned(),
        })
    }

    /// Returns the number of images, at least 1, out of `images`.
    pub(super) fn of(self, images: usize) -> Result<usize, GeneratorError> {
        if self.0 < 1.0 {
            return Ok(((self.0 * images as f64).ceil() as usize).clamp(1, images.max(1)));
        }
        let count = self.0 as usize;
        if count > images {
            return Err(GeneratorError::Degree {
                degree: self.0,
                expected: format!(
                    "at most the {images} images of the pool that a variation can be, or a share \
                     of them between 0 and 1"
                ),
            });
        }
        Ok(count)
    }
}

/// Turns an error of the embedder's section into one of the section `[model]`.
pub(super) fn below_embedder(error: EmbedderError) -> GeneratorError {
    match error {
        EmbedderError::Config(error) => {
            InvalidKey::new(format!("embedder.{}", error.key), error.message).into()
        }
        other => other.into(),
    }
}

impl Config {
    /// Returns the keys of the images.
    #[must_use]
    pub fn images(&self) -> PublicImagesConfig {
        PublicImagesConfig {
            path: self.path.clone(),
            format: self.format,
            split: self.split.clone(),
            labels: self.labels,
            label_column: self.label_column.clone(),
            sixteen_bit: self.sixteen_bit,
            alpha: self.alpha,
            orientation: self.orientation,
            page: self.page,
            cache: self.cache.clone(),
            opened: self.opened.clone(),
        }
    }

    /// Returns the embedder, fitted to the pool where it is fitted and names no other images. The
    /// default is principal components of the pool, of large images at a lower resolution.
    #[must_use]
    pub fn embedder(&self) -> EmbedderConfig {
        let mut embedder = self.embedder.clone().unwrap_or_else(|| {
            let is_small = self.image_size.all(|side| side <= PIXELS);
            EmbedderConfig::Pca(PcaConfig {
                size: (!is_small).then_some(PIXELS),
                ..PcaConfig::default()
            })
        });
        embedder.fit_to_pool(&self.images());
        embedder
    }
}

impl Section for Config {
    // The digest of the pool includes the pixels, the labels and the vectors.
    const NON_IDENTITY_KEYS: &'static [&'static str] =
        &["path", "format", "split", "labels", "label_column", "cache"];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        if !self.public {
            let message = "is not true: expected public = true, which declares that the images of \
                           the pool may be published, because samples are copies of them. Images \
                           whose owners have not agreed to that belong to [data]";
            return Err(InvalidKey::new("public", message));
        }
        if !self.image_size.all(|side| side > 0) {
            let message = format!("is {}: expected sides of at least 1", self.image_size);
            return Err(InvalidKey::new("image_size", message));
        }
        self.images().validate()?;
        for (class, labels) in self.class_labels.iter().flatten() {
            if labels.is_empty() {
                let message = "is empty: expected at least one label of the pool";
                return Err(InvalidKey::new(format!("class_labels.{class}"), message));
            }
        }
        self.embedder()
            .section()
            .validate()
            .map_err(|error| InvalidKey::new(format!("embedder.{}", error.key), error.message))
    }

    fn declared_public(&self) -> Vec<(String, &Path)> {
        let pool = ("public".to_owned(), self.path.as_path());
        let fitted = self
            .embedder
            .as_ref()
            .and_then(EmbedderConfig::declared_public);
        let fitted = fitted.map(|path| ("embedder.public".to_owned(), path));
        [pool].into_iter().chain(fitted).collect()
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        match operation {
            Operation::Random => Ok(()),
            Operation::Vary(variation) => Degree::new(variation.degree).map(drop),
        }
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        let labels = self.class_labels.as_ref()?;
        let names = labels.keys().map(String::as_str).collect();
        Some(("model.class_labels", names))
    }

    fn requirements(&self) -> Vec<Requirement> {
        let mut needed = vec![Requirement::path(&self.path)];
        needed.extend(self.embedder().requirements());
        needed
    }

    fn pool(&self) -> Option<PublicImagesConfig> {
        Some(self.images())
    }

    fn open(
        &self,
        devices: &[Device],
        observer: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        ImagePool::open(self, devices, observer)
    }
}
