//! Tests of bounds against mpmath (50 digits) and against distributions with a known ε.

use super::*;
use crate::privacy::{Adjacency, epsilon};
use crate::streams::{KeyedRng, Phase, RngKey};

const DELTA: f64 = 1e-5;

fn stream(sample: u64) -> KeyedRng {
    let key = RngKey {
        seed: 0,
        phase: Phase::Audit,
        iteration: 0,
        repeat: 0,
        sample,
    };
    key.rng()
}

/// Scores of N(mu, 1) with the canary and N(0, 1) without.
fn gaussian(mu: f32, trials: usize, sample: u64) -> Scores {
    let mut rng = stream(sample);
    let mut draw = |mean: f32| {
        let mut scores = vec![0.0; trials];
        rng.fill_normal(&mut scores);
        scores.iter().map(|s| f64::from(s + mean)).collect()
    };
    Scores {
        with: draw(mu),
        without: draw(0.0),
    }
}

#[test]
fn bounds_of_probabilities_are_those_of_clopper_and_pearson() {
    for (successes, trials, error, low, high) in [
        (0, 10, 0.025, 0.0, 0.308_497_107_818_760_8),
        (
            3,
            10,
            0.025,
            0.066_739_511_177_734_47,
            0.652_452_850_059_997,
        ),
        (10, 10, 0.025, 0.691_502_892_181_239_2, 1.0),
        (
            95,
            200,
            0.025,
            0.404_120_033_424_978_5,
            0.546_631_982_529_676,
        ),
        (
            7,
            500,
            0.025,
            0.005_646_761_070_324_429,
            0.028_631_616_183_336_06,
        ),
        (
            25_000,
            50_000,
            0.01,
            0.494_788_295_567_746_5,
            0.505_211_704_432_253_5,
        ),
        (
            40,
            50_000,
            0.01,
            0.000_535_466_271_029_455,
            0.001_146_749_965_148_886,
        ),
        (
            49_990,
            50_000,
            0.01,
            0.999_597_147_267_037,
            0.999_917_391_993_688_6,
        ),
    ] {
        let tally = Tally { successes, trials };
        let found = (tally.lower_bound(error), tally.upper_bound(error));
        assert!((found.0 - low).abs() < 1e-10, "{tally:?}: {found:?}");
        assert!((found.1 - high).abs() < 1e-10, "{tally:?}: {found:?}");
    }
}

#[test]
fn the_beta_function_is_accurate_for_many_trials() {
    for (a, b, x, value) in [
        (2.0, 3.0, 0.4, 0.524_800_000_000_000),
        (1.0, 50_000.0, 1e-4, 0.993_263_737_389_400_5),
        (25_000.0, 25_001.0, 0.497, 0.090_580_732_320_228_9),
        (500.0, 49_501.0, 0.011, 0.985_819_471_709_340_7),
        (5.0, 499_996.0, 2e-5, 0.970_748_446_916_490_7),
        (250_000.0, 250_001.0, 0.4995, 0.240_189_507_032_200_5),
    ] {
        assert!((beta(a, b, x) - value).abs() < 1e-10, "{a} {b} {x}");
    }
}

#[test]
fn quantiles_are_those_of_the_normal_distribution() {
    for (p, value) in [
        (0.975, 1.959_963_984_540_054),
        (1e-5, -4.264_890_793_922_825),
        (0.3, -0.524_400_512_708_041),
    ] {
        assert!((normal_quantile(p) - value).abs() < 1e-10, "{p}");
    }
    assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
    assert_eq!(normal_quantile(1.0), f64::INFINITY);
}

/// The bounds hold and are not empty. With 40,000 trials per world, the standard error of an
/// estimate of μ is about 0.013 and the quantile at an error of 0.025/2 is 2.24 for each of two
/// probabilities, so μ is missed by about 0.04.
#[test]
fn bounds_of_a_gaussian_are_below_the_truth_and_close() {
    for (mu, sample) in [(0.3f32, 1), (1.0, 2), (2.0, 3)] {
        let scores = gaussian(mu, 40_000, sample);
        let truth = f64::from(mu);
        let found = scores.mu(0.05);
        assert!(
            (truth - 0.12..truth).contains(&found.value),
            "{mu}: {found:?}"
        );
        let most = epsilon(1.0 / truth, 1, DELTA, Adjacency::AddRemove).unwrap();
        let found = scores.epsilon(DELTA, 0.05);
        assert!(
            (0.2 * most..most).contains(&found.value),
            "{mu}: {found:?} of {most}"
        );
    }
}

/// False alarms are not more frequent than stated. Of 400 audits at an error of 5 %, at most 35
/// exceed the truth, except with probability P[Bin(400, 0.05) > 35] = 6·10⁻⁴. Seeded, so a correct
/// program always passes.
#[test]
fn false_alarms_are_not_more_frequent_than_stated() {
    let truth = 1.0f64;
    // ε at δ = 0, where randomized response is the mechanism with the largest TPR at each FPR.
    let probability = truth.exp() / (1.0 + truth.exp());
    let (mut mu_alarms, mut epsilon_alarms) = (0, 0);
    for audit in 0..400 {
        mu_alarms += u32::from(gaussian(1.0, 1000, 100 + audit).mu(0.05).value > 1.0);
        let mut rng = stream(1000 + audit);
        let mut answers = |p: f64| -> Vec<f64> {
            let answer = |_| f64::from(u8::from(rng.uniform() < p));
            (0..1000).map(answer).collect()
        };
        let scores = Scores {
            with: answers(probability),
            without: answers(1.0 - probability),
        };
        epsilon_alarms += u32::from(scores.epsilon(0.0, 0.05).value > truth);
    }
    assert!(mu_alarms <= 35, "{mu_alarms}");
    assert!(epsilon_alarms <= 35, "{epsilon_alarms}");
}

#[test]
fn worlds_that_differ_with_certainty_give_a_large_bound() {
    let constant = |with, without| Scores {
        with: vec![with; 10_000],
        without: vec![without; 10_000],
    };
    // ln((1 − s)/s) with s = 1 − 0.0125^(1/5000) = 8.76·10⁻⁴
    for scores in [constant(7.0, 2.0), constant(2.0, 7.0)] {
        let bound = scores.epsilon(DELTA, 0.05);
        assert!((bound.value - 7.038).abs() < 0.01, "{bound:?}");
        assert_eq!((bound.frequent.successes, bound.rare.successes), (5000, 0));
        assert!(scores.mu(0.05).value > 6.0);
    }
    let same = constant(2.0, 2.0);
    assert_eq!(same.epsilon(DELTA, 0.05).value, 0.0);
    assert_eq!(same.mu(0.05).value, 0.0);
}

#[test]
fn too_few_trials_exclude_nothing() {
    for trials in 0..3 {
        let scores = gaussian(5.0, trials, 9);
        assert_eq!(scores.epsilon(DELTA, 0.05).value, 0.0);
        assert_eq!(scores.mu(0.05).value, 0.0);
    }
}
