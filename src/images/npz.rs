//! numpy's `.npz`: a zip archive of `.npy` arrays.
//!
//! Reading takes stored and deflated entries, any byte order and any plain number type, and trusts
//! nothing: sizes in headers are compared with the archive's before memory is taken, and checksums
//! are verified. Writing stores without compression, with fixed time stamps: the same arrays give the
//! same bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use thiserror::Error;
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::batch::BatchError;
use super::npy::{Dtype, Header, NpyError};

/// Why an `.npz` file cannot be read or written.
#[derive(Debug, Error)]
pub enum NpzError {
    /// The archive is damaged or of an unsupported kind.
    #[error("not a readable .npz archive: {0}")]
    Zip(#[from] ZipError),
    /// Reading or writing failed.
    #[error("cannot read or write the archive: {0}")]
    Io(#[from] io::Error),
    /// No array has this name.
    #[error("no array `{wanted}`: there are {found}")]
    Missing {
        /// The names that would have been right.
        wanted: String,
        /// The names that there are.
        found: String,
    },
    /// An array's header cannot be used.
    #[error("array `{key}`: {source}")]
    Npy {
        /// Which array.
        key: String,
        /// Why.
        source: NpyError,
    },
    /// An array has another shape or type than is needed.
    #[error("array `{key}` is {found}: expected {expected}")]
    Array {
        /// Which array.
        key: String,
        /// Its dtype and shape, or what is wrong with it.
        found: String,
        /// What would have been right.
        expected: String,
    },
    /// Images do not form a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// More or fewer images were written than announced, or out of order.
    #[error("{0}")]
    Sequence(String),
}

/// The arrays of an `.npz` file.
pub struct NpzReader<R> {
    archive: ZipArchive<R>,
}

impl NpzReader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`NpzError::Io`] or [`NpzError::Zip`].
    pub fn open(path: &Path) -> Result<Self, NpzError> {
        Self::new(BufReader::with_capacity(1 << 16, File::open(path)?))
    }
}

impl<R: Read + Seek> NpzReader<R> {
    /// Takes an archive from anything that can be read.
    ///
    /// # Errors
    /// [`NpzError::Zip`] when it is no zip archive.
    pub fn new(reader: R) -> Result<Self, NpzError> {
        Ok(Self {
            archive: ZipArchive::new(reader)?,
        })
    }

    /// Whether there is an array of this name.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.archive.index_for_name(&file_name(key)).is_some()
    }

    /// The first of `keys` that there is.
    ///
    /// # Errors
    /// [`NpzError::Missing`] when there is none of them.
    pub fn first_of<'k>(&self, keys: &[&'k str]) -> Result<&'k str, NpzError> {
        keys.iter()
            .find(|key| self.has(key))
            .copied()
            .ok_or_else(|| self.missing(&keys.join("` or `")))
    }

    /// An array of integers (or booleans) of any width: shape and elements, row-major.
    ///
    /// # Errors
    /// [`NpzError`] when it is missing, damaged, in Fortran order, or has floats or numbers that do
    /// not fit.
    pub fn i64s(&mut self, key: &str) -> Result<(Vec<usize>, Vec<i64>), NpzError> {
        let (header, bytes) = self.read_all(key)?;
        let values = bytes
            .chunks_exact(header.dtype.bytes)
            .map(|element| header.dtype.integer(element))
            .collect::<Option<Vec<i64>>>()
            .ok_or_else(|| unexpected(key, &header, "integers up to 2^63 - 1"))?;
        Ok((header.shape, values))
    }

    /// An array of numbers of any type as doubles: shape and elements, row-major.
    ///
    /// # Errors
    /// [`NpzError`] when it is missing, damaged or in Fortran order.
    pub fn f64s(&mut self, key: &str) -> Result<(Vec<usize>, Vec<f64>), NpzError> {
        let (header, bytes) = self.read_all(key)?;
        let values = bytes
            .chunks_exact(header.dtype.bytes)
            .map(|element| header.dtype.double(element))
            .collect();
        Ok((header.shape, values))
    }

    fn read_all(&mut self, key: &str) -> Result<(Header, Vec<u8>), NpzError> {
        let (header, entry) = self.entry(key)?;
        if header.fortran_order && header.shape.len() > 1 {
            return Err(unexpected(key, &header, "C order (np.ascontiguousarray)"));
        }
        let len = header.data_len().ok_or_else(|| size_mismatch(key))?;
        let mut bytes = Vec::new();
        // Grows with what is really there, whatever the header claims. The one byte more reaches the
        // end, where the checksum is verified.
        entry.take(len as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() != len {
            return Err(size_mismatch(key));
        }
        Ok((header, bytes))
    }

    /// An array's header, and its elements as a stream.
    pub(super) fn entry(&mut self, key: &str) -> Result<(Header, ZipFile<'_, R>), NpzError> {
        if !self.has(key) {
            return Err(self.missing(key));
        }
        let mut entry = self.archive.by_name(&file_name(key))?;
        let (header, header_len) = Header::read(&mut entry).map_err(|source| NpzError::Npy {
            key: key.to_owned(),
            source,
        })?;
        let expected = header
            .data_len()
            .and_then(|len| u64::try_from(len.checked_add(header_len)?).ok());
        if expected != Some(entry.size()) {
            return Err(size_mismatch(key));
        }
        Ok((header, entry))
    }

    /// Where an uncompressed array's file can be read at any place; `None` when it is compressed.
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
            found.push("none".to_owned());
        }
        NpzError::Missing {
            wanted: wanted.to_owned(),
            found: found.join(", "),
        }
    }
}

