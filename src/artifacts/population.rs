//! A population on disk: `samples.npz`, streamed when it is written and read in parts.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::lineage::{self, Lineage};
use super::shards::ShardStore;
use super::{ArtifactsError, ClassLayout};
use crate::atomic;
use crate::generators::{Condition, Generated, Parameters};
use crate::hub::sha256_file;
use crate::images::{ImageBatch, SamplesReader, SamplesWriter};

/// A population whose images stay on disk; a batch of them is read when it is needed.
pub struct Population {
    path: PathBuf,
    // Reading moves the position in the file, which callers with a shared reference need not know.
    reader: RefCell<SamplesReader<BufReader<File>>>,
    len: usize,
    conditions: Vec<u32>,
    /// One for each sample, or none at all.
    parameters: Vec<Parameters>,
    lineages: Vec<Lineage>,
}

impl Population {
    /// Opens a `samples.npz` that [`write_population`] wrote, and verifies its checksum.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`]; [`ArtifactsError::PopulationShape`],
    /// [`ArtifactsError::Conditions`], [`ArtifactsError::Parameters`] or
    /// [`ArtifactsError::Lineage`] when it is not the population that `layout` plans.
    pub fn open(
        path: &Path,
        layout: &ClassLayout,
        image_size: (usize, usize),
    ) -> Result<Self, ArtifactsError> {
        let npz = ArtifactsError::npz(path);
        let mut reader = SamplesReader::open(path).map_err(&npz)?;
        let expected = (layout.total() as usize, image_size.0, image_size.1);
        let found = (reader.len(), reader.height(), reader.width());
        if found != expected {
            return Err(ArtifactsError::PopulationShape {
                path: path.to_owned(),
                found,
                expected,
            });
        }
        // A resumed run must not continue from a file that was damaged in the meantime.
        reader.verify().map_err(&npz)?;
        let (_, conditions) = reader.arrays().i64s("conditions").map_err(&npz)?;
        let conditions: Vec<u32> = conditions
            .into_iter()
            .map_while(|c| u32::try_from(c).ok())
            .collect();
        if conditions.len() != reader.len() {
            return Err(ArtifactsError::Conditions {
                path: path.to_owned(),
            });
        }
        let parameters = read_parameters(path, &mut reader)?;
        let len = reader.len();
        let lineages = lineage::read(reader.arrays(), len).map_err(npz)?;
        let lineages = lineages.ok_or_else(|| ArtifactsError::Lineage {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            len,
            reader: RefCell::new(reader),
            conditions,
            parameters,
            lineages,
        })
    }

