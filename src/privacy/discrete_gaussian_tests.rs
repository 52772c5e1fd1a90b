//! Statistical tests against exact probabilities. Seeds are fixed, so a test that passes once
//! passes always; the false-alarm rate said at each is the chance that a *correct* sampler fails
//! for a seed picked blindly, which is what makes a failure mean something.

use std::collections::HashMap;

use super::*;
use crate::privacy::lattice::{LATTICE_BITS, lattice_sigma};
use crate::privacy::noise_source::TestNoise;

fn big(value: u64) -> BigUint {
    BigUint::from(value)
}

fn small(value: &BigInt) -> i64 {
    i64::try_from(value).unwrap()
}

/// Chi-square of `draws` against weights on −reach..=reach, neighboring integers merged until
/// each bin expects 50 draws. The statistic is turned into a normal score (Wilson and Hilferty);
/// 5.2 is exceeded with probability 1e-7.
fn chi_square_score(draws: &[i64], reach: i64, weight: impl Fn(f64) -> f64) -> f64 {
    let mut counts: HashMap<i64, f64> = HashMap::new();
    for draw in draws {
        assert!(draw.abs() <= reach, "{draw} has probability below 1e-15");
        *counts.entry(*draw).or_default() += 1.0;
    }
    let total: f64 = (-reach..=reach).map(|x| weight(x as f64)).sum();
    let scale = draws.len() as f64 / total;
    let mut bins: Vec<(f64, f64)> = Vec::new();
    let (mut expected, mut found) = (0.0, 0.0);
    for x in -reach..=reach {
        expected += weight(x as f64) * scale;
        found += counts.get(&x).copied().unwrap_or(0.0);
        if expected >= 50.0 {
            bins.push((expected, found));
            (expected, found) = (0.0, 0.0);
        }
    }
    let last = bins.last_mut().unwrap();
    last.0 += expected;
    last.1 += found;
    if bins.len() == 1 {
        // All the mass on one value: nothing to compare but that everything is there.
        assert!((bins[0].0 - bins[0].1).abs() < 1e-3, "{bins:?}");
        return 0.0;
    }
    let statistic: f64 = bins.iter().map(|(e, f)| (f - e).powi(2) / e).sum();
    let freedom = (bins.len() - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

#[test]
fn discrete_gaussian_has_the_exact_probabilities() {
    // σ² = p/q for σ = 0.1, 0.3, 0.8, 1, 2.5, 10, 1000 and √2. 100,000 draws each; false alarms
    // 1e-7 each.
    let cases = [
        (1, 100),
        (9, 100),
        (16, 25),
        (1, 1),
        (25, 4),
        (100, 1),
        (1_000_000, 1),
        (2, 1),
    ];
    for (index, (p, q)) in cases.into_iter().enumerate() {
        let sampler = DiscreteGaussian::new(big(p), &big(q)).unwrap();
        let mut source = TestNoise::new(11, index as u32);
        let draws: Vec<i64> = (0..100_000)
            .map(|_| small(&sampler.sample(&mut source).unwrap()))
            .collect();
        let variance = p as f64 / q as f64;
        let reach = (9.0 * variance.sqrt()).ceil() as i64;
        let score = chi_square_score(&draws, reach, |x| (-x * x / (2.0 * variance)).exp());
        assert!(score < 5.2, "sigma^2 {p}/{q}: {score}");
    }
}

/// The test above does tell a wrong sampler: one whose variance is 6 % off, and one that draws 0
/// twice as often (what forgetting to reject −0 does).
#[test]
fn the_chi_square_test_can_fail() {
    let mut source = TestNoise::new(12, 0);
    let sampler = DiscreteGaussian::new(big(103), &big(16)).unwrap();
    let mut draws: Vec<i64> = (0..100_000)
        .map(|_| small(&sampler.sample(&mut source).unwrap()))
        .collect();
    let weight = |variance: f64| move |x: f64| (-x * x / (2.0 * variance)).exp();
    assert!(chi_square_score(&draws, 40, weight(6.4375)) < 5.2);
    assert!(chi_square_score(&draws, 40, weight(6.05)) > 5.2);
    let zeros = draws.iter().filter(|d| **d == 0).count();
    draws.extend(std::iter::repeat_n(0, zeros));
    assert!(chi_square_score(&draws, 40, weight(6.4375)) > 5.2);
}

#[test]
fn discrete_laplace_has_the_exact_probabilities() {
    // False alarms 1e-7 each.
    for (index, scale) in [1u64, 2, 7, 60].into_iter().enumerate() {
        let mut source = TestNoise::new(13, index as u32);
        let draws: Vec<i64> = (0..100_000)
            .map(|_| {
                let (negative, magnitude) = discrete_laplace(&big(scale), &mut source).unwrap();
                let magnitude = i64::try_from(magnitude).unwrap();
                assert!(!(negative && magnitude == 0));
                if negative { -magnitude } else { magnitude }
            })
            .collect();
        let score = chi_square_score(&draws, 40 * scale as i64, |x| {
            (-x.abs() / scale as f64).exp()
        });
        assert!(score < 5.2, "scale {scale}: {score}");
    }
}

#[test]
fn bernoulli_exp_has_the_exact_probability() {
    // Normal scores of binomial counts; 5.4 is exceeded with probability 7e-8.
    let gammas = [(1, 1000), (1, 3), (1, 1), (3, 2), (2, 1), (27, 10), (9, 2)];
    for (index, (numerator, denominator)) in gammas.into_iter().enumerate() {
        let mut source = TestNoise::new(14, index as u32);
        let n = 200_000;
        let hits = (0..n)
            .filter(|_| bernoulli_exp(&big(numerator), &big(denominator), &mut source).unwrap())
            .count();
        let p = (-(numerator as f64) / denominator as f64).exp();
        let score = (hits as f64 - f64::from(n) * p) / (f64::from(n) * p * (1.0 - p)).sqrt();
        assert!(
            score.abs() < 5.4,
            "exp(-{numerator}/{denominator}): {score}"
        );
    }
    let mut source = TestNoise::new(14, 99);
    assert!((0..1000).all(|_| bernoulli_exp(&big(0), &big(3), &mut source).unwrap()));
    // exp(-60) is 9e-27.
    assert!((0..1000).all(|_| !bernoulli_exp(&big(180), &big(3), &mut source).unwrap()));
}

#[test]
fn uniform_integers_are_uniform_and_below_their_bound() {
    // Chi-square through its normal score; false alarms 1e-7 each.
    for (index, bound) in [1u64, 2, 3, 5, 255, 256, 257].into_iter().enumerate() {
        let mut source = TestNoise::new(15, index as u32);
        let draws: Vec<i64> = (0..50_000)
            .map(|_| {
                let draw = uniform_below(&big(bound), &mut source).unwrap();
                assert!(draw < big(bound));
                i64::try_from(draw).unwrap()
            })
            .collect();
        let inside = |x: f64| f64::from(u8::from(x >= 0.0 && x < bound as f64));
        let score = chi_square_score(&draws, bound as i64, inside);
        assert!(score < 5.2, "{bound}: {score}");
    }
    // Above 64 bits: all bits of the top digit come.
    let bound = big(5) << 100u32;
    let mut source = TestNoise::new(15, 99);
    let tops: std::collections::HashSet<BigUint> = (0..200)
        .map(|_| uniform_below(&bound, &mut source).unwrap() >> 100u32)
        .collect();
    assert_eq!(tops.len(), 5);
}

/// 300,000 draws as the mechanism makes them at σ = 1, k = 2, in units of their standard deviation.
fn lattice_draws() -> Vec<f64> {
    let sigma = lattice_sigma(1.0, 2);
    let sampler = DiscreteGaussian::new(sigma.pow(2), &big(1)).unwrap();
    let mut source = TestNoise::new(16, 0);
    let unit = 2f64.sqrt() * f64::from(1u32 << LATTICE_BITS);
    (0..300_000)
        .map(|_| small(&sampler.sample(&mut source).unwrap()) as f64 / unit)
        .collect()
}

#[test]
fn on_the_lattice_it_is_the_normal_distribution() {
    let mut draws = lattice_draws();
    let n = draws.len() as f64;

    // Successive draws do not know of each other. Score 5.4: false alarms 7e-8.
    let correlation: f64 = draws.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n.sqrt();
    assert!(correlation.abs() < 5.4, "{correlation}");

    // Kolmogorov and Smirnov: √n·D > 2.8 has probability 2·exp(−2·2.8²) = 3e-7.
    draws.sort_by(f64::total_cmp);
    let distance = draws
        .iter()
        .enumerate()
        .map(|(index, x)| {
            let cdf = 0.5 * libm::erfc(-x / 2f64.sqrt());
            (cdf - index as f64 / n)
                .abs()
                .max((index as f64 + 1.0) / n - cdf)
        })
        .fold(0.0, f64::max);
    assert!(distance * n.sqrt() < 2.8, "{}", distance * n.sqrt());

    // Tails on either side, where a truncated sampler would show: P(x > 2, 3, 4). Scores 5.4; the
    // Poisson mean at 4 is 9.5, where 30 or more has probability 1e-7 and none 8e-5.
    for (threshold, probability) in [(2.0, 0.022_750_132), (3.0, 0.001_349_898)] {
        for side in [1.0, -1.0] {
            let count = draws.iter().filter(|x| side * **x > threshold).count() as f64;
            let score = (count - n * probability) / (n * probability).sqrt();
            assert!(score.abs() < 5.4, "{threshold} {side}: {score}");
        }
    }
    for side in [1.0, -1.0] {
        let count = draws.iter().filter(|x| side * **x > 4.0).count();
        assert!((1..30).contains(&count), "{count}");
    }
    // 300,000 · P(|x| > 7) = 8e-7.
    assert!(draws[0] > -7.0 && draws[draws.len() - 1] < 7.0);
}

#[test]
fn huge_parameters_do_not_overflow() {
    // σ = 2^200, far past any machine integer; 5,000 draws' mean square has a relative error of
    // 0.02.
    let sampler = DiscreteGaussian::new(big(1) << 400u32, &big(1)).unwrap();
    let mut source = TestNoise::new(17, 0);
    let mean_square = (0..5000)
        .map(|_| {
            let draw = sampler.sample(&mut source).unwrap() >> 180u32;
            (small(&draw) as f64 / f64::from(1u32 << 20)).powi(2)
        })
        .sum::<f64>()
        / 5000.0;
    assert!((mean_square - 1.0).abs() < 0.12, "{mean_square}");
}

#[test]
fn no_variance_is_no_distribution() {
    assert!(DiscreteGaussian::new(big(0), &big(1)).is_err());
    assert!(DiscreteGaussian::new(big(1), &big(0)).is_err());
}
