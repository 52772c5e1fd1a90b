//! The accountant: ε from (σ, T, δ) and σ from (ε, T, δ), never rounded in the unsafe direction.
//!
//! **Statement.** Let release t add Gaussian noise of standard deviation σ_t·√k_t to a histogram
//! that one record changes by at most s·√k_t in L2 norm. It is μ_t-GDP with μ_t = s/σ_t, whatever
//! k_t is. T releases, each of which may depend on the results of the earlier ones, are together
//! μ-GDP with μ² = Σ μ_t² = s²·Σ 1/σ_t² (Dong, Roth, Su 2019, "Gaussian Differential Privacy",
//! arXiv 1905.02383, Corollary 2), which is s²·T/σ² if all σ_t are σ: to distinguish two
//! neighboring data sets is at least as hard as to distinguish N(0, 1) from N(μ, 1) by one sample.
//! The δ(ε) of that problem is known exactly (Balle, Wang 2018; see [`delta_upper_bound`]), and ε
//! is its inverse at the given δ. No composition theorem with slack is involved. The σ_t are fixed
//! before the first release; the statement after t of T releases has the first t terms of the sum.
//!
//! **Rounding.** μ is rounded up, δ(ε) is bounded from above, and a solution is always the upper
//! end of its bracket, at which the bound was evaluated and found to hold. The returned ε is
//! therefore at least the true one, and [`noise_multiplier`] returns a σ for which [`epsilon`] is
//! at most the target. The error of a sum of n unequal terms grows with n, and [`compose`] and
//! [`sum_up`] add a bound of it.
//!
//! **Lattice.** The noise of the mechanism is the discrete Gaussian on a fine lattice. The
//! equations are solved for δ·(1 − 10⁻⁹), and this reserve exceeds the difference between the
//! discrete and the continuous Gaussian; the module `lattice` has the proof.

use serde::{Deserialize, Serialize};

use super::error::PrivacyError;
use super::normal_tail::delta_upper_bound;
use crate::schedule::Schedule;

/// The neighboring relation between data sets, which defines the participation of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjacency {
    /// One data set has the unit and the other does not. The unit's k votes of 1 in k distinct bins
    /// are present or absent: the histogram changes by √k in L2 norm.
    #[default]
    AddRemove,
    /// One data set has another unit in the place of the unit. At worst, k votes move from k bins
    /// to k other bins: the histogram changes by √(2k) in L2 norm.
    ReplaceOne,
}

impl Adjacency {
    /// Both relations, in the order of the tables.
    pub const ALL: [Self; 2] = [Self::AddRemove, Self::ReplaceOne];

    /// Returns the name used in configurations, ledgers and statements.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AddRemove => "add-remove",
            Self::ReplaceOne => "replace-one",
        }
    }

    /// Returns a description of two neighboring data sets, to be followed by the unit: "the data
    /// set with or without any one".
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AddRemove => "the data set with or without any one",
            Self::ReplaceOne => "the data set with any one exchanged for another",
        }
    }

    /// Returns the one of the two under which a unit changes the histogram more.
    #[must_use]
    pub(super) fn larger(self, other: Self) -> Self {
        if other.squared_sensitivity() > self.squared_sensitivity() {
            other
        } else {
            self
        }
    }

    /// Returns s², where s·√k is the largest change of the histogram by one unit, in L2 norm.
    #[must_use]
    pub fn squared_sensitivity(self) -> u32 {
        match self {
            Self::AddRemove => 1,
            Self::ReplaceOne => 2,
        }
    }
}

impl std::fmt::Display for Adjacency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The smallest accepted δ. No smaller δ is meaningful, and double precision still resolves the
/// normal distribution's tail here (its smallest positive normal number is 2·10⁻³⁰⁸).
const SMALLEST_DELTA: f64 = 1e-200;

/// The share of δ that is reserved for the lattice; see the documentation of the module.
const DELTA_RESERVE: f64 = 1e-9;

/// Returns the smallest ε that can be claimed at `delta` after `releases` releases with noise
/// multiplier σ = `noise_multiplier` (noise per vote of unit L2 norm), rounded up.
///
/// The result is 0 if there were no releases, or if the noise is so large that δ alone covers
/// them. It is infinite if the noise multiplier is 0.
///
/// # Errors
/// Returns [`PrivacyError::Config`] if the noise multiplier is negative or not finite, or if δ is
/// not in [1e-200, 1).
pub fn epsilon(
    noise_multiplier: f64,
    releases: u32,
    delta: f64,
    adjacency: Adjacency,
) -> Result<f64, PrivacyError> {
    check_noise_multiplier(noise_multiplier)?;
    check_delta(delta)?;
    Ok(solve_epsilon(noise_multiplier, releases, delta, adjacency))
}

