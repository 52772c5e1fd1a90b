//! One embedder on several devices.

use super::{Embedder, EmbedderError, Embeddings};
use crate::crew::{Crew, CrewError, Maker};
use crate::images::ImageBatch;

/// An embedder that can be on a device of its own.
pub type SharedEmbedder = Box<dyn Embedder + Send + Sync>;

/// Copies of one embedder, a device each, that share images a batch at a time. Each is used by the thread alone that made
/// it, whoever asks.
pub struct EmbedderFleet {
    crew: Crew<SharedEmbedder>,
    dimension: usize,
    /// Images that one copy takes at once.
    batch_size: usize,
}

impl EmbedderFleet {
    /// Makes the copies side by side.
    ///
    /// # Errors
    /// The first copy's that could not be made.
    pub fn start(makers: Vec<Maker<SharedEmbedder, EmbedderError>>) -> Result<Self, EmbedderError> {
        let crew = Crew::start(makers).map_err(plain)?;
        let first = crew.workers().first();
        let (dimension, batch_size) =
            first.map_or((0, 1), |copy| (copy.dimension(), copy.batch_size().max(1)));
        Ok(Self {
            dimension,
            batch_size,
            crew,
        })
    }
}

fn plain(error: CrewError<EmbedderError>) -> EmbedderError {
    match error {
        CrewError::Failed(error) => error,
        CrewError::Panicked => candle_core::Error::Msg(error.to_string()).into(),
    }
}

impl Embedder for EmbedderFleet {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn batch_size(&self) -> usize {
        self.batch_size * self.crew.workers().len()
    }

    fn overlaps_host_work(&self) -> bool {
        self.crew
            .workers()
            .iter()
            .any(|copy| copy.overlaps_host_work())
    }

    fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
        let starts = (0..images.len()).step_by(self.batch_size);
        let jobs = starts.map(|start| images.slice(start..start.saturating_add(self.batch_size)));
        let parts = self
            .crew
            .run(jobs.collect(), |copy, images: ImageBatch| {
                copy.embed(&images)
            })
            .map_err(plain)?;
        let mut data = Vec::with_capacity(images.len() * self.dimension);
        for part in parts {
            data.extend(part.into_data());
        }
        Embeddings::new(data, self.dimension).ok_or_else(|| {
            let message = format!("the embeddings are not rows of {}", self.dimension);
            candle_core::Error::Msg(message).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedders::{PixelsConfig, PixelsEmbedder};

    fn pixels() -> Result<SharedEmbedder, EmbedderError> {
        let config = PixelsConfig {
            size: Some(2),
            grayscale: false,
        };
        Ok(Box::new(PixelsEmbedder::new(&config, (4, 4))?))
    }

    #[test]
    fn as_many_devices_as_there_are_give_the_same_vectors() {
        let data = (0..1001 * 48)
            .map(|i: usize| (i * i * 7 % 251) as u8)
            .collect();
        let images = ImageBatch::new(data, 1001, 4, 4).unwrap();
        let expected = pixels().unwrap().embed(&images).unwrap();
        for copies in [1, 3] {
            let makers = (0..copies).map(|_| Box::new(pixels) as Maker<_, _>);
            let fleet = EmbedderFleet::start(makers.collect()).unwrap();
            assert_eq!(fleet.dimension(), expected.dimension());
            assert!(fleet.embed(&images).unwrap() == expected);
            assert!(fleet.embed(&images.slice(0..0)).unwrap().is_empty());
        }
    }
}
