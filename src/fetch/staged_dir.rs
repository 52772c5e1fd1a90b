//! Folders of images that are being unpacked: they have a hidden name until they are complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::archive::ArchiveError;
use super::error::FetchError;
use super::record::{self, FolderRecord, IN_FOLDER, hidden};
use crate::atomic;
use crate::hex;

/// A folder to create from an archive.
pub(super) struct TargetDir {
    /// Name of the split in the archive.
    pub(super) split: String,
    /// Expected number of images.
    pub(super) images: usize,
    /// Folder that receives the images.
    pub(super) folder: StagedDir,
}

/// A folder that is being filled.
pub(super) struct StagedDir {
    partial: PathBuf,
    target: PathBuf,
    /// Names and SHA-256 of the written files.
    sums: Mutex<Vec<(String, String)>>,
}

impl StagedDir {
    /// Creates an empty folder; removes what an interrupted process left.
    pub(super) fn begin(target: &Path) -> Result<Self, FetchError> {
        let partial = hidden(target, ".partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(FetchError::io(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(FetchError::io(&partial))?;
        Ok(Self {
            partial,
            target: target.to_owned(),
            sums: Mutex::default(),
        })
    }

    /// Writes a file; may be called from several threads. `name` must not come from an archive
    /// unchecked.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.partial.join(name);
        fs::write(&path, bytes).map_err(FetchError::io(&path))?;
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.push((name.to_owned(), hex::encode(&Sha256::digest(bytes))));
        Ok(())
    }

    /// Returns the number of written files.
    pub(super) fn len(&self) -> usize {
        self.sums
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Removes the folder. If that fails, the next [`StagedDir::begin`] removes it.
    pub(super) fn abandon(self) {
        drop(fs::remove_dir_all(&self.partial));
    }

    /// Checks that every name was written once, and renames the folder to its final path.
    pub(super) fn finish(self, item: &str, archive_sha256: &str) -> Result<(), ArchiveError> {
        let mut sums = self
            .sums
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        sums.sort_unstable();
        let twice = sums.windows(2).find_map(|pair| match pair {
            [(a, _), (b, _)] if a == b => Some(a),
            _ => None,
        });
        if let Some(name) = twice {
            return Err(ArchiveError::Invalid(format!("holds {name} twice")));
        }
        let about = FolderRecord {
            item: item.to_owned(),
            archive: archive_sha256.to_owned(),
            files: sums.len(),
            digest: record::digest(&sums),
        };
        record::write(&self.partial.join(IN_FOLDER), &about)?;
        // Before the rename, which declares the folder complete, and before the archive is removed.
        atomic::sync_tree(&self.partial).map_err(FetchError::io(&self.partial))?;
        fs::rename(&self.partial, &self.target).map_err(FetchError::io(&self.target))?;
        let folder = self.target.parent().unwrap_or(Path::new("."));
        atomic::sync_folder(folder).map_err(FetchError::io(folder))?;
        Ok(())
    }
}
