//! A lower bound of ε from one run with many canaries: Steinke, Nasr, Jagielski 2023, "Privacy
//! Auditing with One (1) Training Run", arXiv 2305.08846, Theorem 5.2 and Appendix D.
//!
//! Each of m canaries is included or left out by a fair coin, independently. (Under replace-one
//! adjacency, the coin decides between two images.) After the run, the auditor guesses r of the
//! coins and abstains from the others. If the mechanism is (ε, δ)-differentially private, the
//! number of correct guesses is, up to a term in δ, at most a binomial variable with probability
//! e^ε/(1 + e^ε): v or more are correct with probability at most
//!
//! > β + α·m·δ, where β = P[B ≥ v] and α = max over i of 2/i·P[v > B ≥ v − i],
//! > B ~ Binomial(r, e^ε/(1 + e^ε)).

use statrs::distribution::{Binomial, Discrete, DiscreteCDF};

/// The guesses of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guesses {
    /// m: canaries, each with its own coin.
    pub canaries: u64,
    /// r: coins that were guessed.
    pub guesses: u64,
    /// v: correct guesses.
    pub correct: u64,
}

/// The largest ε that the bisection considers; δ alone would permit no useful claim beyond it.
const LARGEST_EPSILON: f64 = 64.0;

impl Guesses {
    /// Guesses that the `each` canaries with the highest scores were included and that the `each`
    /// with the lowest were not. `scores` and `included` hold one value per canary.
    #[must_use]
    pub fn count(scores: &[f64], included: &[bool], each: usize) -> Self {
        let mut order: Vec<(f64, bool)> = scores
            .iter()
            .copied()
            .zip(included.iter().copied())
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let each = each.min(order.len() / 2);
        let low = order.iter().take(each).filter(|(_, coin)| !coin).count();
        let high = order.iter().rev().take(each).filter(|(_, coin)| *coin);
        Self {
            canaries: order.len() as u64,
            guesses: 2 * each as u64,
            correct: (low + high.count()) as u64,
        }
    }

    /// Returns an upper bound of the probability of so many correct guesses, or more, if the
    /// mechanism is (ε, δ)-differentially private.
    #[must_use]
    pub fn p_value(self, epsilon: f64, delta: f64) -> f64 {
        let Self {
            canaries,
            guesses,
            correct,
        } = self;
        if correct == 0 {
            return 1.0;
        }
        let Ok(binomial) = Binomial::new(1.0 / (1.0 + (-epsilon).exp()), guesses) else {
            return 1.0;
        };
        // P[B ≥ v] = P[B > v − 1]
        let beta = binomial.sf(correct - 1);
        let (mut alpha, mut sum) = (0.0f64, 0.0);
        for i in 1..=correct {
            sum += binomial.pmf(correct - i);
            alpha = alpha.max(2.0 * sum / i as f64);
        }
        (beta + alpha * canaries as f64 * delta).min(1.0)
    }

    /// Returns the largest ε that the guesses exclude, except with probability `error`; 0 if they
    /// exclude none.
    #[must_use]
    pub fn epsilon(self, delta: f64, error: f64) -> f64 {
        let excluded = |epsilon| self.p_value(epsilon, delta) <= error;
        if !excluded(0.0) {
            return 0.0;
        }
        let (mut low, mut high) = (0.0, LARGEST_EPSILON);
        for _ in 0..60 {
            let middle = low + (high - low) / 2.0;
            if excluded(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::streams::{Phase, RngKey};

    const fn guesses(canaries: u64, guesses: u64, correct: u64) -> Guesses {
        Guesses {
            canaries,
            guesses,
            correct,
        }
    }

    /// Compares with the sums of the theorem, computed by mpmath with 50 digits.
    #[test]
    fn p_values_and_bounds_are_those_of_the_theorem() {
        for (guesses, epsilon, delta, value) in [
            (guesses(1000, 100, 75), 0.5, 1e-5, 0.005_782_986_302_030_875),
            (guesses(1000, 100, 75), 0.5, 0.0, 0.004_804_739_485_439_717),
            (guesses(100, 100, 99), 3.0, 1e-5, 0.046_704_402_639_103_66),
            (
                guesses(10_000, 200, 200),
                4.0,
                1e-6,
                0.029_922_351_154_376_6,
            ),
        ] {
            let found = guesses.p_value(epsilon, delta);
            assert!((found - value).abs() < 1e-10, "{guesses:?}: {found}");
        }
        let found = guesses(100, 100, 100).epsilon(0.0, 0.05);
        assert!((found - 3.492_965_431_152_29).abs() < 1e-10, "{found}");
        let found = guesses(1000, 100, 90).epsilon(1e-5, 0.05);
        assert!((found - 1.626_143_480_695_73).abs() < 1e-10, "{found}");
    }

    #[test]
    fn guesses_without_information_exclude_nothing() {
        for (r, v) in [(0, 0), (100, 0), (100, 50), (100, 58)] {
            assert_eq!(guesses(1000, r, v).epsilon(1e-5, 0.05), 0.0);
        }
    }

    #[test]
    fn the_extremes_are_guessed() {
        let scores = [3.0, -1.0, 0.5, 9.0, -4.0];
        let included = [true, false, true, false, false];
        assert_eq!(Guesses::count(&scores, &included, 1), guesses(5, 2, 1));
        assert_eq!(Guesses::count(&scores, &included, 2), guesses(5, 4, 3));
        assert_eq!(Guesses::count(&scores, &included, 9), guesses(5, 4, 3));
        assert_eq!(Guesses::count(&[], &[], 3), guesses(0, 0, 0));
    }

    /// Randomized response reveals each coin with probability e^ε/(1 + e^ε), for which the theorem
    /// is exact. Of 400 audits at an error of 5 %, at most 35 exceed ε, except with probability
    /// P[Bin(400, 0.05) > 35] = 6·10⁻⁴. Seeded, so a correct program always passes.
    #[test]
    fn false_alarms_are_not_more_frequent_than_stated() {
        let truth = 1.0f64;
        let (mut alarms, mut sum) = (0, 0.0);
        for audit in 0..400 {
            let key = RngKey {
                seed: 0,
                phase: Phase::Audit,
                iteration: 0,
                repeat: 1,
                sample: audit,
            };
            let mut rng = key.rng();
            let probability = truth.exp() / (1.0 + truth.exp());
            let correct = (0..500).filter(|_| rng.uniform() < probability).count();
            let found = guesses(500, 500, correct as u64).epsilon(0.0, 0.05);
            alarms += u32::from(found > truth);
            sum += found;
        }
        assert!(alarms <= 35, "{alarms}");
        assert!(sum / 400.0 > 0.75, "{}", sum / 400.0);
    }
}
