//! The lattice of counts and noise, and the proof that it costs no privacy.
//!
//! Counts are multiplied by 2^g, g = [`LATTICE_BITS`] = 20, and integer noise is added: the
//! released numbers are multiples of 2⁻²⁰. The noise is the discrete Gaussian on the integers with
//! parameter s, an integer chosen so that s ≥ σ·√k·2^g + 1 ([`lattice_sigma`]).
//!
//! The choice of 20: a millionth of a vote is so fine that the released histogram is, within the
//! bound below, that of the continuous Gaussian mechanism, and so coarse that every noisy count up
//! to 2³³ ≈ 8.6·10⁹ votes is an integer below 2⁵³ on the lattice, hence an `f64` without rounding.
//!
//! # Guarantee
//!
//! **zCDP, exactly.** On the lattice, neighboring histograms differ by an integer vector of L2 norm
//! at most Δ = (√k or √(2k))·2^g if the unit is an image, and (1 or √2)·2^g if it is a client
//! (module `vote_counts`); in the latter case, read 1 for k in every norm below. Adding independent
//! discrete Gaussians of parameter s is ρ-zCDP with ρ = Δ²/(2s²) (Canonne, Kamath, Steinke 2020,
//! Theorem 4 and its multivariate corollary), and as s ≥ σ·√k·2^g, ρ is at most that of the
//! continuous mechanism.
//!
//! **(ε, δ), up to a computable term.** The accountant uses δ(ε) of the continuous Gaussian
//! mechanism with σ. Let δ_c denote this function and δ_d that of the released histograms. Claim:
//! after T releases,
//!
//! > δ_d(ε) ≤ e^h·δ_c(ε − 2h) + 10⁻²⁰⁰⁰, h = Σ m_t·6.5·10⁴/s_t⁴ over the releases t = 1, …, T,
//!
//! where m_t is the number of bins in which neighboring histograms may differ: 2k_t for an image,
//! and all bins for a client, at most 2²⁰ ([`Unit::changed_bins`]). For an image and k = 1, h is
//! T·7·10⁻¹⁵ at the smallest σ allowed (1/16, so s > 2¹⁶) and T·10⁻¹⁹ at σ = 1; for a client, it is
//! T·6·10⁻¹⁴ at σ = 1. A run with h > 10⁻¹¹ is refused ([`deviation`]). The accountant solves for
//! δ·(1 − 10⁻⁹) instead of δ, which covers the difference: |d ln δ_c/dε| is at most about (b +
//! 1)/μ, b as in `normal_tail`, so δ_c changes by much less than 10⁻⁹ of itself over the distance
//! 2h.
//!
//! *Proof.* (1) Rounding is post-processing. Let G be the continuous Gaussian of variance c² = s²
//! − 1/12, in lattice units. As counts are integers there, round(count + G) = count + round(G):
//! adding R = round(G) is a post-processed continuous Gaussian mechanism. Since s ≥ σ√k·2^g + 1,
//! c² ≥ (σ√k·2^g)², so it satisfies δ_c(ε).
//!
//! (2) R is close to the discrete Gaussian. P(R = x) ∝ exp(−x²/2c²)·I(x), I(x) = E exp(xu/c² −
//! u²/2c²) over u uniform in [−½, ½]. With y = x/c and a = y/c: ln E exp(au) lies between a²/24 −
//! a⁴/2880 and a²/24; the factor exp(−u²/2c²) contributes −1/(24c²) up to (y²/288 + 1/128)/c⁴,
//! because the mean of u² under weights exp(au) lies between 1/12 and 1/12 + a²/144; and a²/24 −
//! x²/2c² is −x²/2s² up to y²/(288c⁴). So ln P(R = x) − ln P(Z = x), Z discrete Gaussian with s,
//! is a constant up to ψ(y)/c⁴, ψ(y) = y⁴/2880 + y²/144 + 1/128; and the constant is at most 1/50
//! over c⁴, because both distributions sum to 1 and E ψ < 1/60 for a normal y. The 1/12 is what
//! rounding adds to the variance (Sheppard); without it the difference would be of the order 1/c²,
//! with it the order is 1/c⁴.
//!
//! (3) Exclude all outputs in which some changed coordinate lies more than Y = 100 standard
//! deviations from the count of the true data set: their probability is below 2·Σ m_t·e^(−4900).
//! Elsewhere, y is at most 100 from one center and 100 + 1/σ_t ≤ 116 from the other, where ψ ≤
//! 6.4·10⁴. At most m_t coordinates change in release t (the others have the same distribution
//! under both data sets and cancel), and given the results of the earlier releases, (2) holds for
//! each of them with its own c_t. So both probabilities of an output are within the factor e^(±h),
//! h = Σ m_t·(6.4·10⁴ + 1/50)/c_t⁴, of those of the rounded mechanism.
//! Together: P_d(S) ≤ e^h·P_r(S) + tail ≤ e^h·(e^(ε−2h)·Q_r(S) + δ_c(ε−2h)) + tail ≤ e^ε·Q_d(S) +
//! e^h·δ_c(ε−2h) + tail. ∎
//!
//! A test measures (2) numerically for small s, where the difference is large enough to measure.

