//! Files of means and covariances: `.npz` with `mu [d]` and `sigma [d, d]`, as clean-fid and
//! pytorch-fid publish them. Files of this program also have `count`, `resolution` and `embedder`.

use std::io::{Seek, Write};
use std::path::Path;

use super::MetricsError;
use super::moments::Gaussian;
use crate::images::{NpzError, NpzReader, NpzWriter};

/// Mean and covariance of a reference, with its origin.
pub struct Statistics {
    /// Mean and covariance.
    pub gaussian: Gaussian,
    /// Number of images, if the file says so.
    pub count: Option<usize>,
    /// Rows and columns to which the images were resized, if the file says so.
    pub resolution: Option<usize>,
    /// Digest of the embedder, if the file says so.
    pub embedder: Option<String>,
}

impl Statistics {
    /// Returns true if a file is an `.npz` with `mu` and `sigma`.
    #[must_use]
    pub fn is_file(path: &Path) -> bool {
        path.is_file() && NpzReader::open(path).is_ok_and(|npz| npz.has("mu") && npz.has("sigma"))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`MetricsError::Statistics`] naming the array, [`MetricsError::StatisticsMismatch`] when the
    /// arrays are not a mean and a covariance.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError::Statistics {
            path: path.to_owned(),
            cause: source,
        };
        let mut npz = NpzReader::open(path).map_err(failed)?;
        let (_, mean) = npz.f64s("mu").map_err(failed)?;
        let (shape, covariance) = npz.f64s("sigma").map_err(failed)?;
        if shape != [mean.len(), mean.len()] {
            return Err(failed(NpzError::Array {
                key: "sigma".to_owned(),
                found: format!("{shape:?}"),
                expected: format!("[{0}, {0}], as `mu` has {0} numbers", mean.len()),
            }));
        }
        let gaussian =
            Gaussian::new(mean, &covariance).map_err(|error| MetricsError::StatisticsMismatch {
                path: path.to_owned(),
                message: error.to_string(),
            })?;
        let mut number = |key: &str| -> Result<Option<usize>, MetricsError> {
            if !npz.has(key) {
                return Ok(None);
            }
            let (_, values) = npz.i64s(key).map_err(failed)?;
            Ok(values.first().and_then(|v| usize::try_from(*v).ok()))
        };
        let (count, resolution) = (number("count")?, number("resolution")?);
        let embedder = if npz.has("embedder") {
            let (_, bytes) = npz.i64s("embedder").map_err(failed)?;
            let text: String = bytes
                .iter()
                .filter_map(|byte| u8::try_from(*byte).ok().map(char::from))
                .collect();
            Some(text)
        } else {
            None
        };
        Ok(Self {
            gaussian,
            count,
            resolution,
            embedder,
        })
    }

    /// Writes an archive that [`Statistics::open`] and other programs can read.
    ///
    /// # Errors
    /// [`NpzError`].
    pub fn write(&self, file: impl Write + Seek) -> Result<(), NpzError> {
        let dimension = self.gaussian.dimension();
        let mut npz = NpzWriter::new(file);
        npz.f64s("mu", &[dimension], self.gaussian.mean())?;
        let covariance = self.gaussian.covariance();
        npz.f64s("sigma", &[dimension, dimension], &covariance)?;
        for (key, value) in [("count", self.count), ("resolution", self.resolution)] {
            if let Some(value) = value {
                npz.i64s(key, &[1], &[value as i64])?;
            }
        }
        if let Some(embedder) = &self.embedder {
            // Text as numbers: no array type for text is read by every reader of `.npz`.
            let bytes: Vec<i64> = embedder.bytes().map(i64::from).collect();
            npz.i64s("embedder", &[bytes.len()], &bytes)?;
        }
        npz.finish()?;
        Ok(())
    }

    /// Checks that the statistics belong to the feature space of the samples.
    ///
    /// # Errors
    /// [`MetricsError::StatisticsMismatch`].
    pub fn check(
        &self,
        path: &Path,
        dimension: usize,
        resolution: usize,
        embedder: &str,
    ) -> Result<(), MetricsError> {
        let refuse = |message: String| {
            Err(MetricsError::StatisticsMismatch {
                path: path.to_owned(),
                message,
            })
        };
        if self.gaussian.dimension() != dimension {
            return refuse(format!(
                "`mu` has {} numbers, but the embedder's vectors have {dimension}",
                self.gaussian.dimension()
            ));
        }
        if let Some(found) = self.resolution
            && found != resolution
        {
            return refuse(format!(
                "statistics of images at {found} pixels, but the samples are compared at {resolution}"
            ));
        }
        if self.embedder.as_deref().is_some_and(|e| e != embedder) {
            return refuse("statistics of another embedder, or of other weights".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics() -> Statistics {
        Statistics {
            gaussian: Gaussian::new(vec![1.0, 2.0], &[2.0, 0.5, 0.5, 3.0]).unwrap(),
            count: Some(7),
            resolution: Some(32),
            embedder: Some("abc".to_owned()),
        }
    }

    #[test]
    fn statistics_round_trip_with_their_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.npz");
        let file = std::fs::File::create(&path).unwrap();
        statistics().write(file).unwrap();
        assert!(Statistics::is_file(&path));
        let back = Statistics::open(&path).unwrap();
        assert_eq!(back.gaussian.covariance(), [2.0, 0.5, 0.5, 3.0]);
        assert_eq!((back.count, back.resolution), (Some(7), Some(32)));
        back.check(&path, 2, 32, "abc").unwrap();
        for (dimension, resolution, embedder) in [(3, 32, "abc"), (2, 64, "abc"), (2, 32, "abd")] {
            assert!(back.check(&path, dimension, resolution, embedder).is_err());
        }
    }

    #[test]
    fn files_of_other_programs_need_only_mean_and_covariance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.npz");
        let write = |shape: &[usize], sigma: &[f64]| {
            let mut npz = NpzWriter::new(std::fs::File::create(&path).unwrap());
            npz.f64s("mu", &[1], &[0.5]).unwrap();
            npz.f64s("sigma", shape, sigma).unwrap();
            npz.finish().unwrap();
            Statistics::open(&path)
        };
        let plain = write(&[1, 1], &[2.0]).unwrap();
        assert!(plain.count.is_none() && plain.check(&path, 1, 99, "any").is_ok());
        let error = write(&[1, 2], &[2.0, 1.0]).err().unwrap().to_string();
        assert!(
            error.contains("s.npz") && error.contains("sigma"),
            "{error}"
        );
        assert!(write(&[1, 1], &[f64::NAN]).is_err());
        assert!(!Statistics::is_file(folder.path()));
    }
}
