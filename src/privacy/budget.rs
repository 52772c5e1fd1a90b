//! [`Budget`]: one privacy budget for a data set, over all runs.
//!
//! The file belongs to the owner of the images and is private: it contains their fingerprint. It
//! states a total ε at δ under one adjacency and one unit, and lists every run with its charges. A
//! run that would exceed the total is refused before anything is charged.
//!
//! **Composition.** Releases of all runs are Gaussian mechanisms on the same images, so their μ
//! compose exactly: μ² is the sum of s²/σ² over all releases of all runs, each with its own σ
//! (Dong, Roth, Su 2019, Corollary 2), and the total ε follows from μ at the δ of the budget.
//! Values of ε are never added.
//!
//! **Reservation.** A run counts with all of its planned releases from its beginning on, also if it
//! is interrupted, because it may be resumed. [`Budget::close_abandoned`] reduces an abandoned run
//! to what its ledger has charged, while the ledger is locked; if it is resumed nevertheless, its
//! plan is admitted anew. No number falls below the charges that the file knows of.
//!
//! **One process at a time.** Every change takes a lock on a file beside the budget, reads it,
//! checks and replaces it atomically. Symbolic links are resolved first, so that all paths to a
//! budget share one lock and one file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::abandoned::AbandonedRun;
use super::accountant::{self, Adjacency, check_delta};
use super::earlier::EarlierRun;
use super::error::PrivacyError;
use super::fingerprint::Fingerprint;
use super::ledger::Ledger;
use super::rounding::round_up;
use super::sensitive::Sensitive;
use super::settings::ResolvedPrivacy;
use super::unit::Unit;
use crate::schedule::Schedule;
use crate::{atomic, hex, locking};

/// Longest wait for another process that changes the file, which takes milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// First line of the file.
const TITLE: &str = "# A dpsyn privacy budget. PRIVATE: keep it with the images, and do not edit \
                     it.\n";

/// The limit of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BudgetTerms {
    /// The total ε.
    pub epsilon: f64,
    /// The δ at which ε is computed.
    pub delta: f64,
    /// The adjacency of all runs.
    pub adjacency: Adjacency,
    /// The unit of all runs.
    pub unit: Unit,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    limit: BudgetTerms,
    /// Fingerprints of the images, in hexadecimal digits: those of the start, and later states of
    /// the same data set.
    images: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    run: Vec<Spent>,
}

/// The part of a run in the budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spent {
    run_id: String,
    /// σ; a list has one value for each planned release, and the first `releases` of them count.
    noise_multiplier: Schedule<f64>,
    nearest_neighbors: Schedule<u32>,
    /// Releases that count: all planned ones, or the charged ones of a closed run.
    releases: u32,
    /// Releases that are known to be charged, which no closing undercuts.
    #[serde(default)]
    charged: u32,
    /// The adjacency of its claim, see [`EarlierRun::adjacency`].
    adjacency: Adjacency,
    /// True if the run is finished or closed.
    closed: bool,
}

impl Spent {
    /// Returns the smallest number of releases with which the run may count.
    fn least(&self) -> u32 {
        if self.closed {
            self.charged.max(self.releases)
        } else {
            self.charged
        }
    }

    fn mu(&self, adjacency: Adjacency) -> f64 {
        let adjacency = self.adjacency.larger(adjacency);
        accountant::mu(&self.noise_multiplier, self.releases, adjacency)
    }
}

/// The budget of a data set, in a file.
pub struct Budget {
    path: PathBuf,
}

