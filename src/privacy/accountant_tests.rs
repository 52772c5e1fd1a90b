use num_bigint::BigUint;
use proptest::prelude::*;

use super::*;
use crate::privacy::lattice::dyadic;
use crate::privacy::round_up;

const ADD_REMOVE: Adjacency = Adjacency::AddRemove;
const REPLACE_ONE: Adjacency = Adjacency::ReplaceOne;

#[test]
fn known_figures() {
    let sigma = 5.0 * 2f64.sqrt();
    let cases = [
        (sigma, 1, 1e-5, ADD_REMOVE, "0.497"),
        (sigma, 20, 1e-5, ADD_REMOVE, "2.595"), // 2.5943834
        (sigma, 20, 1e-5, REPLACE_ONE, "3.849"),
        (2.0 * sigma, 7, 1e-5, ADD_REMOVE, "0.675"), // 0.6744602, the paper's 0.67
        (2.1793, 19, 3e-6, ADD_REMOVE, "10.534"),    // 10.5336516
        (2.0, 17, 1e-3, ADD_REMOVE, "7.891"),        // 7.8900765
    ];
    for (sigma, releases, delta, adjacency, expected) in cases {
        let found = epsilon(sigma, releases, delta, adjacency).unwrap();
        assert_eq!(round_up(found, 3), expected, "{found}");
    }
}

#[test]
fn replacing_one_is_adding_and_removing_with_twice_the_releases() {
    // Sensitivity √2 and √2 times the distance: the same μ.
    for releases in [1, 3, 20] {
        let one = epsilon(3.0, releases, 1e-6, REPLACE_ONE).unwrap();
        let two = epsilon(3.0, 2 * releases, 1e-6, ADD_REMOVE).unwrap();
        assert!((one - two).abs() < 1e-12);
    }
}

#[test]
fn edges() {
    // No noise, no releases, noise enough for δ alone, and an ε past exp's range.
    assert_eq!(epsilon(0.0, 5, 1e-5, ADD_REMOVE).unwrap(), f64::INFINITY);
    assert_eq!(epsilon(0.0, 0, 1e-5, ADD_REMOVE).unwrap(), 0.0);
    assert_eq!(epsilon(1.0, 0, 1e-5, ADD_REMOVE).unwrap(), 0.0);
    assert_eq!(epsilon(100.0, 1, 0.01, ADD_REMOVE).unwrap(), 0.0);
    let large = epsilon(0.1, 20, 1e-5, ADD_REMOVE).unwrap();
    assert!((large - 1_189.776_698_412_25).abs() < 1e-4, "{large}");
    assert_eq!(epsilon(1e-300, 1, 1e-5, ADD_REMOVE).unwrap(), f64::INFINITY);
    assert!(epsilon(1e300, 1, 1e-200, ADD_REMOVE).unwrap() < 1e-90);
}

#[test]
fn nonsense_is_refused() {
    for sigma in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(epsilon(sigma, 1, 1e-5, ADD_REMOVE).is_err(), "{sigma}");
    }
    for delta in [0.0, -1e-5, 1.0, 2.0, f64::NAN, 1e-300] {
        assert!(epsilon(1.0, 1, delta, ADD_REMOVE).is_err(), "{delta}");
        assert!(noise_multiplier(1.0, 1, delta, ADD_REMOVE).is_err());
    }
    for target in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(noise_multiplier(target, 1, 1e-5, ADD_REMOVE).is_err());
    }
    assert!(noise_multiplier(1.0, 0, 1e-5, ADD_REMOVE).is_err());
}

#[test]
fn zcdp_is_the_closed_form() {
    let rho = zcdp_rho(&2.0.into(), 20, ADD_REMOVE);
    assert!((2.5..2.5 + 1e-12).contains(&rho), "{rho}");
    let rho = zcdp_rho(&2.0.into(), 20, REPLACE_ONE);
    assert!((5.0..5.0 + 1e-12).contains(&rho), "{rho}");
    assert_eq!(zcdp_rho(&0.0.into(), 0, ADD_REMOVE), 0.0);
    assert_eq!(zcdp_rho(&0.0.into(), 1, ADD_REMOVE), f64::INFINITY);
}

