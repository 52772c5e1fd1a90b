//! The tail of the normal distribution, and δ(ε) of the Gaussian mechanism with an error bound.
//!
//! All functions come from the crate `libm`, which returns the same bits on every platform: any
//! machine can recompute, and so verify, the ε in a ledger.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Returns erfcx(x) = exp(x²)·erfc(x) for x ≥ 0, accurate to a few units in the last place.
///
/// The product of the two factors is not sufficient: exp(x²) overflows at 26.7, and erfc(x)
/// underflows at 26.5.
pub(super) fn erfcx(x: f64) -> f64 {
    if x < 10.0 {
        // exp would magnify the rounding error of x² a hundredfold. A fused multiply-add returns
        // that error exactly, and it is added to first order.
        let square = x * x;
        let rest = libm::fma(x, x, -square);
        libm::exp(square) * (1.0 + rest) * libm::erfc(x)
    } else {
        // Asymptotic series 1/(x√π)·Σ (−1)^n (2n−1)!!/(2x²)^n. It alternates, so the error is
        // below the first omitted term: 27!!/200^14 < 2e-18 at x = 10.
        let step = 0.5 / x / x;
        let mut term = 1.0;
        let mut sum = 1.0;
        for n in 1..14 {
            term *= -f64::from(2 * n - 1) * step;
            sum += term;
        }
        sum / (x * libm::sqrt(PI))
    }
}

/// Returns an upper bound of δ(ε) for two normal distributions of unit variance whose means differ
/// by `mu`. For ε and μ of ordinary size, the bound is tight to a relative error of about 1e-14 of
/// the larger term.
///
/// Balle, Wang (2018), "Improving the Gaussian Mechanism for Differential Privacy", arXiv
/// 1805.06530, Theorem 8, with a = ε/μ − μ/2 and b = ε/μ + μ/2:
///
/// > δ(ε) = Φ(−a) − e^ε Φ(−b)
///
/// Because (b² − a²)/2 = ε, the second term is ½·exp(−a²/2)·erfcx(b/√2): e^ε is never
/// computed, so an ε of thousands does not overflow.
///
/// The bound adds the largest possible rounding error to the first term and subtracts it from the
/// second. Rounding changes a by at most 2ε₀b (ε₀ = 2⁻⁵²), and the relative change of either term
/// is at most |a| + 1 times that (the bound of the normal hazard rate). Squaring and scaling a
/// contributes as much again, and the functions contribute a few ε₀. The factor 16 exceeds the sum
/// several times.
///
/// Requires ε ≥ 0 and μ > 0, both finite.
pub(super) fn delta_upper_bound(epsilon: f64, mu: f64) -> f64 {
    let ratio = epsilon / mu;
    let a = ratio - mu / 2.0;
    let b = ratio + mu / 2.0;
    let first = 0.5 * libm::erfc(a * FRAC_1_SQRT_2);
    let second = 0.5 * libm::exp(-0.5 * a * a) * erfcx(b * FRAC_1_SQRT_2);
    let relative = 16.0 * f64::EPSILON * (1.0 + (a.abs() + 1.0) * b);
    if first == 0.0 || !relative.is_finite() {
        // δ is far below the smallest one that the accountant accepts, or the bound is trivial.
        return if a > 0.0 { f64::MIN_POSITIVE } else { 1.0 };
    }
    let bound = first * (1.0 + relative) - second * (1.0 - relative).max(0.0);
    bound.clamp(f64::MIN_POSITIVE, 1.0)
}

#[cfg(test)]
#[path = "normal_tail_tests.rs"]
mod tests;
