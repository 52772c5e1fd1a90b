//! Earlier runs on the same private images, whose charges a run's claim includes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::accountant::{self, Adjacency};
use super::error::PrivacyError;
use super::lattice::deviation;
use super::unit::Unit;
use crate::locking;
use crate::schedule::{Schedule, Scheduled};

/// File name of the ledger in a result folder.
pub(super) const LEDGER: &str = "ledger.jsonl";

/// The charges of an earlier run on the same private images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierRun {
    /// Id of the run.
    pub run_id: String,
    /// σ; a list has one value for each planned release, and the first `releases` of them count.
    pub noise_multiplier: Schedule<f64>,
    /// k, in the same way.
    pub nearest_neighbors: Schedule<u32>,
    /// Number of charged releases.
    pub releases: u32,
    /// The protected unit.
    pub unit: Unit,
    /// The adjacency of its claim. A run under replace-one adjacency may have used the first images
    /// of its source only (`data.num_samples`), where an image more takes the place of another one.
    /// Its releases therefore count as under replace-one adjacency in every later claim.
    pub adjacency: Adjacency,
}

impl EarlierRun {
    /// Returns the bound on the difference between the lattice and the continuous mechanism.
    pub(super) fn deviation(&self) -> f64 {
        let (sigma, k) = (&self.noise_multiplier, &self.nearest_neighbors);
        deviation(sigma, self.unit, k, self.releases)
    }

    /// Returns μ of Gaussian DP of all releases of the run in a claim under `adjacency`.
    pub(super) fn mu(&self, adjacency: Adjacency) -> f64 {
        let adjacency = self.adjacency.larger(adjacency);
        accountant::mu(&self.noise_multiplier, self.releases, adjacency)
    }

    /// Returns ρ of zero-concentrated DP of all releases of the run in a claim under `adjacency`.
    pub(super) fn rho(&self, adjacency: Adjacency) -> f64 {
        let adjacency = self.adjacency.larger(adjacency);
        accountant::zcdp_rho(&self.noise_multiplier, self.releases, adjacency)
    }

    /// Reads the charges of the run in `folder`, and those that it carried itself; empty if the
    /// folder has no ledger. Runs without noise are omitted: nothing of them may be published.
    ///
    /// Ledgers of version 1 are accepted. The lines are not compared with what this program would
    /// write: in an edited ledger, a changed line is counted, or one with another σ than was used.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Io`] if the file cannot be read, and [`PrivacyError::LedgerLine`] if
    /// it is not a ledger.
    pub fn read(folder: &Path) -> Result<Vec<Self>, PrivacyError> {
        let path = folder.join(LEDGER);
        match text_of(&path)? {
            Some(text) => Self::charges_in(&path, &text),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the charges in the text of a ledger, as [`EarlierRun::read`] does.
    ///
    /// # Errors
    /// Returns [`PrivacyError::LedgerLine`] if it is not a ledger.
    pub(super) fn charges_in(path: &Path, text: &str) -> Result<Vec<Self>, PrivacyError> {
        let Some((header, run)) = Self::of_ledger(path, text)? else {
            return Ok(Vec::new());
        };
        let mut runs = Self::carried(path, &header)?;
        let private = header.get("non_private").is_none_or(Value::is_null);
        if private && run.releases > 0 {
            runs.push(run);
        }
        Ok(merge(runs))
    }

    /// Returns the header of a ledger and the run to which it belongs, with the number of its own
    /// charges, which may be 0; `None` if the text has no complete line.
    ///
    /// # Errors
    /// Returns [`PrivacyError::LedgerLine`] if the first line is not a header.
    pub(super) fn of_ledger(
        path: &Path,
        text: &str,
    ) -> Result<Option<(Value, Self)>, PrivacyError> {
        // A charge is handed out after its newline is on disk, so an incomplete line is none.
        let mut lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let Some(header) = lines.next() else {
            return Ok(None);
        };
        let header: Value = serde_json::from_str(header).map_err(|_| not_a_ledger(path))?;
        let charges = lines.filter(|line| line.starts_with("{\"record\":\"charge\","));
        let releases = u32::try_from(charges.count()).unwrap_or(u32::MAX);
        let known: Option<Self> = (|| {
            Some(Self {
                run_id: header.get("run_id")?.as_str()?.to_owned(),
                noise_multiplier: noise_of(&header)?,
                nearest_neighbors: schedule_of(header.get("nearest_neighbors")?)?,
                releases,
                unit: serde_json::from_value(header.get("unit")?.clone()).ok()?,
                adjacency: serde_json::from_value(header.get("adjacency")?.clone()).ok()?,
            })
        })();
        let run = known.ok_or_else(|| not_a_ledger(path))?;
        Ok(Some((header, run)))
    }

    /// Reads the charges that the run in `folder` carries, without its own; `None` if the folder
    /// has no complete header.
    ///
    /// # Errors
    /// As [`EarlierRun::read`].
    pub fn carried_by(folder: &Path) -> Result<Option<Vec<Self>>, PrivacyError> {
        let path = folder.join(LEDGER);
        let text = text_of(&path)?;
        let Some((header, _)) = text.as_deref().and_then(|text| text.split_once('\n')) else {
            return Ok(None);
        };
        // Opening the ledger says what is wrong with another header.
        match serde_json::from_str::<Value>(header) {
            Ok(header) => Self::carried(&path, &header).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn carried(path: &Path, header: &Value) -> Result<Vec<Self>, PrivacyError> {
        match header.get("earlier_runs") {
            None => Ok(Vec::new()),
            Some(runs) => serde_json::from_value(runs.clone()).map_err(|_| not_a_ledger(path)),
        }
    }
}

impl fmt::Display for EarlierRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} releases of an earlier run with noise multiplier {}",
            self.releases,
            self.noise_multiplier.first(self.releases as usize)
        )
    }
}

