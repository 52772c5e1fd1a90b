//! Warnings about votes that are weak beside their noise, from declared numbers alone.

use super::Plan;
use crate::privacy::Unit;
use crate::voting::SelectionMode;

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
