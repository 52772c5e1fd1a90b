//! Generation of a population: random images, or variations of parents, shard by shard.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use super::{PeError, Run};
use crate::artifacts::{GeneratedImages, Lineage, Origin, Population, ShardStore, ShardWriter};
use crate::generators::{Condition, Generated, GeneratorError, SampleRequest};
use crate::images::ImageBatch;
use crate::kill_point::{KillPoint, reach};
use crate::progress::Unit;
use crate::streams::{Phase, RngKey};

/// The derivation of one sample from the population before; `parent` is an index into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Derivation {
    /// A variation of the parent; `fold` counts the variations of one selection of it.
    Variation { parent: usize, fold: u32 },
    /// The parent itself (elitism).
    Kept { parent: usize },
}

impl Derivation {
    fn parent(self) -> usize {
        match self {
            Self::Variation { parent, .. } | Self::Kept { parent } => parent,
        }
    }
}

/// Returns the derivations of a population, class by class: the first variation of every parent,
/// then the second of every parent, and so on, then the parents themselves if they are kept.
///
/// The order decides the random numbers of each sample, so it must not change.
#[must_use]
pub(super) fn derivations(parents: &[Vec<usize>], variations: u32, keep: bool) -> Vec<Derivation> {
    let mut derivations = Vec::new();
    for parents in parents {
        derivations.extend(variations_of(parents, variations));
        if keep {
            derivations.extend(kept(parents));
        }
    }
    derivations
}

/// Returns the derivations of an initial population, class by class: the random images, then the
/// first variation of each, and so on.
#[must_use]
pub(super) fn initial_derivations(base: &[Vec<usize>], variations: u32) -> Vec<Derivation> {
    let mut derivations = Vec::new();
    for parents in base {
        derivations.extend(kept(parents));
        derivations.extend(variations_of(parents, variations));
    }
    derivations
}

fn variations_of(parents: &[usize], variations: u32) -> impl Iterator<Item = Derivation> + '_ {
    (0..variations).flat_map(|fold| {
        let variation = move |&parent| Derivation::Variation { parent, fold };
        parents.iter().map(variation)
    })
}

fn kept(parents: &[usize]) -> impl Iterator<Item = Derivation> + '_ {
    parents.iter().map(|&parent| Derivation::Kept { parent })
}

/// Returns the lineages of a later population from those of the population before it.
fn lineages(derivations: &[Derivation], before: &[Lineage]) -> Vec<Lineage> {
    let lineage = |derivation: &Derivation| {
        let parent = derivation.parent();
        let index = u32::try_from(parent).unwrap_or(u32::MAX);
        let (origin, fold) = match *derivation {
            Derivation::Variation { fold, .. } => (Origin::Variation, fold),
            Derivation::Kept { .. } => (Origin::Kept, 0),
        };
        Lineage {
            origin,
            parent: Some(index),
            fold,
            ancestor: before.get(parent).map_or(index, |parent| parent.ancestor),
        }
    };
    derivations.iter().map(lineage).collect()
}

/// Returns the lineages of an initial population that consists of random images, which are the
/// parents of `derivations`, and of variations of them.
fn initial_lineages(derivations: &[Derivation]) -> Vec<Lineage> {
    // The place of each random image in the population.
    let mut places = HashMap::new();
    for (place, derivation) in derivations.iter().enumerate() {
        if let Derivation::Kept { parent } = derivation {
            places.insert(*parent, place);
        }
    }
    let lineage = |(place, derivation): (usize, &Derivation)| match *derivation {
        Derivation::Kept { .. } => Lineage::first(Origin::Random, place),
        Derivation::Variation { parent, fold } => {
            let random = places.get(&parent).copied().unwrap_or(place);
            let ancestor = u32::try_from(random).unwrap_or(u32::MAX);
            Lineage {
                origin: Origin::Variation,
                parent: Some(ancestor),
                fold,
                ancestor,
            }
        }
    };
    derivations.iter().enumerate().map(lineage).collect()
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
        Ok(run.generator.random(&requests)?)
    })?;
    let lineage = |index| Lineage::first(Origin::Random, index);
    Ok(GeneratedImages {
        shards,
        conditions,
        lineages: (0..total).map(lineage).collect(),
    })
}