/// zCDP's well-known conversion ε = ρ + 2√(ρ ln(1/δ)) is looser than the exact formula: another
/// way to the same claim, which must lie above.
#[test]
fn the_exact_formula_is_below_the_zcdp_conversion() {
    for (sigma, releases, delta) in [(1.0, 1, 1e-5_f64), (7.07, 20, 1e-5), (0.3, 5, 1e-9)] {
        let rho = zcdp_rho(&sigma.into(), releases, ADD_REMOVE);
        let converted = rho + 2.0 * (rho * (1.0 / delta).ln()).sqrt();
        let exact = epsilon(sigma, releases, delta, ADD_REMOVE).unwrap();
        assert!(
            exact < converted && exact > converted / 2.0,
            "{exact} {converted}"
        );
    }
}

fn list(sigmas: &[f64]) -> Schedule<f64> {
    Schedule::List(sigmas.to_vec())
}

/// ε of unequal releases by two ways that share nothing with this program: the closed form with 60
/// digits (mpmath), and the convolution of the privacy losses of all releases on a grid of 1e-4,
/// rounded down and up (dp-accounting 0.6.0, `from_gaussian_mechanism` and `compose`).
#[test]
fn unequal_releases_agree_with_two_oracles() {
    let many = [[0.7; 2].as_slice(), &[3.5; 5], &[11.0; 10]].concat();
    let rows: [(&[f64], f64, f64, [f64; 2]); 5] = [
        (
            &[2.0, 4.0, 8.0],
            1e-5,
            2.320_815_471_782_429_8,
            [2.320_665_482, 2.320_965_483],
        ),
        (
            &[8.0, 4.0, 2.0, 1.0],
            1e-6,
            5.747_468_455_260_37,
            [5.747_268_463, 5.747_668_464],
        ),
        (
            &many,
            1e-5,
            10.859_012_031_577_167,
            [10.858_162_046, 10.859_862_047],
        ),
        (
            &[20.0, 15.0, 10.0, 7.5, 5.0],
            1e-9,
            1.533_214_279_780_992_6,
            [1.532_964_328, 1.533_464_409],
        ),
        (
            &[1.3, 0.9, 1.1],
            1e-3,
            5.804_170_413_814_883,
            [5.804_020_416, 5.804_320_417],
        ),
    ];
    for (sigmas, delta, exact, [low, high]) in rows {
        let releases = sigmas.len() as u32;
        let found = epsilon_of(&list(sigmas), releases, delta, ADD_REMOVE).unwrap();
        // The accountant solves for δ·(1 − 10⁻⁹).
        assert!(
            found >= exact && found / exact - 1.0 < 1e-9,
            "{found} {exact}"
        );
        assert!((low..=high).contains(&found), "{found}");
    }
    // √2 times the distance: 3.43577104274497994 by the closed form.
    let found = epsilon_of(&list(&[2.0, 4.0, 8.0]), 3, 1e-5, REPLACE_ONE).unwrap();
    assert!((0.0..1e-8).contains(&(found - 3.435_771_042_744_98)));
}

#[test]
fn a_list_of_equal_values_is_a_constant() {
    for (sigma, releases) in [(0.1, 3), (7.071, 20), (2.1793, 19), (1.0, 1)] {
        for adjacency in Adjacency::ALL {
            let equal = list(&vec![sigma; releases as usize]);
            for after in 0..=releases {
                let found = epsilon_of(&equal, after, 1e-5, adjacency).unwrap();
                assert_eq!(found, epsilon(sigma, after, 1e-5, adjacency).unwrap());
                let rho = zcdp_rho(&equal, after, adjacency);
                assert_eq!(rho, zcdp_rho(&sigma.into(), after, adjacency));
            }
        }
    }
}