impl Budget {
    /// Refers to the budget in `path`, which every operation reads anew.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Creates the file for these images.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Budget`] if the file exists or the limit is not a positive number,
    /// [`PrivacyError::Config`] for δ, and [`PrivacyError::Io`].
    pub fn create(
        path: &Path,
        limit: BudgetTerms,
        images: &Sensitive<Fingerprint>,
    ) -> Result<Self, PrivacyError> {
        let budget = Self::at(path);
        check_delta(limit.delta)?;
        if !(limit.epsilon.is_finite() && limit.epsilon > 0.0) {
            let message = format!("epsilon is {}: expected a positive number", limit.epsilon);
            return Err(budget.error(message));
        }
        let real = budget.place()?;
        let _lock = budget.lock(&real)?;
        let message = match fs::symlink_metadata(&real) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(PrivacyError::io("examine", path)(error)),
            Ok(_) if fs::exists(&real).map_err(PrivacyError::io("examine", path))? => {
                Some("exists already: a budget is not replaced, because its charges stand")
            }
            Ok(_) => Some("is a symbolic link to a missing file: expected the path of that file"),
        };
        if let Some(message) = message {
            return Err(budget.error(message.to_owned()));
        }
        let content = Content {
            version: 1,
            limit,
            images: vec![shown(images)],
            run: Vec::new(),
        };
        budget.write(&real, &content)?;
        Ok(budget)
    }

    /// Declares that these images are another state of the data set, to which the budget applies as
    /// well.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Budget`] if the file is damaged, and [`PrivacyError::Io`].
    pub fn add_images(&self, images: &Sensitive<Fingerprint>) -> Result<(), PrivacyError> {
        self.change(|content| {
            let images = shown(images);
            if !content.images.contains(&images) {
                content.images.push(images);
            }
            Ok(())
        })
    }

    /// Checks, without changing the file, that a run of these terms would be admitted now.
    ///
    /// # Errors
    /// As [`Budget::admit`].
    pub fn check(
        &self,
        privacy: &ResolvedPrivacy,
        images: &Sensitive<Fingerprint>,
    ) -> Result<(), PrivacyError> {
        let mut content = self.read(&self.real()?)?;
        // A run that is resumed is in the file under its own id and is checked when it is admitted.
        self.add_run(&mut content, "", privacy, images)
    }

    /// Admits a run that has begun: reserves all of its planned releases, and counts the earlier
    /// runs that it carries. A run that is in the file already is not counted again.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Budget`] if the images are not those of the budget, if unit or
    /// adjacency differ, if the run has no noise, or if the total would be exceeded;
    /// [`PrivacyError::Io`] from the file system.
    pub fn admit(
        &self,
        ledger: &Ledger,
        images: &Sensitive<Fingerprint>,
    ) -> Result<(), PrivacyError> {
        self.change(|content| {
            self.add_run(content, ledger.run_id(), ledger.privacy(), images)?;
            let mut runs = content.run.iter_mut();
            if let Some(run) = runs.find(|run| run.run_id == ledger.run_id()) {
                run.charged = run.charged.max(ledger.charged());
            }
            Ok(())
        })
    }

    /// Records that a run is complete: it counts with its charged releases.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Budget`] if the run is not in the file, and [`PrivacyError::Io`].
    pub fn close(&self, ledger: &Ledger) -> Result<(), PrivacyError> {
        self.close_at(ledger.run_id(), ledger.charged()).map(drop)
    }

    /// Records that a run will not go on: it counts with its charged releases, and at least with
    /// those that the file knows of. Returns a sentence about the effect.
    ///
    /// # Errors
    /// As [`Budget::close`].
    pub fn close_abandoned(&self, run: &AbandonedRun) -> Result<String, PrivacyError> {
        let (id, charged) = (run.run_id(), run.charged());
        let before = self.close_at(id, charged)?;
        let counted = charged.max(before.least());
        Ok(if counted > charged {
            format!(
                "run {id} counts with {counted} releases, of which the budget knows, although \
                 this ledger has {charged} charges: it is an earlier state of the run"
            )
        } else if counted > before.releases {
            format!(
                "run {id} counts with {counted} charged releases, no longer with {}: it went on \
                 without privacy.budget",
                before.releases
            )
        } else if before.closed {
            format!("run {id} was closed already and counts with {counted} charged releases")
        } else if counted == before.releases {
            format!("run {id} is closed and counts with all {counted} releases of its plan")
        } else {
            format!(
                "run {id} is closed and counts with {counted} charged releases, no longer with \
                 the {} of its plan",
                before.releases
            )
        })
    }

    /// Closes a run and returns its previous entry.
    fn close_at(&self, run_id: &str, charged: u32) -> Result<Spent, PrivacyError> {
        self.change(|content| {
            let run = content.run.iter_mut().find(|run| run.run_id == run_id);
            let Some(run) = run else {
                let message = format!(
                    "has no run {run_id}: expected the result folder of a run with this budget"
                );
                return Err(self.error(message));
            };
            let before = run.clone();
            run.releases = charged.max(before.least());
            run.charged = run.releases;
            run.closed = true;
            Ok(before)
        })
    }

    /// Returns lines about the limit, the runs and the total so far, for the owner.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Budget`] if the file is damaged, and [`PrivacyError::Io`].
    pub fn describe(&self) -> Result<Vec<String>, PrivacyError> {
        let content = self.read(&self.real()?)?;
        let limit = content.limit;
        let mut lines = vec![format!(
            "limit: epsilon {} at delta {:e}, unit one {}, adjacency {}",
            limit.epsilon, limit.delta, limit.unit, limit.adjacency
        )];
        for run in &content.run {
            lines.push(format!(
                "run {}: {} releases with noise multiplier {}, epsilon {} alone, {}",
                run.run_id,
                run.releases,
                run.noise_multiplier.first(run.releases as usize),
                round_up(
                    accountant::solve_epsilon_of(run.mu(limit.adjacency), limit.delta),
                    3
                ),
                if run.closed {
                    "complete"
                } else {
                    "reserved for its plan"
                },
            ));
        }
        lines.push(format!(
            "total: epsilon {} of {}",
            round_up(content.epsilon(), 3),
            limit.epsilon
        ));
        Ok(lines)
    }

    fn add_run(
        &self,
        content: &mut Content,
        run_id: &str,
        privacy: &ResolvedPrivacy,
        images: &Sensitive<Fingerprint>,
    ) -> Result<(), PrivacyError> {
        let limit = content.limit;
        if !content.images.contains(&shown(images)) {
            let message = "is the budget of other images: expected the budget of these, or, if they \
                           are a later state of the same data set, `dpsyn budget add-images`";
            return Err(self.error(message.to_owned()));
        }
        if privacy.non_private().is_some() {
            let message = "does not admit a run without noise, which exceeds every limit";
            return Err(self.error(message.to_owned()));
        }
        for (key, of_run, of_budget) in [
            ("unit", privacy.unit().name(), limit.unit.name()),
            (
                "adjacency",
                privacy.adjacency().name(),
                limit.adjacency.name(),
            ),
        ] {
            if of_run != of_budget {
                let message = format!("is for {key} {of_budget}, but privacy.{key} is {of_run}");
                return Err(self.error(message));
            }
        }
        let before = content.epsilon();
        for earlier in privacy.earlier() {
            content.count(earlier, true);
        }
        let own = EarlierRun {
            run_id: run_id.to_owned(),
            noise_multiplier: privacy.noise_multiplier().clone(),
            nearest_neighbors: privacy.nearest_neighbors().clone(),
            releases: privacy.releases(),
            unit: privacy.unit(),
            adjacency: privacy.adjacency(),
        };
        content.count(&own, false);
        let after = content.epsilon();
        if after > limit.epsilon {
            let message = format!(
                "would be exceeded: epsilon {} of {} is spent or reserved, and {} with the {} \
                 releases of this run; use more noise or fewer iterations, or close abandoned runs \
                 by `dpsyn budget close`",
                round_up(before, 3),
                limit.epsilon,
                round_up(after, 3),
                privacy.releases(),
            );
            return Err(self.error(message));
        }
        Ok(())
    }

    /// Reads, changes and replaces the file under its lock.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Content) -> Result<T, PrivacyError>,
    ) -> Result<T, PrivacyError> {
        let real = self.real()?;
        let _lock = self.lock(&real)?;
        let mut content = self.read(&real)?;
        let result = change(&mut content)?;
        self.write(&real, &content)?;
        Ok(result)
    }

    /// Returns the path of the file without symbolic links: a file is replaced under its name, and
    /// a link of that name would be replaced instead of the file.
    fn real(&self) -> Result<PathBuf, PrivacyError> {
        fs::canonicalize(&self.path).map_err(|error| self.unreadable(error))
    }

    /// Returns the path of a file that may be absent, in its folder without symbolic links.
    fn place(&self) -> Result<PathBuf, PrivacyError> {
        let Some(name) = self.path.file_name() else {
            return Err(self.error("is not the path of a file".to_owned()));
        };
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        let parent = fs::canonicalize(parent).map_err(PrivacyError::io("find", parent))?;
        Ok(parent.join(name))
    }

    fn lock(&self, real: &Path) -> Result<File, PrivacyError> {
        let mut name = real.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = real.with_file_name(name);
        let begin = Instant::now();
        loop {
            let lock = locking::lock(&path).map_err(PrivacyError::io("open and lock", &path))?;
            if let Some(lock) = lock {
                return Ok(lock);
            }
            if begin.elapsed() > LONGEST_WAIT {
                return Err(self.error("is in use by another process: try again".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn unreadable(&self, error: io::Error) -> PrivacyError {
        match error.kind() {
            io::ErrorKind::NotFound => self.error(
                "does not exist: `dpsyn budget init` creates it, and its owner keeps it".to_owned(),
            ),
            _ => PrivacyError::io("read", &self.path)(error),
        }
    }

    fn read(&self, real: &Path) -> Result<Content, PrivacyError> {
        let text = fs::read_to_string(real).map_err(|error| self.unreadable(error))?;
        let content: Content = toml::from_str(&text)
            .map_err(|error| self.error(format!("is damaged: {}", error.message())))?;
        if content.version != 1 {
            let message = format!("has version {}: expected 1", content.version);
            return Err(self.error(message));
        }
        check_delta(content.limit.delta)?;
        Ok(content)
    }

    fn write(&self, real: &Path, content: &Content) -> Result<(), PrivacyError> {
        let text = toml::to_string(content).map_err(|error| self.error(error.to_string()))?;
        atomic::write_owner_only(real, |file| {
            io::Write::write_all(file, format!("{TITLE}{text}").as_bytes())
        })
        .map_err(PrivacyError::io("write", &self.path))
    }

    fn error(&self, message: String) -> PrivacyError {
        PrivacyError::Budget {
            path: self.path.clone(),
            message,
        }
    }
}

impl Content {
    /// Returns ε of all runs together at the δ of the limit, rounded up.
    fn epsilon(&self) -> f64 {
        let mus = self.run.iter().map(|run| run.mu(self.limit.adjacency));
        accountant::solve_epsilon_of(accountant::compose(mus), self.limit.delta)
    }

    /// Counts a run once, with the larger number of releases.
    fn count(&mut self, run: &EarlierRun, closed: bool) {
        match self.run.iter_mut().find(|known| known.run_id == run.run_id) {
            Some(known) => {
                known.releases = known.releases.max(run.releases);
                known.closed &= closed;
                if closed {
                    known.charged = known.charged.max(run.releases);
                }
                // The ledger refuses another σ for the same run; the smallest one costs most.
                if known.noise_multiplier != run.noise_multiplier {
                    let of_both = [&known.noise_multiplier, &run.noise_multiplier];
                    let all = of_both.into_iter().flat_map(|noise| noise.values());
                    let smallest = all.copied().fold(f64::INFINITY, f64::min);
                    known.noise_multiplier = smallest.into();
                }
            }
            None => self.run.push(Spent {
                run_id: run.run_id.clone(),
                noise_multiplier: run.noise_multiplier.clone(),
                nearest_neighbors: run.nearest_neighbors.clone(),
                releases: run.releases,
                charged: if closed { run.releases } else { 0 },
                adjacency: run.adjacency,
                closed,
            }),
        }
    }
}

/// Returns the fingerprint as hexadecimal digits, for the owner's file only.
fn shown(images: &Sensitive<Fingerprint>) -> String {
    hex::encode(&images.expose().0)
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