use num_bigint::BigUint;

use super::unit::Unit;
use crate::schedule::Schedule;

/// The exponent g: counts are multiplied by 2^g before integer noise is added.
pub const LATTICE_BITS: u32 = 20;

/// The smallest permitted noise multiplier. The proof above assumes it, and a smaller one gives no
/// useful privacy (here, ε > 180 for one release at δ = 10⁻⁵).
pub(super) const SMALLEST_NOISE_MULTIPLIER: f64 = 1.0 / 16.0;

/// The largest permitted noise multiplier: with it and the largest permitted k = 2¹⁶, ten standard
/// deviations of the noise are below 2⁵³ on the lattice, so values remain exact in `f64`.
pub(super) const LARGEST_NOISE_MULTIPLIER: f64 = 1_048_576.0;

/// The largest permitted h, which the reserve of the accountant covers.
pub(super) const LARGEST_DEVIATION: f64 = 1e-11;

/// Returns h of the proof above for the first `releases` releases, a bound of the difference
/// between the discrete and the continuous mechanism; infinite for releases beyond the end of a
/// list.
///
/// The constant exceeds that of the proof by more than 1 %, and the rounding errors of a sum of at
/// most 2³² terms are below 2⁻²⁰ of it.
pub(super) fn deviation(
    noise_multiplier: &Schedule<f64>,
    unit: Unit,
    nearest_neighbors: &Schedule<u32>,
    releases: u32,
) -> f64 {
    match (noise_multiplier, nearest_neighbors) {
        (Schedule::Constant(sigma), Schedule::Constant(k)) => {
            f64::from(releases) * deviation_of_one(*sigma, unit, *k)
        }
        (sigmas, neighbors) => {
            let of = |t: usize| match (sigmas.get(t), neighbors.get(t)) {
                (Some(sigma), Some(k)) => deviation_of_one(*sigma, unit, *k),
                _ => f64::INFINITY,
            };
            (0..releases as usize).map(of).sum()
        }
    }
}

/// Returns the term of one release.
fn deviation_of_one(noise_multiplier: f64, unit: Unit, nearest_neighbors: u32) -> f64 {
    // s⁴ ≥ (σ·2^g)⁴·k², with 1 for k if the unit is a client.
    let scale = noise_multiplier * f64::from(1u32 << LATTICE_BITS);
    let squared_votes = f64::from(unit.squared_votes(nearest_neighbors));
    // Exact: at most 2²⁰.
    let bins = unit.changed_bins(nearest_neighbors) as f64;
    bins * 6.5e4 / squared_votes.powi(2) / scale.powi(4)
}

/// Returns s = ⌈σ·√k·2^g⌉ + 1 in exact integer arithmetic, for finite σ > 0, where k =
/// `squared_votes` ([`Unit::squared_votes`]). Because of the ceiling, the noise is never less than
/// requested; step (1) of the proof above uses the 1.
pub(super) fn lattice_sigma(noise_multiplier: f64, squared_votes: u32) -> BigUint {
    let (mantissa, exponent) = dyadic(noise_multiplier);
    // (σ√k·2^g)² = mantissa²·k·2^twice
    let square = BigUint::from(mantissa).pow(2) * squared_votes;
    let twice = 2 * (exponent + LATTICE_BITS as i32);
    let square = if twice >= 0 {
        square << twice.unsigned_abs()
    } else {
        let divisor = BigUint::from(1u32) << twice.unsigned_abs();
        // For an integer s, s² ≥ x if and only if s² ≥ ⌈x⌉.
        (square + &divisor - 1u32) / divisor
    };
    let floor = square.sqrt();
    let ceiling = if &floor * &floor < square {
        floor + 1u32
    } else {
        floor
    };
    ceiling + 1u32
}

