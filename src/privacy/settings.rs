//! The `[privacy]` table of the configuration, and the validated parameters that it resolves to.

use std::path::PathBuf;

use num_bigint::BigUint;
use serde::{Deserialize, Serialize};

use super::accountant::{self, Adjacency, check_delta, check_noise_multiplier, zcdp_rho};
use super::earlier::EarlierRun;
use super::error::PrivacyError;
use super::lattice::{
    LARGEST_DEVIATION, LARGEST_NOISE_MULTIPLIER, SMALLEST_NOISE_MULTIPLIER, deviation,
    lattice_sigma,
};
use super::noise_source::NoiseOrigin;
use super::padding::PadPeriod;
use super::unit::Unit;
use crate::schedule::Schedule;
use crate::sections::Section;

/// The `[privacy]` table: either `noise_multiplier` or `epsilon`, and `delta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyConfig {
    /// σ: the standard deviation of the noise on each count is σ·√k votes, where k is the number of
    /// nearest neighbors for which an image votes, and σ votes if the unit is a client. Between
    /// 1/16 and 2²⁰, or 0 with `--non-private`. A list has one value for each iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<Schedule<f64>>,
    /// Instead of `noise_multiplier`: the ε that all planned iterations together may cost. The run
    /// uses the smallest σ that satisfies it, the same in all iterations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// δ. It must be below 1/n, where n is the number of units: a mechanism that publishes one
    /// image at random satisfies δ = 1/n.
    pub delta: f64,
    /// The neighboring relation: `add-remove` (default) or `replace-one`.
    #[serde(default)]
    pub adjacency: Adjacency,
    /// The protected unit: `image`, or `client`, which needs `[data.clients]`.
    #[serde(default)]
    pub unit: Unit,
    /// The file with the budget of the data set, which `dpsyn budget` creates. A run that would
    /// exceed it is refused. No result depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<PathBuf>,
    /// Pads the time of work with private data to multiples of a duration, for observers of the
    /// time such as the vendor of a hosted model. No result depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_release_to: Option<PadPeriod>,
}

impl Section for PrivacyConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["budget", "pad_release_to"];
}

/// Proof that the user explicitly requested a run without privacy (`--non-private`). The ledger,
/// the statement and every other output of such a run are marked as non-private.
#[derive(Debug)]
#[must_use]
pub struct NonPrivateConsent(());

impl NonPrivateConsent {
    /// Creates the proof. For callers that have read the explicit request of the user.
    pub fn given() -> Self {
        Self(())
    }
}

impl PrivacyConfig {
    /// Validates the table and resolves every parameter, for `releases` planned iterations in which
    /// each image votes for `nearest_neighbors` samples: one number, or one for each iteration.
    /// `units`, the number of protected units, is declared public and checked against δ if it is
    /// known already.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] with the key if both or neither of `noise_multiplier` and
    /// `epsilon` are given, if a list has another number of entries than `releases`, if a value is
    /// out of range, if δ ≥ 1/n, if a number of neighbors is 0, if a noise multiplier is 0 without
    /// consent, or if there is consent and noise.
    pub fn resolve(
        &self,
        releases: u32,
        nearest_neighbors: impl Into<Schedule<u32>>,
        units: Option<usize>,
        non_private: Option<NonPrivateConsent>,
    ) -> Result<ResolvedPrivacy, PrivacyError> {
        check_delta(self.delta)?;
        if let Some(n) = units {
            check_delta_against(self.delta, n, self.unit)?;
        }
        let nearest_neighbors = nearest_neighbors.into();
        let noise_multiplier = match (&self.noise_multiplier, self.epsilon) {
            (Some(noise_multiplier), None) => noise_multiplier.clone(),
            (None, Some(f64::INFINITY)) if non_private.is_some() => 0.0.into(),
            (None, Some(target)) => {
                let delta = self.delta;
                accountant::noise_multiplier(target, releases, delta, self.adjacency)?.into()
            }
            (Some(_), Some(_)) => {
                return Err(PrivacyError::config(
                    "epsilon",
                    "conflicts with noise_multiplier: expected only one of the two",
                ));
            }
            (None, None) => {
                return Err(PrivacyError::config(
                    "noise_multiplier",
                    "missing: expected noise_multiplier or epsilon",
                ));
            }
        };
        check_length("nearest_neighbors", &nearest_neighbors, releases)?;
        check_length("noise_multiplier", &noise_multiplier, releases)?;
        let consent = non_private.is_some();
        for (neighbors, place) in entries(&nearest_neighbors) {
            check_neighbors(*neighbors, consent, &place)?;
        }
        for (sigma, place) in entries(&noise_multiplier) {
            check_sigma(*sigma, consent, &place)?;
        }
        let resolved = ResolvedPrivacy {
            // −0 has another text than 0, and the ledger compares text.
            noise_multiplier: noise_multiplier.map(|sigma| sigma.abs()),
            nearest_neighbors,
            releases,
            delta: self.delta,
            adjacency: self.adjacency,
            unit: self.unit,
            replaced_images: 1,
            noise: NoiseOrigin::from_environment()?,
            earlier: Vec::new(),
        };
        if resolved.deviation() > LARGEST_DEVIATION {
            return Err(PrivacyError::config(
                "noise_multiplier",
                format!(
                    "{} is too small for {releases} iterations: the accountant's reserve does not \
                     cover them",
                    resolved.noise_multiplier
                ),
            ));
        }
        Ok(resolved)
    }
}

