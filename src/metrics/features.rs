//! Features of a set of images: a mean and a covariance, the vectors, or both.

use std::io::{self, Read, Write};

use super::kid::choose;
use super::moments::{Gaussian, Moments};
use super::{FeatureSet, MetricsError};
use crate::embedders::{Embedder, Embeddings};
use crate::images::ImageBatch;
use crate::streams::{Phase, RngKey};

/// Features of a set of images.
pub struct Features {
    /// Number of images in the set.
    pub count: usize,
    /// Number of vectors behind the mean and the covariance: differs from `count` where FID has its
    /// own number of samples.
    pub moment_count: usize,
    /// Mean and covariance, if a metric needs them.
    pub gaussian: Option<Gaussian>,
    /// All vectors, if a metric needs them.
    pub vectors: Option<Embeddings>,
}

/// Accumulates the features of a set batch by batch.
pub struct FeatureAccumulator {
    count: usize,
    moments: Option<Moments>,
    vectors: Option<Vec<f32>>,
    dimension: usize,
}

impl FeatureAccumulator {
    /// Prepares for vectors of `dimension` numbers.
    #[must_use]
    pub fn new(dimension: usize, set: FeatureSet) -> Self {
        Self {
            count: 0,
            moments: set.moments.then(|| Moments::new(dimension)),
            vectors: set.vectors.then(Vec::new),
            dimension,
        }
    }

    /// Adds the vectors of a batch.
    ///
    /// # Errors
    /// [`MetricsError::Dimension`].
    pub fn push(&mut self, vectors: &Embeddings) -> Result<(), MetricsError> {
        self.push_times(vectors, |_| 1)
    }

    /// Adds the vectors of a batch; the `i`-th one counts `times(i)` times in mean and covariance.
    fn push_times(
        &mut self,
        vectors: &Embeddings,
        times: impl Fn(usize) -> usize,
    ) -> Result<(), MetricsError> {
        if vectors.dimension() != self.dimension {
            return Err(MetricsError::Dimension {
                samples: vectors.dimension(),
                reference: self.dimension,
            });
        }
        self.count += vectors.len();
        if let Some(all) = &mut self.vectors {
            all.extend_from_slice(vectors.data());
        }
        if let Some(moments) = &mut self.moments {
            let repeated: Vec<usize> = (0..vectors.len())
                .flat_map(|index| std::iter::repeat_n(index, times(index)))
                .collect();
            let once = repeated.len() == vectors.len()
                && repeated
                    .iter()
                    .enumerate()
                    .all(|(place, index)| place == *index);
            if once {
                moments.push(vectors)?;
            } else {
                moments.push(&vectors.gather(&repeated))?;
            }
        }
        Ok(())
    }

    /// Returns the features.
    ///
    /// # Errors
    /// [`MetricsError::TooFew`] and [`MetricsError::NotFinite`], naming the set as `what`.
    pub fn finish(self, what: &'static str) -> Result<Features, MetricsError> {
        let moment_count = self.moments.as_ref().map_or(self.count, Moments::len);
        let dimension = self.dimension;
        Ok(Features {
            count: self.count,
            moment_count,
            gaussian: self
                .moments
                .map(|moments| moments.finish(what))
                .transpose()?,
            vectors: self.vectors.map(|data| {
                Embeddings::new(data, dimension).unwrap_or_else(|| Embeddings::empty(dimension))
            }),
        })
    }
}

/// Returns how many times each of `count` samples counts for FID. As in `compute_fid` of the
/// authors' `dpsda/metrics.py`: `wanted` samples without replacement, or with replacement if there
/// are fewer.
#[must_use]
pub fn fid_subsample(
    count: usize,
    wanted: Option<usize>,
    seed: u64,
    population: u32,
) -> Vec<usize> {
    let wanted = wanted.unwrap_or(count);
    if wanted == count || count == 0 {
        return vec![1; count];
    }
    let key = RngKey {
        seed,
        phase: Phase::Evaluate,
        iteration: population,
        repeat: 2,
        sample: 0,
    };
    let mut rng = key.rng();
    let mut times = vec![0; count];
    if wanted < count {
        for index in choose(count, wanted, &mut rng) {
            times[index] = 1;
        }
    } else {
        for _ in 0..wanted {
            times[rng.below(count as u64) as usize] += 1;
        }
    }
    times
}