/// Decomposes a finite positive number into mantissa·2^exponent, exactly.
pub(super) fn dyadic(value: f64) -> (u64, i32) {
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    if exponent == 0 {
        (fraction, -1074)
    } else {
        (fraction | (1 << 52), exponent - 1075)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        // 1·√1·2^20 and 1·√4·2^20 are integers; √2·2^20 = 1482910.4…
        assert_eq!(lattice_sigma(1.0, 1), BigUint::from((1u32 << 20) + 1));
        assert_eq!(lattice_sigma(1.0, 4), BigUint::from((1u32 << 21) + 1));
        assert_eq!(lattice_sigma(1.0, 2), BigUint::from(1_482_912u32));
        // Slightly more than an integer rounds up.
        let above = 1.0 + f64::EPSILON;
        assert_eq!(lattice_sigma(above, 1), BigUint::from((1u32 << 20) + 2));
    }

    proptest! {
        #[test]
        fn noise_is_never_less_than_requested(
            sigma in SMALLEST_NOISE_MULTIPLIER..LARGEST_NOISE_MULTIPLIER, k in 1u32..2000,
        ) {
            // (s − 1)² ≥ σ²·k·2^(2g) > (s − 2)², multiplied by 2^140 so that every term is an
            // integer: σ ≥ 2^-4 has no bits below 2^-56.
            let s = lattice_sigma(sigma, k);
            let (mantissa, exponent) = dyadic(sigma);
            let shift = u64::try_from(140 + 2 * (exponent + LATTICE_BITS as i32)).unwrap();
            let wanted = (BigUint::from(mantissa).pow(2) * k) << shift;
            prop_assert!((&s - 1u32).pow(2) << 140u32 >= wanted);
            prop_assert!((&s - 2u32).pow(2) << 140u32 < wanted);
            prop_assert_eq!(mantissa as f64 * 2f64.powi(exponent), sigma);
        }
    }

    /// Step (2) of the proof, measured: the total variation distance between the rounded
    /// continuous and the discrete Gaussian shrinks as 1/c⁴, with a constant below 1/50.
    #[test]
    fn rounded_gaussian_is_nearly_the_discrete_one() {
        for s in [2.0f64, 4.0, 8.0, 16.0, 32.0] {
            let c = (s * s - 1.0 / 12.0).sqrt();
            let reach = (9.0 * s) as i32;
            let upper_tail = |x: f64| 0.5 * libm::erfc(x / c / 2f64.sqrt());
            let weight = |x: i32| (-f64::from(x * x) / (2.0 * s * s)).exp();
            let total: f64 = (-reach..=reach).map(weight).sum();
            let distance = (-reach..=reach)
                .map(|x| {
                    // Both tails on the same side of 0, where they and their errors are small.
                    let far = f64::from(x.abs());
                    let rounded = upper_tail(far - 0.5) - upper_tail(far + 0.5);
                    (rounded - weight(x) / total).abs()
                })
                .sum::<f64>()
                / 2.0;
            let constant = distance * c.powi(4);
            assert!((1e-4..0.02).contains(&constant), "{s}: {constant}");
        }
    }

    #[test]
    fn deviation_is_as_documented() {
        let constant = |sigma: f64, unit, k: u32| deviation(&sigma.into(), unit, &k.into(), 1);
        let image = |sigma, k| constant(sigma, Unit::Image, k);
        assert!((image(1.0, 1) / 1.3e5 * 2f64.powi(80) - 1.0).abs() < 1e-12);
        assert!(image(1.0 / 16.0, 1) < 7.1e-15);
        assert!((image(1.0, 4) / image(1.0, 1) - 0.25).abs() < 1e-12);
        // 2²⁰ bins instead of 2; k has no influence.
        let client = constant(1.0, Unit::Client, 9);
        assert!((client / image(1.0, 1) / 2f64.powi(19) - 1.0).abs() < 1e-12);
        assert!(client < 6e-14);
        // Releases add up, each with its own σ and k; one without terms is not covered.
        let (sigmas, neighbors) = (vec![1.0, 0.5, 2.0], Schedule::List(vec![1, 4, 9]));
        let list = |count| {
            deviation(
                &Schedule::List(sigmas.clone()),
                Unit::Image,
                &neighbors,
                count,
            )
        };
        let sum = image(1.0, 1) + image(0.5, 4) + image(2.0, 9);
        assert!((list(3) / sum - 1.0).abs() < 1e-12);
        assert!((list(1) / image(1.0, 1) - 1.0).abs() < 1e-12);
        assert_eq!((list(0), list(4)), (0.0, f64::INFINITY));
        let five = deviation(&0.5.into(), Unit::Image, &4.into(), 5);
        let equal = deviation(&Schedule::List(vec![0.5; 5]), Unit::Image, &4.into(), 5);
        assert!((five / equal - 1.0).abs() < 1e-12);
        assert!((five / image(0.5, 4) / 5.0 - 1.0).abs() < 1e-12);
    }
}
