//! The `[embedder]` section: its types, and opening the embedder that it describes.

use candle_core::Device;

use super::{
    BoxedEmbedder, ClipConfig, Dinov2EmbedderConfig, Embedder, EmbedderError, EmbedderSection,
    InceptionConfig, PixelsConfig, ReplicatedEmbedder,
};
use crate::device_pool::WorkerFactory;
use crate::hub::{Requirement, weights_digest};
use crate::kernels::reopen_device;
use crate::sections::tagged_sections;

tagged_sections! {
    /// An `[embedder]` section: a feature space of images.
    pub enum EmbedderConfig: dyn EmbedderSection {
        "inception" => Inception(InceptionConfig),
        "clip" => Clip(ClipConfig),
        "dinov2" => Dinov2(Dinov2EmbedderConfig),
        "pixels" => Pixels(PixelsConfig),
    }
}

/// An embedder that is ready for use.
pub struct OpenedEmbedder {
    /// The embedder, on all devices.
    pub embedder: Box<dyn Embedder>,
    /// SHA-256 of its weights, in hexadecimal; `None` for an embedder without weights.
    pub weights_digest: Option<String>,
}

impl EmbedderConfig {
    /// Returns the files that [`EmbedderConfig::open`] reads.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        let weights = self.section().weights().as_deref().map(Requirement::path);
        weights.into_iter().collect()
    }

    /// Opens the embedder with one copy on each of `devices`, for images of `image_size` (height,
    /// width).
    ///
    /// # Errors
    /// Those of [`EmbedderSection::open_on`].
    pub fn open(
        &self,
        image_size: (usize, usize),
        devices: &[Device],
    ) -> Result<OpenedEmbedder, EmbedderError> {
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
