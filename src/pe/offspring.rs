//! Generation of a population: random images, or variations of parents, shard by shard.

use std::ops::Range;
use std::thread;

use super::{PeError, Run};
use crate::artifacts::{GeneratedImages, Population, ShardStore, ShardWriter};
use crate::generators::{Condition, Generated, GeneratorError, SampleRequest};
use crate::images::ImageBatch;
use crate::kill_point::{KillPoint, reach};
use crate::progress::Unit;
use crate::streams::{Phase, RngKey};

/// The derivation of one sample from the population before; `parent` is an index into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lineage {
    /// A variation of the parent; `repeat` counts the variations of one draw of it.
    Variation { parent: usize, repeat: u32 },
    /// The parent itself (elitism).
    Elite { parent: usize },
}

impl Lineage {
    fn parent(self) -> usize {
        match self {
            Self::Variation { parent, .. } | Self::Elite { parent } => parent,
        }
    }
}

/// Returns the lineages of a population, class by class: the first variation of every parent,
/// then the second of every parent, and so on, then the parents themselves if they are kept.
///
/// The order decides the random numbers of each sample, so it must not change.
#[must_use]
pub(super) fn lineages(parents: &[Vec<usize>], variations: u32, keep: bool) -> Vec<Lineage> {
    let mut lineages = Vec::new();
    for parents in parents {
        lineages.extend(variations_of(parents, variations));
        if keep {
            lineages.extend(elite(parents));
        }
    }
    lineages
}

/// Returns the lineages of an initial population, class by class: the random images, then the first
/// variation of each, and so on.
#[must_use]
pub(super) fn initial_lineages(base: &[Vec<usize>], variations: u32) -> Vec<Lineage> {
    let mut lineages = Vec::new();
    for parents in base {
        lineages.extend(elite(parents));
        lineages.extend(variations_of(parents, variations));
    }
    lineages
}

fn variations_of(parents: &[usize], variations: u32) -> impl Iterator<Item = Lineage> + '_ {
    (0..variations).flat_map(|repeat| {
        let variation = move |&parent| Lineage::Variation { parent, repeat };
        parents.iter().map(variation)
    })
}

fn elite(parents: &[usize]) -> impl Iterator<Item = Lineage> + '_ {
    parents.iter().map(|&parent| Lineage::Elite { parent })
}

/// Generates a random image for each condition.
///
/// # Errors
/// See [`PeError`].
pub(super) fn generate_random(
    run: &Run<'_>,
    conditions: Vec<Condition>,
    shards: ShardStore,
) -> Result<GeneratedImages, PeError> {
    let total = conditions.len();
    generate_missing(run, &shards, total, "initial population", |range| {
        let request = |(sample, condition): (usize, &Condition)| SampleRequest {
            condition: *condition,
            rng_key: rng_key(run, Phase::Random, 0, 0, sample),
        };
        let conditions = conditions.get(range.clone()).unwrap_or_default();
        let requests: Vec<_> = range.zip(conditions).map(request).collect();
        Ok(run.generator.random(&requests)?.images)
    })?;
    Ok(GeneratedImages { shards, conditions })
}

/// A population that is derived from another one.
pub(super) struct Offspring<'a> {
    /// Generator, seed and degrees.
    pub run: &'a Run<'a>,
    /// Number of the new population.
    pub iteration: u32,
    /// The derivation of each sample.
    pub lineages: Vec<Lineage>,
}

