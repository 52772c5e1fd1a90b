//! One embedder replicated on several devices.

use super::{Embedder, EmbedderError, Embeddings};
use crate::device_pool::{DevicePoolError, Replicated};
use crate::images::ImageBatch;

/// An embedder that its device's thread can own.
pub type BoxedEmbedder = Box<dyn Embedder + Send + Sync>;

/// Copies of one embedder, one per device. Each copy is only used on the thread that built it, so a
/// single copy on a GPU is wrapped as well when callers are on several threads.
pub type ReplicatedEmbedder = Replicated<dyn Embedder + Send + Sync>;

impl From<DevicePoolError<Self>> for EmbedderError {
    fn from(error: DevicePoolError<Self>) -> Self {
        match error {
            DevicePoolError::Failed(error) => error,
            DevicePoolError::Panicked => candle_core::Error::Msg(error.to_string()).into(),
        }
    }
}

impl Embedder for ReplicatedEmbedder {
    fn dimension(&self) -> usize {
        self.first().dimension()
    }

    fn batch_size(&self) -> usize {
        self.copies().map(Embedder::batch_size).sum()
    }

    fn overlaps_host_work(&self) -> bool {
        self.first().overlaps_host_work()
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let parts = self.run_batches(
            images.len(),
            self.first().batch_size(),
            |range| images.slice(range),
            |copy, images| copy.embed(&images),
        )?;
        let dimension = self.dimension();
        let mut data = Vec::with_capacity(images.len() * dimension);
        for part in parts {
            data.extend(part.into_data());
        }
        Embeddings::new(data, dimension).ok_or_else(|| {
            let message = format!("the embeddings are not rows of {dimension}");
            candle_core::Error::Msg(message).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_pool::WorkerFactory;
    use crate::embedders::{PixelsConfig, PixelsEmbedder};

    fn pixels() -> Result<BoxedEmbedder, EmbedderError> {
        let config = PixelsConfig {
            size: Some(2),
            grayscale: false,
        };
        Ok(Box::new(PixelsEmbedder::new(&config, (4, 4))?))
    }

    #[test]
    fn vectors_do_not_depend_on_the_number_of_devices() {
        let data = (0..1001 * 48)
            .map(|i: usize| (i * i * 7 % 251) as u8)
            .collect();
        let images = ImageBatch::new(data, 1001, 4, 4).unwrap();
        let expected = pixels().unwrap().embed(&images).unwrap();
        for copies in [1, 3] {
            let factories = (0..copies).map(|_| Box::new(pixels) as WorkerFactory<_, _>);
            let replicated = ReplicatedEmbedder::start(factories.collect()).unwrap();
            assert_eq!(replicated.dimension(), expected.dimension());
            assert!(replicated.embed(&images).unwrap() == expected);
            assert!(replicated.embed(&images.slice(0..0)).unwrap().is_empty());
        }
    }
}
