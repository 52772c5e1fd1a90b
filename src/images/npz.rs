//! numpy's `.npz` format: a zip archive of `.npy` arrays.
//!
//! `ndarray-npy` reads and writes every array that fits into memory. This module reads and writes
//! the zip entries itself, because the crate's `NpzReader` allocates what a header claims before it
//! looks at the data, and names neither array nor type in its errors. Sizes are compared with the
//! archive before memory is allocated, and checksums are verified. Entries are written uncompressed
//! with a fixed modification time, so that equal arrays give equal bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::mem::ManuallyDrop;
use std::path::Path;

use ndarray::{ArrayD, ArrayView, IxDyn};
use ndarray_npy::{ReadNpyExt, ReadableElement, WritableElement, WriteNpyExt};
use thiserror::Error;
use zip::read::{ArchiveOffset, Config, ZipFile};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::batch::BatchError;
use super::npy::{self, Header, Kind, NpyError};

/// Error of reading or writing an `.npz` file.
#[derive(Debug, Error)]
pub enum NpzError {
    /// The archive is damaged or of an unsupported kind.
    #[error("not a readable .npz archive: {0}")]
    Zip(ZipError),
    /// Reading or writing failed.
    #[error("cannot read or write the archive: {0}")]
    Io(io::Error),
    /// There is no array of this name.
    #[error("no array `{wanted}`: the archive has {found}")]
    Missing {
        /// Accepted names.
        wanted: String,
        /// Names in the archive.
        found: String,
    },
    /// The header of an array is not usable.
    #[error("array `{key}`: {reason}")]
    Npy {
        /// Name of the array.
        key: String,
        /// Reason.
        reason: NpyError,
    },
    /// An array has another shape or type than expected.
    #[error("array `{key}` is {found}: expected {expected}")]
    Array {
        /// Name of the array.
        key: String,
        /// Its dtype and shape, or a description of the fault.
        found: String,
        /// Accepted dtypes and shapes.
        expected: String,
    },
    /// The file is one array in the format of `np.save`.
    #[error(
        "is one array as np.save writes it, not an .npz archive: expected np.savez(path, \
         images=..., labels=...)"
    )]
    SingleArray,
    /// The data of the images do not have the checksum of the archive.
    #[error("damaged: the checksum of the images is wrong")]
    Checksum,
    /// Images do not form a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The number of written images differs from the announced one.
    #[error("{0}")]
    Sequence(String),
}

// By hand: a `#[from]` would make the cause a `source()`, and chains would print it twice.
impl From<ZipError> for NpzError {
    fn from(error: ZipError) -> Self {
        Self::Zip(error)
    }
}

impl From<io::Error> for NpzError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Place of the bytes of an array in the archive, header included.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryPlace {
    /// Offset in the file.
    pub(super) start: u64,
    /// Bytes in the file.
    pub(super) stored_len: u64,
    /// True if the bytes are compressed by Deflate.
    pub(super) deflated: bool,
    /// Checksum of the uncompressed bytes.
    pub(super) crc32: u32,
}

/// Reader of the arrays of an `.npz` file.
pub struct NpzReader<R> {
    archive: ZipArchive<R>,
}

impl NpzReader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`NpzError::Io`], [`NpzError::Zip`], or [`NpzError::SingleArray`] for a single array.
    pub fn open(path: &Path) -> Result<Self, NpzError> {
        let mut file = File::open(path)?;
        let mut magic = Vec::new();
        Read::by_ref(&mut file)
            .take(npy::MAGIC.len() as u64)
            .read_to_end(&mut magic)?;
        if magic == npy::MAGIC {
            return Err(NpzError::SingleArray);
        }
        file.rewind()?;
        Self::new(BufReader::with_capacity(1 << 16, file))
    }
}

impl<R: Read + Seek> NpzReader<R> {
    /// Opens an archive in `reader`.
    ///
    /// # Errors
    /// [`NpzError::Zip`] if it is not a zip archive.
    pub fn new(reader: R) -> Result<Self, NpzError> {
        // Files of numpy have no prefix. To search for one misleads the crate where Python writes
        // ZIP64 records that the last record does not announce, which it does from 2 GiB on.
        let config = Config {
            archive_offset: ArchiveOffset::Known(0),
        };
        Ok(Self {
            archive: ZipArchive::with_config(config, reader)?,
        })
    }

