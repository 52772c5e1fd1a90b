//! `ledger.jsonl`: every charge, on disk before its noise is drawn.
//!
//! The file is public and append-only, with one JSON object per line:
//!
//! 1. the header: the terms of the run (mechanism, σ, k, T, δ, adjacency, unit, digest of the
//!    public configuration, digest of the noise key, charges of earlier runs); σ, k and the
//!    parameter on the lattice are lists of T values if σ or k changes from release to release;
//! 2. `charge`, before the noise of an iteration is drawn, with its σ and k if one of them changes,
//!    the ε so far and the SHA-256 of the population that was voted on;
//! 3. `drawn`, before the noisy histogram is published, with its SHA-256; then the next `charge`.
//!
//! **Checks on opening.** Every line must equal, byte for byte, the line that this program writes
//! at that position, apart from the digests. A ledger of other terms, an edited ledger, or one with
//! a missing, repeated or additional line is refused with the number of the line. The private
//! folder holds a copy of the ledger as of the last complete line, and the ledger must begin with
//! it: a ledger that was restored from an earlier state has fewer lines and is refused.
//!
//! **Torn last line.** A crash while appending leaves a last line without its newline. The newline
//! is part of the same write as the line, and a charge is handed out only after that write was
//! synced. No noise can therefore have been drawn against a torn charge, and a torn `drawn` line
//! belongs to a histogram that is not published. Either may be cut off, provided that it is a
//! prefix of the line that was due. A *complete* charge always stands, even if the crash came
//! before the sync returned.
//!
//! **One histogram per charge.** A charge is handed out again by the next process, also after its
//! `drawn` line: the keyed noise gives the same histogram for the same counts (see `noise_source`),
//! and [`Ledger::record_drawn`] refuses another one.
//!
//! **One process.** The open ledger is locked. The operating system releases the lock when the
//! process ends, in whichever way it ends.

mod lines;
mod replay;

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use num_bigint::BigUint;
use serde::Serialize;

pub(super) use self::lines::VERSION;
use self::lines::{ExpectedLine, Header, Record};
use super::charge::{Charge, Noise};
use super::earlier::LEDGER;
use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::histogram::NoisyHistogram;
use super::lattice::LATTICE_BITS;
use super::noise_source::{NOISE_KEY, NoiseKey};
use super::private_folder::PrivateFolder;
use super::rounding::ShownEpsilon;
use super::sensitive::Sensitive;
use super::settings::ResolvedPrivacy;
use crate::{atomic, hex, locking};

/// File name of the fingerprint in the private folder.
pub(super) const FINGERPRINT: &str = "fingerprint";

/// The records of one iteration.
struct Entry {
    /// SHA-256 of the population that was voted on.
    candidates: String,
    /// Digest of the noisy histogram, once it was drawn.
    drawn: Option<String>,
}

