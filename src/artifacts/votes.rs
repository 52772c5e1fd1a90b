//! `votes.npz`: the released histogram of one iteration.

use std::io;
use std::path::Path;

use super::ArtifactsError;
use crate::images::{NpzError, NpzReader, NpzWriter};
use crate::privacy::NoisyHistogram;
use crate::voting::threshold;

/// A noisy histogram that is on disk, with the threshold H applied.
pub struct ReleasedVotes {
    noisy: NoisyHistogram,
    votes: Vec<f64>,
    read_back: bool,
}

impl ReleasedVotes {
    /// Applies the threshold H, the last step of Algorithm 2: `max(noisy − H, 0)`. No other code
    /// applies it.
    pub(super) fn new(noisy: NoisyHistogram, threshold_h: f64, read_back: bool) -> Self {
        Self {
            votes: threshold(&noisy.values(), threshold_h),
            noisy,
            read_back,
        }
    }

    /// Returns the histogram as it was released, for the ledger.
    pub(super) fn histogram(&self) -> &NoisyHistogram {
        &self.noisy
    }

    /// Returns the noisy votes of each sample before the threshold.
    #[must_use]
    pub fn noisy(&self) -> Vec<f64> {
        self.noisy.values()
    }

    /// Returns the votes of each sample above the threshold, at least 0.
    #[must_use]
    pub fn votes(&self) -> &[f64] {
        &self.votes
    }

    /// Returns true if an earlier process released the histogram.
    #[must_use]
    pub fn is_read_back(&self) -> bool {
        self.read_back
    }

    /// Writes the arrays `lattice` (the release itself, exact), `noisy` (the same in votes) and
    /// `votes` (above the threshold); `non_private` adds an array of that name.
    pub(super) fn write(
        &self,
        non_private: bool,
        file: &mut (impl io::Write + io::Seek),
    ) -> io::Result<()> {
        let shape = [self.votes.len()];
        let write = || -> Result<(), NpzError> {
            let mut writer = NpzWriter::new(file);
            writer.i64s("lattice", &shape, self.noisy.lattice())?;
            writer.f64s("noisy", &shape, &self.noisy.values())?;
            writer.f64s("votes", &shape, &self.votes)?;
            if non_private {
                writer.i64s("non_private", &[1], &[1])?;
            }
            writer.finish()?;
            Ok(())
        };
        write().map_err(io::Error::other)
    }
}

/// Reads the release itself, which must have `expected` values and be marked as non-private if and
/// only if the run is.
///
/// # Errors
/// [`ArtifactsError::Npz`]; [`ArtifactsError::VotesLength`]; [`ArtifactsError::VotesStamp`].
pub(super) fn read_lattice(
    path: &Path,
    expected: usize,
    non_private: bool,
) -> Result<NoisyHistogram, ArtifactsError> {
    let npz = ArtifactsError::npz(path);
    let mut reader = NpzReader::open(path).map_err(&npz)?;
    if reader.has("non_private") != non_private {
        return Err(ArtifactsError::VotesStamp {
            path: path.to_owned(),
            run: if non_private {
                "non-private"
            } else {
                "private"
            },
        });
    }
    let (_, lattice) = reader.i64s("lattice").map_err(npz)?;
    if lattice.len() != expected {
        return Err(ArtifactsError::VotesLength {
            path: path.to_owned(),
            found: lattice.len(),
            expected,
        });
    }
    Ok(NoisyHistogram::from_lattice(lattice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("votes.npz");
        let lattice = vec![-5, 3 << 20, i64::MAX];
        let released =
            ReleasedVotes::new(NoisyHistogram::from_lattice(lattice.clone()), 1.0, false);
        assert_eq!(released.votes()[..2], [0.0, 2.0]);
        let mut file = std::fs::File::create(&path).unwrap();
        released.write(true, &mut file).unwrap();
        assert_eq!(read_lattice(&path, 3, true).unwrap().lattice(), lattice);
        let error = read_lattice(&path, 3, false).err().unwrap().to_string();
        assert!(error.contains("not of this private run"), "{error}");
        let error = read_lattice(&path, 4, true).err().unwrap().to_string();
        assert!(error.ends_with("3 values where 4 were expected"), "{error}");
    }
}
