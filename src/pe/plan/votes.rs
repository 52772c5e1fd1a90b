//! The votes of a plan beside their noise: thresholds and warnings, from declared numbers alone.

use super::Plan;
use crate::pe::threshold::{Threshold, VoteStrength};
use crate::pe::{IterationRules, PopulationSpec};
use crate::privacy::{ResolvedPrivacy, Unit};
use crate::sections::InvalidKey;
use crate::voting::SelectionMode;

/// Returns the votes of each iteration beside its noise: those of `voters` private images, whose
/// classes are taken as equally large, or the fewest that as many clients can have.
pub(super) fn strengths(
    voters: usize,
    rules: &[IterationRules],
    populations: &[PopulationSpec],
    privacy: &ResolvedPrivacy,
) -> Vec<VoteStrength> {
    let noise = privacy.noise_votes();
    let strength = |((index, rules), population): ((usize, &IterationRules), &PopulationSpec)| {
        let k = f64::from(rules.nearest_neighbors);
        let each = match privacy.unit() {
            Unit::Image => k,
            // The votes of a client have an L2 norm of 1 over at least k samples.
            Unit::Client => k.sqrt(),
        };
        let noise = noise.get(index).copied().unwrap_or(0.0);
        VoteStrength::new(voters as f64 * each, population.num_samples, noise)
    };
    let voted_on = rules.iter().enumerate().zip(populations);
    voted_on.map(strength).collect()
}

/// Returns the threshold of each iteration in votes. `strengths` is `None` if the number of private
/// images (or clients) is not declared.
///
/// # Errors
/// [`InvalidKey`] if a threshold is `"auto"` without a declared number.
pub(super) fn thresholds(
    rules: &[IterationRules],
    strengths: Option<&[VoteStrength]>,
) -> Result<Vec<f64>, InvalidKey> {
    // Many iterations have the same votes and noise.
    let mut last: Option<(VoteStrength, f64)> = None;
    let threshold = |(index, rules): (usize, &IterationRules)| {
        let strength = strengths.and_then(|strengths| strengths.get(index));
        match (rules.threshold, strength) {
            (Threshold::Votes(votes), _) => Ok(votes),
            (Threshold::Auto, Some(strength)) => {
                let known = last.filter(|(known, _)| known == strength);
                let votes = known.map_or_else(|| strength.auto(), |(_, votes)| votes);
                last = Some((*strength, votes));
                Ok(votes)
            }
            (Threshold::Auto, None) => Err(InvalidKey::new(
                "evolution.threshold",
                "\"auto\" needs the declared number of private images (data.declared_size, or \
                 data.clients.declared_size if the unit is a client)",
            )),
        }
    };
    rules.iter().enumerate().map(threshold).collect()
}

impl Plan {
    /// Returns the expected share of the parents of an iteration, counted from 0, that are sampled
    /// for their noise alone; `None` if parents are not sampled in proportion to votes, or if the
    /// number of private images is not declared.
    pub(super) fn noise_only_share(&self, iteration: usize) -> Option<f64> {
        let strength = self.strengths.as_ref()?.get(iteration)?;
        let threshold = self.thresholds.get(iteration)?;
        match self.rules.get(iteration)?.selection {
            SelectionMode::Rank => None,
            SelectionMode::Sample | SelectionMode::Systematic => {
                Some(strength.noise_only_share(*threshold))
            }
        }
    }

    /// Returns warnings about votes that are weak beside their noise, from declared numbers alone.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        // Below this ratio, votes improved little or did harm: docs/utility.md.
        const WEAK: f64 = 0.25;
        const MANY: f64 = 1.0 / 3.0;
        // The votes of a client are at least what the ratio counts, and may be far more.
        let is_exact = self.privacy.unit() == Unit::Image;
        let strengths = self.strengths.iter().flatten().filter(|_| is_exact);
        let weakest = strengths
            .enumerate()
            .min_by(|(_, a), (_, b)| a.ratio.total_cmp(&b.ratio));
        if let Some((iteration, strength)) = weakest.filter(|(_, weak)| weak.ratio < WEAK) {
            return vec![format!(
                "iteration {}: the votes for each sample are {:.2} times the noise: below {WEAK}, \
                 votes improve little (use fewer evolution.num_samples, fewer iterations, or a \
                 larger epsilon)",
                iteration + 1,
                strength.ratio
            )];
        }
        let shares = (0..self.rules.len()).filter_map(|t| Some((t, self.noise_only_share(t)?)));
        let largest = shares.max_by(|(_, a), (_, b)| a.total_cmp(b));
        let Some((iteration, share)) = largest.filter(|(_, share)| is_exact && *share > MANY)
        else {
            return Vec::new();
        };
        let strength = self.strengths.iter().flatten().nth(iteration);
        let auto_is_less = strength.is_some_and(|s| s.noise_only_share(s.auto()) < share);
        let advice = match auto_is_less {
            true => "evolution.threshold = \"auto\" or fewer evolution.num_samples lower that",
            false => "fewer evolution.num_samples lower that",
        };
        vec![format!(
            "iteration {}: about {:.0} % of the parents are expected to be sampled for their noise \
             alone ({advice})",
            iteration + 1,
            100.0 * share
        )]
    }
}