    /// Returns the SHA-256 of `samples.npz` as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn sha256(&self) -> Result<String, ArtifactsError> {
        sha256_file(&self.path).map_err(ArtifactsError::io(&self.path))
    }

    /// Returns the path of `samples.npz`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the condition of a sample. Conditions are public.
    #[must_use]
    pub fn condition(&self, sample: usize) -> Condition {
        Condition(self.conditions.get(sample).copied().unwrap_or(0))
    }

    /// Returns the derivation of each sample.
    #[must_use]
    pub fn lineages(&self) -> &[Lineage] {
        &self.lineages
    }

    /// Reads the samples of a range, cut to those that exist, with their parameters.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`].
    pub fn samples(&self, range: Range<usize>) -> Result<Generated, ArtifactsError> {
        let end = range.end.min(self.len);
        let indices: Vec<usize> = (range.start.min(end)..end).collect();
        self.with_parameters(self.images(range)?, &indices)
    }

    fn with_parameters(
        &self,
        images: ImageBatch,
        indices: &[usize],
    ) -> Result<Generated, ArtifactsError> {
        if self.parameters.is_empty() {
            return Ok(images.into());
        }
        let parameters = indices
            .iter()
            .filter_map(|index| self.parameters.get(*index));
        Generated::new(images, parameters.cloned().collect()).map_err(|error| {
            ArtifactsError::Parameters {
                path: self.path.clone(),
                message: error.to_string(),
            }
        })
    }

    /// Reads the images of a range, cut to the samples that exist.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`].
    pub fn images(&self, range: Range<usize>) -> Result<ImageBatch, ArtifactsError> {
        let images = self.reader.borrow_mut().read(range);
        images.map_err(ArtifactsError::npz(&self.path))
    }

    /// Reads the samples of `indices`, in that order; an index may occur more than once.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`].
    pub fn gather(&self, indices: &[usize]) -> Result<Generated, ArtifactsError> {
        let mut distinct = indices.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        // Each read opens the archive's entry again, so neighbors are read together.
        let mut images = self.images(0..0)?;
        for run in distinct.chunk_by(|a, b| a + 1 == *b) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let batch = self.images(*first..last + 1)?;
                images
                    .extend(&batch)
                    .map_err(ArtifactsError::batch(&self.path))?;
            }
        }
        let mut data = Vec::with_capacity(indices.len() * images.image_len());
        let mut found = 0;
        for index in indices {
            let image = distinct
                .binary_search(index)
                .ok()
                .and_then(|at| images.get(at));
            if let Some(image) = image {
                data.extend_from_slice(image);
                found += 1;
            }
        }
        let images = ImageBatch::new(data, found, images.height(), images.width())
            .map_err(ArtifactsError::batch(&self.path))?;
        self.with_parameters(images, indices)
    }
}

/// Reads the array [`PARAMETERS`] of samples; returns nothing if there is none.
///
/// # Errors
/// [`ArtifactsError::Npz`]; [`ArtifactsError::Parameters`] if it does not give one JSON value, or
/// nothing, for each sample.
pub fn read_parameters<R: Read + Seek>(
    path: &Path,
    reader: &mut SamplesReader<R>,
) -> Result<Vec<Parameters>, ArtifactsError> {
    if !reader.arrays().has(PARAMETERS) {
        return Ok(Vec::new());
    }
    let wrong = |message| ArtifactsError::Parameters {
        path: path.to_owned(),
        message,
    };
    let texts = reader.arrays().texts(PARAMETERS);
    let texts = texts.map_err(ArtifactsError::npz(path))?;
    if texts.len() != reader.len() {
        let (found, expected) = (texts.len(), reader.len());
        let message = format!("`{PARAMETERS}` has {found} values for {expected} samples");
        return Err(wrong(message));
    }
    let parameters = texts.iter().map(|text| Parameters::from_text(text));
    let parameters: Result<Vec<_>, _> = parameters.collect();
    parameters.map_err(|error| wrong(error.to_string()))
}

/// Name of the parameters of samples.
const PARAMETERS: &str = "parameters";

/// Images of a population as finished shards, with the condition and the derivation of each sample.
pub struct GeneratedImages {
    /// Pixels and parameters ([`ShardStore::write_images`]).
    pub shards: ShardStore,
    /// One for each sample.
    pub conditions: Vec<Condition>,
    /// One for each sample.
    pub lineages: Vec<Lineage>,
}

