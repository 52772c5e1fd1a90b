//! Rows of bytes on disk, in files of several rows: pixels of images, or their vectors.
//!
//! Each file begins with the key of everything that the rows depend on, and ends with a digest of
//! them, so that a damaged or foreign file is noticed and made again. Rows of many gigabytes are
//! read file by file, within a bound of memory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::PublicImagesError;
use crate::atomic;

/// The first bytes of a file, with the version of its layout.
const MAGIC: &[u8; 8] = b"dpsynrw1";
/// Bytes before the rows: [`MAGIC`], the key, the number of the first row, the number of rows and
/// their length.
const HEADER: usize = 8 + DIGEST + 3 * 8;
/// Bytes of a digest, with which a file ends.
const DIGEST: usize = 32;
/// Bytes of rows in a file, unless one row has more.
const BLOCK: usize = 1 << 24;

/// Rows of one length, in the files `00000000.rows`, … of a folder.
#[derive(Debug, Clone)]
pub struct BlockStore {
    folder: PathBuf,
    key: [u8; DIGEST],
    count: usize,
    row_len: usize,
    rows_per_block: usize,
}

impl BlockStore {
    /// Describes `count` rows of `row_len` bytes, which depend on what `key` is a digest of.
    #[must_use]
    pub fn new(folder: PathBuf, key: [u8; DIGEST], count: usize, row_len: usize) -> Self {
        Self {
            folder,
            key,
            count,
            row_len,
            rows_per_block: (BLOCK / row_len.max(1)).max(1),
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of rows in all files but the last one.
    #[must_use]
    pub fn rows_per_block(&self) -> usize {
        self.rows_per_block
    }

    /// Returns the rows of each file, in order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (count, step) = (self.count, self.rows_per_block);
        let ranges = (0..count.div_ceil(step)).map(move |block| block * step);
        ranges.map(move |start| start..(start + step).min(count))
    }

    /// Returns true if there is any file of this store, be it damaged or not.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.blocks().any(|rows| self.path(&rows).exists())
    }

    /// Returns the SHA-256 of each of `rows`, the rows of a file; `None` if the file is missing,
    /// damaged, or holds other rows.
    ///
    /// # Errors
    /// [`PublicImagesError::Cache`] if a file that exists cannot be read.
    pub fn verify(&self, rows: &Range<usize>) -> Result<Option<Vec<[u8; 32]>>, PublicImagesError> {
        let path = self.path(rows);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(PublicImagesError::cache(&path))?,
        };
        let Some(body) = self.body(rows, &bytes) else {
            return Ok(None);
        };
        let digests = self.digests(body);
        let stored = bytes.get(bytes.len() - DIGEST..);
        Ok((stored == Some(&digest_of(&digests))).then_some(digests))
    }

    /// Stores the rows of a file and returns the SHA-256 of each.
    ///
    /// # Errors
    /// [`PublicImagesError::Cache`], also if `body` has another number of bytes.
    pub fn write(
        &self,
        rows: &Range<usize>,
        body: &[u8],
    ) -> Result<Vec<[u8; 32]>, PublicImagesError> {
        let path = self.path(rows);
        let failed = PublicImagesError::cache(&path);
        if Some(body.len()) != rows.len().checked_mul(self.row_len) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        create_owner_only(&self.folder).map_err(PublicImagesError::cache(&self.folder))?;
        let digests = self.digests(body);
        let fill = |file: &mut io::BufWriter<&mut File>| {
            file.write_all(&self.header(rows))?;
            file.write_all(body)?;
            file.write_all(&digest_of(&digests))
        };
        atomic::write_elsewhere_via(&path, fill).map_err(failed)?;
        Ok(digests)
    }

    /// Reads the rows of a file that was verified.
    ///
    /// # Errors
    /// [`PublicImagesError::Cache`] or [`PublicImagesError::Changed`].
    pub fn read(&self, rows: &Range<usize>) -> Result<Vec<u8>, PublicImagesError> {
        let path = self.path(rows);
        let mut bytes = fs::read(&path).map_err(PublicImagesError::cache(&path))?;
        if self.body(rows, &bytes).is_none() {
            return Err(PublicImagesError::Changed { path });
        }
        bytes.truncate(bytes.len() - DIGEST);
        bytes.drain(..HEADER);
        Ok(bytes)
    }

    /// Reads single rows, in the order of `indices`; the files were verified.
    ///
    /// # Errors
    /// [`PublicImagesError::Cache`], also for a row that does not exist.
    pub fn read_rows(&self, indices: &[usize]) -> Result<Vec<u8>, PublicImagesError> {
        let mut all = vec![0; indices.len() * self.row_len];
        // By place, so that each file is opened once.
        let mut order: Vec<(usize, &mut [u8])> = indices
            .iter()
            .copied()
            .zip(all.chunks_exact_mut(self.row_len.max(1)))
            .collect();
        order.sort_by_key(|(index, _)| *index);
        let mut open: Option<(usize, PathBuf, File)> = None;
        for (index, row) in order {
            let block = index / self.rows_per_block;
            if open.as_ref().is_none_or(|(opened, ..)| *opened != block) {
                let start = block * self.rows_per_block;
                let path = self.path(&(start..start + 1));
                let file = File::open(&path).map_err(PublicImagesError::cache(&path))?;
                open = Some((block, path, file));
            }
            if let Some((_, path, file)) = &mut open {
                let place = HEADER + index % self.rows_per_block * self.row_len;
                let mut read = || {
                    file.seek(SeekFrom::Start(place as u64))?;
                    file.read_exact(row)
                };
                read().map_err(PublicImagesError::cache(path))?;
            }
        }
        Ok(all)
    }

    /// Returns the path of the file that begins with the first of `rows`.
    fn path(&self, rows: &Range<usize>) -> PathBuf {
        let block = rows.start / self.rows_per_block;
        self.folder.join(format!("{block:08}.rows"))
    }

    /// Returns the folder of the files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn header(&self, rows: &Range<usize>) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(self.key);
        for number in [rows.start, rows.len(), self.row_len] {
            header.extend((number as u64).to_le_bytes());
        }
        header
    }

    /// Returns the rows within the bytes of a file; `None` if it is not the file of these rows.
    fn body<'a>(&self, rows: &Range<usize>, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let len = rows.len().checked_mul(self.row_len)?;
        let header = self.header(rows);
        let fits = bytes.len() == HEADER + len + DIGEST && bytes.starts_with(&header);
        fits.then(|| bytes.get(HEADER..HEADER + len)).flatten()
    }

    fn digests(&self, body: &[u8]) -> Vec<[u8; 32]> {
        body.par_chunks(self.row_len.max(1))
            .map(|row| Sha256::digest(row).into())
            .collect()
    }
}

