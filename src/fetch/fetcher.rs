//! Installs items of the catalogue.

use std::fs;
use std::path::{Path, PathBuf};

use super::archive::ArchiveError;
use super::catalogue::{Content, Folder, Hub, Item, Layout, Remote};
use super::download::{Downloader, checksum, file_name, mark_incomplete};
use super::error::FetchError;
use super::lock::Lock;
use super::mirrors::Mirrors;
use super::record::{self, Basis, FileRecord, FolderRecord, IN_FOLDER};
use super::staged_dir::{StagedDir, TargetDir};
use super::{camelyon17, cats, cifar10};
use crate::hub::ModelFiles;
use crate::net::{Offline, RetryPolicy};
use crate::progress::Progress;

/// Options of fetching.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder that contains `data/` and `weights/`; empty for the current one.
    pub root: PathBuf,
    /// Keeps archives after their folders are created.
    pub keep_archives: bool,
    /// Mirrors that are tried first.
    pub mirrors: Mirrors,
    /// Number of attempts and time limits.
    pub retry_policy: RetryPolicy,
    /// Setting that disables downloads, if any.
    pub offline: Option<Offline>,
}

/// Installs items of a catalogue.
pub struct Fetcher<'a> {
    options: &'a Options,
    progress: &'a dyn Progress,
}

/// Installation state of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallState {
    /// Everything is installed.
    Installed,
    /// Some files or folders are installed.
    Partial,
    /// Nothing is installed.
    Missing,
}

impl<'a> Fetcher<'a> {
    /// Creates a fetcher that reports to `progress`.
    #[must_use]
    pub fn new(options: &'a Options, progress: &'a dyn Progress) -> Self {
        Self { options, progress }
    }

    /// Returns the location of a path of the catalogue.
    #[must_use]
    pub fn place(&self, to: &Path) -> PathBuf {
        self.options.root.join(to)
    }

    /// Installs an item. Installed files are not fetched again, and with `splits` only missing
    /// folders of these splits cause a download. Once an archive is read, all missing folders are
    /// created from it, because the archive would have to be downloaded again for a later one.
    ///
    /// # Errors
    /// [`FetchError`]. Received bytes are kept, and another call resumes.
    pub fn fetch(&self, item: &Item, splits: Option<&[&str]>) -> Result<(), FetchError> {
        let splits = splits.filter(|splits| !splits.is_empty());
        match &item.content {
            Content::File(remote) => {
                let path = self.place(&remote.to);
                let _lock = Lock::take(&path)?;
                self.file(item, remote, &path).map(drop)
            }
            Content::Hub(hub) => self.hub(hub),
            Content::Archive {
                remote,
                layout,
                unpacked,
                ..
            } => {
                let path = self.place(&remote.to);
                let _lock = Lock::take(&path)?;
                let missing = self.missing(item, splits)?;
                if !missing.is_empty() {
                    let digest = self.file(item, remote, &path)?;
                    self.unpack_archive(item, &missing, (&path, &digest), *layout, *unpacked)?;
                }
                self.cleanup(&path)
            }
            Content::Manual {
                page, to, unpacked, ..
            } => {
                let path = self.place(to);
                let _lock = Lock::take(&path)?;
                let missing = self.missing(item, splits)?;
                if missing.is_empty() {
                    return Ok(());
                }
                if !path.is_file() {
                    return Err(FetchError::Manual {
                        name: item.name.clone(),
                        page: page.clone(),
                        to: path,
                    });
                }
                let digest = checksum(&path, &file_name(&path), self.progress)?;
                // The user saved this archive, so it is not removed.
                self.unpack(item, &missing, &digest, |wanted| {
                    cats::unpack(&path, *unpacked, wanted, self.progress)
                })
                .map_err(|problem| problem.about(&path))
            }
        }
    }

