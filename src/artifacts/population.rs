//! A population on disk: `samples.npz`, read where needed and written as a stream.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ClassLayout;
use super::shards::ShardStore;
use crate::atomic;
use crate::generators::Condition;
use crate::images::{ImageBatch, ImagesError, NpzError, SamplesReader, SamplesWriter};
use crate::pe::PeError;

/// A population whose images stay on disk until they are asked for.
pub struct Population {
    path: PathBuf,
    // Reading moves the file's position.
    reader: RefCell<SamplesReader<BufReader<File>>>,
    len: usize,
    conditions: Vec<u32>,
}

impl Population {
    /// Opens a `samples.npz` that [`store`] wrote.
    ///
    /// # Errors
    /// [`PeError::Images`], or [`PeError::State`] when it is not `layout`'s population.
    pub fn open(
        path: &Path,
        layout: &ClassLayout,
        image_size: (usize, usize),
    ) -> Result<Self, PeError> {
        let npz = npz_error(path);
        let mut reader = SamplesReader::open(path).map_err(&npz)?;
        let expected = (layout.total() as usize, image_size.0, image_size.1);
        let found = (reader.len(), reader.height(), reader.width());
        if found != expected {
            return Err(PeError::State(format!(
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
        // A resumed run must not go on from a file that has been damaged since.
        reader.verify().map_err(&npz)?;
        let (_, conditions) = reader.arrays().i64s("conditions").map_err(npz)?;
        let conditions: Vec<u32> = conditions
            .into_iter()
            .map_while(|c| u32::try_from(c).ok())
            .collect();
        if conditions.len() != reader.len() {
            return Err(PeError::State(format!(
                "{}: `conditions` does not give one non-negative number for each sample",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            len: reader.len(),
            reader: RefCell::new(reader),
            conditions,
        })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The public conditions, one a sample.
    #[must_use]
    pub fn conditions(&self) -> &[u32] {
        &self.conditions
    }

    /// Returns the public condition of a sample.
    #[must_use]
    pub fn condition(&self, sample: usize) -> u32 {
        self.conditions.get(sample).copied().unwrap_or(0)
    }

    /// The images of a range.
    ///
    /// # Errors
    /// [`PeError::Images`].
    pub fn images(&self, range: Range<usize>) -> Result<ImageBatch, PeError> {
        let images = self.reader.borrow_mut().read(range);
        images.map_err(npz_error(&self.path))
    }

    /// The chosen images, in this order.
    ///
    /// # Errors
    /// [`PeError::Images`].
    pub fn gather(&self, indices: &[usize]) -> Result<ImageBatch, PeError> {
        let mut images: Option<ImageBatch> = None;
        for &index in indices {
            let image = self.images(index..index + 1)?;
            match &mut images {
                Some(images) => images.extend(&image).map_err(ImagesError::from)?,
                None => images = Some(image),
            }
        }
        images.map_or_else(|| self.images(0..0), Ok)
    }
}

/// Writes finished units as `samples.npz`: `samples`, `labels` (class of each), `conditions`.
///
/// # Errors
/// [`PeError::Images`] or [`PeError::Io`].
pub fn store(
    path: &Path,
    scratch: &Path,
    layout: &ClassLayout,
    image_size: (usize, usize),
    units: &ShardStore,
    conditions: &[Condition],
    non_private: bool,
) -> Result<(), PeError> {
    let total = layout.total() as usize;
    let (height, width) = image_size;
    let ranges = units.finished(total)?;
    if !ShardStore::missing(&ranges, total, total).is_empty() {
        return Err(PeError::State(format!(
            "{}: not every sample is there",
            path.display()
        )));
    }
    let conditions: Vec<i64> = conditions.iter().map(|c| i64::from(c.0)).collect();
    atomic::write_via(scratch, path, |file: &mut BufWriter<&mut File>| {
        let npz = npz_error(path);
        let mut writer = SamplesWriter::create(file, total, height, width).map_err(&npz)?;
        for range in &ranges {
            let bytes = units.read(range, range.len() * height * width * 3)?;
            let images =
                ImageBatch::new(bytes, range.len(), height, width).map_err(ImagesError::from)?;
            writer.push(&images).map_err(&npz)?;
        }
        writer.i64s("labels", &layout.labels()).map_err(&npz)?;
        writer.i64s("conditions", &conditions).map_err(&npz)?;
        if non_private {
            writer.i64s("non_private", &[1]).map_err(&npz)?;
        }
        writer.finish().map_err(npz)?;
        Ok::<(), StoreError>(())
    })
    .map_err(|error| match error {
        StoreError::Io(source) => PeError::io(path)(source),
        StoreError::Other(error) => error,
    })
}

/// For `map_err`: an [`PeError::Npz`] about `path`.
pub(crate) fn npz_error(path: &Path) -> impl Fn(NpzError) -> PeError + '_ {
    move |source| PeError::Npz {
        path: path.to_owned(),
        source,
    }
}

/// Lets [`atomic::write_via`] report both kinds of failure.
enum StoreError {
    Io(std::io::Error),
    Other(PeError),
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

impl From<PeError> for StoreError {
    fn from(error: PeError) -> Self {
        Self::Other(error)
    }
}