#[test]
fn what_has_no_noise_has_no_bound() {
    let infinite = |noise: &Schedule<f64>, releases| {
        mu(noise, releases, ADD_REMOVE) == f64::INFINITY
            && zcdp_rho(noise, releases, ADD_REMOVE) == f64::INFINITY
    };
    // No configuration has the last three.
    for sigma in [0.0, -0.0, -1.0, f64::NAN] {
        assert!(infinite(&sigma.into(), 1), "{sigma}");
        assert!(infinite(&list(&[1.0, sigma]), 2), "{sigma}");
        assert!(!infinite(&list(&[1.0, sigma]), 1), "{sigma}");
    }
    assert_eq!(epsilon(-0.0, 1, 1e-5, ADD_REMOVE).unwrap(), f64::INFINITY);
    assert!(epsilon_of(&list(&[1.0, -1.0]), 1, 1e-5, ADD_REMOVE).is_err());
    // Beyond the end of a list.
    let two = list(&[3.0, 4.0]);
    assert!(infinite(&two, 3) && !infinite(&two, 2));
    assert!(infinite(&list(&[]), 1));
    assert_eq!(mu(&list(&[]), 0, ADD_REMOVE), 0.0);
    assert_eq!(zcdp_rho(&list(&[]), 0, ADD_REMOVE), 0.0);
}

/// Returns 2⁴⁰⁰/σ², rounded up.
fn scaled(sigma: f64) -> BigUint {
    let (mantissa, exponent) = dyadic(sigma);
    let shift = u64::try_from(400 - 2 * exponent).unwrap();
    (BigUint::from(1u32) << shift) / BigUint::from(mantissa).pow(2) + 1u32
}

/// Returns 2⁴⁰⁰·value, rounded down.
fn fixed(value: f64) -> BigUint {
    let (mantissa, exponent) = dyadic(value);
    let shift = 400 + exponent;
    match u32::try_from(shift) {
        Ok(shift) => BigUint::from(mantissa) << shift,
        Err(_) => BigUint::from(mantissa) >> shift.unsigned_abs(),
    }
}

fn adjacency() -> impl Strategy<Value = Adjacency> {
    prop_oneof![Just(ADD_REMOVE), Just(REPLACE_ONE)]
}

/// Numbers of every order of magnitude in `10^low..10^high`.
fn magnitude(low: f64, high: f64) -> impl Strategy<Value = f64> {
    (low..high).prop_map(|exponent| 10f64.powf(exponent))
}