impl Offspring<'_> {
    /// Generates the samples from `parents`; a variation inherits the condition of its parent.
    ///
    /// # Errors
    /// See [`PeError`].
    pub(super) fn vary(
        &self,
        parents: &Population,
        shards: ShardStore,
        stage: &str,
    ) -> Result<GeneratedImages, PeError> {
        let total = self.lineages.len();
        generate_missing(self.run, &shards, total, stage, |range| {
            self.batch(range, parents)
        })?;
        let condition = |lineage: &Lineage| parents.condition(lineage.parent());
        Ok(GeneratedImages {
            shards,
            conditions: self.lineages.iter().map(condition).collect(),
        })
    }

    /// Generates the samples of a range.
    fn batch(&self, range: Range<usize>, parents: &Population) -> Result<ImageBatch, PeError> {
        let lineages = self.lineages.get(range.clone()).unwrap_or_default();
        let phase = if self.iteration == 0 {
            Phase::InitialVary
        } else {
            Phase::Vary
        };
        let (mut requests, mut varied_parents, mut elite) = (Vec::new(), Vec::new(), Vec::new());
        for (sample, lineage) in range.clone().zip(lineages) {
            match *lineage {
                Lineage::Variation { parent, repeat } => {
                    requests.push(SampleRequest {
                        condition: parents.condition(parent),
                        rng_key: rng_key(self.run, phase, self.iteration, repeat, sample),
                    });
                    varied_parents.push(parent);
                }
                Lineage::Elite { parent } => elite.push(parent),
            }
        }
        let (height, width) = self.run.generator.image_size();
        let varied = if requests.is_empty() {
            ImageBatch::empty(height, width)
        } else {
            let images = parents.gather(&varied_parents)?;
            let variation = self.run.plan.variation(self.iteration);
            let parents = Generated::from(images);
            self.run
                .generator
                .vary(&parents, &requests, variation)?
                .images
        };
        let elite = parents.gather(&elite)?;
        // The two kinds were batched separately and now return to the order of the samples.
        let (mut varied, mut elite) = (varied.iter(), elite.iter());
        let mut data = Vec::with_capacity(range.len() * height * width * 3);
        for lineage in lineages {
            let image = match lineage {
                Lineage::Variation { .. } => varied.next(),
                Lineage::Elite { .. } => elite.next(),
            };
            data.extend_from_slice(image.unwrap_or_default());
        }
        let images = ImageBatch::new(data, range.len(), height, width);
        Ok(images.map_err(GeneratorError::from)?)
    }
}

/// Generates and stores the shards that are missing of `0..total`. Where the generator leaves the
/// CPU free, a shard is written while the next one is generated.
fn generate_missing(
    run: &Run<'_>,
    shards: &ShardStore,
    total: usize,
    stage: &str,
    generate: impl Fn(Range<usize>) -> Result<ImageBatch, PeError>,
) -> Result<(), PeError> {
    let remaining = shards.remaining(total, run.generator.batch_size())?;
    let mut done = remaining.finished;
    let observer = run.observer;
    observer.begin(stage, Some(total as u64), Unit::Steps);
    observer.resume(done as u64);
    thread::scope(|scope| {
        let in_background = run.generator.overlaps_host_work();
        let mut writer = ShardWriter::new(scope, shards, in_background);
        for range in remaining.ranges {
            if let Err(cancelled) = observer.check() {
                writer.finish()?;
                observer.end();
                return Err(cancelled.into());
            }
            let images = generate(range.clone())?;
            for warning in run.generator.drain_warnings() {
                observer.message(&warning);
            }
            done += writer.write(range, images)?;
            reach(KillPoint::ImageShard);
            observer.advance(done as u64);
        }
        done += writer.finish()?;
        observer.advance(done as u64);
        Ok::<(), PeError>(())
    })?;
    observer.end();
    Ok(())
}

fn rng_key(run: &Run<'_>, phase: Phase, iteration: u32, repeat: u32, sample: usize) -> RngKey {
    RngKey {
        seed: run.plan.evolution.seed,
        phase,
        iteration,
        repeat,
        sample: sample as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variation(parent: usize, repeat: u32) -> Lineage {
        Lineage::Variation { parent, repeat }
    }

    fn elite(parent: usize) -> Lineage {
        Lineage::Elite { parent }
    }

    #[test]
    fn offspring_are_ordered_by_class_then_repeat() {
        let expected = [
            variation(4, 0),
            variation(4, 0),
            variation(4, 1),
            variation(4, 1),
            elite(4),
            elite(4),
            variation(9, 0),
            variation(9, 1),
            elite(9),
        ];
        assert_eq!(lineages(&[vec![4, 4], vec![9]], 2, true), expected);
        assert_eq!(lineages(&[vec![1]], 1, false), [variation(1, 0)]);
        let expected = [
            elite(0),
            variation(0, 0),
            elite(1),
            elite(2),
            variation(1, 0),
            variation(2, 0),
        ];
        assert_eq!(initial_lineages(&[vec![0], vec![1, 2]], 1), expected);
    }
}
