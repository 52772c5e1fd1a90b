//! A population on disk: `samples.npz`, read where needed and written as a stream.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::Path;

use super::units::Units;
use super::{EvolutionError, Layout};
use crate::atomic;
use crate::generators::Condition;
use crate::images::{ImageBatch, ImagesError, SamplesReader, SamplesWriter};

/// A population whose images stay on disk until they are asked for.
pub struct Population {
    reader: SamplesReader,
    conditions: Vec<u32>,
}

impl Population {
    /// Opens a `samples.npz` that [`store`] wrote.
    ///
    /// # Errors
    /// [`EvolutionError::Images`], or [`EvolutionError::State`] when it is not `layout`'s population.
    pub fn open(
        path: &Path,
        layout: &Layout,
        image_size: (usize, usize),
    ) -> Result<Self, EvolutionError> {
        let reader = SamplesReader::open(path)?;
        let expected = (layout.total() as usize, image_size.0, image_size.1);
        let found = (reader.len(), reader.height(), reader.width());
        if found != expected {
            return Err(EvolutionError::State(format!(
                "{}: {} images of {}x{} where {} of {}x{} were expected",
                path.display(),
                found.0,
                found.1,
                found.2,
                expected.0,
                expected.1,
                expected.2
            )));
        }
        let conditions = reader.read_i64("conditions")?.unwrap_or_default();
        let conditions: Vec<u32> = conditions
            .into_iter()
            .map_while(|c| u32::try_from(c).ok())
            .collect();
        if conditions.len() != reader.len() {
            return Err(EvolutionError::State(format!(
                "{}: `conditions` does not give one non-negative number for each sample",
                path.display()
            )));
        }
        Ok(Self { reader, conditions })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// The public conditions, one a sample.
    #[must_use]
    pub fn conditions(&self) -> &[u32] {
        &self.conditions
    }

    /// The images of a range.
    ///
    /// # Errors
    /// [`EvolutionError::Images`].
    pub fn images(&self, range: Range<usize>) -> Result<ImageBatch, EvolutionError> {
        Ok(self.reader.read(range)?)
    }

    /// The chosen images, in this order.
    ///
    /// # Errors
    /// [`EvolutionError::Images`].
    pub fn gather(&self, indices: &[usize]) -> Result<ImageBatch, EvolutionError> {
        Ok(self.reader.gather(indices)?)
    }
}

/// Writes finished units as `samples.npz`: `samples`, `labels` (class of each), `conditions`.
///
/// # Errors
/// [`EvolutionError::Images`] or [`EvolutionError::Io`].
pub fn store(
    path: &Path,
    scratch: &Path,
    layout: &Layout,
    image_size: (usize, usize),
    units: &Units,
    conditions: &[Condition],
    non_private: bool,
) -> Result<(), EvolutionError> {
    let total = layout.total() as usize;
    let (height, width) = image_size;
    let ranges = units.finished(total)?;
    if !Units::missing(&ranges, total, total).is_empty() {
        return Err(EvolutionError::State(format!(
            "{}: not every sample is there",
            path.display()
        )));
    }
    let conditions: Vec<i64> = conditions.iter().map(|c| i64::from(c.0)).collect();
    atomic::write_via(scratch, path, |file: &mut BufWriter<&mut File>| {
        let mut writer = SamplesWriter::create(file, total, height, width)?;
        for range in &ranges {
            let bytes = units.read(range, range.len() * height * width * 3)?;
            let images =
                ImageBatch::new(bytes, range.len(), height, width).map_err(ImagesError::from)?;
            writer.push(&images)?;
        }
        writer.array_i64("labels", &layout.labels())?;
        writer.array_i64("conditions", &conditions)?;
        if non_private {
            writer.array_i64("non_private", &[1])?;
        }
        writer.finish()?;
        Ok::<(), StoreError>(())
    })
    .map_err(|error| match error {
        StoreError::Io(source) => EvolutionError::io(path)(source),
        StoreError::Other(error) => error,
    })
}

/// Lets [`atomic::write_via`] report both kinds of failure.
enum StoreError {
    Io(std::io::Error),
    Other(EvolutionError),
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ImagesError> for StoreError {
    fn from(error: ImagesError) -> Self {
        Self::Other(error.into())
    }
}

impl From<EvolutionError> for StoreError {
    fn from(error: EvolutionError) -> Self {
        Self::Other(error)
    }
}
