//! The running sum of an unfinished lookahead shard.
//!
//! The sums are `float64`, so that a mean does not depend on how often the run was interrupted.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::ArtifactsError;
use super::shards::ShardStore;
use crate::atomic;

/// The file `<start>-<end>.partial`: the number of variations in the sum (`u32`), then the sums
/// (`float64`), little-endian.
pub struct PartialMean {
    path: PathBuf,
}

impl PartialMean {
    /// Names the file of a shard; nothing is read or written.
    #[must_use]
    pub fn new(shards: &ShardStore, range: &Range<usize>) -> Self {
        let name = format!("{}-{}.partial", range.start, range.end);
        Self {
            path: shards.folder().join(name),
        }
    }

    /// Returns the number of variations in the sum and the `len` sums: zeros where there is no
    /// file.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn read(&self, len: usize) -> Result<(u32, Vec<f64>), ArtifactsError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((0, vec![0.0; len]));
            }
            Err(error) => return Err(ArtifactsError::io(&self.path)(error)),
        };
        match bytes.split_first_chunk::<4>() {
            Some((count, sums)) if sums.len() == len * 8 => Ok((
                u32::from_le_bytes(*count),
                sums.chunks_exact(8)
                    .map(|b| b.try_into().map_or(f64::NAN, f64::from_le_bytes))
                    .collect(),
            )),
            // Written with another batch size: starting over costs one shard.
            _ => Ok((0, vec![0.0; len])),
        }
    }

    /// Stores the sum of `count` variations.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn write(&self, count: u32, sums: &[f64]) -> Result<(), ArtifactsError> {
        let mut bytes = count.to_le_bytes().to_vec();
        bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        atomic::write(&self.path, &bytes).map_err(ArtifactsError::io(&self.path))
    }

    /// Removes the file once its shard is stored.
    ///
    /// # Errors
    /// [`ArtifactsError::Io`].
    pub fn remove(&self) -> Result<(), ArtifactsError> {
        atomic::remove(&self.path)
            .and_then(|()| self.path.parent().map_or(Ok(()), atomic::set_time_of))
            .map_err(ArtifactsError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_comes_back_and_one_of_another_length_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let shards = ShardStore::open(folder.path().to_owned(), "mean").unwrap();
        let partial = PartialMean::new(&shards, &(3..5));
        assert_eq!(partial.read(2).unwrap(), (0, vec![0.0; 2]));
        partial.write(7, &[0.1, -2.0]).unwrap();
        assert_eq!(partial.read(2).unwrap(), (7, vec![0.1, -2.0]));
        assert_eq!(partial.read(3).unwrap(), (0, vec![0.0; 3]));
        assert!(shards.finished(9).unwrap().is_empty());
        partial.remove().unwrap();
        partial.remove().unwrap();
        assert_eq!(partial.read(2).unwrap().0, 0);
    }
}