/// Returns the smallest noise multiplier for which `releases` releases cost at most ε = `target` at
/// `delta`, rounded up: [`epsilon`] of the result is at most `target`.
///
/// # Errors
/// Returns [`PrivacyError::Config`] if the target is not positive and finite, if δ is not in
/// [1e-200, 1), if `releases` is 0, or if no noise multiplier below 2¹⁰⁰ is sufficient.
pub fn noise_multiplier(
    target: f64,
    releases: u32,
    delta: f64,
    adjacency: Adjacency,
) -> Result<f64, PrivacyError> {
    if !(target.is_finite() && target > 0.0) {
        return Err(PrivacyError::config(
            "epsilon",
            format!("expected a positive number, found {target}"),
        ));
    }
    check_delta(delta)?;
    if releases == 0 {
        return Err(PrivacyError::config(
            "epsilon",
            "expected at least one planned release, from which a noise multiplier follows",
        ));
    }
    let enough = |sigma: f64| solve_epsilon(sigma, releases, delta, adjacency) <= target;
    let mut high = 1.0;
    while !enough(high) {
        high *= 2.0;
        if high > 2f64.powi(100) {
            return Err(PrivacyError::config(
                "epsilon",
                format!("{target} is too small: no noise multiplier below 2^100 reaches it"),
            ));
        }
    }
    Ok(smallest_satisfying(high, enough))
}

/// Returns [`epsilon`] of the first `releases` releases with their own noise multipliers.
///
/// # Errors
/// As [`epsilon`], for every noise multiplier.
pub(super) fn epsilon_of(
    noise: &Schedule<f64>,
    releases: u32,
    delta: f64,
    adjacency: Adjacency,
) -> Result<f64, PrivacyError> {
    let mut values = noise.values().iter();
    values.try_for_each(|sigma| check_noise_multiplier(*sigma))?;
    check_delta(delta)?;
    Ok(solve_epsilon_of(mu(noise, releases, adjacency), delta))
}

/// Returns ρ of zero-concentrated DP (Bun, Steinke 2016) of the first `releases` releases, rounded
/// up: Σ s²/(2σ_t²).
///
/// It holds for the discrete Gaussian itself, without a comparison with the continuous one
/// (Canonne, Kamath, Steinke 2020, Theorem 4), and composes by addition.
pub(super) fn zcdp_rho(noise: &Schedule<f64>, releases: u32, adjacency: Adjacency) -> f64 {
    let rho = |(sigma, count)| rho_of_equal(sigma, count, adjacency);
    sum_up(groups(noise, releases).map(rho))
}

/// Returns ρ of `releases` releases with the same noise, rounded up: T·s²/(2σ²).
fn rho_of_equal(noise_multiplier: f64, releases: u32, adjacency: Adjacency) -> f64 {
    if releases == 0 {
        return 0.0;
    }
    if !is_noise(noise_multiplier) {
        return f64::INFINITY;
    }
    let squares = f64::from(releases) * f64::from(adjacency.squared_sensitivity());
    // Three roundings of half a unit in the last place each are less than 4 units.
    (squares / noise_multiplier / noise_multiplier / 2.0) * (1.0 + 4.0 * f64::EPSILON)
}

/// Returns the sum of numbers of at least 0, rounded up. A single one is returned as it is.
pub(super) fn sum_up(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    match values.as_slice() {
        [one] => *one,
        // n − 1 additions, each with a relative error of half a unit in the last place, and that of
        // the product: less than n units, as no term is negative.
        all => all.iter().sum::<f64>() * (1.0 + all.len() as f64 * f64::EPSILON),
    }
}

/// Returns the noise multipliers of the first `releases` releases in groups of equal ones that
/// follow each other: σ and the number of releases. Releases beyond the end of a list count as
/// releases without noise, so that nothing is free.
fn groups(noise: &Schedule<f64>, releases: u32) -> impl Iterator<Item = (f64, u32)> {
    let (known, beyond) = match noise {
        Schedule::Constant(sigma) => (vec![(*sigma, releases)], 0),
        Schedule::List(list) => {
            let wanted = usize::try_from(releases).unwrap_or(usize::MAX);
            let (first, _) = list.split_at(wanted.min(list.len()));
            let groups = first.chunk_by(|one, next| one == next);
            // A group is part of `releases`, so its number fits.
            let counted = groups.filter_map(|group| Some((*group.first()?, group.len() as u32)));
            (counted.collect(), releases - first.len() as u32)
        }
    };
    known
        .into_iter()
        .chain((beyond > 0).then_some((0.0, beyond)))
}

