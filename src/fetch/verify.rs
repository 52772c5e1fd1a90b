//! Checking what is there against the catalogue and against what was written down when it came.

use std::fs;
use std::path::{Path, PathBuf};

use super::catalogue::{Content, Folder, Hub, Item, Remote};
use super::download::{checksum, file_name};
use super::error::FetchError;
use super::fetcher::Fetcher;
use super::record::{self, FileRecord, FolderRecord, IN_FOLDER};
use crate::hub::{FilesError, Integrity, ModelFiles};
use crate::progress::Unit;

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is what it should be; how that is known.
    Intact(String),
    /// It is there, and nobody can say what it should be.
    Unknown(String),
    /// It is not there.
    Missing,
    /// It is not what it should be; what was expected and what was found.
    Damaged(String),
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or folder.
    pub path: PathBuf,
    /// Result of the check.
    pub verdict: Verdict,
}

impl Fetcher<'_> {
    /// Looks closely at everything that an item makes. Nobody is asked.
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
                // An archive goes when its folders are made.
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
                "has {size} bytes where {expected} were expected"
            )));
        }
        let found = checksum(path, &file_name(path), self.progress())?;
        let published = remote.sha256.as_ref();
        let expected = published.or(known.as_ref().map(|known| &known.sha256));
        Ok(match expected {
            Some(expected) if *expected != found => Verdict::Damaged(format!(
                "has the SHA-256 {found} where {expected} was expected"
            )),
            Some(_) if published.is_some() => {
                Verdict::Intact("the SHA-256 is the published one".to_owned())
            }
            Some(_) => Verdict::Intact("the SHA-256 is that of the first download".to_owned()),
            None => Verdict::Unknown(format!(
                "SHA-256 {found}; nobody publishes one, and it was not fetched by this program"
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
                true => {
                    Verdict::Damaged(format!("has {there} files where {expected} were expected"))
                }
                false => Verdict::Unknown(format!(
                    "{there} files, not made by this program: nothing is known of their bytes"
                )),
            });
        };
        let names = record::names(path)?.len();
        if names != known.files {
            return Ok(Verdict::Damaged(format!(
                "has {names} files where {} were made",
                known.files
            )));
        }
        let progress = self.progress();
        progress.begin(&format!("checking {}", file_name(path)), None, Unit::Bytes);
        let result = record::digest_folder(path, &|bytes| progress.advance(bytes));
        progress.end();
        let (files, found) = result?;
        Ok(match found == known.digest {
            true => Verdict::Intact(format!("{files} files as they were made")),
            false => Verdict::Damaged(format!(
                "its files have the digest {found} where {} was expected: some have changed",
                known.digest
            )),
        })
    }

    fn verify_hub(&self, hub: &Hub) -> Result<Vec<Finding>, FetchError> {
        let files = match ModelFiles::open(&hub.repo, Some(&hub.revision)) {
            // This program can have fetched none.
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
                            Verdict::Intact("the digest is the one that the hub stated".to_owned())
                        }
                        Integrity::Unknown => {
                            Verdict::Unknown("the hub stated no digest of it".to_owned())
                        }
                        Integrity::Damaged { expected, found } => Verdict::Damaged(format!(
                            "has the digest {found} where {expected} was expected"
                        )),
                    },
                },
            });
        }
        Ok(findings)
    }
}
