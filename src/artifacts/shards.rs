//! ShardStore of work: ranges of samples, one file each once finished.
//!
//! The files lie in `.work/<iteration>/<phase>/` and go when the iteration is complete. They hold model
//! output and its embeddings only, nothing private. Ranges found on disk are kept whatever the batch size
//! is now; only the gaps are done.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::pe::PeError;

/// The finished units of one phase of one iteration.
pub struct ShardStore {
    folder: PathBuf,
    extension: &'static str,
}

impl ShardStore {
    /// Opens (or makes) the phase's folder.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn open(folder: PathBuf, extension: &'static str) -> Result<Self, PeError> {
        fs::create_dir_all(&folder).map_err(PeError::io(&folder))?;
        Ok(Self { folder, extension })
    }

    fn path(&self, range: &Range<usize>) -> PathBuf {
        self.folder
            .join(format!("{}-{}.{}", range.start, range.end, self.extension))
    }

    /// The finished ranges below `total`, in order and disjoint.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn finished(&self, total: usize) -> Result<Vec<Range<usize>>, PeError> {
        let io = PeError::io(&self.folder);
        let mut ranges = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(&io)? {
            let path = entry.map_err(&io)?.path();
            if let Some(range) = parse(&path, self.extension)
                && range.start < range.end
                && range.end <= total
            {
                ranges.push(range);
            }
        }
        ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
        let mut end = 0;
        ranges.retain(|range| {
            let fits = range.start >= end;
            if fits {
                end = range.end;
            }
            fits
        });
        Ok(ranges)
    }

    /// The gaps that `finished` leaves in `0..total`, cut into pieces of at most `size`.
    #[must_use]
    pub fn missing(finished: &[Range<usize>], total: usize, size: usize) -> Vec<Range<usize>> {
        let size = size.max(1);
        let mut gaps = Vec::new();
        let mut at = 0;
        let end = total..total;
        for range in finished.iter().chain(std::iter::once(&end)) {
            while at < range.start {
                let stop = (at + size).min(range.start);
                gaps.push(at..stop);
                at = stop;
            }
            at = at.max(range.end);
        }
        gaps
    }

    /// Stores a finished unit.
    ///
    /// # Errors
    /// [`PeError::Io`].
    pub fn write(&self, range: &Range<usize>, bytes: &[u8]) -> Result<(), PeError> {
        let path = self.path(range);
        atomic::write(&path, bytes).map_err(PeError::io(&path))
    }

    /// Reads a finished unit back; it must have `len` bytes.
    ///
    /// # Errors
    /// [`PeError::Io`], or [`PeError::State`] for another length.
    pub fn read(&self, range: &Range<usize>, len: usize) -> Result<Vec<u8>, PeError> {
        let path = self.path(range);
        let bytes = fs::read(&path).map_err(PeError::io(&path))?;
        if bytes.len() != len {
            return Err(PeError::State(format!(
                "{} has {} bytes where {len} were expected: remove it and resume",
                path.display(),
                bytes.len()
            )));
        }
        Ok(bytes)
    }
}

fn parse(path: &Path, extension: &str) -> Option<Range<usize>> {
    if path.extension()? != extension {
        return None;
    }
    let (start, end) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_whatever_the_size() {
        assert_eq!(ShardStore::missing(&[], 5, 2), [0..2, 2..4, 4..5]);
        assert_eq!(
            ShardStore::missing(&[1..3, 4..6], 8, 10),
            [0..1, 3..4, 6..8]
        );
        let all = 0..8;
        assert!(ShardStore::missing(&[all], 8, 3).is_empty());
    }

    #[test]
    fn finished_units_survive_and_overlaps_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let units = ShardStore::open(folder.path().join("a/b"), "u8").unwrap();
        units.write(&(0..2), &[1, 2]).unwrap();
        units.write(&(1..4), &[1, 2, 3]).unwrap();
        units.write(&(4..9), &[0; 5]).unwrap();
        fs::write(folder.path().join("a/b/junk.txt"), "").unwrap();
        let first = 0..2;
        assert_eq!(units.finished(8).unwrap(), [first]);
        assert_eq!(units.finished(9).unwrap(), [0..2, 4..9]);
        assert_eq!(units.read(&(0..2), 2).unwrap(), [1, 2]);
        assert!(units.read(&(0..2), 3).is_err());
    }
}
