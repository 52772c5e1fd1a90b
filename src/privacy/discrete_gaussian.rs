//! The exact discrete Gaussian sampler of Canonne, Kamath, Steinke (2020), "The Discrete Gaussian
//! for Differential Privacy", arXiv 2004.00010, Algorithms 1 to 3.
//!
//! **Guarantee.** Given independent uniform bits, [`DiscreteGaussian::sample`] returns the integer
//! x with probability exactly proportional to exp(−x²/(2σ²)), for any positive rational σ². It
//! uses no floating-point numbers, so there is no rounding whose low-order bits could reveal the
//! true count (Mironov 2012), and its integers have arbitrary size, so nothing can overflow. The
//! running time is random with an exponentially decaying tail; it depends on the noise alone and
//! never on the counts.
//!
//! The proof is rejection sampling throughout, and each function states its own part.

use num_bigint::{BigInt, BigUint, Sign};

use super::error::PrivacyError;
use super::noise_source::NoiseSource;

type Sampled<T> = Result<T, PrivacyError>;

/// Returns a uniform integer in `0..bound`; `bound` must not be 0.
///
/// Reads the smallest number of bits that can represent `bound − 1` until the result is below
/// `bound`. Every accepted value has the same probability, and at least half of the attempts
/// succeed.
fn uniform_below(bound: &BigUint, source: &mut dyn NoiseSource) -> Sampled<BigUint> {
    let bits = (bound - 1u32).bits();
    let mut bytes = vec![0u8; bits.div_ceil(8) as usize];
    let mask = 0xff_u8 >> ((8 - bits % 8) % 8);
    loop {
        source.fill(&mut bytes)?;
        if let Some(top) = bytes.last_mut() {
            *top &= mask;
        }
        let value = BigUint::from_bytes_le(&bytes);
        if value < *bound {
            return Ok(value);
        }
    }
}

/// Returns true with probability `numerator/denominator`, which must be in [0, 1].
fn bernoulli(
    numerator: &BigUint,
    denominator: &BigUint,
    source: &mut dyn NoiseSource,
) -> Sampled<bool> {
    Ok(uniform_below(denominator, source)? < *numerator)
}

/// Returns true with probability exp(−γ), γ = `numerator/denominator` in [0, 1]. Algorithm 1,
/// first case.
///
/// Let K be the first k for which Bernoulli(γ/k) is false. P(K > k) = γ^k/k!, so P(K odd) =
/// Σ (−γ)^k/k! = exp(−γ).
fn bernoulli_exp_of_fraction(
    numerator: &BigUint,
    denominator: &BigUint,
    source: &mut dyn NoiseSource,
) -> Sampled<bool> {
    let mut scaled = denominator.clone();
    let mut odd = true;
    while bernoulli(numerator, &scaled, source)? {
        scaled += denominator;
        odd = !odd;
    }
    Ok(odd)
}

/// Returns true with probability exp(−γ), γ = `numerator/denominator` ≥ 0. Algorithm 1.
///
/// exp(−γ) = exp(−1)^m · exp(−(γ − m)): the conjunction of m events of probability exp(−1), where
/// the first false one decides, and of one event for the remainder γ − m in [0, 1].
fn bernoulli_exp(
    numerator: &BigUint,
    denominator: &BigUint,
    source: &mut dyn NoiseSource,
) -> Sampled<bool> {
    let mut rest = numerator.clone();
    while rest > *denominator {
        if !bernoulli_exp_of_fraction(denominator, denominator, source)? {
            return Ok(false);
        }
        rest -= denominator;
    }
    bernoulli_exp_of_fraction(&rest, denominator, source)
}

/// Returns sign and magnitude of an integer x with probability proportional to exp(−|x|/scale), for
/// an integer scale ≥ 1. Algorithm 2 with s = 1; the sign is true for negative numbers.
///
/// Let U be uniform in 0..scale and accepted with probability exp(−U/scale), and V geometric with
/// ratio exp(−1). U + scale·V then has P(x) ∝ exp(−x/scale) on x ≥ 0. A fair sign, where −0 is
/// rejected, makes the distribution two-sided.
fn discrete_laplace(scale: &BigUint, source: &mut dyn NoiseSource) -> Sampled<(bool, BigUint)> {
    let one = BigUint::from(1u32);
    let two = BigUint::from(2u32);
    loop {
        let remainder = uniform_below(scale, source)?;
        if !bernoulli_exp_of_fraction(&remainder, scale, source)? {
            continue;
        }
        let mut magnitude = remainder;
        while bernoulli_exp_of_fraction(&one, &one, source)? {
            magnitude += scale;
        }
        let negative = bernoulli(&one, &two, source)?;
        if negative && magnitude == BigUint::ZERO {
            continue;
        }
        return Ok((negative, magnitude));
    }
}

/// The distribution P(x) ∝ exp(−x²/(2σ²)) on the integers, with σ² = p/q.
pub(super) struct DiscreteGaussian {
    p: BigUint,
    /// ⌊σ⌋ + 1, the scale of the discrete Laplace proposals.
    t: BigUint,
    qt: BigUint,
    /// 2pqt²
    acceptance_denominator: BigUint,
}

impl DiscreteGaussian {
    /// Creates the distribution with σ² = `p/q`. A zero is an error, so that no parameter value
    /// turns the noise off silently.
    pub(super) fn new(p: BigUint, q: &BigUint) -> Sampled<Self> {
        if p == BigUint::ZERO || *q == BigUint::ZERO {
            return Err(PrivacyError::config(
                "noise_multiplier",
                "expected a positive variance",
            ));
        }
        // ⌊√(p/q)⌋ = ⌊√⌊p/q⌋⌋. Any positive integer would be correct; this one, the choice of the
        // paper, has few rejections.
        let t = (&p / q).sqrt() + 1u32;
        let qt = q * &t;
        Ok(Self {
            acceptance_denominator: 2u32 * &p * &qt * &t,
            p,
            t,
            qt,
        })
    }

    /// Returns one sample. Algorithm 3.
    ///
    /// A proposal y ∝ exp(−|y|/t) is accepted with probability exp(−(|y| − σ²/t)²/(2σ²)). The
    /// product is exp(−y²/(2σ²)) times a constant. With σ² = p/q the acceptance exponent is the
    /// fraction (|y|qt − p)² / (2pqt²).
    pub(super) fn sample(&self, source: &mut dyn NoiseSource) -> Sampled<BigInt> {
        loop {
            let (negative, magnitude) = discrete_laplace(&self.t, source)?;
            let scaled = &magnitude * &self.qt;
            let distance = if scaled > self.p {
                scaled - &self.p
            } else {
                &self.p - scaled
            };
            let exponent = &distance * &distance;
            if bernoulli_exp(&exponent, &self.acceptance_denominator, source)? {
                let sign = if negative { Sign::Minus } else { Sign::Plus };
                return Ok(BigInt::from_biguint(sign, magnitude));
            }
        }
    }
}

#[cfg(test)]
#[path = "discrete_gaussian_tests.rs"]
mod tests;