/// Fails if a list does not have one entry for each release.
pub(super) fn check_length<T: Clone>(
    key: &'static str,
    schedule: &Schedule<T>,
    releases: u32,
) -> Result<(), PrivacyError> {
    match schedule.len() {
        None => Ok(()),
        Some(0) => Err(PrivacyError::config(key, "an empty list")),
        Some(found) if found == releases as usize => Ok(()),
        Some(found) => Err(PrivacyError::config(
            key,
            format!("{found} entries where {releases} were expected: one for each iteration"),
        )),
    }
}

/// Returns the values of a schedule, each with the words that name its place in a list.
fn entries<T>(schedule: &Schedule<T>) -> impl Iterator<Item = (&T, String)> {
    let (single, list) = match schedule {
        Schedule::Constant(value) => (Some((value, String::new())), &[][..]),
        Schedule::List(list) => (None, list.as_slice()),
    };
    let place = |(index, value)| (value, format!(" in iteration {}", index + 1));
    single.into_iter().chain(list.iter().enumerate().map(place))
}

fn check_delta_against(delta: f64, units: usize, unit: Unit) -> Result<(), PrivacyError> {
    // The test δ·n ≥ 1 would be wrong: for some n, the rounded product of (1/n)·n is below 1.
    if delta >= 1.0 / units as f64 {
        let published = match unit {
            Unit::Image => "a private image",
            Unit::Client => "the images of a client",
        };
        return Err(PrivacyError::config(
            "delta",
            format!(
                "expected less than 1/n = 1/{units}, found {delta}: \
                 a larger delta permits the publication of {published}"
            ),
        ));
    }
    Ok(())
}

/// Checks k of one release.
fn check_neighbors(neighbors: u32, consent: bool, place: &str) -> Result<(), PrivacyError> {
    let expected = match neighbors {
        0 => "at least 1",
        // The proofs of the module `lattice` cover no more; without noise, there is nothing to
        // prove.
        65_537.. if !consent => "at most 65536",
        _ => return Ok(()),
    };
    let message = format!("expected {expected}, found {neighbors}{place}");
    Err(PrivacyError::config("nearest_neighbors", message))
}

/// Checks σ of one release.
fn check_sigma(sigma: f64, consent: bool, place: &str) -> Result<(), PrivacyError> {
    check_noise_multiplier(sigma)?;
    let range = SMALLEST_NOISE_MULTIPLIER..=LARGEST_NOISE_MULTIPLIER;
    let message = match (sigma == 0.0, consent) {
        (true, true) => return Ok(()),
        (false, false) if range.contains(&sigma) => return Ok(()),
        (true, false) => format!(
            "0{place} gives no privacy: expected at least 0.0625, or the option --non-private"
        ),
        (false, true) => format!("expected 0 with --non-private, found {sigma}{place}"),
        (false, false) => format!("expected 0.0625 to 1048576, found {sigma}{place}"),
    };
    Err(PrivacyError::config("noise_multiplier", message))
}

/// The validated privacy parameters of a run, which only [`PrivacyConfig::resolve`] creates.
///
/// A list of noise multipliers or numbers of neighbors has one entry for each planned release.
/// Iterations are counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedPrivacy {
    pub(super) noise_multiplier: Schedule<f64>,
    pub(super) nearest_neighbors: Schedule<u32>,
    pub(super) releases: u32,
    pub(super) delta: f64,
    pub(super) adjacency: Adjacency,
    pub(super) unit: Unit,
    /// Number of images of the selection that differ when one image of the source is replaced.
    pub(super) replaced_images: u32,
    pub(super) noise: NoiseOrigin,
    /// Charges of other runs on the same images that the claim includes.
    pub(super) earlier: Vec<EarlierRun>,
}

