//! Shards of work: one file for each finished range of samples.
//!
//! The files lie in `.work/<iteration>/<phase>/` and are removed when the iteration is complete.
//! They hold output of the model and embeddings of that output, nothing private. A range that was
//! finished with another batch size is kept; only the gaps are computed.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ArtifactsError;
use crate::atomic;
use crate::generators::{Generated, Parameters};
use crate::images::ImageBatch;

/// The finished shards of one phase of one iteration.
pub struct ShardStore {
    folder: PathBuf,
    extension: &'static str,
}

/// The work that is left of a phase.
pub struct RemainingWork {
    /// Samples that finished shards cover.
    pub finished: usize,
    /// Ranges to compute, in order, none longer than the batch size.
    pub ranges: Vec<Range<usize>>,
}

impl ShardStore {
    /// Opens the folder of a phase, creating it if necessary. Shards are files
    /// `<start>-<end>.<extension>`.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn open(folder: PathBuf, extension: &'static str) -> Result<Self, ArtifactsError> {
        fs::create_dir_all(&folder).map_err(ArtifactsError::io(&folder))?;
        Ok(Self { folder, extension })
    }

    /// Returns the folder of the shards.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, range: &Range<usize>) -> PathBuf {
        self.folder
            .join(format!("{}-{}.{}", range.start, range.end, self.extension))
    }

    /// Returns the finished ranges below `total`, in order and disjoint.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn finished(&self, total: usize) -> Result<Vec<Range<usize>>, ArtifactsError> {
        let io = ArtifactsError::io(&self.folder);
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
        // Shards of two batch sizes can overlap: the first in this order wins, so that a resumed
        // run and the next one choose the same.
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

    /// Returns the ranges of `0..total` that no finished shard covers, cut to `batch_size`.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn remaining(
        &self,
        total: usize,
        batch_size: usize,
    ) -> Result<RemainingWork, ArtifactsError> {
        let finished = self.finished(total)?;
        Ok(RemainingWork {
            finished: finished.iter().map(Range::len).sum(),
            ranges: gaps(&finished, total, batch_size),
        })
    }

    /// Returns the finished ranges, which cover `0..total` without a gap.
    ///
    /// # Errors
    /// [`ArtifactsError::MissingShards`] where they do not.
    pub fn complete(&self, total: usize) -> Result<Vec<Range<usize>>, ArtifactsError> {
        let finished = self.finished(total)?;
        if gaps(&finished, total, total).is_empty() {
            return Ok(finished);
        }
        Err(ArtifactsError::MissingShards {
            path: self.folder.clone(),
            expected: total,
        })
    }

    /// Stores a finished shard.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn write(&self, range: &Range<usize>, bytes: &[u8]) -> Result<(), ArtifactsError> {
        let path = self.path(range);
        atomic::write(&path, bytes).map_err(ArtifactsError::io(&path))
    }

    /// Reads a finished shard back; it must have `len` bytes.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`]; [`ArtifactsError::ShardSize`] for another length.
    pub fn read(&self, range: &Range<usize>, len: usize) -> Result<Vec<u8>, ArtifactsError> {
        let bytes = self.read_all(range)?;
        if bytes.len() != len {
            return Err(self.wrong_size(range, bytes.len(), len));
        }
        Ok(bytes)
    }

    /// Stores a finished shard of images: their pixels, and then the parameters of each in a line,
    /// if any has parameters.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn write_images(
        &self,
        range: &Range<usize>,
        generated: &Generated,
    ) -> Result<(), ArtifactsError> {
        if !generated.has_parameters() {
            return self.write(range, generated.images.data());
        }
        let mut bytes = generated.images.data().to_vec();
        for index in 0..generated.len() {
            bytes.extend_from_slice(generated.parameters(index).text().as_bytes());
            bytes.push(b'\n');
        }
        self.write(range, &bytes)
    }

    /// Reads a finished shard of images back.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`]; [`ArtifactsError::ShardSize`] if pixels are missing;
    /// [`ArtifactsError::Parameters`] if the parameters are damaged.
    pub fn read_images(
        &self,
        range: &Range<usize>,
        (height, width): (usize, usize),
    ) -> Result<Generated, ArtifactsError> {
        let mut pixels = self.read_all(range)?;
        let len = range.len() * height * width * 3;
        if pixels.len() < len {
            return Err(self.wrong_size(range, pixels.len(), len));
        }
        let lines = pixels.split_off(len);
        let path = self.path(range);
        let images = ImageBatch::new(pixels, range.len(), height, width);
        let images = images.map_err(ArtifactsError::batch(&path))?;
        if lines.is_empty() {
            return Ok(images.into());
        }
        let text = std::str::from_utf8(&lines).unwrap_or_default();
        let parameters: Result<Vec<_>, _> = text.lines().map(Parameters::from_text).collect();
        let generated = parameters.and_then(|parameters| Generated::new(images, parameters));
        generated.map_err(|error| ArtifactsError::Parameters {
            path,
            message: error.to_string(),
        })
    }

    fn read_all(&self, range: &Range<usize>) -> Result<Vec<u8>, ArtifactsError> {
        let path = self.path(range);
        fs::read(&path).map_err(ArtifactsError::io(&path))
    }

    fn wrong_size(&self, range: &Range<usize>, found: usize, expected: usize) -> ArtifactsError {
        ArtifactsError::ShardSize {
            path: self.path(range),
            found,
            expected,
        }
    }
}

