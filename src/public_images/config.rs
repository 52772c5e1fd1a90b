//! The keys that declare a set of public images.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::images::{DataConfig, Format, ImageSize, Labels, Layout, Orientation, SixteenBit};
use crate::sections::InvalidKey;

/// A set of public images, with the keys of `[data]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicImagesConfig {
    /// As `data.path`.
    pub path: PathBuf,
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
    /// Folder in which the images at the size of the run, their vectors and their principal
    /// components are kept; that of the user if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The images, once they are opened; shared by copies of this configuration.
    #[serde(skip)]
    pub opened: OpenedSets,
}

/// The sets that were opened from a configuration, so that parts of a run that name the same set
/// read it once. It does not count for equality.
///
/// The type of a set is not named here, because a set contains its configuration.
#[derive(Debug, Clone, Default)]
pub struct OpenedSets(pub(super) Arc<Mutex<Vec<Arc<dyn Any + Send + Sync>>>>);

impl PartialEq for OpenedSets {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Returns true for the default of a type.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PublicImagesConfig {
    /// Checks the values without reading images.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.path.as_os_str().is_empty() {
            let message = "is empty: expected a folder or file of public images";
            return Err(InvalidKey::new("path", message));
        }
        if self
            .cache
            .as_ref()
            .is_some_and(|cache| cache.as_os_str().is_empty())
        {
            let message = "is empty: expected a folder, or no such key";
            return Err(InvalidKey::new("cache", message));
        }
        self.data(ImageSize::square(1)).validate()
    }

    /// Returns the section `[data]` that describes these images at a size, as one class.
    #[must_use]
    pub fn data(&self, size: ImageSize) -> DataConfig {
        let layout = Layout {
            format: self.format,
            split: self.split.clone(),
            labels: self.labels,
            label_column: self.label_column.clone(),
        };
        DataConfig {
            sixteen_bit: self.sixteen_bit,
            alpha: self.alpha,
            orientation: self.orientation,
            page: self.page,
            ..DataConfig::with_layout(&self.path, size, &layout)
        }
    }
}