proptest! {
    #[test]
    fn epsilon_is_monotone(
        sigma in magnitude(-1.5, 4.0), releases in 1u32..500, delta in magnitude(-20.0, -0.5),
        adjacency in adjacency(), factor in 1.001f64..10.0, more in 1u32..100,
    ) {
        let base = epsilon(sigma, releases, delta, adjacency).unwrap();
        prop_assert!(epsilon(sigma, releases + more, delta, adjacency).unwrap() >= base);
        prop_assert!(epsilon(sigma * factor, releases, delta, adjacency).unwrap() <= base);
        prop_assert!(epsilon(sigma, releases, delta / factor, adjacency).unwrap() >= base);
        prop_assert!(epsilon(sigma, releases, delta, REPLACE_ONE).unwrap()
            >= epsilon(sigma, releases, delta, ADD_REMOVE).unwrap());
    }

    #[test]
    fn a_target_is_kept_and_not_wasted(
        target in magnitude(-3.0, 3.5), releases in 1u32..500, delta in magnitude(-20.0, -1.0),
        adjacency in adjacency(),
    ) {
        let sigma = noise_multiplier(target, releases, delta, adjacency).unwrap();
        prop_assert!(epsilon(sigma, releases, delta, adjacency).unwrap() <= target);
        let less = sigma * (1.0 - 1e-6);
        prop_assert!(epsilon(less, releases, delta, adjacency).unwrap() > target);
    }

    /// In exact integer arithmetic: μ² ≥ s²·Σ 1/σ_t² and ρ ≥ s²/2·Σ 1/σ_t², and not by much.
    #[test]
    fn sums_of_unequal_releases_are_rounded_up(
        sigmas in prop::collection::vec(magnitude(-1.2, 6.0), 1..60), adjacency in adjacency(),
    ) {
        let releases = sigmas.len() as u32;
        let sum: BigUint = sigmas.iter().map(|sigma| scaled(*sigma)).sum();
        let sum = sum * adjacency.squared_sensitivity();
        let slack = |sum: &BigUint| sum + sum / 1_000_000_000_000u64;
        let mu = fixed(mu(&list(&sigmas), releases, adjacency));
        let square = (&mu * &mu) >> 400u32;
        prop_assert!(square >= sum && square <= slack(&sum), "{sigmas:?}");
        let rho = fixed(zcdp_rho(&list(&sigmas), releases, adjacency)) * 2u32;
        prop_assert!(rho >= sum && rho <= slack(&sum), "{sigmas:?}");
    }

    /// Only Σ 1/σ² counts: not the order, and not how it is divided among the releases.
    #[test]
    fn a_list_costs_what_a_constant_of_the_same_precision_costs(
        sigmas in prop::collection::vec(magnitude(-0.5, 2.0), 2..40),
        delta in magnitude(-9.0, -2.0), adjacency in adjacency(),
    ) {
        let releases = sigmas.len() as u32;
        let found = epsilon_of(&list(&sigmas), releases, delta, adjacency).unwrap();
        let near = |other: f64| (found - other).abs() <= 1e-12 * found.max(1.0);
        let precision: f64 = sigmas.iter().map(|sigma| sigma.powi(-2)).sum();
        let equal = (f64::from(releases) / precision).sqrt();
        prop_assert!(near(epsilon(equal, releases, delta, adjacency).unwrap()));
        let mut sorted = sigmas.clone();
        sorted.sort_by(f64::total_cmp);
        prop_assert!(near(epsilon_of(&list(&sorted), releases, delta, adjacency).unwrap()));
        sorted.reverse();
        prop_assert!(near(epsilon_of(&list(&sorted), releases, delta, adjacency).unwrap()));
    }

    #[test]
    fn each_release_costs_and_more_noise_costs_less(
        sigmas in prop::collection::vec(magnitude(-1.0, 3.0), 1..30), at in any::<prop::sample::Index>(),
        factor in 1.001f64..10.0, delta in magnitude(-9.0, -2.0), adjacency in adjacency(),
    ) {
        let releases = sigmas.len() as u32;
        let of = |sigmas: &[f64], after| {
            epsilon_of(&list(sigmas), after, delta, adjacency).unwrap()
        };
        let mut more = sigmas.clone();
        more[at.index(sigmas.len())] *= factor;
        prop_assert!(of(&more, releases) <= of(&sigmas, releases));
        for after in 0..releases {
            prop_assert!(of(&sigmas, after) <= of(&sigmas, after + 1));
            // The first terms are those of the shorter list.
            prop_assert_eq!(of(&sigmas, after), of(&sigmas[..after as usize], after));
        }
    }

    /// The guarantee itself, by another formula: at the returned ε, δ computed through the normal
    /// distribution functions (not erfcx) is at most δ, where that formula is accurate.
    #[test]
    fn the_returned_epsilon_holds(
        sigma in magnitude(-0.3, 1.5), releases in 1u32..50, delta in magnitude(-6.0, -1.0),
    ) {
        let found = epsilon(sigma, releases, delta, ADD_REMOVE).unwrap();
        let mu = f64::from(releases).sqrt() / sigma;
        let upper_tail = |x: f64| 0.5 * libm::erfc(x / 2f64.sqrt());
        if found < 300.0 {
            let achieved = upper_tail(found / mu - mu / 2.0)
                - found.exp() * upper_tail(found / mu + mu / 2.0);
            prop_assert!(achieved <= delta, "{achieved} {delta}");
            prop_assert!(found == 0.0 || achieved > delta * (1.0 - 1e-6), "{achieved} {delta}");
        }
    }
}
