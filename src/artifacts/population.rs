//! A population on disk: `samples.npz`, streamed when it is written and read in parts.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::shards::ShardStore;
use super::{ArtifactsError, ClassLayout};
use crate::atomic;
use crate::generators::Condition;
use crate::hub::sha256_file;
use crate::images::{ImageBatch, SamplesReader, SamplesWriter};

/// A population whose images stay on disk; a batch of them is read when it is needed.
pub struct Population {
    path: PathBuf,
    // Reading moves the position in the file, which callers with a shared reference need not know.
    reader: RefCell<SamplesReader<BufReader<File>>>,
    len: usize,
    conditions: Vec<u32>,
}

impl Population {
    /// Opens a `samples.npz` that [`write_population`] wrote, and verifies its checksum.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`]; [`ArtifactsError::PopulationShape`] or
    /// [`ArtifactsError::Conditions`] when it is not the population that `layout` plans.
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
        let (_, conditions) = reader.arrays().i64s("conditions").map_err(npz)?;
        let conditions: Vec<u32> = conditions
            .into_iter()
            .map_while(|c| u32::try_from(c).ok())
            .collect();
        if conditions.len() != reader.len() {
            return Err(ArtifactsError::Conditions {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            len: reader.len(),
            reader: RefCell::new(reader),
            conditions,
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

    /// Reads the images of a range, cut to the samples that exist.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`].
    pub fn images(&self, range: Range<usize>) -> Result<ImageBatch, ArtifactsError> {
        let images = self.reader.borrow_mut().read(range);
        images.map_err(ArtifactsError::npz(&self.path))
    }

    /// Reads the images of `indices`, in that order; an index may occur more than once.
    ///
    /// # Errors
    /// [`ArtifactsError::Npz`].
    pub fn gather(&self, indices: &[usize]) -> Result<ImageBatch, ArtifactsError> {
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
        ImageBatch::new(data, found, images.height(), images.width())
            .map_err(ArtifactsError::batch(&self.path))
    }
}

/// Images of a population as finished shards of pixels, with the condition of each sample.
pub struct GeneratedImages {
    /// `uint8[range, height, width, 3]` in each shard.
    pub shards: ShardStore,
    /// One for each sample.
    pub conditions: Vec<Condition>,
}

/// Writes generated images as `samples.npz` with the arrays `samples`, `labels` (the class of
/// each sample) and `conditions`; `non_private` adds an array of that name. The temporary file is
/// made in `scratch`.
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
        for range in &ranges {
            let bytes = generated
                .shards
                .read(range, range.len() * height * width * 3)?;
            let images = ImageBatch::new(bytes, range.len(), height, width)
                .map_err(ArtifactsError::batch(path))?;
            writer.push(&images).map_err(&npz)?;
        }
        writer.i64s("labels", &layout.labels()).map_err(&npz)?;
        writer.i64s("conditions", &conditions).map_err(&npz)?;
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
    use super::*;

    #[test]
    fn gathered_images_come_in_the_order_of_their_indices() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ClassLayout::of_counts(vec![5]);
        let shards = ShardStore::open(folder.path().join("shards"), "u8").unwrap();
        let pixels: Vec<u8> = (0..5).flat_map(|sample| [sample; 3]).collect();
        shards.write(&(0..5), &pixels).unwrap();
        let generated = GeneratedImages {
            shards,
            conditions: (0..5).map(Condition).collect(),
        };
        let path = folder.path().join("samples.npz");
        let size = (1, 1);
        write_population(&path, folder.path(), &layout, size, &generated, false).unwrap();
        let population = Population::open(&path, &layout, size).unwrap();
        let gathered = population.gather(&[3, 0, 4, 3, 1]).unwrap();
        let first_bytes: Vec<u8> = gathered.iter().map(|image| image[0]).collect();
        assert_eq!(first_bytes, [3, 0, 4, 3, 1]);
        assert!(population.gather(&[]).unwrap().is_empty());
        assert_eq!(population.condition(2), Condition(2));
    }
}
