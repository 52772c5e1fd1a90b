//! One foundation model on several devices.

use std::sync::Arc;

use super::{Condition, Demand, Draw, Generator, GeneratorError, Operation, Slot, Workplace};
use crate::crew::{Crew, CrewError, Maker};
use crate::images::ImageBatch;

/// A model that can be on a device of its own.
pub type Shared = Box<dyn Generator + Send + Sync>;

/// Copies of one model, a device each. They share what is asked for evenly, a batch at a time; as every image
/// depends on its own stream alone, it does not matter who makes it, nor with which others.
pub struct Fleet {
    crew: Crew<Shared>,
    /// One of the copies, for questions that need no device.
    any: Arc<Shared>,
}

impl Fleet {
    /// Makes the copies side by side.
    ///
    /// # Errors
    /// The first copy's that could not be made.
    pub fn start(makers: Vec<Maker<Shared, GeneratorError>>) -> Result<Self, GeneratorError> {
        let crew = Crew::start(makers).map_err(plain)?;
        match crew.workers().first().cloned() {
            Some(any) => Ok(Self { crew, any }),
            None => Err(plain(CrewError::Panicked)),
        }
    }

    fn share(
        &self,
        draws: &[Draw],
        work: impl Fn(&Shared, Vec<Draw>, usize) -> Result<ImageBatch, GeneratorError>
        + Send
        + Sync
        + 'static,
    ) -> Result<ImageBatch, GeneratorError> {
        // No more than a batch, and nobody idle where there is less than a batch for each.
        let even = draws.len().div_ceil(self.crew.workers().len());
        let size = self.any.batch_size().min(even).max(1);
        let jobs = draws.chunks(size).enumerate();
        let jobs = jobs.map(|(index, draws)| (index * size, draws.to_vec()));
        let parts = self
            .crew
            .run(jobs.collect(), move |copy, (start, draws)| {
                work(copy, draws, start)
            })
            .map_err(plain)?;
        let (height, width) = self.image_size();
        let mut made = ImageBatch::empty(height, width);
        for part in parts {
            made.extend(&part)?;
        }
        Ok(made)
    }
}

fn plain(error: CrewError<GeneratorError>) -> GeneratorError {
    match error {
        CrewError::Failed(error) => error,
        CrewError::Panicked => candle_core::Error::Msg(error.to_string()).into(),
    }
}

impl Generator for Fleet {
    fn image_size(&self) -> (usize, usize) {
        self.any.image_size()
    }

    fn batch_size(&self) -> usize {
        let sizes = self.crew.workers().iter().map(|copy| copy.batch_size());
        sizes.sum()
    }

    fn initial_conditions(&self, slots: &[Slot<'_>]) -> Result<Vec<Condition>, GeneratorError> {
        self.any.initial_conditions(slots)
    }

    fn accepts(&self, condition: Condition) -> bool {
        self.any.accepts(condition)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.any.describe_conditions(class)
    }

    fn prompts(&self) -> &[String] {
        self.any.prompts()
    }

    fn announce(&self, demands: &[Demand]) -> Result<Vec<String>, GeneratorError> {
        self.any.announce(demands)
    }

    fn attach(&self, workplace: &Workplace) -> Result<(), GeneratorError> {
        let mut copies = self.crew.workers().iter();
        copies.try_for_each(|copy| copy.attach(workplace))
    }

    fn apart(&self) -> bool {
        self.any.apart()
    }

    fn notes(&self) -> Vec<String> {
        let copies = self.crew.workers().iter();
        copies.flat_map(|copy| copy.notes()).collect()
    }

    fn random(&self, draws: &[Draw]) -> Result<ImageBatch, GeneratorError> {
        self.share(draws, |copy, draws, _| copy.random(&draws))
    }

    fn vary(
        &self,
        images: &ImageBatch,
        draws: &[Draw],
        degree: f64,
    ) -> Result<ImageBatch, GeneratorError> {
        if images.len() != draws.len() {
            let message = format!("{} images for {} draws", images.len(), draws.len());
            return Err(GeneratorError::Input(message));
        }
        let images = images.clone();
        self.share(draws, move |copy, draws, start| {
            copy.vary(&images.slice(start..start + draws.len()), &draws, degree)
        })
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.any.evaluations(operation)
    }
}
