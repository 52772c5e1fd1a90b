//! `ledger.jsonl`: every charge, on disk before its noise is sampled.
//!
//! The file is public and append-only, with one JSON object per line:
//!
//! 1. the header: the terms of the run (mechanism, σ, k, T, δ, adjacency, unit, digest of the
//!    public configuration);
//! 2. `charge`, before the noise of an iteration is sampled, with the ε so far;
//! 3. `stored`, after the noisy histogram is at its final path, with its SHA-256; then the next
//!    `charge`.
//!
//! **Checks on opening.** Every line must equal, byte for byte, the line that this program writes
//! at that position: the present terms and the id of the run determine the header, and the header
//! and a number determine a charge. A ledger of other terms, an edited ledger, or one with a
//! missing, repeated or additional line is refused with the number of the line.
//!
//! **Torn last line.** A crash while appending leaves a last line without its newline. The newline
//! is part of the same write as the line, and a charge is handed out only after that write was
//! synced. No noise can therefore have been sampled against a torn charge, and a torn `stored`
//! line contains nothing that the stored file does not. Either may be cut off, provided that it is
//! a prefix of the line that was due. A *complete* charge always stands, even if the crash came
//! before the sync returned.
//!
//! **No second sample for a published histogram.** A charge without its `stored` line is handed
//! out again by the next process (the first sample never left its process; see `mechanism`). A
//! charge with its `stored` line is not, even if the histogram file no longer exists: a user who
//! deleted an unwelcome histogram has seen it.
//!
//! **One process.** The open ledger is locked. The operating system releases the lock when the
//! process ends, in whichever way it ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::accountant::Adjacency;
use super::charge::Charge;
use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::histogram::NoisyHistogram;
use super::lattice::LATTICE_BITS;
use super::private_folder::PrivateFolder;
use super::rounding::ShownEpsilon;
use super::sensitive::Sensitive;
use super::settings::{ResolvedPrivacy, Unit};
use crate::{atomic, hex, locking};

/// File name of the ledger in the result folder.
const LEDGER: &str = "ledger.jsonl";

/// File name of the fingerprint in the private folder.
const FINGERPRINT: &str = "fingerprint";

/// The bytes with which every header begins.
const TITLE: &str = "{\"ledger\":\"dpsyn privacy ledger\",\"version\":1,";

#[derive(Serialize)]
struct Header<'a> {
    ledger: &'static str,
    version: u32,
    run_id: &'a str,
    mechanism: &'static str,
    noise_multiplier: f64,
    nearest_neighbors: u32,
    lattice_bits: u32,
    lattice_sigma: Option<String>,
    planned_releases: u32,
    delta: f64,
    adjacency: Adjacency,
    unit: Unit,
    noise: &'static str,
    non_private: Option<&'static str>,
    config_sha256: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum Record<'a> {
    Charge {
        iteration: u32,
        release: &'static str,
        releases_so_far: u32,
        epsilon_so_far: ShownEpsilon,
        delta: f64,
        adjacency: Adjacency,
        unit: Unit,
    },
    Stored {
        iteration: u32,
        sha256: &'a str,
    },
}

/// The ledger of a run: open, locked and validated.
pub struct Ledger {
    file: File,
    path: PathBuf,
    privacy: ResolvedPrivacy,
    config_sha256: String,
    run_id: String,
    /// The digest of the stored histogram of each charged iteration, from iteration 1 on. Only the
    /// last entry may be `None`.
    stored: Vec<Option<String>>,
    /// The iteration whose charge this process handed out last: it hands out each charge once.
    handed_out: Option<u32>,
    /// True after a failed write: the content of the file on disk is then unknown.
    broken: bool,
}

