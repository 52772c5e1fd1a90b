//! Activation functions.

use candle_core::{Result, Tensor};

use super::cpu::{self, Activation};

/// Computes `x · sigmoid(x)` of every element.
///
/// # Errors
/// Errors of candle.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::supports(x) {
        return fast(x, Activation::Silu);
    }
    candle_nn::ops::silu(x)
}

/// Computes `x · sigmoid(1.702 x)` of every element: the approximation of [`gelu`] that OpenAI's
/// CLIP was trained with.
///
/// # Errors
/// Errors of candle.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::supports(x) {
        return fast(x, Activation::QuickGelu);
    }
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}

/// Computes `x · Φ(x)` of every element, with the normal distribution function Φ (Hendrycks &
/// Gimpel 2016, arXiv 1606.08415; the exact function, not its approximation by tanh).
///
/// # Errors
/// Errors of candle.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::supports(x) {
        return fast(x, Activation::Gelu);
    }
    x.gelu_erf()
}

fn fast(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&activation)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::cpu::Isa;

    fn check(
        function: fn(&Tensor) -> Result<Tensor>,
        exact: fn(f64) -> f64,
        candle: fn(&Tensor) -> Result<Tensor>,
    ) {
        let x: Vec<f32> = (0..40_000).map(|i| (i - 20_000) as f32 * 1e-3).collect();
        let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        let theirs: Vec<f32> = candle(&tensor).unwrap().to_vec1().unwrap();
        for isa in Isa::all() {
            let y: Vec<f32> = isa.within(|| function(&tensor)).unwrap().to_vec1().unwrap();
            for ((x, y), theirs) in x.iter().zip(y).zip(&theirs) {
                let expected = exact(f64::from(*x));
                let allowed = 3e-7 * (1.0 + expected.abs());
                assert!(
                    (f64::from(y) - expected).abs() < allowed,
                    "{x}: {y}, {expected}"
                );
                assert!((y - theirs).abs() < 1e-5, "{x}: {y}, candle {theirs}");
            }
        }
    }

    #[test]
    fn quick_gelu_is_x_times_a_sigmoid() {
        check(
            quick_gelu,
            |x| x / (1.0 + (-1.702 * x).exp()),
            |x| x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        );
    }

    #[test]
    fn gelu_is_x_times_the_normal_distribution_function() {
        check(
            gelu,
            |x| x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2),
            Tensor::gelu_erf,
        );
    }

    #[test]
    fn silu_is_x_times_a_sigmoid() {
        check(silu, |x| x / (1.0 + (-x).exp()), candle_nn::ops::silu);
    }
}
