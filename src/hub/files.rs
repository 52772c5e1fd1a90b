//! Files of a model in a folder, or in a repository of the Hugging Face hub by way of its usual
//! cache.
//!
//! The client is written here, because the `hf-hub` crate sends the token to every host that the
//! hub redirects to, has no time limit and verifies nothing; the crate supplies the names in the
//! cache.

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod environment;
#[cfg(feature = "hub")]
mod repository;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::net::Offline;
use crate::progress::Progress;

#[cfg(feature = "hub")]
use repository::Repository;

/// A file of a model is not available.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The place is neither a folder nor the id of a repository.
    #[error(
        "{place} is not a folder: expected one, or a repository of the hub such as \
         \"CompVis/stable-diffusion-v1-4\""
    )]
    NoFolder {
        /// Value of the configuration.
        place: String,
    },
    /// The folder or repository lacks a file.
    #[error("{place} has no {}", names.join(" or "))]
    Missing {
        /// The folder or repository.
        place: String,
        /// Accepted names.
        names: Vec<String>,
    },
    /// The revision of a repository is missing.
    #[error(
        "{id} is a repository of the hub: expected `revision`, its commit (or a tag or branch, which \
         can move)"
    )]
    NoRevision {
        /// The repository.
        id: String,
    },
    /// The cache does not have the file, and downloads are disabled.
    #[error("{name} of {id} is not in the cache, and {by} disables downloads")]
    Offline {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// Setting that disables downloads.
        by: Offline,
    },
    /// A file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
    /// A download failed.
    #[error(
        "failed to download {name} of {id}: {message} (there is no folder {id} either; a copy of the \
         repository in a folder needs no network)"
    )]
    Download {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// Description of the failure.
        message: String,
    },
    /// The program was built without the feature `hub`.
    #[error("{id} is not a folder, and this program was built without the feature `hub`")]
    NoHub {
        /// Value of the configuration.
        id: String,
    },
}

/// Integrity of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
// Only a hub states digests.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub enum Integrity {
    /// The bytes match the digest that the hub stated.
    Intact,
    /// No digest is known: a file of a folder, or of a hub that does not state digests.
    Unknown,
    /// The bytes differ from the digest.
    Damaged {
        /// Digest that the hub stated.
        expected: String,
        /// Digest of the file.
        found: String,
    },
}

/// Result of checking a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFile {
    /// Name in the repository.
    pub name: String,
    /// Path on disk.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// Integrity of its bytes.
    pub state: Integrity,
}

/// Location of the files of a model.
#[derive(Debug)]
pub struct ModelFiles {
    name: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    #[cfg(feature = "hub")]
    Repository(Box<Repository>),
}

impl ModelFiles {
    /// Opens the folder `place`, or the repository of that id at `revision` if there is no such
    /// folder. Downloads nothing yet.
    ///
    /// # Errors
    /// [`FilesError::NoFolder`], [`FilesError::NoRevision`] or [`FilesError::NoHub`].
    pub fn open(place: &str, revision: Option<&str>) -> Result<Self, FilesError> {
        let name = place.to_owned();
        let folder = Path::new(place);
        if folder.is_dir() {
            let place = Place::Folder(folder.to_owned());
            return Ok(Self { name, place });
        }
        if !is_id(place) {
            return Err(FilesError::NoFolder { place: name });
        }
        Self::open_repository(name, revision)
    }

    #[cfg(feature = "hub")]
    fn open_repository(id: String, revision: Option<&str>) -> Result<Self, FilesError> {
        let Some(revision) = revision else {
            return Err(FilesError::NoRevision { id });
        };
        let repository = Repository::new(&id, revision)?;
        Ok(Self {
            name: id,
            place: Place::Repository(Box::new(repository)),
        })
    }

    #[cfg(not(feature = "hub"))]
    fn open_repository(id: String, _: Option<&str>) -> Result<Self, FilesError> {
        Err(FilesError::NoHub { id })
    }