impl Ledger {
    /// Opens `folder/ledger.jsonl` for a run with these terms, or creates it if the folder has
    /// none, and deletes unfinished files of a killed process from the private folder.
    ///
    /// `config_sha256` is the digest of the *public* configuration of the run
    /// ([`sha256_hex`](super::sha256_hex)); `data` is the fingerprint of the private images.
    ///
    /// # Errors
    /// Returns [`PrivacyError::LedgerLocked`] if another process holds the ledger,
    /// [`PrivacyError::LedgerTerms`] if the ledger was begun under other terms,
    /// [`PrivacyError::LedgerLine`] if a line differs from the expected one,
    /// [`PrivacyError::PrivateData`] if the private images differ from those at the start of the
    /// run or if the ledger or the fingerprint was removed, and [`PrivacyError::Io`] from the file
    /// system.
    pub fn open(
        folder: &Path,
        privacy: &ResolvedPrivacy,
        config_sha256: &str,
        private: &PrivateFolder,
        data: &Sensitive<Fingerprint>,
    ) -> Result<Self, PrivacyError> {
        let path = folder.join(LEDGER);
        let Some(file) = locking::lock(&path).map_err(PrivacyError::io("open and lock", &path))?
        else {
            return Err(PrivacyError::LedgerLocked { path });
        };
        let mut ledger = Self {
            file,
            path,
            privacy: privacy.clone(),
            config_sha256: config_sha256.to_owned(),
            run_id: String::new(),
            stored: Vec::new(),
            handed_out: None,
            broken: false,
        };
        let begun = ledger.replay()?;
        ledger.check_data(begun, private, data)?;
        if !begun {
            ledger.begin(folder)?;
        }
        if private.fingerprint_matches(FINGERPRINT, data)?.is_none() {
            private.write_fingerprint(FINGERPRINT, data)?;
        }
        private.remove_leftovers()?;
        Ok(ledger)
    }

    /// Charges the release of `iteration` (counted from 1) and returns the permission to sample its
    /// noise. The entry is on disk when this function returns.
    ///
    /// An iteration with an entry in the ledger and without a stored histogram is not charged a
    /// second time. Callers look for the stored histogram first: if it exists, they pass it to
    /// [`Ledger::confirm_stored`] instead of calling this function.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] if another iteration is due, if the histogram of this one
    /// was already released, or if all planned releases are charged; [`PrivacyError::Io`] if the
    /// entry could not be written, after which the ledger refuses all further calls.
    pub fn charge(&mut self, iteration: u32) -> Result<Charge, PrivacyError> {
        self.check_usable()?;
        let refuse = |message: String| Err(PrivacyError::Order { iteration, message });
        let charged = self.charged();
        if (1..=charged).contains(&iteration) {
            if self.digest_of(iteration).is_some() {
                return refuse(
                    "its noisy histogram was already released: restore the file votes.npz, \
                     or start a new run in another output folder"
                        .to_owned(),
                );
            }
            if self.handed_out == Some(iteration) {
                return refuse("its charge was already used".to_owned());
            }
            self.handed_out = Some(iteration);
            return Ok(Charge::new(iteration, true, &self.privacy));
        }
        if iteration != charged + 1 {
            return refuse(format!("out of order: iteration {} is due", charged + 1));
        }
        if self.awaits_storing() {
            return refuse(format!(
                "out of order: the noisy histogram of iteration {charged} is not stored yet"
            ));
        }
        if iteration > self.privacy.releases {
            return refuse(format!(
                "only {} releases are planned",
                self.privacy.releases
            ));
        }
        let line = self.charge_line(iteration)?;
        self.append(&line)?;
        self.stored.push(None);
        self.handed_out = Some(iteration);
        Ok(Charge::new(iteration, false, &self.privacy))
    }

