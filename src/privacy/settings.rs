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
use crate::sections::Section;

/// The `[privacy]` table: either `noise_multiplier` or `epsilon`, and `delta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyConfig {
    /// σ: the standard deviation of the noise on each count is σ·√k votes, where k is the number of
    /// nearest neighbors for which an image votes, and σ votes if the unit is a client. Between
    /// 1/16 and 2²⁰, or 0 with `--non-private`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
    /// Instead of `noise_multiplier`: the ε that all planned iterations together may cost. The run
    /// uses the smallest σ that satisfies it.
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
    /// each image votes for `nearest_neighbors` samples. `units`, the number of protected units, is
    /// declared public and checked against δ if it is known already.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] with the key if both or neither of `noise_multiplier` and
    /// `epsilon` are given, if a value is out of range, if δ ≥ 1/n, if `nearest_neighbors` is 0,
    /// if the noise multiplier is 0 without consent, or if there is consent and noise.
    pub fn resolve(
        &self,
        releases: u32,
        nearest_neighbors: u32,
        units: Option<usize>,
        non_private: Option<NonPrivateConsent>,
    ) -> Result<ResolvedPrivacy, PrivacyError> {
        check_delta(self.delta)?;
        if let Some(n) = units {
            check_delta_against(self.delta, n, self.unit)?;
        }
        if nearest_neighbors == 0 {
            return Err(PrivacyError::config(
                "nearest_neighbors",
                "expected at least 1",
            ));
        }
        let noise_multiplier = match (self.noise_multiplier, self.epsilon) {
            (Some(noise_multiplier), None) => noise_multiplier,
            (None, Some(f64::INFINITY)) if non_private.is_some() => 0.0,
            (None, Some(target)) => {
                let delta = self.delta;
                accountant::noise_multiplier(target, releases, delta, self.adjacency)?
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
        check_noise_multiplier(noise_multiplier)?;
        let without_noise = noise_multiplier == 0.0;
        match (without_noise, non_private.is_some()) {
            (true, false) => {
                return Err(PrivacyError::config(
                    "noise_multiplier",
                    "0 gives no privacy: expected at least 0.0625, or the option --non-private",
                ));
            }
            (false, true) => {
                return Err(PrivacyError::config(
                    "noise_multiplier",
                    format!("expected 0 with --non-private, found {noise_multiplier}"),
                ));
            }
            (true, true) => {}
            (false, false) => {
                check_neighbors(nearest_neighbors)?;
                check_practical(noise_multiplier, self.unit, nearest_neighbors, releases)?;
            }
        }
        Ok(ResolvedPrivacy {
            // −0 has another text than 0, and the ledger compares text.
            noise_multiplier: noise_multiplier.abs(),
            nearest_neighbors,
            releases,
            delta: self.delta,
            adjacency: self.adjacency,
            unit: self.unit,
            replaced_images: 1,
            noise: NoiseOrigin::from_environment()?,
            earlier: Vec::new(),
        })
    }
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

fn check_neighbors(nearest_neighbors: u32) -> Result<(), PrivacyError> {
    if nearest_neighbors > 1 << 16 {
        return Err(PrivacyError::config(
            "nearest_neighbors",
            format!("expected at most 65536, found {nearest_neighbors}"),
        ));
    }
    Ok(())
}

fn check_practical(
    noise_multiplier: f64,
    unit: Unit,
    nearest_neighbors: u32,
    releases: u32,
) -> Result<(), PrivacyError> {
    let range = SMALLEST_NOISE_MULTIPLIER..=LARGEST_NOISE_MULTIPLIER;
    if !range.contains(&noise_multiplier) {
        return Err(PrivacyError::config(
            "noise_multiplier",
            format!("expected 0.0625 to 1048576, found {noise_multiplier}"),
        ));
    }
    if deviation(noise_multiplier, unit, nearest_neighbors, releases) > LARGEST_DEVIATION {
        return Err(PrivacyError::config(
            "noise_multiplier",
            format!(
                "{noise_multiplier} is too small for {releases} iterations: the accountant's \
                 reserve does not cover them"
            ),
        ));
    }
    Ok(())
}

/// The validated privacy parameters of a run, which only [`PrivacyConfig::resolve`] creates.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedPrivacy {
    pub(super) noise_multiplier: f64,
    pub(super) nearest_neighbors: u32,
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
    pub fn noise_multiplier(&self) -> f64 {
        self.noise_multiplier
    }

    /// Returns k, the number of samples for which each private image votes.
    #[must_use]
    pub fn nearest_neighbors(&self) -> u32 {
        self.nearest_neighbors
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
    /// their place in the selection with it.
    #[must_use]
    pub fn squared_votes(&self) -> u32 {
        self.unit.squared_votes(self.nearest_neighbors) * self.replaced_images
    }

    /// Returns the standard deviation of the noise on each count in votes.
    #[must_use]
    pub fn noise_votes(&self) -> f64 {
        self.noise_multiplier * f64::from(self.squared_votes()).sqrt()
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
        let own = accountant::mu(self.noise_multiplier, releases, adjacency);
        let earlier = self.earlier.iter().map(|run| run.mu(adjacency));
        accountant::solve_epsilon_of(accountant::compose(earlier.chain([own])), self.delta)
    }

    /// Returns ρ of zero-concentrated DP of the same releases, rounded up.
    pub(super) fn rho_after(&self, releases: u32, adjacency: Adjacency) -> f64 {
        let own = zcdp_rho(self.noise_multiplier, releases, adjacency);
        let earlier = self.earlier.iter().map(|run| run.rho(adjacency));
        match self.earlier.len() {
            0 => own,
            runs => (own + earlier.sum::<f64>()) * (1.0 + (runs as f64 + 1.0) * f64::EPSILON),
        }
    }

    /// Returns the reason why no output of this run is private, or `None` for a private run.
    #[must_use]
    pub fn non_private(&self) -> Option<&'static str> {
        if self.noise_multiplier == 0.0 {
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
        if self.noise_multiplier == 0.0 {
            return 0.0;
        }
        let (sigma, k) = (self.noise_multiplier, self.nearest_neighbors);
        // `replaced_images` n multiplies the changed bins by n and s⁴ by n², so the bound of n = 1
        // holds.
        deviation(sigma, self.unit, k, self.releases)
    }

    /// Returns the parameter of the discrete Gaussian on the lattice, or `None` in a run without
    /// noise, which requires [`NonPrivateConsent`].
    pub(super) fn lattice_sigma(&self) -> Option<BigUint> {
        if self.noise_multiplier == 0.0 {
            None
        } else {
            Some(lattice_sigma(self.noise_multiplier, self.squared_votes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PrivacyConfig, toml::de::Error> {
        toml::from_str(text)
    }

    fn refusal(text: &str, releases: u32, neighbors: u32, n: Option<usize>) -> String {
        match parse(text).unwrap().resolve(releases, neighbors, n, None) {
            Ok(resolved) => panic!("{text} resolved to {resolved:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn defaults_and_unknown_keys() {
        let config = parse("noise_multiplier = 7.071\ndelta = 1e-5").unwrap();
        assert_eq!(config.adjacency, Adjacency::AddRemove);
        assert_eq!(config.unit, Unit::Image);
        let all = "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"replace-one\"\nunit = \"image\"";
        assert_eq!(parse(all).unwrap().adjacency, Adjacency::ReplaceOne);
        for (text, named) in [
            ("epsilom = 1.0\ndelta = 1e-5", "epsilom"),
            ("epsilon = 1.0", "delta"),
            ("epsilon = 1.0\ndelta = 1e-5\nunit = \"person\"", "person"),
            (
                "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"remove\"",
                "remove",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let text = "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"replace-one\"";
        let config = parse(text).unwrap();
        let again = parse(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn a_target_epsilon_is_kept() {
        let config = parse("epsilon = 1.0\ndelta = 1e-5").unwrap();
        let resolved = config.resolve(10, 3, Some(50_000), None).unwrap();
        assert!((resolved.noise_multiplier() - 11.797_293_077_1).abs() < 1e-6);
        assert!(resolved.epsilon_after(10, Adjacency::AddRemove) <= 1.0);
        assert_eq!(resolved.non_private(), None);
    }

    #[test]
    fn what_cannot_be_private_is_refused() {
        let sigma = |sigma: &str| format!("noise_multiplier = {sigma}\ndelta = 1e-5");
        assert!(refusal("delta = 1e-5", 1, 1, None).contains("missing"));
        let both = "noise_multiplier = 1.0\nepsilon = 1.0\ndelta = 1e-5";
        assert!(refusal(both, 1, 1, None).contains("conflicts"));
        for bad in ["-1.0", "nan", "inf", "0.01", "1e9"] {
            let error = refusal(&sigma(bad), 1, 1, None);
            assert!(error.starts_with("noise_multiplier: expected"), "{error}");
        }
        for zero in ["0.0", "-0.0"] {
            assert!(refusal(&sigma(zero), 1, 1, None).contains("--non-private"));
        }
        for delta in ["0.0", "-1e-5", "1.0", "nan"] {
            let text = format!("noise_multiplier = 1.0\ndelta = {delta}");
            assert!(refusal(&text, 1, 1, None).starts_with("delta: "));
        }
        // δ = 1/n exactly is too large.
        assert!(refusal(&sigma("1.0"), 1, 1, Some(100_000)).contains("1/n = 1/100000"));
        // Also if n times the rounded 1/n is less than 1.
        for n in [49, 98, 103, 107] {
            let text = format!("noise_multiplier = 1.0\ndelta = {}", 1.0 / n as f64);
            assert!(
                refusal(&text, 1, 1, Some(n)).contains("less than 1/n"),
                "{n}"
            );
        }
        let config = parse(&sigma("1.0")).unwrap();
        let resolved = config.resolve(1, 1, Some(99_999), None).unwrap();
        assert!(resolved.check_units(100_000).is_err());
        assert!(refusal(&sigma("1.0"), 1, 0, None).starts_with("nearest_neighbors"));
        assert!(refusal(&sigma("1.0"), 1, 70_000, None).starts_with("nearest_neighbors"));
        assert!(refusal(&sigma("0.07"), 1_000_000, 1, None).contains("too small"));
        assert!(
            refusal("epsilon = 1.0\ndelta = 1e-5", 0, 1, None)
                .contains("at least one planned release")
        );
    }

    #[test]
    fn a_non_private_run_requires_consent_and_no_noise() {
        let consent = || Some(NonPrivateConsent::given());
        let config = parse("noise_multiplier = 0.0\ndelta = 1e-5").unwrap();
        let resolved = config.resolve(1, 1, None, consent()).unwrap();
        assert!(resolved.non_private().is_some());
        assert_eq!(
            resolved.epsilon_after(1, Adjacency::AddRemove),
            f64::INFINITY
        );
        let config = parse("noise_multiplier = 1.0\ndelta = 1e-5").unwrap();
        assert!(config.resolve(1, 1, None, consent()).is_err());
    }
}
