//! Records of fetched files and folders, for later verification.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::FetchError;
use crate::atomic;
use crate::hex;
use crate::hub::sha256_watched;

/// Source of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Basis {
    /// The catalogue.
    Catalogue,
    /// The first download; none is published.
    FirstDownload,
    /// A file that existed already; none is published.
    FoundHere,
}

/// Record of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Item of the catalogue.
    pub(super) item: String,
    /// Address of the download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// Length in bytes.
    pub(super) size: u64,
    /// SHA-256 in hexadecimal.
    pub(super) sha256: String,
    /// Source of the checksum.
    pub(super) basis: Basis,
    /// Validator of this version on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) validator: Option<String>,
}

/// Record of a folder of images, stored in the folder under a hidden name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FolderRecord {
    /// Item of the catalogue.
    pub(super) item: String,
    /// SHA-256 of the archive.
    pub(super) archive: String,
    /// Number of files.
    pub(super) files: usize,
    /// SHA-256 of the output of `sha256sum *` in the folder, sorted by the bytes of the names.
    pub(super) digest: String,
}

/// Name of the record in a folder.
pub(super) const IN_FOLDER: &str = ".fetched.json";

/// Returns the path of the record of a file: beside it, hidden.
pub(super) fn of_file(path: &Path) -> PathBuf {
    hidden(path, ".fetched.json")
}

/// `folder/.name<ending>` for `folder/name`.
pub(super) fn hidden(path: &Path, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(ending);
    path.with_file_name(name)
}

/// Reads a record; `None` if it is absent or malformed, so that the file is checked again.
pub(super) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, FetchError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FetchError::Io {
            path: path.to_owned(),
            cause: source,
        }),
    }
}

/// Writes a record atomically.
pub(super) fn write(path: &Path, record: &impl Serialize) -> Result<(), FetchError> {
    let failed = FetchError::io(path);
    let text = serde_json::to_string_pretty(record).map_err(|error| failed(error.into()))?;
    atomic::write_elsewhere(path, text.as_bytes()).map_err(failed)
}

/// Removes a file that may be absent.
pub(super) fn remove(path: &Path) -> Result<(), FetchError> {
    atomic::remove(path).map_err(FetchError::io(path))
}

/// Returns the names of the files in a folder without hidden ones, sorted by their bytes.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, FetchError> {
    let failed = FetchError::io(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            names.push(name.into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the digest of a folder: see [`FolderRecord::digest`]. `sums` are sorted names and their
/// SHA-256.
pub(super) fn digest(sums: &[(String, String)]) -> String {
    let mut hasher = Sha256::new();
    for (name, sum) in sums {
        hasher.update(format!("{sum}  {name}\n"));
    }
    hex::encode(&hasher.finalize())
}

/// Reads all files of a folder; returns their number and digest. Calls `read` with the bytes so
/// far.
pub(super) fn digest_folder(
    folder: &Path,
    read: &(dyn Fn(u64) + Sync),
) -> Result<(usize, String), FetchError> {
    let names = names(folder)?;
    let done = AtomicU64::new(0);
    let sums = names
        .into_par_iter()
        .map(|name| {
            let path = folder.join(&name);
            let mut bytes = 0;
            let sum =
                sha256_watched(&path, &mut |done| bytes = done).map_err(FetchError::io(&path))?;
            read(bytes + done.fetch_add(bytes, Ordering::Relaxed));
            Ok((name, sum))
        })
        .collect::<Result<Vec<_>, FetchError>>()?;
    Ok((sums.len(), digest(&sums)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lies_beside_its_file_hidden() {
        assert_eq!(
            of_file(Path::new("weights/a.pt")),
            Path::new("weights/.a.pt.fetched.json")
        );
    }

    /// `printf a > a; printf b > b; sha256sum * | sha256sum`
    #[test]
    fn a_folder_s_digest_is_that_of_the_usual_tool() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".hidden"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let (files, digest) = digest_folder(folder.path(), &|_| {}).unwrap();
        assert_eq!(files, 2);
        assert_eq!(
            digest,
            "cb13f400dcb618e400d0f7d54f7cdb330d37a07272cb99a1016cda5830a10556"
        );
    }
}