    /// Records that the histogram of `iteration` is at its final path, or, if a digest is recorded
    /// already, checks that the histogram has this digest.
    ///
    /// [`UnpublishedHistogram::store`](super::UnpublishedHistogram::store) calls this function for
    /// a new histogram, and a resumed run calls it for every histogram that it reads back.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] if the release was never charged or if another histogram
    /// was released, and [`PrivacyError::Io`] if the record could not be written.
    pub fn confirm_stored(
        &mut self,
        iteration: u32,
        histogram: &NoisyHistogram,
    ) -> Result<(), PrivacyError> {
        self.check_usable()?;
        let refuse = |message: &str| {
            Err(PrivacyError::Order {
                iteration,
                message: message.to_owned(),
            })
        };
        if !(1..=self.charged()).contains(&iteration) {
            return refuse("a noisy histogram exists, but the ledger has no charge for it");
        }
        let digest = histogram.digest();
        match self.digest_of(iteration) {
            Some(recorded) if recorded == digest => Ok(()),
            Some(_) => refuse("the noisy histogram on disk is not the one that was released"),
            None => {
                let line = self.stored_line(iteration, &digest)?;
                self.append(&line)?;
                if let Some(last) = self.stored.last_mut() {
                    *last = Some(digest);
                }
                Ok(())
            }
        }
    }

    /// Returns the number of charged releases.
    #[must_use]
    pub fn charged(&self) -> u32 {
        // Opening and charging keep it at most `privacy.releases`, a u32.
        u32::try_from(self.stored.len()).unwrap_or(u32::MAX)
    }

    /// Returns the terms of the run.
    #[must_use]
    pub fn privacy(&self) -> &ResolvedPrivacy {
        &self.privacy
    }

    /// Returns the id of this run: 32 random hexadecimal digits, the same in ledger and statement.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Returns the SHA-256 of the public configuration, as hexadecimal digits.
    #[must_use]
    pub fn config_sha256(&self) -> &str {
        &self.config_sha256
    }

    fn digest_of(&self, iteration: u32) -> Option<&str> {
        let index = usize::try_from(iteration).ok()?.checked_sub(1)?;
        self.stored.get(index)?.as_deref()
    }

    /// Returns true if the last charge has no `stored` line yet.
    fn awaits_storing(&self) -> bool {
        self.stored.last().is_some_and(Option::is_none)
    }