/// Embeds samples batch by batch and accumulates the features that the metrics need.
pub struct SampleFeatures<'a> {
    embedder: &'a dyn Embedder,
    accumulator: FeatureAccumulator,
    vectors: bool,
    /// Number of times that each sample counts in mean and covariance.
    times: Vec<usize>,
    seen: usize,
}

impl<'a> SampleFeatures<'a> {
    /// Prepares for samples that count `times` each in mean and covariance, see [`fid_subsample`].
    #[must_use]
    pub fn new(embedder: &'a dyn Embedder, set: FeatureSet, times: Vec<usize>) -> Self {
        Self {
            accumulator: FeatureAccumulator::new(embedder.dimension(), set),
            embedder,
            vectors: set.vectors,
            times,
            seen: 0,
        }
    }

    /// Embeds and adds the next images. Images that no metric needs are not embedded.
    ///
    /// # Errors
    /// [`MetricsError::Embedder`] and [`MetricsError::Dimension`].
    pub fn push(&mut self, images: &ImageBatch) -> Result<(), MetricsError> {
        let times: Vec<usize> = (self.seen..self.seen + images.len())
            .map(|index| self.times.get(index).copied().unwrap_or(0))
            .collect();
        self.seen += images.len();
        let step = self.embedder.batch_size().max(1);
        for start in (0..images.len()).step_by(step) {
            let batch = images.slice(start..start + step);
            let times = times.get(start..start + batch.len()).unwrap_or_default();
            let unused = !self.vectors && times.iter().all(|t| *t == 0);
            if !unused {
                let vectors = self.embedder.embed(&batch)?;
                self.accumulator
                    .push_times(&vectors, |index| times.get(index).copied().unwrap_or(0))?;
            }
        }
        Ok(())
    }

    /// Returns the features.
    ///
    /// # Errors
    /// See [`FeatureAccumulator::finish`].
    pub fn finish(self) -> Result<Features, MetricsError> {
        let mut features = self.accumulator.finish("samples")?;
        features.count = self.seen;
        Ok(features)
    }
}

/// First bytes of stored features, with the version of the format.
const MAGIC: &[u8; 16] = b"dpsyn features 1";

impl Features {
    /// Writes the features in the format that [`Features::decode`] reads.
    ///
    /// # Errors
    /// Whatever `file` reports.
    pub fn encode(&self, file: &mut dyn Write) -> io::Result<()> {
        file.write_all(MAGIC)?;
        let vectors = self.vectors.as_ref();
        let dimension = match (&self.gaussian, vectors) {
            (Some(gaussian), _) => gaussian.dimension(),
            (None, Some(vectors)) => vectors.dimension(),
            (None, None) => 0,
        };
        for number in [
            self.count,
            self.moment_count,
            dimension,
            usize::from(self.gaussian.is_some()),
            usize::from(vectors.is_some()),
        ] {
            file.write_all(&(number as u64).to_le_bytes())?;
        }
        if let Some(gaussian) = &self.gaussian {
            let covariance = gaussian.covariance();
            for value in gaussian.mean().iter().chain(&covariance) {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        if let Some(vectors) = vectors {
            vectors.write(file)?;
        }
        Ok(())
    }

    /// Reads the format of [`Features::encode`].
    ///
    /// # Errors
    /// Whatever `file` reports, [`io::ErrorKind::InvalidData`] for anything else.
    pub fn decode(file: &mut dyn Read) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut magic = [0; 16];
        file.read_exact(&mut magic)?;
        let mut numbers = [0usize; 5];
        for number in &mut numbers {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)?;
            *number = usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| invalid())?;
        }
        let [count, moment_count, dimension, gaussian, vectors] = numbers;
        // A larger dimension is damage: `dimension²` below must not overflow.
        if &magic != MAGIC || dimension > 1 << 24 {
            return Err(invalid());
        }
        let gaussian = if gaussian == 1 {
            let mut doubles = |count: usize| -> io::Result<Vec<f64>> {
                let bytes = read_exactly(file, count.checked_mul(8).ok_or_else(invalid)?)?;
                let (chunks, _) = bytes.as_chunks::<8>();
                Ok(chunks.iter().map(|b| f64::from_le_bytes(*b)).collect())
            };
            let mean = doubles(dimension)?;
            let covariance = doubles(dimension.checked_mul(dimension).ok_or_else(invalid)?)?;
            Some(Gaussian::new(mean, &covariance).map_err(|_| invalid())?)
        } else {
            None
        };
        let vectors = if vectors == 1 {
            Some(Embeddings::read(file, count, dimension)?)
        } else {
            None
        };
        let mut rest = [0; 1];
        if file.read(&mut rest)? != 0 {
            return Err(invalid());
        }
        Ok(Self {
            count,
            moment_count,
            gaussian,
            vectors,
        })
    }
}

