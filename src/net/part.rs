//! What has arrived of a file, and where it came from.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::TransferError;
use crate::atomic;

/// Where a download comes from, so that it is only continued with more of the same.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The address.
    pub(crate) url: String,
    /// A strong `ETag`, or else `Last-Modified`.
    pub(crate) validator: Option<String>,
}

/// The files of a download under way, beside the place where its file will be.
pub(crate) struct Part {
    path: PathBuf,
    origin: PathBuf,
}

impl Part {
    /// The part of `path`.
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

    /// What has arrived.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that have arrived.
    pub(crate) fn len(&self) -> Result<u64, TransferError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(TransferError::io(&self.path)(error)),
        }
    }

    /// Where it came from; `None` if nobody knows.
    pub(crate) fn origin(&self) -> Result<Option<Origin>, TransferError> {
        match fs::read(&self.origin) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TransferError::io(&self.origin)(error)),
        }
    }

    /// Forgets what has arrived. The origin goes first: bytes without one are never continued unchecked.
    pub(crate) fn restart(&self) -> Result<(), TransferError> {
        self.forget_origin()?;
        let failed = TransferError::io(&self.path);
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file.set_len(0).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Begins with nothing from `origin`.
    pub(crate) fn begin(&self, origin: &Origin) -> Result<(), TransferError> {
        File::create(&self.path).map_err(TransferError::io(&self.path))?;
        self.write_origin(origin)
    }

    /// Makes a file that turned out to be too short the beginning of its own download.
    pub(crate) fn take(&self, file: &Path, origin: Option<&Origin>) -> Result<(), TransferError> {
        self.forget_origin()?;
        fs::rename(file, &self.path).map_err(TransferError::io(file))?;
        origin.map_or(Ok(()), |origin| self.write_origin(origin))
    }

    /// Makes what has arrived durable. Before it is checked: what is checked shall be what stays.
    pub(crate) fn sync(&self) -> Result<(), TransferError> {
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(TransferError::io(&self.path))
    }

    /// Puts what has arrived, and been synced, into its place.
    pub(crate) fn place(&self, path: &Path) -> Result<(), TransferError> {
        fs::rename(&self.path, path).map_err(TransferError::io(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        atomic::sync_folder(folder).map_err(TransferError::io(folder))?;
        self.forget_origin()
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<(), TransferError> {
        atomic::remove(&self.path).map_err(TransferError::io(&self.path))?;
        self.forget_origin()
    }

    fn forget_origin(&self) -> Result<(), TransferError> {
        atomic::remove(&self.origin).map_err(TransferError::io(&self.origin))
    }

    fn write_origin(&self, origin: &Origin) -> Result<(), TransferError> {
        let failed = TransferError::io(&self.origin);
        let text = serde_json::to_string_pretty(origin).map_err(|error| failed(error.into()))?;
        atomic::write(&self.origin, text.as_bytes()).map_err(failed)
    }
}
