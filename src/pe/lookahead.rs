//! The representation of a sample in the vote: the mean embedding of several variations of it.
//!
//! The variations are embedded batch by batch and only the running sum is kept, so neither memory
//! nor disk grows with the lookahead degree. Source: `image_variation` and the mean over
//! `packed_features` in `main()` of the original implementation.

use std::ops::Range;
use std::thread;

use super::{PeError, Run};
use crate::artifacts::{PartialMean, Population, ShardStore};
use crate::embedders::{EmbedPipeline, EmbedderError, Embeddings};
use crate::generators::{Generated, SampleRequest};
use crate::images::ImageBatch;
use crate::kill_point::{KillPoint, reach};
use crate::progress::Unit;
use crate::streams::{Phase, RngKey};

/// The lookahead of one iteration.
pub(super) struct Lookahead<'a> {
    run: &'a Run<'a>,
    iteration: u32,
    /// Variations of each sample; 0 embeds the sample itself.
    degree: u32,
    /// Embeddings in each mean.
    repeats: u32,
}

impl<'a> Lookahead<'a> {
    /// Creates the lookahead of `degree` variations for the vote of `iteration`.
    pub(super) fn new(run: &'a Run<'a>, iteration: u32, degree: u32) -> Self {
        Self {
            run,
            iteration,
            degree,
            repeats: degree.max(1),
        }
    }

    /// Returns the mean embedding of every sample, `float32[samples, dimension]`. Shards that are
    /// stored already are not computed again.
    ///
    /// # Errors
    /// See [`PeError`].
    pub(super) fn embed(
        &self,
        population: &Population,
        shards: ShardStore,
    ) -> Result<Embeddings, PeError> {
        let (observer, total) = (self.run.observer, population.len());
        let remaining = shards.remaining(total, self.run.generator.batch_size())?;
        let repeats = u64::from(self.repeats);
        let mut done = remaining.finished as u64 * repeats;
        observer.begin("lookahead", Some(total as u64 * repeats), Unit::Steps);
        observer.resume(done);
        thread::scope(|scope| {
            let mut pipeline = EmbedPipeline::new(self.run.embedder, scope);
            for range in remaining.ranges {
                let partial = PartialMean::new(&shards, &range);
                let sums = self.sum(population, &range, &partial, &mut pipeline, &mut done)?;
                let means = sums
                    .iter()
                    .map(|sum| (sum / f64::from(self.repeats)) as f32);
                let bytes: Vec<u8> = means.flat_map(f32::to_le_bytes).collect();
                shards.write(&range, &bytes)?;
                reach(KillPoint::LookaheadShard);
                partial.remove()?;
            }
            Ok::<(), PeError>(())
        })?;
        observer.end();
        self.read(&shards, total)
    }

    /// Reads the means of all samples.
    fn read(&self, shards: &ShardStore, total: usize) -> Result<Embeddings, PeError> {
        let dimension = self.run.embedder.dimension();
        let mut data = Vec::with_capacity(total * dimension);
        for range in shards.complete(total)? {
            let bytes = shards.read(&range, range.len() * dimension * 4)?;
            data.extend(bytes.chunks_exact(4).map(le_f32));
        }
        Ok(Embeddings::new(data, dimension).ok_or(EmbedderError::Dimension)?)
    }

    /// Returns the sum of the embeddings of all variations of a range of samples,
    /// `float64[samples, dimension]`. Where the embedder leaves the CPU free, one repeat is
    /// embedded while the images of the next one are generated.
    fn sum(
        &self,
        population: &Population,
        range: &Range<usize>,
        partial: &PartialMean,
        pipeline: &mut EmbedPipeline<'_>,
        done: &mut u64,
    ) -> Result<Vec<f64>, PeError> {
        let observer = self.run.observer;
        let samples = population.samples(range.clone())?;
        let dimension = self.run.embedder.dimension();
        let (mut repeat, mut sums) = partial.read(range.len() * dimension)?;
        *done += u64::from(repeat) * range.len() as u64;
        let mut in_flight = 0;
        while repeat < self.repeats {
            if repeat + in_flight < self.repeats {
                observer.end_if_cancelled()?;
                let batch = if self.degree == 0 {
                    samples.images.clone()
                } else {
                    self.vary(population, &samples, range, repeat + in_flight)?
                };
                for warning in self.run.generator.drain_warnings() {
                    observer.message(&warning);
                }
                pipeline.give(batch);
                in_flight += 1;
                // Fill the pipeline before waiting for its first result.
                if in_flight == 1 && pipeline.is_apart() {
                    continue;
                }
            }
            let embedded = pipeline.take()?;
            in_flight -= 1;
            check_finite(&embedded, range)?;
            for (sum, value) in sums.iter_mut().zip(embedded.data()) {
                *sum += f64::from(*value);
            }
            repeat += 1;
            if repeat < self.repeats {
                partial.write(repeat, &sums)?;
                reach(KillPoint::LookaheadPartial);
            }
            *done += range.len() as u64;
            observer.advance(*done);
        }
        Ok(sums)
    }

    fn vary(
        &self,
        population: &Population,
        samples: &Generated,
        range: &Range<usize>,
        repeat: u32,
    ) -> Result<ImageBatch, PeError> {
        let request = |sample: usize| SampleRequest {
            condition: population.condition(sample),
            rng_key: RngKey {
                seed: self.run.plan.evolution.seed,
                phase: Phase::Lookahead,
                iteration: self.iteration,
                repeat,
                sample: sample as u64,
            },
        };
        let requests: Vec<SampleRequest> = range.clone().map(request).collect();
        let variation = self.run.plan.variation(self.iteration);
        let varied = self.run.generator.vary(samples, &requests, variation)?;
        Ok(varied.images)
    }
}

/// Fails on a value that is not finite. The vote would fail, too, but only after the whole
/// population was embedded and stored.
fn check_finite(embedded: &Embeddings, range: &Range<usize>) -> Result<(), PeError> {
    let value = embedded.data().iter().position(|value| !value.is_finite());
    let Some(value) = value else {
        return Ok(());
    };
    Err(PeError::NotFinite {
        sample: range.start + value / embedded.dimension().max(1),
    })
}

fn le_f32(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)
}
