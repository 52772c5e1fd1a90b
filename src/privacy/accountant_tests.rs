use super::*;
use crate::privacy::round_up;
use proptest::prelude::*;

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