/// Reads a ledger; `None` if there is none.
fn text_of(path: &Path) -> Result<Option<String>, PrivacyError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PrivacyError::io("read", path)(error)),
    }
}

/// Returns σ in the header of a ledger, a number or a list; `None` if it is neither, or negative.
pub(super) fn noise_of(header: &Value) -> Option<Schedule<f64>> {
    let noise: Schedule<f64> = schedule_of(header.get("noise_multiplier")?)?;
    let valid = noise.values().iter().all(|sigma| *sigma >= 0.0);
    valid.then_some(noise)
}

/// Returns a number or a list of numbers, and not the other forms that a configuration may have.
fn schedule_of<T: Scheduled>(value: &Value) -> Option<Schedule<T>> {
    let numbers = match value {
        Value::Array(list) => !list.is_empty() && list.iter().all(Value::is_number),
        single => single.is_number(),
    };
    Schedule::deserialize(value).ok().filter(|_| numbers)
}

/// Returns the error about a file that does not begin with the header of a ledger.
pub(super) fn not_a_ledger(path: &Path) -> PrivacyError {
    PrivacyError::LedgerLine {
        path: path.to_owned(),
        line: 1,
        message: "is not the header of a ledger, so the charges of the earlier run are unknown"
            .to_owned(),
    }
}

/// Joins lists of earlier runs: each run once, with the larger of its numbers of releases.
#[must_use]
pub fn merge(runs: Vec<EarlierRun>) -> Vec<EarlierRun> {
    let mut merged: Vec<EarlierRun> = Vec::new();
    for run in runs {
        match merged.iter_mut().find(|known| known.run_id == run.run_id) {
            Some(known) => known.releases = known.releases.max(run.releases),
            None => merged.push(run),
        }
    }
    merged
}

/// Checks that `carried` includes all charges of the run in `folder`, which was moved aside, and
/// that the run is not going on.
///
/// # Errors
/// Returns [`PrivacyError::LedgerLocked`] if the run is going on, [`PrivacyError::PrivateData`] if
/// it has charges that are not in `carried`, and the errors of [`EarlierRun::read`].
pub fn check_carried(folder: &Path, carried: &[EarlierRun]) -> Result<(), PrivacyError> {
    let path = folder.join(LEDGER);
    if locking::is_locked(&path).map_err(PrivacyError::io("open and lock", &path))? {
        return Err(PrivacyError::LedgerLocked { path });
    }
    for run in EarlierRun::read(folder)? {
        let includes = |known: &EarlierRun| {
            let charged = known.releases;
            *known
                == EarlierRun {
                    releases: charged,
                    ..run.clone()
                }
                && charged >= run.releases
        };
        if !carried.iter().any(includes) {
            return Err(PrivacyError::PrivateData {
                message: format!(
                    "the run {} has {} charges now and had fewer when the claim of the new run was \
                     computed: another process went on with it; nothing was changed, so run the \
                     command again",
                    run.run_id, run.releases
                ),
            });
        }
    }
    Ok(())
}

/// Returns the result folder to which a `samples.npz` belongs: `<folder>/<iteration>/samples.npz`
/// beside `<folder>/ledger.jsonl`; `None` if it lies elsewhere.
#[must_use]
pub fn run_of_samples(samples: &Path) -> Option<PathBuf> {
    let absolute = fs::canonicalize(samples).ok()?;
    let folder = absolute.parent()?.parent()?;
    folder.join(LEDGER).exists().then(|| folder.to_owned())
}

/// Returns the result folder that a file or folder lies in, or is.
#[must_use]
pub fn run_above(path: &Path) -> Option<PathBuf> {
    let absolute = fs::canonicalize(path).ok()?;
    let mut folders = absolute.ancestors();
    folders
        .find(|folder| folder.join(LEDGER).exists())
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resumed run compares the header of its ledger byte for byte.
    #[test]
    fn a_carried_run_is_written_again_with_the_same_bytes() {
        for step in 0..2000 {
            // 16 or 17 digits, as a noise multiplier that was solved for ε has.
            let sigma = 0.1 + f64::from(step) / 97.0;
            let run = EarlierRun {
                run_id: "0".repeat(32),
                noise_multiplier: match step % 2 {
                    0 => sigma.into(),
                    _ => Schedule::List(vec![sigma, 2.0, sigma / 3.0]),
                },
                nearest_neighbors: 1.into(),
                releases: 3,
                unit: Unit::Image,
                adjacency: Adjacency::AddRemove,
            };
            let text = serde_json::to_string(&run).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            let back: EarlierRun = serde_json::from_value(value).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), text);
        }
    }
}