/// The ledger of a run: open, locked and validated.
pub struct Ledger {
    file: File,
    path: PathBuf,
    /// The copy in the private folder.
    copy: PathBuf,
    /// The complete lines of the file.
    lines: Vec<u8>,
    privacy: ResolvedPrivacy,
    config_sha256: String,
    run_id: String,
    /// The key of the noise; `None` in a run without noise.
    key: Option<NoiseKey>,
    /// The digest of the key in the header; `None` in a run without noise.
    key_sha256: Option<String>,
    /// The charged iterations, from iteration 1 on. Only the last one may lack its histogram.
    entries: Vec<Entry>,
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
        let key = match privacy.has_noise() {
            true => NoiseKey::stored(private)?,
            false => None,
        };
        let mut ledger = Self {
            file,
            path,
            copy: private.path().join(LEDGER),
            lines: Vec::new(),
            privacy: privacy.clone(),
            config_sha256: config_sha256.to_owned(),
            run_id: String::new(),
            key_sha256: key.as_ref().map(NoiseKey::commitment),
            key,
            entries: Vec::new(),
            handed_out: None,
            broken: false,
        };
        let begun = ledger.replay()?;
        let is_copied = ledger.check_copy()?;
        ledger.check_data(begun, private, data)?;
        if begun && !is_copied {
            ledger.update_copy()?;
        }
        if !begun {
            if privacy.has_noise() {
                let key = NoiseKey::open(privacy.noise, private)?;
                ledger.key_sha256 = Some(key.commitment());
                ledger.key = Some(key);
            }
            ledger.begin(folder)?;
        }
        if private.fingerprint_matches(FINGERPRINT, data)?.is_none() {
            private.write_fingerprint(FINGERPRINT, data)?;
        }
        private.remove_leftovers()?;
        Ok(ledger)
    }

    /// Charges the release of `iteration` (counted from 1) on the population whose file has the
    /// SHA-256 `candidates` (64 hexadecimal digits), and returns the permission to draw its noise.
    /// The entry is on disk when this function returns.
    ///
    /// An iteration with an entry in the ledger is not charged a second time. Callers look for the
    /// published histogram first: if it exists, they pass it to [`Ledger::confirm_published`]
    /// instead of calling this function.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] if another iteration is due, if the iteration was charged
    /// for other candidates, or if all planned releases are charged; [`PrivacyError::Io`] if the
    /// entry could not be written, after which the ledger refuses all further calls.
    pub fn charge(&mut self, iteration: u32, candidates: &str) -> Result<Charge, PrivacyError> {
        self.check_usable()?;
        let refuse = |message: String| Err(PrivacyError::Order { iteration, message });
        let charged = self.charged();
        if let Some(entry) = self.entry(iteration) {
            if entry.candidates != candidates {
                return refuse(
                    "the population that is voted on is not the one that was charged: restore its \
                     samples.npz, or start a new run in another output folder"
                        .to_owned(),
                );
            }
            if self.handed_out == Some(iteration) {
                return refuse("its charge was already used".to_owned());
            }
            self.handed_out = Some(iteration);
            return self.hand_out(iteration, true, candidates);
        }
        if iteration != charged + 1 {
            return refuse(format!("out of order: iteration {} is due", charged + 1));
        }
        if self.awaits_drawing() {
            return refuse(format!(
                "out of order: the noisy histogram of iteration {charged} is not recorded yet"
            ));
        }
        if iteration > self.privacy.releases {
            return refuse(format!(
                "only {} releases are planned",
                self.privacy.releases
            ));
        }
        if candidates.len() != 64 || !candidates.bytes().all(is_lower_hex) {
            return refuse("the digest of the candidates is not a SHA-256".to_owned());
        }
        let line = self.charge_line(iteration, candidates)?;
        self.append(&line)?;
        self.entries.push(Entry {
            candidates: candidates.to_owned(),
            drawn: None,
        });
        self.handed_out = Some(iteration);
        self.hand_out(iteration, false, candidates)
    }

    /// Returns the permission to draw the noise of an iteration, with the σ and the k of that
    /// iteration.
    fn hand_out(
        &self,
        iteration: u32,
        resumed: bool,
        candidates: &str,
    ) -> Result<Charge, PrivacyError> {
        let (_, nearest_neighbors) = self.privacy.terms_of(iteration)?;
        let noise = match (self.privacy.lattice_sigma(iteration)?, &self.key) {
            (None, _) => Noise::Nothing,
            (Some(sigma), Some(key)) => Noise::DiscreteGaussian {
                sigma,
                key: key.clone(),
            },
            (Some(_), None) => return Err(self.key_is_missing()),
        };
        let unit = self.privacy.unit;
        Ok(Charge::new(
            iteration,
            resumed,
            noise,
            unit,
            nearest_neighbors,
            candidates,
        ))
    }

    /// Records the digest of a drawn histogram, before it is published; or, if one is recorded
    /// already, checks that the histogram has this digest.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] if the release was never charged or if another histogram is
    /// recorded, and [`PrivacyError::Io`] if the record could not be written.
    pub fn record_drawn(
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
        let digest = histogram.digest();
        match self.entry(iteration).map(|entry| entry.drawn.as_deref()) {
            None => refuse("a noisy histogram was drawn without a charge"),
            Some(Some(recorded)) if recorded == digest => Ok(()),
            Some(Some(_)) => refuse(
                "the noisy histogram differs from the recorded one although nothing was changed: \
                 restore votes.npz from a copy, or resume on the machine that began the run",
            ),
            Some(None) => {
                let line = self.drawn_line(iteration, &digest)?;
                self.append(&line)?;
                if let Some(last) = self.entries.last_mut() {
                    last.drawn = Some(digest);
                }
                Ok(())
            }
        }
    }

    /// Checks that a published histogram is the one that was recorded when it was drawn. A resumed
    /// run calls it for every histogram that it reads back.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] if the release was never charged, if no histogram was drawn
    /// for it, or if another one was.
    pub fn confirm_published(
        &self,
        iteration: u32,
        histogram: &NoisyHistogram,
    ) -> Result<(), PrivacyError> {
        self.check_usable()?;
        let message = match self.entry(iteration).map(|entry| entry.drawn.as_deref()) {
            None => "a noisy histogram exists, but the ledger has no charge for it",
            Some(None) => {
                "a noisy histogram exists, but the ledger has no record that it was drawn: it is \
                 not of this run; remove votes.npz"
            }
            Some(Some(recorded)) if recorded == histogram.digest() => return Ok(()),
            Some(Some(_)) => "the noisy histogram on disk is not the one that was released",
        };
        Err(PrivacyError::Order {
            iteration,
            message: message.to_owned(),
        })
    }

    /// Returns true if the ledger records that the histogram of `iteration` was drawn.
    #[must_use]
    pub fn is_drawn(&self, iteration: u32) -> bool {
        self.entry(iteration)
            .is_some_and(|entry| entry.drawn.is_some())
    }

    /// Returns the number of charged releases.
    #[must_use]
    pub fn charged(&self) -> u32 {
        // Opening and charging keep it at most `privacy.releases`, a u32.
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
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

    fn entry(&self, iteration: u32) -> Option<&Entry> {
        let index = usize::try_from(iteration).ok()?.checked_sub(1)?;
        self.entries.get(index)
    }

    /// Returns true if the last charge has no `drawn` line yet.
    fn awaits_drawing(&self) -> bool {
        self.entries
            .last()
            .is_some_and(|entry| entry.drawn.is_none())
    }

    fn key_is_missing(&self) -> PrivacyError {
        PrivacyError::PrivateData {
            message: format!(
                "{} was begun with a noise key, but {} is missing: restore it from a copy, or use \
                 another output folder",
                self.path.display(),
                self.copy.with_file_name(NOISE_KEY).display()
            ),
        }
    }

    /// Checks that the file begins with its copy in the private folder. Returns true if the copy is
    /// complete.
    fn check_copy(&self) -> Result<bool, PrivacyError> {
        let copy = match fs::read(&self.copy) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(PrivacyError::io("read", &self.copy)(error)),
        };
        if self.lines.starts_with(&copy) {
            return Ok(self.lines.len() == copy.len());
        }
        let equal = self.lines.iter().zip(&copy).take_while(|(a, b)| a == b);
        let line = equal.filter(|(byte, _)| **byte == b'\n').count() + 1;
        Err(self.line_error(
            line,
            format!(
                "differs from its copy in {}, or is missing: the charges in the copy stand; \
                 restore the ledger and all results of that state, or use another output folder",
                self.copy.display()
            ),
        ))
    }

    /// Writes the complete lines to the private folder.
    fn update_copy(&self) -> Result<(), PrivacyError> {
        atomic::write_owner_only(&self.copy, |file| file.write_all(&self.lines))
            .map_err(PrivacyError::io("write", &self.copy))
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
        if begun && self.key.is_none() && self.privacy.has_noise() {
            return Err(self.key_is_missing());
        }
        match (begun, private.fingerprint_matches(FINGERPRINT, data)?) {
            (true, Some(true)) | (false, None) => Ok(()),
            (true, None) if self.entries.is_empty() => Ok(()),
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
        let line = format!("{line}\n");
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::End(0))?;
            self.file.write_all(line.as_bytes())?;
            atomic::set_time(&self.file)?;
            self.file.sync_all()
        };
        write().map_err(|error| {
            // After a failed sync, the kernel may have dropped the dirty pages and report success
            // for the next sync: the state on disk is unknown.
            self.broken = true;
            PrivacyError::io("write", &self.path)(error)
        })?;
        self.lines.extend(line.as_bytes());
        // After the ledger itself, so that the copy never has more lines.
        self.update_copy().inspect_err(|_| self.broken = true)
    }

    fn header_line(&self) -> Result<String, PrivacyError> {
        let privacy = &self.privacy;
        self.render(&Header {
            ledger: "dpsyn privacy ledger",
            version: VERSION,
            run_id: &self.run_id,
            mechanism: "discrete gaussian on a histogram of votes",
            noise_multiplier: &privacy.noise_multiplier,
            nearest_neighbors: &privacy.nearest_neighbors,
            lattice_bits: LATTICE_BITS,
            lattice_sigma: privacy
                .lattice_sigmas()
                .map(|all| all.map(BigUint::to_string)),
            planned_releases: privacy.releases,
            delta: privacy.delta,
            adjacency: privacy.adjacency,
            unit: privacy.unit,
            noise: privacy.noise.name(),
            noise_key_sha256: self.key_sha256.clone(),
            non_private: privacy.non_private(),
            config_sha256: &self.config_sha256,
            earlier_runs: &privacy.earlier,
        })
    }

    fn charge_line(&self, iteration: u32, candidates: &str) -> Result<String, PrivacyError> {
        let privacy = &self.privacy;
        let varying = Some(privacy).filter(|privacy| privacy.varies());
        self.render(&Record::Charge {
            iteration,
            release: "noisy histogram of votes",
            noise_multiplier: varying.and_then(|all| all.noise_multiplier_of(iteration)),
            nearest_neighbors: varying.and_then(|all| all.nearest_neighbors_of(iteration)),
            releases_so_far: iteration,
            epsilon_so_far: ShownEpsilon(privacy.epsilon_after(iteration, privacy.adjacency)),
            delta: privacy.delta,
            adjacency: privacy.adjacency,
            unit: privacy.unit,
            candidates_sha256: candidates,
        })
    }

    fn drawn_line(&self, iteration: u32, sha256: &str) -> Result<String, PrivacyError> {
        self.render(&Record::Drawn { iteration, sha256 })
    }

    /// Returns the record that may follow the present ones.
    fn expected_record(&self) -> Result<ExpectedLine, PrivacyError> {
        let last = self.charged();
        let rendered = if self.awaits_drawing() {
            self.drawn_line(last, "")?
        } else {
            self.charge_line(last + 1, "")?
        };
        Ok(ExpectedLine::of(&rendered))
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
