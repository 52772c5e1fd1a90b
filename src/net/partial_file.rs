//! Partial downloads on disk, and the record of where their bytes came from.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::TransferError;
use crate::atomic;

/// Address and version of the bytes received so far. A download is resumed only if both match.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Address of the file.
    pub(crate) url: String,
    /// Strong `ETag`, or else `Last-Modified`.
    pub(crate) validator: Option<String>,
}

/// An unfinished download: `NAME.part` with the bytes and `NAME.part.json` with the [`Origin`],
/// beside the final path.
pub(crate) struct PartialFile {
    path: PathBuf,
    origin: PathBuf,
}

impl PartialFile {
    /// Names the partial file of `path`; touches no file.
    pub(crate) fn of(path: &Path) -> Self {
        let with = |ending: &str| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            path.with_file_name(name)
        };
        Self {
            path: with(".part"),
            origin: with(".part.json"),
        }
    }

    /// Returns the path of the received bytes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of received bytes.
    pub(crate) fn len(&self) -> Result<u64, TransferError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(TransferError::io(&self.path)(error)),
        }
    }

    /// Returns the origin of the received bytes; `None` if there is no readable record of it.
    pub(crate) fn origin(&self) -> Result<Option<Origin>, TransferError> {
        match fs::read(&self.origin) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TransferError::io(&self.origin)(error)),
        }
    }

    /// Discards the received bytes. The origin is removed first, because bytes without an origin
    /// are resumed only under a checksum; the other order could pair old bytes with a new origin.
    pub(crate) fn restart(&self) -> Result<(), TransferError> {
        self.remove_origin()?;
        let failed = TransferError::io(&self.path);
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file.set_len(0).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Creates an empty file and records `origin`.
    pub(crate) fn create(&self, origin: &Origin) -> Result<(), TransferError> {
        File::create(&self.path).map_err(TransferError::io(&self.path))?;
        self.write_origin(origin)
    }

    /// Turns `file`, which is shorter than it should be, into the beginning of its own download.
    pub(crate) fn adopt(&self, file: &Path, origin: Option<&Origin>) -> Result<(), TransferError> {
        self.remove_origin()?;
        fs::rename(file, &self.path).map_err(TransferError::io(file))?;
        origin.map_or(Ok(()), |origin| self.write_origin(origin))
    }

    /// Makes the received bytes durable. Called before the checksum is computed, so that the bytes
    /// that were checked are the bytes that survive a crash.
    pub(crate) fn sync(&self) -> Result<(), TransferError> {
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(TransferError::io(&self.path))
    }

    /// Renames the file, which [`PartialFile::sync`] has made durable, to its final path.
    pub(crate) fn publish(&self, path: &Path) -> Result<(), TransferError> {
        fs::rename(&self.path, path).map_err(TransferError::io(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        atomic::sync_folder(folder).map_err(TransferError::io(folder))?;
        self.remove_origin()
    }

    /// Removes the received bytes and the origin.
    pub(crate) fn remove(&self) -> Result<(), TransferError> {
        atomic::remove(&self.path).map_err(TransferError::io(&self.path))?;
        self.remove_origin()
    }

    fn remove_origin(&self) -> Result<(), TransferError> {
        atomic::remove(&self.origin).map_err(TransferError::io(&self.origin))
    }

    fn write_origin(&self, origin: &Origin) -> Result<(), TransferError> {
        let failed = TransferError::io(&self.origin);
        let text = serde_json::to_string_pretty(origin).map_err(|error| failed(error.into()))?;
        atomic::write_elsewhere(&self.origin, text.as_bytes()).map_err(failed)
    }
}
