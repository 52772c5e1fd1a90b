use super::*;

/// (x, erfcx(x)), computed with 60 digits.
const ERFCX: &[(f64, f64)] = &[
    (0.0, 1.0),
    (1e-09, 0.9999999988716208),
    (0.001, 0.9988726200811514),
    (0.1, 0.8964569799691267),
    (0.5, 0.6156903441929259),
    (0.7, 0.525930337349441),
    (1.0, 0.427583576155807),
    (1.5, 0.3215854164543175),
    (2.3456789, 0.2229045002495641),
    (3.0, 0.17900115118138996),
    (4.75, 0.11630270721024731),
    (5.5, 0.10096221839949909),
    (6.25, 0.08915663178727438),
    (7.1, 0.07869751534162678),
    (8.8, 0.06370627381391525),
    (9.5, 0.05906467835256389),
    (9.999999, 0.05614099830313535),
    (10.0, 0.05614099274382259),
    (10.000001, 0.05614098718451092),
    (11.0, 0.051080594758088446),
    (13.7, 0.041072879972456774),
    (20.0, 0.02817434874105132),
    (26.4, 0.021355518985278946),
    (27.0, 0.02088160799042094),
    (50.0, 0.011281536265323773),
    (100.0, 0.005641613782989433),
    (1234.5, 0.00045701854876078156),
    (1000000.0, 5.641895835474742e-07),
    (1000000000000000.0, 5.641895835477563e-16),
];

/// (ε, μ, δ), computed with 200 digits.
const DELTA: &[(f64, f64, f64)] = &[
    (0.0, 1.0, 0.3829249225480262),
    (0.0, 1e-06, 3.98942280401416e-07),
    (0.0, 5.0, 0.9875806693484477),
    (0.5, 0.14142135623730953, 9.19389868941554e-06),
    (1.0, 0.3, 5.488749644612937e-05),
    (2.594, 0.6324555320336759, 1.0025560711578127e-05),
    (3.0, 4.0, 0.8345000818530993),
    (10.0, 2.0, 9.940202816118153e-06),
    (10.0, 8.0, 0.9953451327380725),
    (100.0, 12.0, 0.007994672298606885),
    (600.0, 30.0, 2.442084625566556e-07),
    (
        1189.7766984122497,
        44.721359549995796,
        0.000010000000000000257,
    ),
    (1500.0, 44.721359549995796, 2.0319426857394446e-29),
    (5000.0, 90.0, 2.1404988221427964e-26),
    (20000.0, 190.0, 4.896567284474327e-25),
    (0.001, 0.0001, 7.478298460019564e-29),
    (1e-08, 1e-09, 7.474560291962161e-34),
    (2e-05, 1e-06, 1.3700261949227877e-96),
    (0.5, 0.02, 3.129776772980175e-141),
    (30.0, 1.0, 4.709326318097522e-193),
    (29.7, 1.0, 3.203498729217491e-189),
    (0.25, 0.01, 1.3810607788825272e-141),
    (300.0, 20.0, 2.2727748823194894e-07),
    (40.0, 40.0, 1.0),
];

#[test]
fn erfcx_is_accurate() {
    for (x, exact) in ERFCX {
        let found = erfcx(*x);
        let relative = (found - exact).abs() / exact;
        assert!(
            relative < 1e-15,
            "erfcx({x}) = {found}, off by {relative:e}"
        );
    }
}

#[test]
fn delta_is_bounded_from_above_and_tightly() {
    for (epsilon, mu, exact) in DELTA {
        let bound = delta_upper_bound(*epsilon, *mu);
        // 1e-15: the reference itself is rounded to 53 bits.
        assert!(bound >= exact * (1.0 - 1e-15), "{epsilon} {mu}: {bound:e}");
        // The bound is tight against the two terms whose difference δ is; they cancel, for small
        // μ, to about the part μ/(b + 1) of either.
        let b = epsilon / mu + mu / 2.0;
        let allowed = 2e-14 * (1.0 + b * b) * (1.0 + (b + 1.0) / mu);
        assert!(
            bound <= exact * (1.0 + allowed),
            "{epsilon} {mu}: {bound:e}"
        );
    }
}

#[test]
fn the_error_bound_covers_the_error() {
    // The value without its safety margin is nowhere off by more than a fraction of the margin.
    for (epsilon, mu, exact) in DELTA {
        let (a, b) = (epsilon / mu - mu / 2.0, epsilon / mu + mu / 2.0);
        let first = 0.5 * libm::erfc(a * FRAC_1_SQRT_2);
        let second = 0.5 * libm::exp(-0.5 * a * a) * erfcx(b * FRAC_1_SQRT_2);
        let margin = delta_upper_bound(*epsilon, *mu) - (first - second);
        let error = (first - second - exact).abs();
        assert!(
            error <= margin / 4.0,
            "{epsilon} {mu}: {error:e} of {margin:e}"
        );
    }
}

#[test]
fn extremes_stay_bounds() {
    for (epsilon, mu) in [
        (0.0, 1e-100),
        (1.0, 1e-100),
        (1e300, 1e-100),
        (1e-300, 1e-100),
        (1e300, 1e150),
        (0.0, 1e150),
        (1e300, 1.0),
        (1e300, 1e10),
    ] {
        let bound = delta_upper_bound(epsilon, mu);
        assert!(bound > 0.0 && bound <= 1.0, "{epsilon} {mu}: {bound}");
    }
    // Far out δ is (nearly) nothing; deep inside it is (nearly) everything.
    assert!(delta_upper_bound(1e300, 1.0) < 1e-300);
    assert!(delta_upper_bound(1.0, 1e10) > 0.99);
}