    /// Returns true if there is an array of this name.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.archive.index_for_name(&file_name(key)).is_some()
    }

    /// Returns the first of `keys` that the archive has.
    ///
    /// # Errors
    /// [`NpzError::Missing`] if it has none of them.
    pub fn first_of<'k>(&self, keys: &[&'k str]) -> Result<&'k str, NpzError> {
        keys.iter()
            .find(|key| self.has(key))
            .copied()
            .ok_or_else(|| self.missing(&keys.join("` or `")))
    }

    /// Reads an array of integers or booleans of any width; returns its shape and its elements in
    /// row-major order.
    ///
    /// # Errors
    /// [`NpzError`] if the array is missing or damaged, or has floats or numbers beyond `i64`.
    pub fn i64s(&mut self, key: &str) -> Result<(Vec<usize>, Vec<i64>), NpzError> {
        let (header, data) = self.read_all(key)?;
        let too_large = || unexpected(key, &header, "integers up to 2^63 - 1");
        let values = match (header.dtype.kind, header.dtype.bytes) {
            (Kind::Bool, _) => elements(key, &header, &data, i64::from as fn(bool) -> i64),
            (Kind::Signed, 1) => elements(key, &header, &data, i64::from as fn(i8) -> i64),
            (Kind::Signed, 2) => elements(key, &header, &data, i64::from as fn(i16) -> i64),
            (Kind::Signed, 4) => elements(key, &header, &data, i64::from as fn(i32) -> i64),
            (Kind::Signed, _) => elements(key, &header, &data, |value: i64| value),
            (Kind::Unsigned, 1) => elements(key, &header, &data, i64::from as fn(u8) -> i64),
            (Kind::Unsigned, 2) => elements(key, &header, &data, i64::from as fn(u16) -> i64),
            (Kind::Unsigned, 4) => elements(key, &header, &data, i64::from as fn(u32) -> i64),
            (Kind::Unsigned, _) => elements(key, &header, &data, |value: u64| value)?
                .into_iter()
                .map(|value| i64::try_from(value).map_err(|_| too_large()))
                .collect(),
            (Kind::Float | Kind::Bytes, _) => Err(too_large()),
        }?;
        Ok((header.shape, values))
    }

    /// Reads an array of numbers of any type as doubles; returns its shape and its elements in
    /// row-major order. Integers beyond 2⁵³ are rounded.
    ///
    /// # Errors
    /// [`NpzError`] if the array is missing or damaged.
    pub fn f64s(&mut self, key: &str) -> Result<(Vec<usize>, Vec<f64>), NpzError> {
        let (header, data) = self.read_all(key)?;
        let values = match (header.dtype.kind, header.dtype.bytes) {
            (Kind::Float, 4) => elements(key, &header, &data, f64::from as fn(f32) -> f64),
            (Kind::Float, _) => elements(key, &header, &data, |value: f64| value),
            (Kind::Bool, _) => elements(key, &header, &data, f64::from as fn(bool) -> f64),
            (Kind::Signed, 1) => elements(key, &header, &data, f64::from as fn(i8) -> f64),
            (Kind::Signed, 2) => elements(key, &header, &data, f64::from as fn(i16) -> f64),
            (Kind::Signed, 4) => elements(key, &header, &data, f64::from as fn(i32) -> f64),
            (Kind::Signed, _) => elements(key, &header, &data, |value: i64| value as f64),
            (Kind::Unsigned, 1) => elements(key, &header, &data, f64::from as fn(u8) -> f64),
            (Kind::Unsigned, 2) => elements(key, &header, &data, f64::from as fn(u16) -> f64),
            (Kind::Unsigned, 4) => elements(key, &header, &data, f64::from as fn(u32) -> f64),
            (Kind::Unsigned, _) => elements(key, &header, &data, |value: u64| value as f64),
            (Kind::Bytes, _) => Err(unexpected(key, &header, "numbers")),
        }?;
        Ok((header.shape, values))
    }

    /// Reads an array of texts, `S` of numpy, without the zeros at the end of each.
    ///
    /// # Errors
    /// [`NpzError`] if the array is missing or damaged, has another type, or is not UTF-8.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>, NpzError> {
        let (header, data) = self.read_all(key)?;
        let wrong = || unexpected(key, &header, "texts in UTF-8 (numpy's dtype S)");
        let (Kind::Bytes, [count]) = (header.dtype.kind, header.shape.as_slice()) else {
            return Err(wrong());
        };
        let width = header.dtype.bytes;
        let texts = (0..*count).map(|index| {
            let bytes = data.get(index * width..(index + 1) * width);
            let bytes = bytes.unwrap_or_default();
            let len = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            let text = std::str::from_utf8(bytes.get(..len).unwrap_or_default());
            text.map(str::to_owned).map_err(|_| wrong())
        });
        texts.collect()
    }

    /// Reads the header and the bytes of an array.
    fn read_all(&mut self, key: &str) -> Result<(Header, Vec<u8>), NpzError> {
        let (header, entry) = self.entry(key)?;
        let len = header.data_len().ok_or_else(|| size_mismatch(key))?;
        let mut bytes = Vec::new();
        // The vector grows with the data that is there, whatever the header claims. One byte more
        // than the array reaches the end of the entry, where the checksum is verified.
        entry.take(len as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() != len {
            return Err(size_mismatch(key));
        }
        Ok((header, bytes))
    }

    /// Opens an array: its header, and its elements as a stream.
    pub(super) fn entry(&mut self, key: &str) -> Result<(Header, ZipFile<'_, R>), NpzError> {
        let Some(index) = self.archive.index_for_name(&file_name(key)) else {
            return Err(self.missing(key));
        };
        let raw = self.archive.by_index_raw(index)?;
        let (compression, encrypted) = (raw.compression(), raw.encrypted());
        drop(raw);
        let known = matches!(
            compression,
            CompressionMethod::Stored | CompressionMethod::Deflated
        );
        if !known || encrypted {
            let how = match encrypted {
                true => "encrypted".to_owned(),
                false => format!("compressed with {compression}"),
            };
            return Err(NpzError::Array {
                key: key.to_owned(),
                found: how,
                expected:
                    "the output of np.savez or np.savez_compressed: read it with np.load and \
                           write it again"
                        .to_owned(),
            });
        }
        let mut entry = self.archive.by_index(index)?;
        let header = Header::read(&mut entry).map_err(invalid(key))?;
        let expected = header
            .data_len()
            .and_then(|len| u64::try_from(len.checked_add(header.bytes().len())?).ok());
        if expected != Some(entry.size()) {
            return Err(size_mismatch(key));
        }
        Ok((header, entry))
    }

    /// Returns the place of an array whose header was read by [`NpzReader::entry`].
    pub(super) fn place(&mut self, key: &str) -> Result<EntryPlace, NpzError> {
        let entry = self.archive.by_name(&file_name(key))?;
        let start = entry.data_start().ok_or_else(|| size_mismatch(key))?;
        Ok(EntryPlace {
            start,
            stored_len: entry.compressed_size(),
            deflated: entry.compression() == CompressionMethod::Deflated,
            crc32: entry.crc32(),
        })
    }

    /// Opens an uncompressed array for reading at any position; returns `None` if it is compressed.
    pub(super) fn seekable(
        &mut self,
        key: &str,
    ) -> Result<Option<impl Read + Seek + use<'_, R>>, NpzError> {
        let name = file_name(key);
        if self.archive.by_name(&name)?.compression() != CompressionMethod::Stored {
            return Ok(None);
        }
        Ok(Some(self.archive.by_name_seek(&name)?))
    }

    fn missing(&self, wanted: &str) -> NpzError {
        let mut found: Vec<String> = self
            .archive
            .file_names()
            .filter_map(|name| Some(format!("`{}`", name.ok()?.strip_suffix(".npy")?)))
            .take(20)
            .collect();
        if found.is_empty() {
            found.push("no arrays".to_owned());
        }
        NpzError::Missing {
            wanted: wanted.to_owned(),
            found: found.join(", "),
        }
    }
}

