//! Making a population: random images, or variations of parents.

use std::ops::Range;
use std::path::PathBuf;
use std::thread;

use super::PeError;
use crate::artifacts::{ClassLayout, Population, ShardStore, ShardWriter};
use crate::generators::{Condition, Generator, SampleRequest};
use crate::images::ImageBatch;
use crate::progress::{Observer, Unit};
use crate::streams::{Phase, RngKey};

/// One sample of a population to be: where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// A random image.
    Random,
    /// A variation of this parent; the second number counts its variations.
    Variation(usize, u32),
    /// The parent itself.
    Elite(usize),
}

/// A population to be made.
pub struct Offspring<'a> {
    /// Makes the images.
    pub generator: &'a dyn Generator,
    /// PopulationSpec seed.
    pub seed: u64,
    /// The iteration that the population belongs to.
    pub iteration: u32,
    /// How far variations go.
    pub variation_degree: f64,
    /// Where each sample comes from.
    pub origins: Vec<Lineage>,
    /// The public condition of each sample.
    pub conditions: Vec<Condition>,
}

/// The children of the chosen parents, class by class: first every parent's first variation, then every
/// parent's second, …, then the parents themselves if they are kept.
#[must_use]
pub fn origins(parents: &[Vec<usize>], variations: u32, keep: bool) -> Vec<Lineage> {
    let mut origins = Vec::new();
    for parents in parents {
        for fold in 0..variations {
            origins.extend(parents.iter().map(|p| Lineage::Variation(*p, fold)));
        }
        if keep {
            origins.extend(parents.iter().map(|p| Lineage::Elite(*p)));
        }
    }
    origins
}

/// The initial population: class by class the random images, then their first variations, and so on.
#[must_use]
pub fn initial_origins(base: &[Vec<usize>], variations: u32) -> Vec<Lineage> {
    let mut origins = Vec::new();
    for parents in base {
        origins.extend(parents.iter().map(|p| Lineage::Elite(*p)));
        for fold in 0..variations {
            origins.extend(parents.iter().map(|p| Lineage::Variation(*p, fold)));
        }
    }
    origins
}

/// Each class' parents as indices into the whole population.
#[must_use]
pub fn global(layout: &ClassLayout, per_class: &[Vec<usize>]) -> Vec<Vec<usize>> {
    layout
        .ranges()
        .iter()
        .zip(per_class)
        .map(|(range, parents)| parents.iter().map(|p| range.start + p).collect())
        .collect()
}

impl Offspring<'_> {
    /// Makes the missing units in `folder`; afterwards `0..origins.len()` is covered.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn make(
        &self,
        parents: Option<&Population>,
        folder: PathBuf,
        stage: &str,
        observer: &dyn Observer,
    ) -> Result<ShardStore, PeError> {
        let units = ShardStore::open(folder, "u8")?;
        let total = self.origins.len();
        let finished = units.finished(total)?;
        let mut done: usize = finished.iter().map(Range::len).sum();
        observer.begin(stage, Some(total as u64), Unit::Steps);
        observer.resume(done as u64);
        thread::scope(|scope| {
            let mut writing = ShardWriter::new(scope, &units, self.generator.overlaps_host_work());
            for range in ShardStore::missing(&finished, total, self.generator.batch_size()) {
                if observer.is_cancelled() {
                    writing.finish()?;
                    observer.end();
                    return Err(PeError::Interrupted);
                }
                let images = self.unit(range.clone(), parents)?;
                for note in self.generator.drain_warnings() {
                    observer.message(&note);
                }
                done += writing.write(range, images)?;
                observer.advance(done as u64);
            }
            done += writing.finish()?;
            observer.advance(done as u64);
            Ok::<(), PeError>(())
        })?;
        observer.end();
        Ok(units)
    }

    fn unit(
        &self,
        range: Range<usize>,
        parents: Option<&Population>,
    ) -> Result<ImageBatch, PeError> {
        let (height, width) = self.generator.image_size();
        let (mut random, mut varied, mut varied_parents) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = Vec::new();
        for sample in range.clone() {
            let draw = |phase, repeat| SampleRequest {
                condition: self
                    .conditions
                    .get(sample)
                    .copied()
                    .unwrap_or(Condition::UNCONDITIONAL),
                rng_key: RngKey {
                    seed: self.seed,
                    phase,
                    iteration: self.iteration,
                    repeat,
                    sample: sample as u64,
                },
            };
            match self.origins.get(sample) {
                Some(Lineage::Random) => random.push(draw(Phase::Random, 0)),
                Some(Lineage::Variation(parent, fold)) => {
                    let phase = if self.iteration == 0 {
                        Phase::InitialVary
                    } else {
                        Phase::Vary
                    };
                    varied.push(draw(phase, *fold));
                    varied_parents.push(*parent);
                }
                Some(Lineage::Elite(parent)) => kept.push(*parent),
                None => {}
            }
        }
        let parents =
            || parents.ok_or_else(|| PeError::State("variations without parents".to_owned()));
        let empty = ImageBatch::empty(height, width);
        let random = if random.is_empty() {
            empty.clone()
        } else {
            self.generator.random(&random)?
        };
        let varied = if varied.is_empty() {
            empty.clone()
        } else {
            let images = parents()?.gather(&varied_parents)?;
            self.generator
                .vary(&images, &varied, self.variation_degree)?
        };
        let kept = if kept.is_empty() {
            empty.clone()
        } else {
            parents()?.gather(&kept)?
        };
        // Back into the samples' own order.
        let (mut random, mut varied, mut kept) = (random.iter(), varied.iter(), kept.iter());
        let mut data = Vec::with_capacity(range.len() * empty.image_len());
        for origin in self.origins.get(range.clone()).unwrap_or_default() {
            let image = match origin {
                Lineage::Random => random.next(),
                Lineage::Variation(..) => varied.next(),
                Lineage::Elite(_) => kept.next(),
            };
            data.extend_from_slice(image.unwrap_or_default());
        }
        ImageBatch::new(data, range.len(), height, width)
            .map_err(|error| PeError::Generator(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_fold_by_fold_in_their_class() {
        use Lineage::{Elite, Variation};
        let made = origins(&[vec![4, 4], vec![9]], 2, true);
        let expected = [
            Variation(4, 0),
            Variation(4, 0),
            Variation(4, 1),
            Variation(4, 1),
            Elite(4),
            Elite(4),
            Variation(9, 0),
            Variation(9, 1),
            Elite(9),
        ];
        assert_eq!(made, expected);
        assert_eq!(origins(&[vec![1]], 1, false), [Variation(1, 0)]);
        let initial = initial_origins(&[vec![0], vec![1, 2]], 1);
        let expected = [
            Elite(0),
            Variation(0, 0),
            Elite(1),
            Elite(2),
            Variation(1, 0),
            Variation(2, 0),
        ];
        assert_eq!(initial, expected);
    }

    #[test]
    fn class_indices_become_population_indices() {
        let layout = ClassLayout::new(6, &["a".into(), "b".into()], None, 1).unwrap();
        assert_eq!(
            global(&layout, &[vec![2], vec![0, 1]]),
            [vec![2], vec![3, 4]]
        );
    }
}
