//! One foundation model replicated on several devices.

use std::ops::Range;
use std::sync::Arc;

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, Operation, Parameters,
    PlannedWork, RunPaths, SampleRequest, Variation, check_pairs,
};
use crate::device_pool::{DevicePoolError, Replicated};
use crate::images::ImageBatch;
use crate::public_images::PublicImages;

/// A model that its device's thread can own.
pub type BoxedGenerator = Box<dyn Generator + Send + Sync>;

/// Copies of one model, one per device. Each image depends on its own random stream alone, so the
/// images are independent of the number of copies.
pub type ReplicatedGenerator = Replicated<dyn Generator + Send + Sync>;

impl From<DevicePoolError<Self>> for GeneratorError {
    fn from(error: DevicePoolError<Self>) -> Self {
        match error {
            DevicePoolError::Failed(error) => error,
            DevicePoolError::Panicked => candle_core::Error::Msg(error.to_string()).into(),
        }
    }
}

impl ReplicatedGenerator {
    /// Splits `requests` over the copies; `work` also receives the range of its requests.
    fn generate(
        &self,
        requests: &[SampleRequest],
        work: impl Fn(
            &(dyn Generator + Send + Sync),
            &[SampleRequest],
            Range<usize>,
        ) -> Result<Generated, GeneratorError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Generated, GeneratorError> {
        let parts = self.run_batches(
            requests.len(),
            self.first()
                .batch_size()
                .min(self.even_share(requests.len())),
            |range| {
                let requests = requests.get(range.clone()).unwrap_or_default();
                (requests.to_vec(), range)
            },
            move |copy, (requests, range)| work(copy, &requests, range),
        )?;
        let (height, width) = self.image_size();
        let mut generated = Generated::from(ImageBatch::empty(height, width));
        for part in parts {
            generated.extend(&part)?;
        }
        Ok(generated)
    }
}

impl Generator for ReplicatedGenerator {
    fn image_size(&self) -> (usize, usize) {
        self.first().image_size()
    }

    fn batch_size(&self) -> usize {
        self.copies().map(Generator::batch_size).sum()
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        self.first().initial_conditions(requests)
    }

    fn num_conditions(&self) -> u32 {
        self.first().num_conditions()
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.first().describe_conditions(class)
    }

    fn prompts(&self) -> &[String] {
        self.first().prompts()
    }

    fn public_images(&self) -> Vec<Arc<PublicImages>> {
        self.first().public_images()
    }

    fn check_parent(
        &self,
        condition: Condition,
        parameters: &Parameters,
    ) -> Result<(), GeneratorError> {
        self.first().check_parent(condition, parameters)
    }

    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        self.first().preflight(work)
    }

    fn begin_run(&self, paths: &RunPaths) -> Result<(), GeneratorError> {
        self.copies().try_for_each(|copy| copy.begin_run(paths))
    }

    fn overlaps_host_work(&self) -> bool {
        self.first().overlaps_host_work()
    }

    fn drain_warnings(&self) -> Vec<String> {
        self.copies().flat_map(Generator::drain_warnings).collect()
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        self.generate(requests, |copy, requests, _| copy.random(requests))
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        check_pairs(parents, requests)?;
        let parents = parents.clone();
        self.generate(requests, move |copy, requests, range| {
            copy.vary(&parents.slice(range), requests, variation)
        })
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.first().evaluations(operation)
    }
}