/// Converts the bytes of an array of `T`, whose length was checked, in row-major order.
fn elements<T: ReadableElement + Copy, U>(
    key: &str,
    header: &Header,
    data: &[u8],
    convert: impl Fn(T) -> U,
) -> Result<Vec<U>, NpzError> {
    let array = ArrayD::<T>::read_npy(header.bytes().chain(data))
        .map_err(|error| invalid(key)(NpyError::Header(error.to_string())))?;
    Ok(array.iter().map(|value| convert(*value)).collect())
}

/// Writer of an `.npz` file, one array after the other.
pub struct NpzWriter<W: Write + Seek> {
    // Not dropped after a failed write: the crate would try to end the archive, fail again and
    // write that to standard error. What remains in memory is one buffer, and the command ends.
    zip: ManuallyDrop<ZipWriter<W>>,
}

impl<W: Write + Seek> NpzWriter<W> {
    /// Starts an archive.
    pub fn new(writer: W) -> Self {
        Self {
            zip: ManuallyDrop::new(ZipWriter::new(writer)),
        }
    }

    /// Writes `int64[shape]`.
    ///
    /// # Errors
    /// [`NpzError::Array`] if `values` do not fill `shape`; [`NpzError::Zip`] or [`NpzError::Io`].
    pub fn i64s(&mut self, key: &str, shape: &[usize], values: &[i64]) -> Result<(), NpzError> {
        self.array(key, shape, values)
    }