fn digest_of(digests: &[[u8; 32]]) -> [u8; 32] {
    Sha256::digest(digests.as_flattened()).into()
}

/// Creates folders that the owner alone can enter: whether images that are declared public are not
/// private ones is known only after they were read.
fn create_owner_only(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path, key: u8) -> BlockStore {
        BlockStore {
            rows_per_block: 4,
            ..BlockStore::new(folder.join("rows"), [key; 32], 10, 3)
        }
    }

    fn row(index: usize) -> [u8; 3] {
        [index as u8, 7, 1]
    }

    fn filled(folder: &Path) -> BlockStore {
        let store = store(folder, 1);
        assert!(!store.exists());
        for rows in store.blocks() {
            let body: Vec<u8> = rows.clone().flat_map(row).collect();
            assert!(store.verify(&rows).unwrap().is_none());
            let written = store.write(&rows, &body).unwrap();
            assert_eq!(store.verify(&rows).unwrap().unwrap(), written);
            let first: [u8; 32] = Sha256::digest(row(rows.start)).into();
            assert_eq!((written.len(), written[0]), (rows.len(), first));
        }
        store
    }

    #[test]
    fn rows_come_back_by_file_and_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path());
        assert!(store.exists());
        let ranges: Vec<_> = store.blocks().collect();
        assert_eq!(ranges, [0..4, 4..8, 8..10]);
        assert_eq!(store.read(&(8..10)).unwrap(), [row(8), row(9)].concat());
        let chosen = [9, 0, 5, 5, 3, 8];
        let expected: Vec<u8> = chosen.iter().flat_map(|index| row(*index)).collect();
        assert_eq!(store.read_rows(&chosen).unwrap(), expected);
        assert!(store.read_rows(&[12]).is_err());
        assert!(store.write(&(0..4), &[0; 11]).is_err());
    }

    #[test]
    fn damaged_short_and_foreign_files_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let store_of_another_key = store(folder.path(), 2);
        let store = filled(folder.path());
        assert!(store_of_another_key.verify(&(0..4)).unwrap().is_none());
        let path = store.path(&(4..8));
        let whole = fs::read(&path).unwrap();
        for place in [0, 9, 45, HEADER, HEADER + 11, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            fs::write(&path, &damaged).unwrap();
            assert!(store.verify(&(4..8)).unwrap().is_none(), "{place}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(store.verify(&(4..8)).unwrap().is_none());
        assert!(store.read(&(4..8)).is_err());
        // A file of other rows.
        fs::copy(store.path(&(0..4)), &path).unwrap();
        assert!(store.verify(&(4..8)).unwrap().is_none());
    }
}
