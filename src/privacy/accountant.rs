//! ε from (σ, T, δ) and σ from (ε, T, δ), never rounded in the unsafe direction.
//!
//! **Statement.** Let every release add Gaussian noise of standard deviation σ·√k to a histogram
//! that one record changes by at most s·√k in L2 norm. T releases, each chosen with the earlier
//! results known, are together μ-GDP with μ = s·√T/σ (Dong, Roth, Su 2019, arXiv 1905.02383,
//! Corollary 2): telling two neighbouring data sets apart is as hard as telling N(0, 1) from N(μ,
//! 1). That problem's δ(ε) is known exactly (see [`delta_upper_bound`]); ε is its inverse at the
//! given δ. No composition theorem with slack is involved.
//!
//! **Rounding.** μ is rounded up, δ(ε) is bounded from above, and a solution is only ever the
//! upper end of its bracket, at which the bound was seen to hold. So the ε returned is at least
//! the true one, and [`noise_multiplier`] returns a σ at which [`epsilon`] is at most the target.
//!
//! **Lattice.** The mechanism's noise is the discrete Gaussian on a fine lattice. The equations
//! are solved for δ·(1 − 10⁻⁹), which pays for the difference many times over; `lattice` has the
//! proof.

use serde::{Deserialize, Serialize};

use super::error::PrivacyError;
use super::normal_tail::delta_upper_bound;

/// Which data sets are neighbours: what "one unit's participation" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjacency {
    /// One has the unit and the other does not. Its k votes of 1 in k distinct bins are there or
    /// not: the histogram changes by √k.
    #[default]
    AddRemove,
    /// One has another unit in its place. k votes move, from k bins to k others at worst: the
    /// histogram changes by √(2k).
    ReplaceOne,
}

impl Adjacency {
    /// Both, in the order in which tables show them.
    pub const ALL: [Self; 2] = [Self::AddRemove, Self::ReplaceOne];

    /// The name used in configurations, ledgers and statements.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AddRemove => "add-remove",
            Self::ReplaceOne => "replace-one",
        }
    }

    /// What the two neighbouring data sets look like, for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AddRemove => "the data set with or without any one",
            Self::ReplaceOne => "the data set with any one exchanged for another",
        }
    }

    /// The square of s: how far one unit moves the histogram, in multiples of √k.
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

/// No meaningful δ is smaller, and double precision resolves tails down to here with room to spare.
const SMALLEST_DELTA: f64 = 1e-200;

/// The share of δ set aside for the lattice; see the module's documentation.
const DELTA_RESERVE: f64 = 1e-9;

/// The smallest ε that can be claimed after `releases` releases with noise multiplier
/// `noise_multiplier` (σ, per vote of unit L2 norm), rounded up.
///
/// 0 when there were no releases or so much noise that δ alone covers them; infinite when the noise
/// multiplier is 0.
///
/// # Errors
/// [`PrivacyError::Config`] when the noise multiplier is negative or not a finite number, or δ is
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

/// The smallest noise multiplier with which `releases` releases stay within `target` at δ, rounded
/// up: [`epsilon`] of the result is at most `target`.
///
/// # Errors
/// [`PrivacyError::Config`] when the target is not positive and finite, δ is not in [1e-200, 1),
/// there is no release to make, or no noise multiplier below 2^100 is enough.
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
            "no release is planned, so no noise multiplier follows from it",
        ));
    }
    let enough = |sigma: f64| solve_epsilon(sigma, releases, delta, adjacency) <= target;
    let mut high = 1.0;
    while !enough(high) {
        high *= 2.0;
        if high > 2f64.powi(100) {
            return Err(PrivacyError::config(
                "epsilon",
                format!("{target} cannot be reached with any noise"),
            ));
        }
    }
    Ok(smallest_satisfying(high, enough))
}

/// ρ of zero-concentrated DP (Bun and Steinke 2016) after `releases` releases, rounded up:
/// T·s²/(2σ²).
///
/// This one holds for the discrete Gaussian exactly, without any comparison with the continuous one
/// (Canonne, Kamath, Steinke 2020, Theorem 4).
pub(super) fn zcdp_rho(noise_multiplier: f64, releases: u32, adjacency: Adjacency) -> f64 {
    if releases == 0 {
        return 0.0;
    }
    let squares = f64::from(releases) * f64::from(adjacency.squared_sensitivity());
    (squares / noise_multiplier / noise_multiplier / 2.0) * (1.0 + 4.0 * f64::EPSILON)
}

pub(super) fn check_noise_multiplier(noise_multiplier: f64) -> Result<(), PrivacyError> {
    if noise_multiplier.is_finite() && noise_multiplier >= 0.0 {
        return Ok(());
    }
    Err(PrivacyError::config(
        "noise_multiplier",
        format!("expected a finite number, not negative, found {noise_multiplier}"),
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

/// [`epsilon`] of checked arguments.
pub(super) fn solve_epsilon(
    noise_multiplier: f64,
    releases: u32,
    delta: f64,
    adjacency: Adjacency,
) -> f64 {
    if releases == 0 {
        return 0.0;
    }
    let squares = f64::from(releases) * f64::from(adjacency.squared_sensitivity());
    // Three roundings of half a unit each. The floor keeps ε/μ finite; a larger μ is always safe.
    let mu = (libm::sqrt(squares) / noise_multiplier * (1.0 + 4.0 * f64::EPSILON)).max(1e-100);
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

/// Bisects (0, `high`] for the smallest number at which `holds` is true, given that it is true at
/// `high` and stays true from some number on. Whatever rounding does to that monotony, `holds` was
/// seen to be true at the result.
///
/// Non-negative floating-point numbers are ordered as their bits are, so halving the distance
/// between bit patterns ends at two adjacent numbers after at most 63 steps, whatever the
/// magnitude.
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
