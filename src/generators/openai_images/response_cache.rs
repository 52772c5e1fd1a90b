//! Responses and images of a hosted model on disk, in `.work/<iteration>/bought/`, so that an
//! interrupted run does not pay for them again.
//!
//! A response is stored as received, then its images one by one, then the response is deleted. A
//! run that is killed in between unpacks the stored response when it is resumed. The folder is
//! deleted with the other unfinished work of its iteration. It holds output of the model, nothing
//! private.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ServiceError;
use crate::atomic;
use crate::images::{DecodeOptions, ImageBatch, ImageSize, decode, png};
use crate::privacy::sha256_hex;
use crate::streams::{Phase, RngKey};

/// Identifies one requested image by its place in a population and the input that it is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    pub(super) iteration: u32,
    name: String,
}

impl CacheKey {
    /// Creates the key of the image of `rng_key` that is made from the input with the digest
    /// `input`. File names are derived from it: a run of an earlier version must find its files.
    pub(super) fn new(rng_key: &RngKey, input: &str) -> Self {
        let phase = match rng_key.phase {
            Phase::Condition => "condition",
            Phase::Random => "random",
            Phase::Lookahead => "lookahead",
            Phase::Select => "select",
            Phase::Vary => "vary",
            Phase::InitialVary => "initial",
            Phase::Downstream => "downstream",
            Phase::Evaluate => "evaluate",
            Phase::Audit => "audit",
            Phase::Member => "member",
        };
        let input = input.get(..16).unwrap_or(input);
        Self {
            iteration: rng_key.iteration,
            name: format!("{phase}-{}-{}-{input}", rng_key.repeat, rng_key.sample),
        }
    }
}

/// A stored response whose images have not all been unpacked.
pub(super) struct PendingResponse {
    path: PathBuf,
    /// The keys of its images, in their order.
    pub(super) keys: Vec<CacheKey>,
    /// The body of the response.
    pub(super) body: Vec<u8>,
}

/// The stored responses and images of a run.
pub(super) struct ResponseCache {
    work: PathBuf,
}

/// Name of the folder in an iteration's folder of unfinished work. Part of the on-disk format.
const FOLDER: &str = "bought";

impl ResponseCache {
    /// Creates a cache in `work`, the run's folder of unfinished work with one folder per
    /// iteration.
    pub(super) fn new(work: PathBuf) -> Self {
        Self { work }
    }

    fn folder(&self, iteration: u32) -> PathBuf {
        self.work.join(iteration.to_string()).join(FOLDER)
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        let folder = self.folder(key.iteration);
        folder.join(format!("{}.png", key.name))
    }

    /// Returns true if the image of `key` is stored.
    pub(super) fn contains(&self, key: &CacheKey) -> bool {
        self.path(key).exists()
    }

    /// Stores an image.
    ///
    /// # Errors
    /// [`ServiceError::Io`], [`ServiceError::Image`].
    pub(super) fn store_image(
        &self,
        key: &CacheKey,
        image: &ImageBatch,
    ) -> Result<(), ServiceError> {
        let bytes = png(image).map_err(|error| ServiceError::Image(error.to_string()))?;
        let path = self.path(key);
        self.create_folder(key.iteration)?;
        atomic::write(&path, &bytes).map_err(ServiceError::io(&path))
    }

    /// Reads an image: `uint8 [1, side, side, 3]`.
    ///
    /// # Errors
    /// [`ServiceError::Io`], or [`ServiceError::Image`] if the file is not an image of this size.
    pub(super) fn read_image(
        &self,
        key: &CacheKey,
        size: ImageSize,
    ) -> Result<ImageBatch, ServiceError> {
        let path = self.path(key);
        let bytes = fs::read(&path).map_err(ServiceError::io(&path))?;
        let broken = |problem: String| {
            ServiceError::Image(format!(
                "{}: {problem}; delete the file and use --resume, which requests the image again",
                path.display()
            ))
        };
        let image = decode(&bytes, &DecodeOptions::default())
            .map_err(|error| broken(error.to_string()))?
            .image;
        if (image.height, image.width) != size.pair() {
            return Err(broken(format!(
                "{}x{} pixels, expected {}x{}",
                image.width, image.height, size.width, size.height
            )));
        }
        ImageBatch::new(image.pixels, 1, size.height, size.width)
            .map_err(|error| broken(error.to_string()))
    }

