//! The `[embedder]` section: its types, and opening the embedder that it describes.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use super::{
    BoxedEmbedder, ClipConfig, Dinov2EmbedderConfig, Embedder, EmbedderError, EmbedderSection,
    InceptionConfig, PcaConfig, PixelsConfig, ReplicatedEmbedder,
};
use crate::device_pool::WorkerFactory;
use crate::hub::{Requirement, weights_digest};
use crate::kernels::reopen_device;
use crate::progress::Observer;
use crate::public_images::{PublicImages, PublicImagesConfig};
use crate::sections::{InvalidKey, tagged_sections};

tagged_sections! {
    /// An `[embedder]` section: a feature space of images.
    pub enum EmbedderConfig: dyn EmbedderSection {
        "inception" => Inception(InceptionConfig),
        "clip" => Clip(ClipConfig),
        "dinov2" => Dinov2(Dinov2EmbedderConfig),
        "pixels" => Pixels(PixelsConfig),
        "pca" => Pca(PcaConfig),
    }
}

/// An embedder that is ready for use.
pub struct OpenedEmbedder {
    /// The embedder, on all devices.
    pub embedder: Box<dyn Embedder>,
    /// SHA-256 of its weights, in hexadecimal, or a digest of the images that it was fitted to;
    /// `None` for an embedder with neither.
    pub weights_digest: Option<String>,
    /// The images, declared public, that it was fitted to. The private images must not be among
    /// them.
    pub public_images: Option<Arc<PublicImages>>,
}

impl EmbedderConfig {
    /// Returns the files that [`EmbedderConfig::open`] reads.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        let weights = self.section().weights().as_deref().map(Requirement::path);
        weights.into_iter().collect()
    }

    /// Returns the path of the images, declared public, that the embedder is fitted to, unless they
    /// are those of the model.
    #[must_use]
    pub fn declared_public(&self) -> Option<&Path> {
        match self {
            Self::Pca(config) => Some(config.public.as_deref()?.path.as_path()),
            _ => None,
        }
    }

    /// Lets an embedder that is fitted to public images, but names none, take those of the model.
    pub fn fit_to_pool(&mut self, pool: &PublicImagesConfig) {
        if let Self::Pca(config) = self {
            config.pool = Some(Box::new(pool.clone()));
        }
    }

    /// Returns everything that vectors depend on, but the images: the keys that are part of a run's
    /// identity, and the digest of the weights or of what the embedder was fitted to.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] if a path is not UTF-8.
    pub fn identity(&self, weights: Option<&str>) -> Result<serde_json::Value, EmbedderError> {
        let mut settings = serde_json::to_value(self)
            .map_err(|error| InvalidKey::new("type", format!("cannot be written: {error}")))?;
        if let Some(table) = settings.as_object_mut() {
            for key in self.non_identity_keys() {
                table.remove(*key);
            }
        }
        Ok(serde_json::json!([settings, weights]))
    }

    /// Opens the embedder with one copy on each of `devices`, for images of `image_size` (height,
    /// width), with progress on `observer`.
    ///
    /// # Errors
    /// Those of [`EmbedderSection::open_on`] and [`EmbedderSection::open_fitted`].
    pub fn open(
        &self,
        image_size: (usize, usize),
        devices: &[Device],
        observer: &dyn Observer,
    ) -> Result<OpenedEmbedder, EmbedderError> {
        if let Some(fitted) = self.section().open_fitted(image_size, observer)? {
            return Ok(OpenedEmbedder {
                embedder: fitted.embedder,
                weights_digest: Some(fitted.digest),
                public_images: Some(fitted.images),
            });
        }
        let first = devices.first().unwrap_or(&Device::Cpu);
        let weights = self.section().weights();
        // CUDA libraries keep state per thread, and the embedder works while the generator does: it
        // gets threads of its own. An embedder without weights computes on the CPU alone.
        let replicated = weights.is_some() && (devices.len() > 1 || first.is_cuda());
        let embedder: Box<dyn Embedder> = if replicated {
            let factories = devices
                .iter()
                .map(|device| -> WorkerFactory<_, EmbedderError> {
                    let (config, device) = (self.clone(), device.clone());
                    Box::new(move || config.open_on(image_size, &reopen_device(&device)?))
                });
            Box::new(ReplicatedEmbedder::start(factories.collect())?)
        } else {
            self.open_on(image_size, first)?
        };
        Ok(OpenedEmbedder {
            embedder,
            weights_digest: weights.as_deref().map(weights_digest).transpose()?,
            public_images: None,
        })
    }

    fn open_on(
        &self,
        image_size: (usize, usize),
        device: &Device,
    ) -> Result<BoxedEmbedder, EmbedderError> {
        let embedder = self.section().open_on(image_size, device)?;
        // Another thread may use the embedder. Metal does not order the work of two threads, so the
        // upload of the weights must have finished.
        device.synchronize()?;
        Ok(embedder)
    }
}