    /// Returns the path of the first of `names` (`folder/file`) that exists, downloading it if
    /// necessary.
    ///
    /// # Errors
    /// [`FilesError::Missing`] if none exists; [`FilesError::Offline`] and [`FilesError::Download`]
    /// from a repository.
    pub fn get(&self, names: &[&str], progress: &dyn Progress) -> Result<PathBuf, FilesError> {
        let found = match &self.place {
            Place::Folder(folder) => in_folder(folder, names).map(|(path, _)| path),
            #[cfg(feature = "hub")]
            Place::Repository(repository) => repository.get(names, progress)?,
        };
        #[cfg(not(feature = "hub"))]
        let _ = progress;
        found.ok_or_else(|| FilesError::Missing {
            place: self.name.clone(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// Checks the first of `names` that is on this machine; `None` if none is. Sends no request.
    ///
    /// # Errors
    /// [`FilesError::Read`].
    pub fn check(&self, names: &[&str]) -> Result<Option<CheckedFile>, FilesError> {
        match &self.place {
            Place::Folder(folder) => in_folder(folder, names)
                .map(|(path, name)| {
                    let bytes = std::fs::metadata(&path)
                        .map_err(|source| FilesError::Read {
                            path: path.clone(),
                            cause: source,
                        })?
                        .len();
                    Ok(CheckedFile {
                        name: name.to_owned(),
                        path,
                        bytes,
                        state: Integrity::Unknown,
                    })
                })
                .transpose(),
            #[cfg(feature = "hub")]
            Place::Repository(repository) => names
                .iter()
                .find_map(|name| Some((repository.cached(&[name])?, name)))
                .map(|(path, name)| repository.check(&path, name))
                .transpose(),
        }
    }

    /// Returns true if one of `names` is on this machine.
    #[must_use]
    pub fn has(&self, names: &[&str]) -> bool {
        match &self.place {
            Place::Folder(folder) => in_folder(folder, names).is_some(),
            #[cfg(feature = "hub")]
            Place::Repository(repository) => repository.cached(names).is_some(),
        }
    }
}

fn in_folder<'n>(folder: &Path, names: &[&'n str]) -> Option<(PathBuf, &'n str)> {
    names
        .iter()
        .map(|name| (folder.join(name), *name))
        .find(|(path, _)| path.is_file())
}

/// Returns true if `text` is a repository id, `owner/name`.
fn is_id(text: &str) -> bool {
    let part = |part: &str| {
        let first = part.chars().next();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        first.is_some_and(|c| c.is_ascii_alphanumeric()) && part.chars().all(allowed)
    };
    matches!(text.split_once('/'), Some((owner, name)) if part(owner) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_folder_gives_the_first_file_that_it_has() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("unet")).unwrap();
        std::fs::write(folder.path().join("unet/b.bin"), "x").unwrap();
        let place = folder.path().to_str().unwrap();
        let files = ModelFiles::open(place, None).unwrap();
        let found = files
            .get(&["unet/a.safetensors", "unet/b.bin"], &Silent)
            .unwrap();
        assert_eq!(found, folder.path().join("unet/b.bin"));
        let error = files
            .get(&["vae/a", "vae/b"], &Silent)
            .unwrap_err()
            .to_string();
        assert!(error.contains(place), "{error}");
        assert!(error.ends_with("has no vae/a or vae/b"), "{error}");
        // A folder is not accepted as a file.
        assert!(files.get(&["unet"], &Silent).is_err());
    }

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["CompVis/stable-diffusion-v1-4", "a/b.c", "0/x_y"] {
            assert!(is_id(id), "{id}");
        }
        for path in [
            "", "a", "/a", "a/", "./a", "../a", "a/b/c", "a/.b", "~/a", "a b/c",
        ] {
            assert!(!is_id(path), "{path}");
            let error = ModelFiles::open(path, None).unwrap_err().to_string();
            assert!(error.contains("is not a folder"), "{path}: {error}");
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn a_repository_needs_a_revision() {
        let error = ModelFiles::open("nobody/nothing", None).unwrap_err();
        assert!(matches!(error, FilesError::NoRevision { .. }), "{error}");
    }
}
