//! What stands for each sample in the vote: the mean embedding of several variations of it.
//!
//! The variations are embedded batch by batch and only the running sum is kept, so neither memory nor disk
//! grows with the lookahead degree. Source: `image_variation` and the mean over `packed_features` in the
//! original's `main()`; paper: Algorithm 2's lookahead.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use super::PeError;
use crate::artifacts::{Population, ShardStore};
use crate::atomic;
use crate::embedders::EmbedPipeline;
use crate::embedders::{Embedder, EmbedderError, Embeddings};
use crate::generators::{Condition, Generator, SampleRequest};
use crate::images::ImageBatch;
use crate::progress::{Observer, Unit};
use crate::streams::{Phase, RngKey};

/// Everything that the embeddings of one population depend on.
pub struct Lookahead<'a> {
    /// Makes the variations.
    pub generator: &'a dyn Generator,
    /// Embeds them.
    pub embedder: &'a dyn Embedder,
    /// PopulationSpec seed.
    pub seed: u64,
    /// The iteration whose vote this is for.
    pub iteration: u32,
    /// Variations a sample; 0 embeds the sample itself.
    pub degree: u32,
    /// How far they go.
    pub variation_degree: f64,
}

impl Lookahead<'_> {
    /// The mean embedding of every sample, `float32[samples, dimension]`; resumes from `folder`.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn embed(
        &self,
        population: &Population,
        folder: PathBuf,
        observer: &dyn Observer,
    ) -> Result<Embeddings, PeError> {
        let dimension = self.embedder.dimension();
        let units = ShardStore::open(folder.clone(), "mean")?;
        let total = population.len();
        let rounds = u64::from(self.degree.max(1));
        let mut ranges = units.finished(total)?;
        let mut done: u64 = ranges.iter().map(|r| r.len() as u64 * rounds).sum();
        observer.begin("lookahead", Some(total as u64 * rounds), Unit::Steps);
        observer.resume(done);
        thread::scope(|scope| {
            let mut embedding = EmbedPipeline::new(self.embedder, scope);
            for range in ShardStore::missing(&ranges, total, self.generator.batch_size()) {
                let partial = Partial::new(&folder, &range);
                let unit = (population, &range, &partial);
                let sum = self.unit(unit, &mut embedding, &mut done, observer)?;
                let mean: Vec<u8> = sum
                    .iter()
                    .flat_map(|s| ((s / f64::from(self.degree.max(1))) as f32).to_le_bytes())
                    .collect();
                units.write(&range, &mean)?;
                partial.remove()?;
            }
            Ok::<(), PeError>(())
        })?;
        observer.end();
        ranges = units.finished(total)?;
        let mut data = Vec::with_capacity(total * dimension);
        for range in &ranges {
            let bytes = units.read(range, range.len() * dimension * 4)?;
            data.extend(bytes.chunks_exact(4).map(le_f32));
        }
        match Embeddings::new(data, dimension) {
            Some(embeddings) if embeddings.len() == total => Ok(embeddings),
            _ => Err(PeError::State(format!(
                "{} does not hold one embedding for each of {total} samples",
                folder.display()
            ))),
        }
    }

    /// The sum of the embeddings of every variation of a unit's samples. Where the embedder works apart, one round is
    /// embedded while the next one's images are made.
    fn unit(
        &self,
        (population, range, partial): (&Population, &Range<usize>, &Partial),
        embedding: &mut EmbedPipeline<'_>,
        done: &mut u64,
        observer: &dyn Observer,
    ) -> Result<Vec<f64>, PeError> {
        let images = population.images(range.clone())?;
        let rounds = self.degree.max(1);
        let (mut round, mut sum) = partial.read(range.len() * self.embedder.dimension())?;
        *done += u64::from(round) * range.len() as u64;
        let mut given = 0;
        while round < rounds {
            if round + given < rounds {
                observer.end_if_cancelled()?;
                let seen = if self.degree == 0 {
                    images.clone()
                } else {
                    self.vary(population, &images, range, round + given)?
                };
                for note in self.generator.drain_warnings() {
                    observer.message(&note);
                }
                embedding.give(seen);
                given += 1;
                if given == 1 && embedding.is_apart() {
                    continue;
                }
            }
            let embedded = embedding.take()?;
            given -= 1;
            // Found here, not in the vote, after all of the population was embedded and stored.
            if let Some(at) = embedded.data().iter().position(|value| !value.is_finite()) {
                let message = format!(
                    "sample {} has an embedding that is not finite: embedder.dtype \"f32\" or \"bf16\" has a larger range \
                     than \"f16\", and weights may be damaged",
                    range.start + at / self.embedder.dimension().max(1)
                );
                return Err(EmbedderError::Network(candle_core::Error::Msg(message)).into());
            }
            for (s, value) in sum.iter_mut().zip(embedded.data()) {
                *s += f64::from(*value);
            }
            round += 1;
            if round < rounds {
                partial.write(round, &sum)?;
            }
            *done += range.len() as u64;
            observer.advance(*done);
        }
        Ok(sum)
    }

    fn vary(
        &self,
        population: &Population,
        images: &ImageBatch,
        range: &Range<usize>,
        round: u32,
    ) -> Result<ImageBatch, PeError> {
        let draws: Vec<SampleRequest> = range
            .clone()
            .map(|sample| SampleRequest {
                condition: Condition(population.condition(sample)),
                rng_key: RngKey {
                    seed: self.seed,
                    phase: Phase::Lookahead,
                    iteration: self.iteration,
                    repeat: round,
                    sample: sample as u64,
                },
            })
            .collect();
        Ok(self.generator.vary(images, &draws, self.variation_degree)?)
    }
}

fn le_f32(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)
}

/// The running sum of an unfinished unit: how many variations are in it, then the sums.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn new(folder: &Path, range: &Range<usize>) -> Self {
        Self {
            path: folder.join(format!("{}-{}.partial", range.start, range.end)),
        }
    }

    fn read(&self, len: usize) -> Result<(u32, Vec<f64>), PeError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((0, vec![0.0; len]));
            }
            Err(error) => return Err(PeError::io(&self.path)(error)),
        };
        match bytes.split_first_chunk::<4>() {
            Some((round, sums)) if sums.len() == len * 8 => Ok((
                u32::from_le_bytes(*round),
                sums.chunks_exact(8)
                    .map(|b| b.try_into().map_or(f64::NAN, f64::from_le_bytes))
                    .collect(),
            )),
            // Of another batch size or embedder: it costs one unit to start over.
            _ => Ok((0, vec![0.0; len])),
        }
    }

    fn write(&self, round: u32, sum: &[f64]) -> Result<(), PeError> {
        let mut bytes = round.to_le_bytes().to_vec();
        bytes.extend(sum.iter().flat_map(|s| s.to_le_bytes()));
        atomic::write(&self.path, &bytes).map_err(PeError::io(&self.path))
    }

    fn remove(&self) -> Result<(), PeError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(PeError::io(&self.path)(error))
            }
            _ => Ok(()),
        }
    }
}
