//! [`Trial`]: the mechanism without a ledger, for audits of public images.
//!
//! An audit (`crate::audit`) repeats the release of the same counts many thousand times, which no
//! ledger could permit. It is safe there because the images are public: the audit makes them itself
//! from a seed. `tests/layers.rs` checks that no other module uses this file.

use super::charge::{Charge, Noise};
use super::error::PrivacyError;
use super::histogram::NoisyHistogram;
use super::mechanism::release;
use super::noise_source::NoiseKey;
use super::sensitive::Sensitive;
use super::settings::ResolvedPrivacy;
use super::vote_counts::VoteCounts;

/// Declares that all images that voted were made by an audit from public numbers. The counts pass
/// through [`Sensitive`] as those of private images do, but nothing about them is private.
#[derive(Debug, Clone, Copy)]
pub struct PublicCanaries(());

impl PublicCanaries {
    /// Creates the declaration. For callers that have made every image themselves.
    #[must_use]
    pub fn declared() -> Self {
        Self(())
    }
}

/// The noise of one run of the mechanism, independent of that of every other trial.
pub struct Trial<'a> {
    privacy: &'a ResolvedPrivacy,
    key: NoiseKey,
}

impl<'a> Trial<'a> {
    /// Begins a run of the mechanism with a key of its own, as each run has.
    ///
    /// # Errors
    /// [`PrivacyError::Randomness`].
    pub fn new(privacy: &'a ResolvedPrivacy, _: PublicCanaries) -> Result<Self, PrivacyError> {
        let key = privacy.noise.new_key()?;
        Ok(Self { privacy, key })
    }

    /// Adds the noise of `iteration` to the counts by [`release`], as a run does.
    ///
    /// # Errors
    /// Those of [`release`], and [`PrivacyError::Order`] for an iteration that is not planned.
    pub fn release(
        &self,
        counts: &Sensitive<VoteCounts>,
        iteration: u32,
    ) -> Result<NoisyHistogram, PrivacyError> {
        let noise = match self.privacy.lattice_sigma(iteration)? {
            None => Noise::Nothing,
            Some(sigma) => Noise::DiscreteGaussian {
                sigma,
                key: self.key.clone(),
            },
        };
        let (_, nearest_neighbors) = self.privacy.terms_of(iteration)?;
        let charge = Charge::of_audit(iteration, noise, self.privacy.unit, nearest_neighbors);
        Ok(release(counts.map_ref(VoteCounts::clone), charge)?.of_audit())
    }
}

/// Returns the terms of a defective mechanism, whose noise of an iteration is the same in every
/// trial.
#[cfg(test)]
pub fn with_repeated_noise(privacy: &ResolvedPrivacy, seed: u64) -> ResolvedPrivacy {
    let mut privacy = privacy.clone();
    privacy.noise = super::noise_source::NoiseOrigin::FixedTestSeed(seed);
    privacy
}

#[cfg(test)]
mod tests {
    use super::super::settings::PrivacyConfig;
    use super::*;

    /// Two runs on the same counts differ in each of 64 bins, except with probability below 10⁻⁴: a
    /// bin repeats its noise with probability below 10⁻⁶.
    #[test]
    fn every_trial_has_its_own_noise() {
        let config: PrivacyConfig = toml::from_str("noise_multiplier = 1.0\ndelta = 1e-5").unwrap();
        let privacy = config.resolve(2, 1, None, None).unwrap();
        let counts = Sensitive::new(VoteCounts::of_images(&[5; 64], 1));
        let release = |privacy, iteration| {
            let trial = Trial::new(privacy, PublicCanaries::declared()).unwrap();
            trial.release(&counts, iteration).unwrap()
        };
        let (one, other) = (release(&privacy, 1), release(&privacy, 1));
        let pairs = one.lattice().iter().zip(other.lattice());
        assert!(pairs.clone().all(|(one, other)| one != other));
        // Ten standard deviations.
        assert!(one.values().iter().all(|v| (v - 5.0).abs() < 10.0));
        let repeated = with_repeated_noise(&privacy, 1);
        assert_eq!(release(&repeated, 1), release(&repeated, 1));
        assert_ne!(release(&repeated, 1), release(&repeated, 2));
    }
}