    fn check_usable(&self) -> Result<(), PrivacyError> {
        if self.broken {
            return Err(PrivacyError::LedgerBroken {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Writes the header of a new run and syncs the folder, so that the ledger's name is durable.
    fn begin(&mut self, folder: &Path) -> Result<(), PrivacyError> {
        let mut id = [0u8; 16];
        getrandom::fill(&mut id).map_err(|source| PrivacyError::Randomness { cause: source })?;
        self.run_id = hex::encode(&id);
        let line = self.header_line()?;
        self.append(&line)?;
        atomic::sync_folder(folder).map_err(PrivacyError::io("sync", folder))
    }

    /// Checks that the private images are those of the start of the run.
    ///
    /// Ledger and fingerprint belong together. If one of them is missing, it was removed by hand:
    /// the header is written before the fingerprint, so a crash cannot have this effect.
    fn check_data(
        &self,
        begun: bool,
        private: &PrivateFolder,
        data: &Sensitive<Fingerprint>,
    ) -> Result<(), PrivacyError> {
        let refuse = |message: String| Err(PrivacyError::PrivateData { message });
        match (begun, private.fingerprint_matches(FINGERPRINT, data)?) {
            (true, Some(true)) | (false, None) => Ok(()),
            (true, None) if self.stored.is_empty() => Ok(()),
            (true, None) => refuse(format!(
                "{} has charges, but {} is missing, so dpsyn cannot check that the private images \
                 are the same: use another output folder",
                self.path.display(),
                private.path().join(FINGERPRINT).display()
            )),
            (true, Some(false)) => refuse(format!(
                "the private images differ from those with which {} was started: \
                 restore them, or use another output folder",
                self.path.display()
            )),
            (false, Some(_)) => refuse(format!(
                "{} is missing although a run was started here, so its charges are unknown: \
                 use another output folder",
                self.path.display()
            )),
        }
    }

    fn append(&mut self, line: &str) -> Result<(), PrivacyError> {
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::End(0))?;
            self.file.write_all(format!("{line}\n").as_bytes())?;
            atomic::set_time(&self.file)?;
            self.file.sync_all()
        };
        write().map_err(|error| {
            // After a failed sync, the kernel may have dropped the dirty pages and report success
            // for the next sync: the state on disk is unknown.
            self.broken = true;
            PrivacyError::io("write", &self.path)(error)
        })
    }

    /// Reads and validates the file, and cuts off a torn last line. Returns false if the file has
    /// no header.
    fn replay(&mut self) -> Result<bool, PrivacyError> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .map_err(PrivacyError::io("read", &self.path))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |i| i + 1);
        let (lines, torn) = bytes.split_at(whole);
        let mut begun = false;
        let mut number = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            number += 1;
            let line = std::str::from_utf8(line)
                .map_err(|_| self.line_error(number, "is not text"))?
                .trim_end_matches('\n');
            if begun {
                self.replay_record(number, line)?;
            } else {
                self.replay_header(line)?;
                begun = true;
            }
        }
        if !torn.is_empty() {
            // Some file systems extend a file with zeros before its data arrive.
            let end = torn
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |i| i + 1);
            let (text, _) = torn.split_at(end);
            if !self.may_be_torn(begun, text)? {
                return Err(self.line_error(
                    number + 1,
                    "is incomplete and is not a prefix of the expected line",
                ));
            }
            self.file
                .set_len(whole as u64)
                .map_err(PrivacyError::io("shorten", &self.path))?;
        }
        // A killed process may have written complete lines that were never synced.
        self.file
            .sync_all()
            .map_err(PrivacyError::io("sync", &self.path))?;
        Ok(begun)
    }

    fn replay_header(&mut self, line: &str) -> Result<(), PrivacyError> {
        let found: Value = serde_json::from_str(line)
            .map_err(|error| self.line_error(1, format!("is not a JSON object: {error}")))?;
        let run_id = found.get("run_id").and_then(Value::as_str).unwrap_or("");
        if run_id.len() != 32 || !run_id.bytes().all(is_lower_hex) {
            return Err(self.line_error(1, "`run_id` is not 32 hexadecimal digits"));
        }
        self.run_id = run_id.to_owned();
        let expected_line = self.header_line()?;
        if line == expected_line {
            return Ok(());
        }
        let expected: Value = serde_json::from_str(&expected_line)
            .map_err(|error| self.line_error(1, error.to_string()))?;
        let keys = |value: &Value| -> Vec<String> {
            let object = value.as_object();
            object.map_or(Vec::new(), |o| o.keys().cloned().collect())
        };
        // In the order of the header, so that the message names a configured value rather than one
        // that is derived from it.
        let mut all: Vec<String> = keys(&expected).into_iter().chain(keys(&found)).collect();
        all.sort_by_key(|key| {
            expected_line
                .find(&format!("\"{key}\":"))
                .unwrap_or(usize::MAX)
        });
        for key in all {
            let (ledger, present) = (found.get(&key), expected.get(&key));
            if ledger != present {
                let text = |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
                return Err(PrivacyError::LedgerTerms {
                    path: self.path.clone(),
                    ledger: text(ledger),
                    present: text(present),
                    key,
                });
            }
        }
        Err(self.line_error(
            1,
            "has the expected values but other bytes: the file was edited",
        ))
    }

    fn replay_record(&mut self, number: usize, line: &str) -> Result<(), PrivacyError> {
        let last = self.charged();
        if self.awaits_storing() {
            let digest = line
                .strip_prefix(&self.stored_line_start(last)?)
                .and_then(|rest| rest.strip_suffix("\"}"))
                .filter(|digest| digest.len() == 64 && digest.bytes().all(is_lower_hex));
            let Some(digest) = digest else {
                return Err(self.line_error(
                    number,
                    format!("expected the record that iteration {last} is stored, found {line}"),
                ));
            };
            if let Some(slot) = self.stored.last_mut() {
                *slot = Some(digest.to_owned());
            }
            return Ok(());
        }
        if last >= self.privacy.releases {
            return Err(self.line_error(
                number,
                format!(
                    "is one line too many for {} planned releases",
                    self.privacy.releases
                ),
            ));
        }
        let expected = self.charge_line(last + 1)?;
        if line != expected {
            return Err(self.line_error(number, format!("expected {expected}, found {line}")));
        }
        self.stored.push(None);
        Ok(())
    }

    /// Returns true if `text` is a prefix of the line that was due.
    fn may_be_torn(&self, begun: bool, text: &[u8]) -> Result<bool, PrivacyError> {
        let last = self.charged();
        if text.is_empty() {
            return Ok(true);
        }
        if !begun {
            // The id of the run is unknown, and so is the rest of the line.
            return Ok(TITLE.as_bytes().starts_with(text) || text.starts_with(TITLE.as_bytes()));
        }
        if self.awaits_storing() {
            let start = self.stored_line_start(last)?;
            let Some(rest) = text.strip_prefix(start.as_bytes()) else {
                return Ok(start.as_bytes().starts_with(text));
            };
            let digits = rest.iter().take_while(|byte| is_lower_hex(**byte)).count();
            let (digits, end) = rest.split_at(digits);
            return Ok(match digits.len() {
                0..64 => end.is_empty(),
                64 => b"\"}".starts_with(end),
                _ => false,
            });
        }
        Ok(
            last < self.privacy.releases
                && self.charge_line(last + 1)?.as_bytes().starts_with(text),
        )
    }

    fn header_line(&self) -> Result<String, PrivacyError> {
        let privacy = &self.privacy;
        self.render(&Header {
            ledger: "dpsyn privacy ledger",
            version: 1,
            run_id: &self.run_id,
            mechanism: "discrete gaussian on a histogram of votes",
            noise_multiplier: privacy.noise_multiplier,
            nearest_neighbors: privacy.nearest_neighbors,
            lattice_bits: LATTICE_BITS,
            lattice_sigma: privacy.lattice_sigma().map(|sigma| sigma.to_string()),
            planned_releases: privacy.releases,
            delta: privacy.delta,
            adjacency: privacy.adjacency,
            unit: privacy.unit,
            noise: privacy.noise.name(),
            non_private: privacy.non_private(),
            config_sha256: &self.config_sha256,
        })
    }

    fn charge_line(&self, iteration: u32) -> Result<String, PrivacyError> {
        let privacy = &self.privacy;
        self.render(&Record::Charge {
            iteration,
            release: "noisy histogram of votes",
            releases_so_far: iteration,
            epsilon_so_far: ShownEpsilon(privacy.epsilon_after(iteration, privacy.adjacency)),
            delta: privacy.delta,
            adjacency: privacy.adjacency,
            unit: privacy.unit,
        })
    }

    fn stored_line(&self, iteration: u32, sha256: &str) -> Result<String, PrivacyError> {
        self.render(&Record::Stored { iteration, sha256 })
    }

    /// Returns a `stored` line up to its digest.
    fn stored_line_start(&self, iteration: u32) -> Result<String, PrivacyError> {
        let line = self.stored_line(iteration, "")?;
        Ok(line.strip_suffix("\"}").unwrap_or(&line).to_owned())
    }

    fn render(&self, line: &impl Serialize) -> Result<String, PrivacyError> {
        serde_json::to_string(line)
            .map_err(|error| PrivacyError::io("write", &self.path)(error.into()))
    }

    fn line_error(&self, line: usize, message: impl Into<String>) -> PrivacyError {
        PrivacyError::LedgerLine {
            path: self.path.clone(),
            line,
            message: message.into(),
        }
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