/// A population that is derived from another one.
pub(super) struct Offspring<'a> {
    /// Generator, seed and degrees.
    pub run: &'a Run<'a>,
    /// Number of the new population.
    pub iteration: u32,
    /// The derivation of each sample.
    pub derivations: Vec<Derivation>,
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
        let total = self.derivations.len();
        generate_missing(self.run, &shards, total, stage, |range| {
            self.batch(range, parents)
        })?;
        let condition = |derivation: &Derivation| parents.condition(derivation.parent());
        Ok(GeneratedImages {
            shards,
            conditions: self.derivations.iter().map(condition).collect(),
            lineages: match self.iteration {
                0 => initial_lineages(&self.derivations),
                _ => lineages(&self.derivations, parents.lineages()),
            },
        })
    }

    /// Generates the samples of a range.
    fn batch(&self, range: Range<usize>, parents: &Population) -> Result<Generated, PeError> {
        let derivations = self.derivations.get(range.clone()).unwrap_or_default();
        let phase = if self.iteration == 0 {
            Phase::InitialVary
        } else {
            Phase::Vary
        };
        let (mut requests, mut varied_parents, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (sample, derivation) in range.clone().zip(derivations) {
            match *derivation {
                Derivation::Variation { parent, fold } => {
                    requests.push(SampleRequest {
                        condition: parents.condition(parent),
                        rng_key: rng_key(self.run, phase, self.iteration, fold, sample),
                    });
                    varied_parents.push(parent);
                }
                Derivation::Kept { parent } => kept.push(parent),
            }
        }
        let (height, width) = self.run.generator.image_size();
        let varied = if requests.is_empty() {
            ImageBatch::empty(height, width).into()
        } else {
            let variation = self.run.plan.variation(self.iteration);
            let varied = parents.gather(&varied_parents)?;
            self.run.generator.vary(&varied, &requests, variation)?
        };
        let kept = parents.gather(&kept)?;
        // The two kinds were batched separately and now return to the order of the samples.
        let (mut next_varied, mut next_kept) = (0, 0);
        let mut data = Vec::with_capacity(range.len() * height * width * 3);
        let mut parameters = Vec::with_capacity(range.len());
        for derivation in derivations {
            let (of, index) = match derivation {
                Derivation::Variation { .. } => (&varied, &mut next_varied),
                Derivation::Kept { .. } => (&kept, &mut next_kept),
            };
            data.extend_from_slice(of.images.get(*index).unwrap_or_default());
            parameters.push(of.parameters(*index).clone());
            *index += 1;
        }
        let images = ImageBatch::new(data, range.len(), height, width);
        Ok(Generated::new(
            images.map_err(GeneratorError::from)?,
            parameters,
        )?)
    }
}

/// Generates and stores the shards that are missing of `0..total`. Where the generator leaves the
/// CPU free, a shard is written while the next one is generated.
fn generate_missing(
    run: &Run<'_>,
    shards: &ShardStore,
    total: usize,
    stage: &str,
    generate: impl Fn(Range<usize>) -> Result<Generated, PeError>,
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

    fn variation(parent: usize, fold: u32) -> Derivation {
        Derivation::Variation { parent, fold }
    }

    fn kept(parent: usize) -> Derivation {
        Derivation::Kept { parent }
    }

    #[test]
    fn offspring_are_ordered_by_class_then_fold() {
        let expected = [
            variation(4, 0),
            variation(4, 0),
            variation(4, 1),
            variation(4, 1),
            kept(4),
            kept(4),
            variation(9, 0),
            variation(9, 1),
            kept(9),
        ];
        assert_eq!(derivations(&[vec![4, 4], vec![9]], 2, true), expected);
        assert_eq!(derivations(&[vec![1]], 1, false), [variation(1, 0)]);
        let expected = [
            kept(0),
            variation(0, 0),
            kept(1),
            kept(2),
            variation(1, 0),
            variation(2, 0),
        ];
        assert_eq!(initial_derivations(&[vec![0], vec![1, 2]], 1), expected);
    }

    #[test]
    fn lineages_lead_back_to_population_0() {
        let initial = initial_lineages(&initial_derivations(&[vec![0], vec![1, 2]], 1));
        let parents: Vec<Option<u32>> = initial.iter().map(|one| one.parent).collect();
        assert_eq!(parents, [None, Some(0), None, None, Some(2), Some(3)]);
        let ancestors = |lineages: &[Lineage]| -> Vec<u32> {
            lineages.iter().map(|one| one.ancestor).collect()
        };
        assert_eq!(ancestors(&initial), [0, 0, 2, 3, 2, 3]);
        let first = lineages(&derivations(&[vec![1], vec![5, 4]], 1, true), &initial);
        assert_eq!(ancestors(&first), [0, 0, 3, 2, 3, 2]);
        let second = lineages(&derivations(&[vec![1], vec![2, 2]], 2, false), &first);
        assert_eq!(ancestors(&second), [0, 0, 3, 3, 3, 3]);
        let expected = Lineage {
            origin: Origin::Variation,
            parent: Some(2),
            fold: 1,
            ancestor: 3,
        };
        assert_eq!(second[5], expected);
        assert_eq!(first[1].origin, Origin::Kept);
    }
}