impl ResolvedPrivacy {
    /// Returns σ, the standard deviation of the noise on each count in units of the largest L2 norm
    /// of the votes of one unit; 0 in a non-private run.
    #[must_use]
    pub fn noise_multiplier(&self) -> &Schedule<f64> {
        &self.noise_multiplier
    }

    /// Returns σ of an iteration; `None` for one beyond the end of a list.
    #[must_use]
    pub fn noise_multiplier_of(&self, iteration: u32) -> Option<f64> {
        value_of(&self.noise_multiplier, iteration)
    }

    /// Returns k, the number of samples for which each private image votes.
    #[must_use]
    pub fn nearest_neighbors(&self) -> &Schedule<u32> {
        &self.nearest_neighbors
    }

    /// Returns k of an iteration; `None` for one beyond the end of a list.
    #[must_use]
    pub fn nearest_neighbors_of(&self, iteration: u32) -> Option<u32> {
        value_of(&self.nearest_neighbors, iteration)
    }

    /// Returns true if σ or k changes from iteration to iteration.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.noise_multiplier.len().is_some() || self.nearest_neighbors.len().is_some()
    }

    /// Returns false for a run without noise, which requires [`NonPrivateConsent`].
    pub(super) fn has_noise(&self) -> bool {
        self.noise_multiplier
            .values()
            .iter()
            .any(|sigma| *sigma > 0.0)
    }

    /// Accounts for a selection of images of which up to `images` are replaced when one image of
    /// the source is replaced: two, if images are chosen class by class, because the replacement
    /// may be of another class. The noise grows by √`images`, so that the noise multiplier and
    /// every ε mean what they mean without a selection.
    #[must_use]
    pub fn with_replaced_images(mut self, images: u32) -> Self {
        self.replaced_images = images.max(1);
        self
    }

    /// Returns the largest squared L2 norm of the votes of one unit, or of the images that change
    /// their place in the selection with it, where images have `nearest_neighbors` votes each.
    #[must_use]
    pub fn squared_votes(&self, nearest_neighbors: u32) -> u32 {
        self.unit.squared_votes(nearest_neighbors) * self.replaced_images
    }

    /// Returns the standard deviation of the noise on each count in votes, for each planned
    /// release.
    #[must_use]
    pub fn noise_votes(&self) -> Schedule<f64> {
        self.each_release(|sigma, k| sigma * f64::from(self.squared_votes(k)).sqrt())
    }

    /// Returns the parameter of the discrete Gaussian on the lattice for each planned release, or
    /// `None` in a run without noise.
    pub(super) fn lattice_sigmas(&self) -> Option<Schedule<BigUint>> {
        let of = |sigma, k| lattice_sigma(sigma, self.squared_votes(k));
        self.has_noise().then(|| self.each_release(of))
    }

    /// Returns the parameter of the discrete Gaussian on the lattice for one release, or `None` in
    /// a run without noise.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] for an iteration beyond the end of a list.
    pub(super) fn lattice_sigma(&self, iteration: u32) -> Result<Option<BigUint>, PrivacyError> {
        let (sigma, k) = self.terms_of(iteration)?;
        let of_noise = || lattice_sigma(sigma, self.squared_votes(k));
        Ok(self.has_noise().then(of_noise))
    }

    /// Returns σ and k of one release.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Order`] for an iteration beyond the end of a list.
    pub(super) fn terms_of(&self, iteration: u32) -> Result<(f64, u32), PrivacyError> {
        let sigma = self.noise_multiplier_of(iteration);
        let terms = sigma.zip(self.nearest_neighbors_of(iteration));
        terms.ok_or_else(|| PrivacyError::Order {
            iteration,
            message: format!("only {} releases are planned", self.releases),
        })
    }

    /// Returns a value of each release that follows from its σ and k: one if neither changes.
    fn each_release<T>(&self, of: impl Fn(f64, u32) -> T) -> Schedule<T> {
        match (&self.noise_multiplier, &self.nearest_neighbors) {
            (Schedule::Constant(sigma), Schedule::Constant(k)) => of(*sigma, *k).into(),
            (sigmas, neighbors) => {
                let planned = 0..self.releases as usize;
                let values = planned.map_while(|t| Some(of(*sigmas.get(t)?, *neighbors.get(t)?)));
                Schedule::List(values.collect())
            }
        }
    }

    /// Returns T, the number of planned releases, one per iteration.
    #[must_use]
    pub fn releases(&self) -> u32 {
        self.releases
    }

    /// Returns δ.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Returns the adjacency of the run's claim.
    #[must_use]
    pub fn adjacency(&self) -> Adjacency {
        self.adjacency
    }

    /// Returns the protected unit.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Includes the charges of earlier runs on the same private images in the claim.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] if a run protected another unit, whose ε does not bound
    /// that of this one, or if the noise of all together is too small for the reserve of the
    /// accountant.
    pub fn with_earlier(mut self, earlier: Vec<EarlierRun>) -> Result<Self, PrivacyError> {
        if let Some(other) = earlier.iter().find(|run| run.unit != self.unit) {
            let message = format!(
                "is {}, but the earlier run {} on these images protected one {}: their charges do \
                 not add up; use the same unit, or samples and an output folder of no earlier run",
                self.unit, other.run_id, other.unit
            );
            return Err(PrivacyError::config("unit", message));
        }
        let earlier_deviation: f64 = earlier.iter().map(EarlierRun::deviation).sum();
        if earlier_deviation + self.deviation() > LARGEST_DEVIATION {
            let message = "is too small for the releases of this and the earlier runs together: \
                           the accountant's reserve does not cover them";
            return Err(PrivacyError::config("noise_multiplier", message));
        }
        self.earlier = earlier;
        Ok(self)
    }

    /// Returns the charges of earlier runs that the claim includes.
    #[must_use]
    pub fn earlier(&self) -> &[EarlierRun] {
        &self.earlier
    }

    /// Returns ε after `releases` releases of this run and all charged releases of the earlier runs
    /// under `adjacency`, rounded up; infinite without noise.
    #[must_use]
    pub fn epsilon_after(&self, releases: u32, adjacency: Adjacency) -> f64 {
        accountant::solve_epsilon_of(self.mu_after(releases, adjacency), self.delta)
    }

    /// Returns μ of Gaussian DP of the same releases, rounded up.
    #[must_use]
    pub fn mu_after(&self, releases: u32, adjacency: Adjacency) -> f64 {
        let own = accountant::mu(&self.noise_multiplier, releases, adjacency);
        let earlier = self.earlier.iter().map(|run| run.mu(adjacency));
        accountant::compose(earlier.chain([own]))
    }

    /// Returns ρ of zero-concentrated DP of the same releases, rounded up.
    pub(super) fn rho_after(&self, releases: u32, adjacency: Adjacency) -> f64 {
        let own = zcdp_rho(&self.noise_multiplier, releases, adjacency);
        let earlier = self.earlier.iter().map(|run| run.rho(adjacency));
        accountant::sum_up(earlier.chain([own]))
    }

    /// Returns the reason why no output of this run is private, or `None` for a private run.
    #[must_use]
    pub fn non_private(&self) -> Option<&'static str> {
        if !self.has_noise() {
            Some("no noise was added, on request (--non-private)")
        } else if self.noise == NoiseOrigin::OperatingSystem {
            None
        } else {
            Some("the noise came from a fixed test seed (DPSYN_TEST_NOISE_SEED in a test build)")
        }
    }

    /// Checks δ < 1/n for a number n of protected units.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] otherwise.
    pub fn check_units(&self, units: usize) -> Result<(), PrivacyError> {
        check_delta_against(self.delta, units, self.unit)
    }

    /// Returns the bound on the difference between the lattice and the continuous mechanism; see
    /// [`deviation`].
    pub(super) fn deviation(&self) -> f64 {
        if !self.has_noise() {
            return 0.0;
        }
        let (sigma, k) = (&self.noise_multiplier, &self.nearest_neighbors);
        // `replaced_images` n multiplies the changed bins by n and s⁴ by n², so the bound of n = 1
        // holds.
        deviation(sigma, self.unit, k, self.releases)
    }
}

/// Returns the value of an iteration, counted from 1.
pub(super) fn value_of<T: Copy>(schedule: &Schedule<T>, iteration: u32) -> Option<T> {
    let index = usize::try_from(iteration).ok()?.checked_sub(1)?;
    schedule.get(index).copied()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
