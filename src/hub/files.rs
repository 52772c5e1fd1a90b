//! The files of a model that has several: from a folder, or from the Hugging Face hub into its
//! usual cache.

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

/// Error of locating a file of a model.
#[derive(Debug, Error)]
pub enum FilesError {
    /// There is no such folder, and it is no id of the hub either.
    #[error(
        "{place} is no folder: expected one, or a repository of the hub such as \
         \"CompVis/stable-diffusion-v1-4\""
    )]
    NoFolder {
        /// The given value.
        place: String,
    },
    /// The folder or repository lacks a file.
    #[error("{place} has no {}", names.join(" or "))]
    Missing {
        /// The folder or repository.
        place: String,
        /// The names that would have done.
        names: Vec<String>,
    },
    /// A repository without the revision that is meant.
    #[error(
        "{id} is a repository of the hub: expected `revision`, its commit (or a tag or branch, which \
         can move)"
    )]
    NoRevision {
        /// The repository.
        id: String,
    },
    /// The hub may not be asked, and the cache does not have the file.
    #[error("{name} of {id} is not in the cache, and {by} forbids to download it")]
    Offline {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// The option or variable that disables the network.
        by: Offline,
    },
    /// A file cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The hub was asked in vain.
    #[error(
        "failed to download {name} of {id}: {message} (there is no folder {id} either; a copy of the \
         repository in a folder needs no network)"
    )]
    Download {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// The underlying error.
        message: String,
    },
    /// The program was built without the hub.
    #[error("{id} is no folder, and this program was built without the feature `hub`")]
    NoHub {
        /// The given value.
        id: String,
    },
}

/// Result of the check of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// They are what the hub stated when they were downloaded.
    Intact,
    /// Nobody stated anything: a file of a folder, or of a hub that names files by something else.
    Unknown,
    /// They have changed.
    Damaged {
        /// The digest that the hub stated.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
}

/// A file that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFile {
    /// Its name in the repository.
    pub name: String,
    /// Path of the file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Result of its check.
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
    /// Opens the folder `place`, or where there is none, the repository of that id at `revision`.
    /// Nothing is downloaded yet.
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

    /// The path of the first of `names` (`folder/file`) that there is; `watch` sees a download.
    ///
    /// # Errors
    /// [`FilesError::Missing`] when there is none; [`FilesError::Offline`] and
    /// [`FilesError::Download`] from a repository.
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

    /// Checks the bytes of the first of `names` that is on this machine; `None` when there is none.
    /// Nobody is asked.
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
                            source,
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

    /// Returns true if the first of `names` is present locally.
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

/// Returns true if a text has the form `owner/name` that the hub permits.
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
        // A folder is no file.
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
            assert!(error.contains("is no folder"), "{path}: {error}");
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn a_repository_needs_a_revision() {
        let error = ModelFiles::open("nobody/nothing", None).unwrap_err();
        assert!(matches!(error, FilesError::NoRevision { .. }), "{error}");
    }
}
