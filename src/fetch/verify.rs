//! Verifies installed files and folders against the catalogue and the records of their downloads.

use std::fs;
use std::path::{Path, PathBuf};

use super::catalogue::{Content, Folder, Hub, Item, Remote};
use super::download::{checksum, file_name};
use super::error::FetchError;
use super::fetcher::Fetcher;
use super::record::{self, FileRecord, FolderRecord, IN_FOLDER};
use crate::hub::{FilesError, Integrity, ModelFiles};
use crate::progress::Unit;

/// Result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Matches the expectation; the text names its source.
    Intact(String),
    /// Exists, but no checksum is known.
    Unknown(String),
    /// Does not exist.
    Missing,
    /// Differs from the expectation; the text describes both.
    Damaged(String),
}

/// Verification of a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path of the file or folder.
    pub path: PathBuf,
    /// Result of its verification.
    pub verdict: Verdict,
}

impl Fetcher<'_> {
    /// Reads and verifies all files of an item. Sends no request.
    ///
    /// # Errors
    /// [`FetchError::Io`] or [`FetchError::Files`] when something cannot be read.
    pub fn verify(&self, item: &Item) -> Result<Vec<Finding>, FetchError> {
        match &item.content {
            Content::File(remote) => Ok(vec![self.verify_file(remote)?]),
            Content::Archive {
                remote, folders, ..
            } => {
                let mut findings = self.verify_folders(folders)?;
                // The archive is removed after its folders are created, so its absence is no
                // finding.
                let archive = self.verify_file(remote)?;
                findings.extend(Some(archive).filter(|a| a.verdict != Verdict::Missing));
                Ok(findings)
            }
            Content::Manual { folders, .. } => self.verify_folders(folders),
            Content::Hub(hub) => self.verify_hub(hub),
        }
    }

    fn verify_file(&self, remote: &Remote) -> Result<Finding, FetchError> {
        let path = self.place(&remote.to);
        let verdict = match path.exists() {
            true => self.check_file(remote, &path)?,
            false => Verdict::Missing,
        };
        Ok(Finding { path, verdict })
    }

    fn check_file(&self, remote: &Remote, path: &Path) -> Result<Verdict, FetchError> {
        let size = fs::metadata(path).map_err(FetchError::io(path))?.len();
        let known: Option<FileRecord> = record::read(&record::of_file(path))?;
        let expected_size = remote.size.or(known.as_ref().map(|known| known.size));
        if let Some(expected) = expected_size
            && expected != size
        {
            return Ok(Verdict::Damaged(format!(
                "has {size} bytes, expected {expected}"
            )));
        }
        let found = checksum(path, &file_name(path), self.progress())?;
        let published = remote.sha256.as_ref();
        let expected = published.or(known.as_ref().map(|known| &known.sha256));
        Ok(match expected {
            Some(expected) if *expected != found => {
                Verdict::Damaged(format!("has the SHA-256 {found}, expected {expected}"))
            }
            Some(_) if published.is_some() => {
                Verdict::Intact("the SHA-256 is the published one".to_owned())
            }
            Some(_) => Verdict::Intact("the SHA-256 is that of the first download".to_owned()),
            None => Verdict::Unknown(format!(
                "SHA-256 {found}; none is published, and this program did not download the file"
            )),
        })
    }

    fn verify_folders(&self, folders: &[Folder]) -> Result<Vec<Finding>, FetchError> {
        folders
            .iter()
            .map(|folder| {
                let path = self.place(&folder.path);
                let verdict = match path.exists() {
                    true => self.check_folder(folder, &path)?,
                    false => Verdict::Missing,
                };
                Ok(Finding { path, verdict })
            })
            .collect()
    }

    fn check_folder(&self, folder: &Folder, path: &Path) -> Result<Verdict, FetchError> {
        let known: Option<FolderRecord> = record::read(&path.join(IN_FOLDER))?;
        let Some(known) = known else {
            let there = record::names(path)?.len();
            let expected = folder.images;
            return Ok(match there < expected {
                true => Verdict::Damaged(format!("has {there} files, expected {expected}")),
                false => Verdict::Unknown(format!(
                    "{there} files, not created by this program: no checksums are known"
                )),
            });
        };
        let names = record::names(path)?.len();
        if names != known.files {
            return Ok(Verdict::Damaged(format!(
                "has {names} files, expected {}",
                known.files
            )));
        }
        let progress = self.progress();
        progress.begin(&format!("checking {}", file_name(path)), None, Unit::Bytes);
        let result = record::digest_folder(path, &|bytes| progress.advance(bytes));
        progress.end();
        let (files, found) = result?;
        Ok(match found == known.digest {
            true => Verdict::Intact(format!("{files} files, unchanged")),
            false => Verdict::Damaged(format!(
                "its files have the digest {found}, expected {}: some have changed",
                known.digest
            )),
        })
    }

    fn verify_hub(&self, hub: &Hub) -> Result<Vec<Finding>, FetchError> {
        let files = match ModelFiles::open(&hub.repo, Some(&hub.revision)) {
            // A build without the feature `hub` cannot have downloaded any.
            Err(FilesError::NoHub { .. }) => return Ok(Vec::new()),
            files => files?,
        };
        let mut findings = Vec::new();
        for names in &hub.files {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let wanted = || Path::new(&hub.repo).join(names.first().copied().unwrap_or_default());
            findings.push(match files.check(&names)? {
                None => Finding {
                    path: wanted(),
                    verdict: Verdict::Missing,
                },
                Some(checked) => Finding {
                    path: checked.path,
                    verdict: match checked.state {
                        Integrity::Intact => {
                            Verdict::Intact("the digest is the one that the hub states".to_owned())
                        }
                        Integrity::Unknown => {
                            Verdict::Unknown("the hub states no digest of it".to_owned())
                        }
                        Integrity::Damaged { expected, found } => {
                            Verdict::Damaged(format!("has the digest {found}, expected {expected}"))
                        }
                    },
                },
            });
        }
        Ok(findings)
    }
}