/// Writes generated images as `samples.npz` with the arrays `samples`, `labels` (the class of
/// each sample), `conditions`, those of the derivations (`parent`, `fold`, `origin`, `ancestor`)
/// and, if any sample has parameters, `parameters`; `non_private` adds an array of that name. The
/// temporary file is made in `scratch`.
///
/// # Errors
/// [`ArtifactsError`] when a shard is missing or damaged, or the file cannot be written.
pub fn write_population(
    path: &Path,
    scratch: &Path,
    layout: &ClassLayout,
    image_size: (usize, usize),
    generated: &GeneratedImages,
    non_private: bool,
) -> Result<(), ArtifactsError> {
    let total = layout.total() as usize;
    let (height, width) = image_size;
    let ranges = generated.shards.complete(total)?;
    let conditions = &generated.conditions;
    let conditions: Vec<i64> = conditions.iter().map(|c| i64::from(c.0)).collect();
    atomic::write_via(scratch, path, |file: &mut BufWriter<&mut File>| {
        let npz = ArtifactsError::npz(path);
        let mut writer = SamplesWriter::create(file, total, height, width).map_err(&npz)?;
        let mut parameters = Vec::new();
        for range in &ranges {
            let shard = generated.shards.read_images(range, image_size)?;
            writer.push(&shard.images).map_err(&npz)?;
            if shard.has_parameters() {
                parameters.resize(range.start, Parameters::NONE);
                parameters.extend((0..shard.len()).map(|index| shard.parameters(index).clone()));
            }
        }
        writer.i64s("labels", &layout.labels()).map_err(&npz)?;
        writer.i64s("conditions", &conditions).map_err(&npz)?;
        for (name, values) in lineage::columns(&generated.lineages) {
            writer.i64s(name, &values).map_err(&npz)?;
        }
        if !parameters.is_empty() {
            parameters.resize(total, Parameters::NONE);
            let texts: Vec<&str> = parameters.iter().map(Parameters::text).collect();
            writer.texts(PARAMETERS, &texts).map_err(&npz)?;
        }
        if non_private {
            writer.i64s("non_private", &[1]).map_err(&npz)?;
        }
        writer.finish().map_err(npz)?;
        Ok::<(), WriteError>(())
    })
    .map_err(|error| match error {
        WriteError::Io(source) => ArtifactsError::io(path)(source),
        WriteError::Artifacts(error) => error,
    })
}

/// Either failure of [`atomic::write_via`]: of the temporary file, or of what is written into it.
enum WriteError {
    Io(io::Error),
    Artifacts(ArtifactsError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArtifactsError> for WriteError {
    fn from(error: ArtifactsError) -> Self {
        Self::Artifacts(error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lineage::Origin;
    use super::*;

    #[test]
    fn gathered_images_come_in_the_order_of_their_indices() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ClassLayout::of_counts(vec![5]);
        let shards = ShardStore::open(folder.path().join("shards"), "u8").unwrap();
        let pixels: Vec<u8> = (0..5).flat_map(|sample| [sample; 3]).collect();
        // Two shards, of which the second one has parameters.
        let images = ImageBatch::new(pixels, 5, 1, 1).unwrap();
        shards.write(&(0..3), images.slice(0..3).data()).unwrap();
        let text = |sample: usize| format!("{{\"from\":{sample}}}");
        let parameters = (3..5).map(|sample| Parameters::from_text(&text(sample)).unwrap());
        let last = Generated::new(images.slice(3..5), parameters.collect()).unwrap();
        shards.write_images(&(3..5), &last).unwrap();
        let lineage = |sample: u32| Lineage {
            origin: Origin::Variation,
            parent: (sample > 0).then_some(sample),
            fold: sample % 2,
            ancestor: 10 + sample,
        };
        let generated = GeneratedImages {
            shards,
            conditions: (0..5).map(Condition).collect(),
            lineages: (0..5).map(lineage).collect(),
        };
        let path = folder.path().join("samples.npz");
        let size = (1, 1);
        write_population(&path, folder.path(), &layout, size, &generated, false).unwrap();
        let population = Population::open(&path, &layout, size).unwrap();
        let gathered = population.gather(&[3, 0, 4, 3, 1]).unwrap();
        let first_bytes: Vec<u8> = gathered.images.iter().map(|image| image[0]).collect();
        assert_eq!(first_bytes, [3, 0, 4, 3, 1]);
        let texts: Vec<&str> = (0..5).map(|at| gathered.parameters(at).text()).collect();
        assert_eq!(texts, [&text(3), "", &text(4), &text(3), ""]);
        assert!(population.samples(3..9).unwrap() == last);
        assert_eq!(population.lineages(), generated.lineages);
        assert!(population.gather(&[]).unwrap().is_empty());
        assert_eq!(population.condition(2), Condition(2));
    }
}