    /// Writes `float64[shape]`.
    ///
    /// # Errors
    /// [`NpzError::Array`] if `values` do not fill `shape`; [`NpzError::Zip`] or [`NpzError::Io`].
    pub fn f64s(&mut self, key: &str, shape: &[usize], values: &[f64]) -> Result<(), NpzError> {
        self.array(key, shape, values)
    }

    /// Writes texts as `S` of numpy: UTF-8, padded with zeros to the longest.
    ///
    /// # Errors
    /// [`NpzError::Zip`] or [`NpzError::Io`].
    pub fn texts(&mut self, key: &str, texts: &[&str]) -> Result<(), NpzError> {
        // An element of numpy has at least one byte.
        let longest = texts.iter().map(|text| text.len()).max();
        let width = longest.unwrap_or(0).max(1);
        let header = Header::of_bytes(width, texts.len()).map_err(invalid(key))?;
        self.begin(key, &header)?;
        self.write(header.bytes())?;
        let mut element = vec![0; width];
        for text in texts {
            element.fill(0);
            element
                .iter_mut()
                .zip(text.bytes())
                .for_each(|(to, from)| *to = from);
            self.write(&element)?;
        }
        Ok(())
    }

    fn array<T: WritableElement>(
        &mut self,
        key: &str,
        shape: &[usize],
        values: &[T],
    ) -> Result<(), NpzError> {
        let mismatch = || NpzError::Array {
            key: key.to_owned(),
            found: format!("{} values", values.len()),
            expected: format!("as many as the shape {shape:?} has"),
        };
        let count = shape
            .iter()
            .try_fold(1usize, |product, side| product.checked_mul(*side));
        // `from_shape` alone would accept more values than the shape has, and drop the rest.
        let array = match ArrayView::from_shape(IxDyn(shape), values) {
            Ok(array) if count == Some(values.len()) => array,
            _ => return Err(mismatch()),
        };
        self.start_entry::<T>(key, shape)?;
        array
            .write_npy(&mut *self.zip)
            .map_err(|error| invalid(key)(NpyError::Io(io::Error::other(error))))
    }

    /// Finishes the archive and returns the inner writer, which is not flushed yet.
    ///
    /// # Errors
    /// [`NpzError::Zip`].
    pub fn finish(self) -> Result<W, NpzError> {
        Ok(ManuallyDrop::into_inner(self.zip).finish()?)
    }

    /// Starts an array of `T` whose elements follow by [`NpzWriter::write`]: `ndarray-npy` writes
    /// only whole arrays, and the samples of a run need not fit into memory.
    pub(super) fn start<T: WritableElement>(
        &mut self,
        key: &str,
        shape: &[usize],
    ) -> Result<(), NpzError> {
        let header = self.start_entry::<T>(key, shape)?;
        self.write(header.bytes())
    }

    fn start_entry<T: WritableElement>(
        &mut self,
        key: &str,
        shape: &[usize],
    ) -> Result<Header, NpzError> {
        let header = Header::of::<T>(shape).map_err(invalid(key))?;
        self.begin(key, &header)?;
        Ok(header)
    }

    /// Starts the entry of an array.
    fn begin(&mut self, key: &str, header: &Header) -> Result<(), NpzError> {
        let len = header.data_len().ok_or_else(|| size_mismatch(key))?;
        // The default time would be the current one if the `time` feature of the crate were
        // enabled.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(0o644)
            .large_file(len as u64 + header.bytes().len() as u64 >= u64::from(u32::MAX));
        self.zip.start_file(file_name(key), options)?;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), NpzError> {
        Ok(self.zip.write_all(bytes)?)
    }
}

fn file_name(key: &str) -> String {
    format!("{key}.npy")
}

/// Returns a function for `map_err` that names the array.
pub(super) fn invalid(key: &str) -> impl Fn(NpyError) -> NpzError + '_ {
    |reason| NpzError::Npy {
        key: key.to_owned(),
        reason,
    }
}

fn size_mismatch(key: &str) -> NpzError {
    NpzError::Array {
        key: key.to_owned(),
        found: "of another size than its header states".to_owned(),
        expected: "a whole array".to_owned(),
    }
}

pub(super) fn unexpected(key: &str, header: &Header, expected: &str) -> NpzError {
    let order = if header.fortran_order {
        " in Fortran order"
    } else {
        ""
    };
    NpzError::Array {
        key: key.to_owned(),
        found: format!("{}{:?}{order}", header.dtype.name(), header.shape),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
#[path = "npz_tests.rs"]
mod tests;