    /// Stores a response as received. Its images belong to `keys`, all of one iteration.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn store_response(
        &self,
        keys: &[CacheKey],
        body: Vec<u8>,
    ) -> Result<PendingResponse, ServiceError> {
        let iteration = keys.first().map_or(0, |key| key.iteration);
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        // The file: the names of the keys, separated by spaces, a line feed, the body.
        let mut bytes = names.join(" ").into_bytes();
        let name = sha256_hex(&bytes);
        let path = self.folder(iteration).join(format!("{name}.answer"));
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        self.create_folder(iteration)?;
        atomic::write(&path, &bytes).map_err(ServiceError::io(&path))?;
        Ok(PendingResponse {
            path,
            keys: keys.to_vec(),
            body,
        })
    }

    /// Deletes a response that has been unpacked.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn remove_response(&self, pending: &PendingResponse) -> Result<(), ServiceError> {
        let path = &pending.path;
        let removed = fs::remove_file(path);
        removed
            .and_then(|()| path.parent().map_or(Ok(()), atomic::set_time_of))
            .map_err(ServiceError::io(path))
    }

    /// Returns the files of the responses that a killed process left, sorted.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn pending(&self) -> Result<Vec<PathBuf>, ServiceError> {
        let mut found = Vec::new();
        for folder in entries(&self.work)? {
            for path in entries(&folder.join(FOLDER))? {
                if path
                    .extension()
                    .is_some_and(|extension| extension == "answer")
                {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Reads a response that [`ResponseCache::pending`] found.
    ///
    /// # Errors
    /// [`ServiceError::Io`].
    pub(super) fn read_response(&self, path: &Path) -> Result<PendingResponse, ServiceError> {
        let bytes = fs::read(path).map_err(ServiceError::io(path))?;
        let iteration = path
            .ancestors()
            .nth(2)
            .and_then(|folder| folder.file_name()?.to_str()?.parse().ok())
            .unwrap_or(0);
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (names, body) = bytes.split_at(end.unwrap_or(0));
        let names = String::from_utf8_lossy(names);
        Ok(PendingResponse {
            path: path.to_owned(),
            keys: names
                .split_whitespace()
                .map(|name| CacheKey {
                    iteration,
                    name: name.to_owned(),
                })
                .collect(),
            body: body.get(1..).unwrap_or_default().to_vec(),
        })
    }

    fn create_folder(&self, iteration: u32) -> Result<(), ServiceError> {
        let folder = self.folder(iteration);
        fs::create_dir_all(&folder)
            .and_then(|()| atomic::set_times_up_to(&self.work, &folder))
            .map_err(ServiceError::io(&folder))
    }
}

/// Returns the paths in a folder; none if the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ServiceError> {
    let io = ServiceError::io(folder);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(&io)?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sample: u64) -> CacheKey {
        let rng_key = RngKey {
            seed: 1,
            phase: Phase::Vary,
            iteration: 3,
            repeat: 0,
            sample,
        };
        CacheKey::new(&rng_key, &sha256_hex(b"origin"))
    }

    #[test]
    fn images_are_read_back_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ResponseCache::new(folder.path().to_owned());
        let image = ImageBatch::new((0..12).collect(), 1, 2, 2).unwrap();
        assert!(!cache.contains(&key(0)));
        cache.store_image(&key(0), &image).unwrap();
        assert!(cache.contains(&key(0)) && !cache.contains(&key(1)));
        assert_eq!(
            cache.read_image(&key(0), 2.into()).unwrap().data(),
            image.data()
        );
        let error = cache
            .read_image(&key(0), 3.into())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("2x2 pixels, expected 3x3"), "{error}");
        assert!(cache.read_image(&key(1), 2.into()).is_err());
    }

    #[test]
    fn a_response_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ResponseCache::new(folder.path().to_owned());
        let keys = [key(0), key(1)];
        cache.store_response(&keys, b"{\n}\n".to_vec()).unwrap();
        let paths = ResponseCache::new(folder.path().to_owned())
            .pending()
            .unwrap();
        assert_eq!(paths.len(), 1);
        let pending = cache.read_response(&paths[0]).unwrap();
        assert_eq!(pending.keys, keys);
        assert_eq!(pending.body, b"{\n}\n");
        cache.remove_response(&pending).unwrap();
        assert!(cache.pending().unwrap().is_empty());
    }

    /// The layout of version 0.1.0, which runs in progress depend on.
    #[test]
    fn file_names_are_those_of_earlier_versions() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ResponseCache::new(folder.path().to_owned());
        let digest = &sha256_hex(b"origin")[..16];
        let image = format!("3/bought/vary-0-7-{digest}.png");
        assert_eq!(cache.path(&key(7)), folder.path().join(image));
        let names = format!("vary-0-7-{digest} vary-0-8-{digest}");
        let pending = cache.store_response(&[key(7), key(8)], b"{}".to_vec());
        let response = format!("3/bought/{}.answer", sha256_hex(names.as_bytes()));
        assert_eq!(pending.unwrap().path, folder.path().join(&response));
        let stored = fs::read(folder.path().join(response)).unwrap();
        assert_eq!(stored, format!("{names}\n{{}}").into_bytes());
    }
}
