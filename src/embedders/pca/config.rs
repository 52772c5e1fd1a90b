//! The `[embedder]` section of principal components.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{Components, Covariance, PcaEmbedder};
use crate::embedders::{
    BoxedEmbedder, Embedder, EmbedderError, EmbedderSection, FittedEmbedder, PixelsConfig,
    PixelsEmbedder,
};
use crate::images::ImageSize;
use crate::progress::{Observer, Silent};
use crate::public_images::{PublicImages, PublicImagesConfig, key_of};
use crate::sections::{InvalidKey, Section};

/// Largest number of pixels, all channels counted, of an image: the eigenvectors of a larger
/// covariance take too long.
const MAX_PIXELS: usize = 4096;

/// Configuration of the embedder by principal components.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcaConfig {
    /// Number of components, and of numbers in a vector.
    #[serde(default = "default_components")]
    pub components: usize,
    /// Images are first resized to so many rows and columns, as by the embedder of pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Replaces the three channels by their mean.
    #[serde(default, alias = "greyscale")]
    pub grayscale: bool,
    /// Divides each number of a vector by its standard deviation over the public images.
    #[serde(default)]
    pub whiten: bool,
    /// The public images; those of the model, if it is an image pool, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<Box<PublicImagesConfig>>,
    /// The public images of the model.
    #[serde(skip)]
    pub pool: Option<Box<PublicImagesConfig>>,
}

fn default_components() -> usize {
    64
}

impl Default for PcaConfig {
    fn default() -> Self {
        Self {
            components: default_components(),
            size: None,
            grayscale: false,
            whiten: false,
            public: None,
            pool: None,
        }
    }
}

impl Section for PcaConfig {
    // The digest of a fitted embedder includes the content of the images.
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["public"];
}

impl PcaConfig {
    /// Returns the public images that the components are those of.
    fn images(&self) -> Result<&PublicImagesConfig, InvalidKey> {
        self.public
            .as_deref()
            .or(self.pool.as_deref())
            .ok_or_else(|| {
                let message = "missing: expected a table with the path of images that are declared \
                           public, whose components are used, because the model is no image pool";
                InvalidKey::new("public", message)
            })
    }

    /// Returns the embedder of the pixels.
    fn pixels(&self, image_size: (usize, usize)) -> Result<PixelsEmbedder, EmbedderError> {
        let config = PixelsConfig {
            size: self.size,
            grayscale: self.grayscale,
        };
        let pixels = PixelsEmbedder::new(&config, image_size)?;
        let numbers = pixels.dimension();
        let refuse = |key: &str, message: String| Err(InvalidKey::new(key, message).into());
        if numbers > MAX_PIXELS {
            let message = format!(
                "is not given, or too large: images have {numbers} numbers, expected a size (and \
                 grayscale = true) with at most {MAX_PIXELS}"
            );
            return refuse("size", message);
        }
        if self.components > numbers {
            let message = format!(
                "is {}, but images have {numbers} numbers: expected at most so many",
                self.components
            );
            return refuse("components", message);
        }
        Ok(pixels)
    }

    /// Returns the components of the public images: computed, or from the cache.
    fn components(
        &self,
        images: &PublicImages,
        pixels: &PixelsEmbedder,
        observer: &dyn Observer,
    ) -> Result<Components, EmbedderError> {
        if self.components >= images.len() {
            let message = format!(
                "is {}, but there are {} public images: expected less",
                self.components,
                images.len()
            );
            return Err(InvalidKey::new("components", message).into());
        }
        let key = key_of(&serde_json::json!({
            "components": self.components,
            "images": images.digest(),
            "image_size": images.size().pair(),
            "size": self.size,
            "grayscale": self.grayscale,
        }));
        let numbers = pixels.dimension();
        let len = Components::file_len(self.components, numbers);
        let store = images.store("components", key, 1, len);
        if store.verify(&(0..1))?.is_some()
            && let Some(components) =
                Components::from_bytes(&store.read(&(0..1))?, self.components, numbers)
        {
            return Ok(components);
        }
        let levels = if self.grayscale { 3 } else { 1 };
        let covariance = Covariance::of(images, pixels, levels, observer)?;
        let components = covariance.components(self.components)?;
        store.write(&(0..1), &components.to_bytes())?;
        Ok(components)
    }
}

impl EmbedderSection for PcaConfig {
    fn validate(&self) -> Result<(), InvalidKey> {
        let pixels = PixelsConfig {
            size: self.size,
            grayscale: self.grayscale,
        };
        pixels.validate()?;
        if self.components == 0 {
            return Err(InvalidKey::new("components", "is 0: expected at least 1"));
        }
        let below =
            |error: InvalidKey| InvalidKey::new(format!("public.{}", error.key), error.message);
        self.public
            .as_ref()
            .map_or(Ok(()), |public| public.validate().map_err(below))?;
        self.images().map(drop)
    }

    fn name(&self) -> &'static str {
        "principal components"
    }

    fn weights(&self) -> Option<PathBuf> {
        None
    }

    fn resolution(&self) -> Option<usize> {
        self.size
    }

    fn open_on(
        &self,
        image_size: (usize, usize),
        _: &Device,
    ) -> Result<BoxedEmbedder, EmbedderError> {
        let fitted = self.open_fitted(image_size, &Silent)?;
        fitted
            .map(|fitted| fitted.embedder)
            .ok_or(EmbedderError::Dimension)
    }

    fn open_fitted(
        &self,
        image_size: (usize, usize),
        observer: &dyn Observer,
    ) -> Result<Option<FittedEmbedder>, EmbedderError> {
        // Before any image is read.
        let pixels = self.pixels(image_size)?;
        let images = PublicImages::open(self.images()?, ImageSize::from(image_size), observer)?;
        let components = self.components(&images, &pixels, observer)?;
        if self.whiten && components.iter().any(|(_, variance)| variance <= 0.0) {
            let message = "is true, but the public images do not differ along each of the \
                           components: expected fewer components";
            return Err(InvalidKey::new("whiten", message).into());
        }
        Ok(Some(FittedEmbedder {
            embedder: Box::new(PcaEmbedder::new(pixels, &components, self.whiten)?),
            digest: images.digest(),
            images: Arc::clone(&images),
        }))
    }
}