/// Returns true if a release with this noise multiplier has noise: false for 0, which no noise is,
/// and for what no configuration has.
fn is_noise(noise_multiplier: f64) -> bool {
    noise_multiplier > 0.0
}

pub(super) fn check_noise_multiplier(noise_multiplier: f64) -> Result<(), PrivacyError> {
    if noise_multiplier.is_finite() && noise_multiplier >= 0.0 {
        return Ok(());
    }
    Err(PrivacyError::config(
        "noise_multiplier",
        format!("expected a finite number of at least 0, found {noise_multiplier}"),
    ))
}

pub(super) fn check_delta(delta: f64) -> Result<(), PrivacyError> {
    if (SMALLEST_DELTA..1.0).contains(&delta) {
        return Ok(());
    }
    Err(PrivacyError::config(
        "delta",
        format!("expected a probability of at least 1e-200 and below 1, found {delta}"),
    ))
}

/// Computes [`epsilon`] for arguments that were checked before.
fn solve_epsilon(noise_multiplier: f64, releases: u32, delta: f64, adjacency: Adjacency) -> f64 {
    solve_epsilon_of(mu_of_equal(noise_multiplier, releases, adjacency), delta)
}

/// Returns μ of Gaussian DP of the first `releases` releases, rounded up: s·√(Σ 1/σ_t²).
pub(super) fn mu(noise: &Schedule<f64>, releases: u32, adjacency: Adjacency) -> f64 {
    let mu = |(sigma, count)| mu_of_equal(sigma, count, adjacency);
    compose(groups(noise, releases).map(mu))
}

/// Returns μ of `releases` releases with the same noise, rounded up: s·√T/σ.
fn mu_of_equal(noise_multiplier: f64, releases: u32, adjacency: Adjacency) -> f64 {
    if releases == 0 {
        return 0.0;
    }
    if !is_noise(noise_multiplier) {
        return f64::INFINITY;
    }
    let squares = f64::from(releases) * f64::from(adjacency.squared_sensitivity());
    // Three roundings of half a unit in the last place each are less than 4 units. The lower bound
    // of 1e-100 keeps ε/μ finite; a larger μ is always safe.
    (libm::sqrt(squares) / noise_multiplier * (1.0 + 4.0 * f64::EPSILON)).max(1e-100)
}

/// Returns μ of several mechanisms on the same data together, rounded up: the root of the sum of
/// their squares (Dong, Roth, Su 2019, Corollary 2). A single μ is returned as it is.
pub(super) fn compose(mus: impl IntoIterator<Item = f64>) -> f64 {
    let mus: Vec<f64> = mus.into_iter().filter(|mu| *mu > 0.0).collect();
    match mus.as_slice() {
        [] => 0.0,
        [one] => *one,
        // With u half a unit in the last place: every product has a relative error of at most u,
        // and the n − 1 additions of positive numbers add at most (n − 1)·u. The root halves the
        // sum of both, n·u, and adds u of its own, and the last product adds u: (n/2 + 2)·u in all,
        // while the factor adds (2n + 4)·u. Terms of second order are below n²·u², and n·u is at
        // most 2⁻²¹, as there are at most 2³² releases.
        all => {
            let squares: f64 = all.iter().map(|mu| mu * mu).sum();
            libm::sqrt(squares) * (1.0 + (all.len() as f64 + 2.0) * f64::EPSILON)
        }
    }
}

/// Returns the smallest ε at `delta` of a μ-GDP mechanism, rounded up.
pub(super) fn solve_epsilon_of(mu: f64, delta: f64) -> f64 {
    if mu == 0.0 {
        return 0.0;
    }
    if !mu.is_finite() {
        return f64::INFINITY;
    }
    let budget = delta * (1.0 - DELTA_RESERVE);
    let holds = |epsilon: f64| delta_upper_bound(epsilon, mu) <= budget;
    if holds(0.0) {
        return 0.0;
    }
    let mut high = 1.0;
    while !holds(high) {
        high *= 2.0;
        if high == f64::INFINITY {
            return f64::INFINITY;
        }
    }
    smallest_satisfying(high, holds)
}

/// Finds the smallest number in (0, `high`] for which `holds` is true by bisection, given that
/// `holds` is true at `high` and monotone. If rounding errors violate monotonicity, the result may
/// not be the smallest, but `holds` was evaluated there and was true.
///
/// Non-negative floating-point numbers have the order of their bit patterns. Bisection of bit
/// patterns therefore ends at two adjacent numbers after at most 63 steps, for any magnitude.
fn smallest_satisfying(high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0u64, high.to_bits());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(f64::from_bits(middle)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    f64::from_bits(high)
}

#[cfg(test)]
#[path = "accountant_tests.rs"]
mod tests;
