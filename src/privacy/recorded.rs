//! The ledger of a run that another run extends: its noise, its charges, and its private images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::earlier::{EarlierRun, LEDGER, noise_of, not_a_ledger};
use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::ledger::{FINGERPRINT, VERSION};
use super::private_folder::PrivateFolder;
use super::sensitive::Sensitive;

/// The record of a run in its ledger, for a run that extends it.
#[derive(Debug, Clone)]
pub struct RecordedRun {
    /// The ledger.
    path: PathBuf,
    /// The private folder beside it.
    private: PathBuf,
    noise_multiplier: f64,
    planned: u32,
    released: u32,
    charges: Vec<EarlierRun>,
}

impl RecordedRun {
    /// Reads the ledger in `folder`, whose private folder is `private`; `None` if there is none.
    ///
    /// The charges of a finished run must agree with the copy in the private folder. Beyond that,
    /// lines are not checked: see [`EarlierRun::read`].
    ///
    /// # Errors
    /// Returns [`PrivacyError::LedgerVersion`] for a ledger of an earlier version,
    /// [`PrivacyError::LedgerLine`] if the file is not a ledger, [`PrivacyError::PrivateData`] if
    /// the copy of a finished run differs or is missing, and [`PrivacyError::Io`].
    pub fn read(folder: &Path, private: &Path) -> Result<Option<Self>, PrivacyError> {
        let path = folder.join(LEDGER);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
                _ => return Err(PrivacyError::io("read", &path)(error)),
            },
        };
        let header: Value = text
            .split_once('\n')
            .and_then(|(header, _)| serde_json::from_str(header).ok())
            .ok_or_else(|| not_a_ledger(&path))?;
        let version = header.get("version").and_then(Value::as_u64);
        if version.is_some_and(|version| version < u64::from(VERSION)) {
            return Err(PrivacyError::LedgerVersion { path });
        }
        let drawn = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && line.starts_with("{\"record\":\"drawn\","));
        let released = u32::try_from(drawn.count()).unwrap_or(u32::MAX);
        let known: Option<Self> = (|| {
            Some(Self {
                path: path.clone(),
                private: private.to_owned(),
                noise_multiplier: *noise_of(&header)?.last()?,
                planned: header.get("planned_releases")?.as_u64()?.try_into().ok()?,
                released,
                charges: Vec::new(),
            })
        })();
        let mut run = known.ok_or_else(|| not_a_ledger(&path))?;
        run.charges = EarlierRun::charges_in(&path, &text)?;
        // The copy of an unfinished run may lack the last lines.
        if run.is_complete() {
            run.check_copy(&text)?;
        }
        Ok(Some(run))
    }

    /// Returns σ of the last planned release, also where the configuration has ε instead; 0 in a
    /// run without noise.
    #[must_use]
    pub fn noise_multiplier(&self) -> f64 {
        self.noise_multiplier
    }

    /// Returns the number of planned releases.
    #[must_use]
    pub fn planned(&self) -> u32 {
        self.planned
    }

    /// Returns the number of releases whose histogram was drawn.
    #[must_use]
    pub fn released(&self) -> u32 {
        self.released
    }

    /// Returns true if all planned releases are made.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.released == self.planned
    }

    /// Returns the charges of the run and of those that it carries itself; none without noise.
    #[must_use]
    pub fn charges(&self) -> &[EarlierRun] {
        &self.charges
    }

    /// Checks that the private images are those of the run. Only then is the sum of the charges a
    /// claim about one data set: the fingerprint says nothing about *how* two data sets differ, so
    /// an image of the earlier one may be present under another content in the later one.
    ///
    /// # Errors
    /// Returns [`PrivacyError::PrivateData`] if they differ or the fingerprint is missing.
    pub fn check_data(&self, data: &Sensitive<Fingerprint>) -> Result<(), PrivacyError> {
        let private = PrivateFolder::create(self.private.clone())?;
        let message = match private.fingerprint_matches(FINGERPRINT, data)? {
            Some(true) => return Ok(()),
            Some(false) => format!(
                "the private images (their classes and sizes included) differ from those with \
                 which {} was started, so its charges and new ones are no claim about one data \
                 set: restore the images and the keys of [data], or start another run by `dpsyn \
                 run`",
                self.path.display()
            ),
            None => format!(
                "{} is missing, so dpsyn cannot check that the private images are those of {}: \
                 restore it from a copy",
                self.private.join(FINGERPRINT).display(),
                self.path.display()
            ),
        };
        Err(PrivacyError::PrivateData { message })
    }

    /// Checks that the private folder has the same `ledger`: an edited one may claim less than was
    /// released.
    fn check_copy(&self, ledger: &str) -> Result<(), PrivacyError> {
        let copy = self.private.join(LEDGER);
        match fs::read(&copy) {
            Ok(bytes) if bytes == ledger.as_bytes() => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PrivacyError::io("read", &copy)(error));
            }
            _ => {}
        }
        Err(PrivacyError::PrivateData {
            message: format!(
                "{} differs from its copy {}, or the copy is missing: restore the result folder \
                 with its private folder",
                self.path.display(),
                copy.display()
            ),
        })
    }
}