    /// Creates folders from a downloaded archive; `digest` is its SHA-256.
    fn unpack_archive(
        &self,
        item: &Item,
        missing: &[&Folder],
        (path, digest): (&Path, &str),
        layout: Layout,
        unpacked: u64,
    ) -> Result<(), FetchError> {
        let unpack = match layout {
            Layout::Cifar10 => cifar10::unpack,
            Layout::Camelyon17 => camelyon17::unpack,
        };
        let result = self.unpack(item, missing, digest, |wanted| {
            unpack(path, unpacked, wanted, self.progress)
        });
        if let Err(ArchiveError::Truncated) = result {
            // The next send asks for the rest.
            mark_incomplete(path)?;
        }
        result.map_err(|problem| match problem {
            ArchiveError::Invalid(message) => FetchError::archive(
                path,
                format!("{message} (remove it, then run the same command again)"),
            ),
            other => other.about(path),
        })
    }

    /// Returns the folders to create: none if those of `splits` exist, otherwise all that are
    /// missing.
    fn missing<'f>(
        &self,
        item: &'f Item,
        splits: Option<&[&str]>,
    ) -> Result<Vec<&'f Folder>, FetchError> {
        let mut lacking = false;
        for folder in item.folders() {
            let path = self.place(&folder.path);
            if splits.is_some_and(|splits| !splits.contains(&folder.split.as_str())) {
                continue;
            }
            if !path.exists() {
                lacking = true;
                continue;
            }
            // A folder with a record is complete; for others only the number of files is known.
            let ours: Option<FolderRecord> = record::read(&path.join(IN_FOLDER))?;
            let there = match ours {
                Some(record) => record.files,
                None => record::names(&path)?.len(),
            };
            if there < folder.images {
                return Err(FetchError::Occupied {
                    path,
                    message: format!("has {there} files, expected {}", folder.images),
                });
            }
            self.progress
                .message(&format!("{} is installed", path.display()));
        }
        let absent = |folder: &&Folder| lacking && !self.place(&folder.path).exists();
        Ok(item.folders().iter().filter(absent).collect())
    }

    /// Creates folders from an archive.
    fn unpack(
        &self,
        item: &Item,
        missing: &[&Folder],
        digest: &str,
        unpack: impl FnOnce(&[TargetDir]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mut wanted = Vec::new();
        for folder in missing {
            wanted.push(TargetDir {
                split: folder.split.clone(),
                images: folder.images,
                folder: StagedDir::begin(&self.place(&folder.path))?,
            });
        }
        if let Err(problem) = unpack(&wanted) {
            for wanted in wanted {
                wanted.folder.abandon();
            }
            return Err(problem);
        }
        for (wanted, folder) in wanted.into_iter().zip(missing) {
            let count = folder.images;
            wanted.folder.finish(&item.name, digest)?;
            let path = self.place(&folder.path);
            let line = format!("{}: {count} images", path.display());
            self.progress.message(&line);
        }
        Ok(())
    }

    /// Removes an archive that was downloaded and is no longer needed; archives that the user saved
    /// are kept.
    fn cleanup(&self, path: &Path) -> Result<(), FetchError> {
        let record = record::of_file(path);
        let known: Option<FileRecord> = record::read(&record)?;
        let downloaded = known.is_some_and(|known| known.url.is_some());
        if self.options.keep_archives || !downloaded || !path.exists() {
            return Ok(());
        }
        record::remove(path)?;
        record::remove(&record)
    }

    /// Installs a file and returns its SHA-256.
    fn file(&self, item: &Item, remote: &Remote, path: &Path) -> Result<String, FetchError> {
        if path.exists() {
            if let Some(digest) = self.inspect(item, remote, path)? {
                self.progress
                    .message(&format!("{} is installed", path.display()));
                return Ok(digest);
            }
            self.progress.message(&format!(
                "{} is incomplete; downloading the rest",
                path.display()
            ));
            mark_incomplete(path)?;
        }
        if let Some(by) = self.options.offline {
            return Err(FetchError::Offline {
                path: path.to_owned(),
                by,
            });
        }
        Downloader::new(
            &self.options.mirrors,
            self.options.retry_policy,
            self.progress,
        )?
        .download(&item.name, remote, path)?;
        let known: Option<FileRecord> = record::read(&record::of_file(path))?;
        match known {
            Some(known) => {
                let why = match known.basis {
                    Basis::Catalogue => "as published",
                    _ => "none is published; --verify will expect this one",
                };
                self.progress.message(&format!(
                    "{}: {} bytes, SHA-256 {} ({why})",
                    path.display(),
                    known.size,
                    known.sha256
                ));
                Ok(known.sha256)
            }
            None => checksum(path, &file_name(path), self.progress),
        }
    }

    /// Returns the SHA-256 of an existing file if it is the right one; `None` if it is incomplete.
    fn inspect(
        &self,
        item: &Item,
        remote: &Remote,
        path: &Path,
    ) -> Result<Option<String>, FetchError> {
        let size = fs::metadata(path).map_err(FetchError::io(path))?.len();
        let occupied = |message: String| FetchError::Occupied {
            path: path.to_owned(),
            message,
        };
        let known: Option<FileRecord> = record::read(&record::of_file(path))?;
        let expected_size = remote.size.or(known.as_ref().map(|known| known.size));
        match expected_size {
            Some(expected) if size < expected => return Ok(None),
            Some(expected) if size > expected => {
                return Err(occupied(format!("has {size} bytes, expected {expected}")));
            }
            _ => {}
        }
        let published = remote.sha256.as_ref();
        // The file was checked when it was downloaded; only `--verify` reads it again.
        if let Some(known) = known
            && known.size == size
            && published.is_none_or(|published| *published == known.sha256)
        {
            return Ok(Some(known.sha256));
        }
        let found = checksum(path, &file_name(path), self.progress)?;
        if let Some(published) = published
            && *published != found
        {
            return Err(occupied(format!(
                "has the SHA-256 {found}, expected {published}"
            )));
        }
        let basis = match published {
            Some(_) => Basis::Catalogue,
            None => Basis::FoundHere,
        };
        let file = FileRecord {
            item: item.name.clone(),
            url: None,
            size,
            sha256: found.clone(),
            basis,
            validator: None,
        };
        record::write(&record::of_file(path), &file)?;
        Ok(Some(found))
    }

    fn hub(&self, hub: &Hub) -> Result<(), FetchError> {
        let files = ModelFiles::open(&hub.repo, Some(&hub.revision))?;
        for names in &hub.files {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let here = files.has(&names);
            let path = files.get(&names, self.progress)?;
            if !here {
                self.progress.message(&format!("{}", path.display()));
            }
        }
        self.progress.message(&format!("{} is installed", hub.repo));
        Ok(())
    }

    /// Returns the installation state of an item by the existence of its paths, without reading
    /// them.
    #[must_use]
    pub fn install_state(&self, item: &Item) -> InstallState {
        let exists = |path: &Path| self.place(path).exists();
        let (here, all) = match &item.content {
            Content::File(remote) => (usize::from(exists(&remote.to)), 1),
            Content::Archive { folders, .. } | Content::Manual { folders, .. } => {
                let here = folders.iter().filter(|folder| exists(&folder.path));
                (here.count(), folders.len())
            }
            Content::Hub(hub) => {
                // Without a cache folder, no file is cached.
                let files = ModelFiles::open(&hub.repo, Some(&hub.revision)).ok();
                let here = hub.files.iter().filter(|names| {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    files.as_ref().is_some_and(|files| files.has(&names))
                });
                (here.count(), hub.files.len())
            }
        };
        match here {
            0 => InstallState::Missing,
            here if here == all => InstallState::Installed,
            _ => InstallState::Partial,
        }
    }

    pub(super) fn progress(&self) -> &dyn Progress {
        self.progress
    }
}