/// Reads exactly `len` bytes; memory grows with the real size of the file, not with `len`.
fn read_exactly(file: &mut dyn Read, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {

    use super::super::testing::random;
    use super::*;

    const BOTH: FeatureSet = FeatureSet {
        moments: true,
        vectors: true,
    };

    #[test]
    fn fid_subsamples_as_the_authors_implementation_does() {
        assert_eq!(fid_subsample(5, None, 0, 0), [1; 5]);
        assert_eq!(fid_subsample(5, Some(5), 0, 0), [1; 5]);
        let fewer = fid_subsample(50, Some(20), 0, 0);
        assert_eq!(fewer.iter().sum::<usize>(), 20);
        assert!(fewer.iter().all(|times| *times <= 1));
        let more = fid_subsample(50, Some(400), 0, 0);
        assert_eq!(more.iter().sum::<usize>(), 400);
        assert!(more.iter().any(|times| *times > 8));
        assert_ne!(fewer, fid_subsample(50, Some(20), 0, 1));
        assert_eq!(fewer, fid_subsample(50, Some(20), 0, 0));
    }

    #[test]
    fn repeated_samples_count_in_the_moments_and_not_in_the_vectors() {
        let vectors = random(3, 2, 0);
        let mut accumulator = FeatureAccumulator::new(2, BOTH);
        accumulator.push_times(&vectors, |index| index).unwrap();
        let found = accumulator.finish("samples").unwrap();
        assert_eq!((found.count, found.moment_count), (3, 3));
        let mut plain = FeatureAccumulator::new(2, BOTH);
        plain.push(&vectors.gather(&[1, 2, 2])).unwrap();
        let plain = plain.finish("samples").unwrap();
        let mean = |f: &Features| f.gaussian.as_ref().unwrap().mean().to_vec();
        assert_eq!(mean(&found), mean(&plain));
        assert_eq!(found.vectors.unwrap().data(), vectors.data());
    }

    #[test]
    fn features_round_trip_and_damage_is_refused() {
        let mut accumulator = FeatureAccumulator::new(3, BOTH);
        accumulator.push(&random(7, 3, 1)).unwrap();
        let features = accumulator.finish("samples").unwrap();
        let mut bytes = Vec::new();
        features.encode(&mut bytes).unwrap();
        let back = Features::decode(&mut bytes.as_slice()).unwrap();
        assert_eq!((back.count, back.moment_count), (7, 7));
        assert_eq!(back.vectors.unwrap().data(), random(7, 3, 1).data());
        let covariance = |g: &Option<Gaussian>| g.as_ref().unwrap().covariance();
        assert_eq!(covariance(&back.gaussian), covariance(&features.gaussian));
        for end in [0, 10, 60, bytes.len() - 1] {
            assert!(Features::decode(&mut &bytes[..end]).is_err(), "{end}");
        }
        bytes.push(0);
        assert!(Features::decode(&mut bytes.as_slice()).is_err());
    }
}