/// Returns the gaps that `finished` leaves in `0..total`, cut into pieces of at most `size`.
fn gaps(finished: &[Range<usize>], total: usize, size: usize) -> Vec<Range<usize>> {
    let size = size.max(1);
    let mut gaps = Vec::new();
    let mut at = 0;
    let end = total..total;
    for range in finished.iter().chain(std::iter::once(&end)) {
        while at < range.start {
            let stop = at.saturating_add(size).min(range.start);
            gaps.push(at..stop);
            at = stop;
        }
        at = at.max(range.end);
    }
    gaps
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
    fn gaps_are_found_for_any_batch_size() {
        assert_eq!(gaps(&[], 5, 2), [0..2, 2..4, 4..5]);
        assert_eq!(gaps(&[1..3, 4..6], 8, 10), [0..1, 3..4, 6..8]);
        let all = 0..8;
        assert!(gaps(&[all], 8, 3).is_empty());
    }

    #[test]
    fn finished_shards_survive_and_overlaps_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let shards = ShardStore::open(folder.path().join("a/b"), "u8").unwrap();
        shards.write(&(0..2), &[1, 2]).unwrap();
        shards.write(&(1..4), &[1, 2, 3]).unwrap();
        shards.write(&(4..9), &[0; 5]).unwrap();
        fs::write(folder.path().join("a/b/junk.txt"), "").unwrap();
        let first = 0..2;
        assert_eq!(shards.finished(8).unwrap(), [first]);
        assert_eq!(shards.finished(9).unwrap(), [0..2, 4..9]);
        let remaining = shards.remaining(9, 1).unwrap();
        assert_eq!(
            (remaining.finished, remaining.ranges),
            (7, vec![2..3, 3..4])
        );
        assert!(shards.complete(9).is_err() && shards.complete(2).is_ok());
        assert_eq!(shards.read(&(0..2), 2).unwrap(), [1, 2]);
        assert!(shards.read(&(0..2), 3).is_err());
    }

    #[test]
    fn parameters_follow_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let shards = ShardStore::open(folder.path().to_owned(), "u8").unwrap();
        let images = ImageBatch::new(vec![9; 12], 2, 1, 2).unwrap();
        let plain = Generated::from(images.clone());
        let parameters = vec![
            Parameters::NONE,
            Parameters::from_text("{\"a\":1}").unwrap(),
        ];
        let with = Generated::new(images, parameters).unwrap();
        for generated in [plain, with] {
            shards.write_images(&(0..2), &generated).unwrap();
            assert!(shards.read_images(&(0..2), (1, 2)).unwrap() == generated);
        }
        // A line is missing, is no JSON, or pixels are missing.
        let path = folder.path().join("0-2.u8");
        let pixels = vec![9; 12];
        for lines in ["{}\n", "{}\n{\n", "\u{1}\n"] {
            fs::write(&path, [&pixels, lines.as_bytes()].concat()).unwrap();
            let error = shards.read_images(&(0..2), (1, 2));
            assert!(matches!(error, Err(ArtifactsError::Parameters { .. })));
        }
        fs::write(&path, [1]).unwrap();
        let error = shards.read_images(&(0..2), (1, 2));
        assert!(matches!(error, Err(ArtifactsError::ShardSize { .. })));
    }
}
