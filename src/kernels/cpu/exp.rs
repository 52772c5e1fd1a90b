//! The exponential function and activations made of it, in a form that compilers vectorize.
//!
//! They consist of additions, multiplications, divisions and bit operations only, each rounded
//! separately, so they give the same bits on every processor, with or without vector instructions.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use super::dispatch::{Element, match_dtype};
use super::isa::Kernel;
use super::scratch::uninit_output;
use super::simd::Simd;
use super::tasks;
use super::tensors::contiguous;

/// Computes `e^x` to within two units in the last place where the result is a normal number.
/// Outside, the result is between the smallest and the largest normal number; NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // e^x = 2^n · e^r with n an integer and |r| ≤ ln 2 / 2.
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first with so few bits that its product with n is exact (Cody &
    // Waite).
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    // Adding 1.5 · 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor polynomial of degree 7: the remainder is below 6e-9.
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // n is in -126..=127 (or anything, for NaN, which stays NaN).
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    p * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// Computes `x · sigmoid(x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Computes `x · sigmoid(1.702 x)`.
#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// Computes `x · Φ(x)` to within 2e-7 · (1 + |x|).
#[inline(always)]
fn gelu(x: f32) -> f32 {
    // erfc(z) = e^(-z²) · P(t) with t = 1 / (1 + p z) for z ≥ 0 (Abramowitz & Stegun 1964, 7.1.26).
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    // Φ(x) is the tail left of 0 and its complement right of 0.
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// Operator that applies a function to every element of a contiguous argument.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) enum Activation {
    Silu,
    QuickGelu,
    Gelu,
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match_dtype!(x, E => self.run::<E>(x, layout))
    }
}

impl Activation {
    fn run<E: Element>(self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        // Elements per task.
        const CHUNK: usize = 1 << 14;
        let token = E::token()?;
        let x = contiguous::<E>(x, layout)?;
        let mut out = uninit_output(x.len());
        let parts = out.chunks_mut(CHUNK).zip(x.chunks(CHUNK)).collect();
        tasks::for_each(8 * x.len(), parts, |(out, x)| {
            let apply = Apply {
                x,
                out,
                activation: self,
            };
            E::run(token, apply);
        });
        Ok((E::storage(out), layout.shape().clone()))
    }
}

struct Apply<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
    activation: Activation,
}

impl<E: Element> Kernel for Apply<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let elements = self.out.iter_mut().zip(self.x);
        match self.activation {
            Activation::Silu => {
                for (out, x) in elements {
                    *out = E::narrow(silu(x.widen()));
                }
            }
            Activation::QuickGelu => {
                for (out, x) in elements {
                    *out = E::narrow(quick_gelu(x.widen()));
                }
            }
            Activation::Gelu => {
                for (out, x) in elements {
                    *out = E::narrow(gelu(x.widen()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_the_whole_range() {
        let mut worst = 0f64;
        for step in 0..2_000_000 {
            let x = -87.0 + 175.0 * step as f32 / 2e6;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        // Two units in the last place.
        assert!(worst < 2.4e-7, "{worst:e}");
    }

    #[test]
    fn extremes_behave() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY) > 1e38 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NEG_INFINITY) < 1.7e-38);
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(200.0), 200.0);
        assert!(silu(-200.0).abs() < 1e-35);
        assert!(silu(f32::NAN).is_nan());
    }
}