/// Writes arrays one after the other.
pub struct NpzWriter<W: Write + Seek> {
    zip: ZipWriter<W>,
}

impl<W: Write + Seek> NpzWriter<W> {
    /// Starts an archive.
    pub fn new(writer: W) -> Self {
        Self {
            zip: ZipWriter::new(writer),
        }
    }

    /// Writes `int64[shape]`.
    ///
    /// # Errors
    /// [`NpzError::Array`] when `values` do not fill `shape`; [`NpzError::Zip`] or [`NpzError::Io`].
    pub fn i64s(&mut self, key: &str, shape: &[usize], values: &[i64]) -> Result<(), NpzError> {
        self.start(key, Dtype::I64, shape, Some(values.len()))?;
        values
            .iter()
            .try_for_each(|value| self.write(&value.to_le_bytes()))
    }

    /// Writes `float64[shape]`.
    ///
    /// # Errors
    /// [`NpzError::Array`] when `values` do not fill `shape`; [`NpzError::Zip`] or [`NpzError::Io`].
    pub fn f64s(&mut self, key: &str, shape: &[usize], values: &[f64]) -> Result<(), NpzError> {
        self.start(key, Dtype::F64, shape, Some(values.len()))?;
        values
            .iter()
            .try_for_each(|value| self.write(&value.to_le_bytes()))
    }

    /// Ends the archive and gives back what it was written to, not yet flushed.
    ///
    /// # Errors
    /// [`NpzError::Zip`].
    pub fn finish(self) -> Result<W, NpzError> {
        Ok(self.zip.finish()?)
    }

    /// Starts an array; its elements follow by [`NpzWriter::write`].
    pub(super) fn start(
        &mut self,
        key: &str,
        dtype: Dtype,
        shape: &[usize],
        given: Option<usize>,
    ) -> Result<(), NpzError> {
        let header = Header {
            dtype,
            shape: shape.to_vec(),
            fortran_order: false,
        };
        let data_len = header.data_len();
        let (Some(data_len), true) = (data_len, given.is_none_or(|n| header.count() == Some(n)))
        else {
            return Err(unexpected(
                key,
                &header,
                "as many elements as the shape has",
            ));
        };
        let bytes = header.to_bytes();
        // The default time stamp would be the clock's if the crate's `time` feature were on.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(0o644)
            .large_file((data_len + bytes.len()) as u64 >= u64::from(u32::MAX));
        self.zip.start_file(file_name(key), options)?;
        self.write(&bytes)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), NpzError> {
        Ok(self.zip.write_all(bytes)?)
    }
}

fn file_name(key: &str) -> String {
    format!("{key}.npy")
}

fn size_mismatch(key: &str) -> NpzError {
    NpzError::Array {
        key: key.to_owned(),
        found: "of another size than its header says".to_owned(),
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
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
        writer.i64s("labels", &[3, 1], &[-1, 0, i64::MAX]).unwrap();
        writer
            .f64s("votes", &[2, 2], &[0.5, -1.0, 1e300, 0.0])
            .unwrap();
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn arrays_come_back() {
        let mut reader = NpzReader::new(Cursor::new(archive())).unwrap();
        assert_eq!(
            reader.i64s("labels").unwrap(),
            (vec![3, 1], vec![-1, 0, i64::MAX])
        );
        assert_eq!(
            reader.f64s("votes").unwrap(),
            (vec![2, 2], vec![0.5, -1.0, 1e300, 0.0])
        );
        assert!(reader.i64s("votes").is_err());
        assert_eq!(reader.first_of(&["no", "votes"]).unwrap(), "votes");
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_clock() {
        // Time and date of the first entry: midnight, 1 January 1980.
        assert_eq!(archive()[10..14], [0, 0, 0x21, 0]);
    }

    #[test]
    fn a_missing_array_lists_what_there_is() {
        let mut reader = NpzReader::new(Cursor::new(archive())).unwrap();
        let error = reader.i64s("samples").unwrap_err().to_string();
        assert_eq!(error, "no array `samples`: there are `labels`, `votes`");
    }

    #[test]
    fn values_must_fill_the_shape() {
        let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
        assert!(writer.i64s("labels", &[2], &[1, 2, 3]).is_err());
    }

    #[test]
    fn a_flipped_bit_in_the_data_is_noticed() {
        let mut bytes = archive();
        let place = bytes
            .windows(8)
            .position(|w| w == i64::MAX.to_le_bytes())
            .unwrap();
        bytes[place] ^= 1;
        let mut reader = NpzReader::new(Cursor::new(bytes)).unwrap();
        assert!(reader.i64s("labels").is_err());
    }

    proptest! {
        #[test]
        fn damage_never_panics(
            hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = archive();
            for (place, value) in hits {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Ok(mut reader) = NpzReader::new(Cursor::new(bytes)) {
                let _ = reader.i64s("labels");
                let _ = reader.f64s("votes");
            }
        }
    }
}
