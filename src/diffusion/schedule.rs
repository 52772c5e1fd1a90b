//! Noise schedules: the amount of noise that each step of the forward process adds.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::DiffusionError;

/// The largest beta of the cosine schedule, which would otherwise reach 1 at its last step.
const MAX_BETA: f64 = 0.999;

/// A family of noise schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseSchedule {
    /// Betas on a straight line from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020), scaled by
    /// 1000 / steps at any other number.
    #[default]
    Linear,
    /// ᾱ(t) = cos²(π/2 · (t + 0.008) / 1.008), betas at most 0.999 (Nichol & Dhariwal 2021,
    /// eq. 17).
    Cosine,
}

impl NoiseSchedule {
    /// Returns β of each of `steps` steps, the least noisy first.
    #[must_use]
    pub fn betas(self, steps: usize) -> Vec<f64> {
        match self {
            Self::Linear => linear(steps),
            Self::Cosine => cosine(steps),
        }
    }
}

fn linear(steps: usize) -> Vec<f64> {
    let scale = 1000.0 / steps as f64;
    let (first, last) = (scale * 0.0001, scale * 0.02);
    if steps < 2 {
        return vec![first; steps];
    }
    let stride = (last - first) / (steps - 1) as f64;
    let mut betas: Vec<f64> = (0..steps).map(|i| i as f64 * stride + first).collect();
    if let Some(end) = betas.last_mut() {
        *end = last;
    }
    betas
}

fn cosine(steps: usize) -> Vec<f64> {
    let alpha_bar = |t: f64| {
        let cosine = ((t + 0.008) / 1.008 * PI / 2.0).cos();
        cosine * cosine
    };
    let steps_f = steps as f64;
    (0..steps)
        .map(|i| {
            let (t1, t2) = (i as f64 / steps_f, (i + 1) as f64 / steps_f);
            (1.0 - alpha_bar(t2) / alpha_bar(t1)).min(MAX_BETA)
        })
        .collect()
}

impl FromStr for NoiseSchedule {
    type Err = DiffusionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            _ => Err(DiffusionError::UnknownSchedule(text.to_owned())),
        }
    }
}

impl fmt::Display for NoiseSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ends_are_scaled_by_the_number_of_steps() {
        let betas = NoiseSchedule::Linear.betas(4000);
        assert_eq!(betas.len(), 4000);
        assert_eq!((betas[0], betas[3999]), (0.25 * 0.0001, 0.25 * 0.02));
        assert!(betas.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn cosine_is_the_papers_formula_and_is_clipped() {
        let betas = NoiseSchedule::Cosine.betas(1000);
        assert_eq!(betas[999], 0.999);
        // Before the clip, the product telescopes: ᾱ after half the steps is f(1/2) / f(0).
        let f = |t: f64| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
        let product: f64 = betas[..500].iter().map(|beta| 1.0 - beta).product();
        assert!((product - f(0.5) / f(0.0)).abs() < 1e-12, "{product}");
    }

    #[test]
    fn names_are_read_back() {
        for schedule in [NoiseSchedule::Linear, NoiseSchedule::Cosine] {
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }
        let error = "sqrt".parse::<NoiseSchedule>().unwrap_err().to_string();
        assert!(
            error.contains("sqrt") && error.contains("cosine"),
            "{error}"
        );
    }
}
