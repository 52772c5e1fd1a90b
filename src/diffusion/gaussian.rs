//! The coefficients of a respaced diffusion process.

use candle_core::{Result, Tensor};

use super::{DiffusionError, NoiseSchedule, Respacing};

/// The coefficients of one step of a (respaced) process, in float64.
///
/// The names are those of the original's arrays, in the singular. With β the step's own beta,
/// α = 1 − β and ᾱ the product of all α up to this step, ᾱ′ up to the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Timestep {
    /// Position in the respaced process; 0 is the least noisy step, the last to be denoised.
    pub index: usize,
    /// Position in the original process (`timestep_map`).
    pub original: usize,
    /// β of the respaced process.
    pub beta: f64,
    /// ᾱ.
    pub alpha_cumprod: f64,
    /// ᾱ′; 1 at the first step.
    pub alpha_cumprod_prev: f64,
    /// √ᾱ, the share of the image in q(x_t | x_0).
    pub sqrt_alpha_cumprod: f64,
    /// √(1 − ᾱ), the share of the noise in q(x_t | x_0).
    pub sqrt_one_minus_alpha_cumprod: f64,
    /// √(1 / ᾱ).
    pub sqrt_recip_alpha_cumprod: f64,
    /// √(1 / ᾱ − 1).
    pub sqrt_recipm1_alpha_cumprod: f64,
    /// β (1 − ᾱ′) / (1 − ᾱ), the variance of q(x_{t−1} | x_t, x_0); 0 at the first step.
    pub posterior_variance: f64,
    /// ln of [`Timestep::posterior_variance`]; at the first step, where it would be −∞, that of the
    /// second.
    pub posterior_log_variance_clipped: f64,
    /// Weight of x_0 in the mean of q(x_{t−1} | x_t, x_0).
    pub posterior_mean_coef1: f64,
    /// Weight of x_t in the mean of q(x_{t−1} | x_t, x_0).
    pub posterior_mean_coef2: f64,
    /// β, at the first step the second's posterior variance (the upper of the two fixed choices).
    pub fixed_large_variance: f64,
}

/// A Gaussian diffusion process, respaced: its steps from the least to the most noisy.
#[derive(Debug, Clone, PartialEq)]
pub struct GaussianDiffusion {
    original_steps: usize,
    timesteps: Vec<Timestep>,
}

impl GaussianDiffusion {
    /// Creates the process of `steps` steps under `schedule`, shortened to the steps that
    /// `respacing` keeps so that ᾱ at each of them stays what it was (`SpacedDiffusion` of
    /// `respace.py`).
    ///
    /// # Errors
    /// [`DiffusionError`] when `respacing` does not fit, fewer than two steps remain, or a beta is
    /// not strictly between 0 and 1 (a linear schedule of 20 steps or fewer).
    pub fn new(
        schedule: NoiseSchedule,
        steps: usize,
        respacing: &Respacing,
    ) -> std::result::Result<Self, DiffusionError> {
        let original_betas = schedule.betas(steps);
        check_betas(&original_betas)?;
        let alphas_cumprod: Vec<f64> = cumulative_products(&original_betas).collect();
        let map = respacing.timesteps(steps)?;
        if map.len() < 2 {
            return Err(DiffusionError::TooFewSteps(map.len()));
        }
        let mut last = 1.0;
        let betas: Vec<f64> = map
            .iter()
            .filter_map(|&original| alphas_cumprod.get(original))
            .map(|&alpha_cumprod| {
                let beta = 1.0 - alpha_cumprod / last;
                last = alpha_cumprod;
                beta
            })
            .collect();
        check_betas(&betas)?;
        Ok(Self {
            original_steps: steps,
            timesteps: timesteps(&betas, &map),
        })
    }

    /// Number of steps left after respacing.
    #[must_use]
    pub fn num_timesteps(&self) -> usize {
        self.timesteps.len()
    }

    /// The steps, the least noisy first.
    #[must_use]
    pub fn timesteps(&self) -> &[Timestep] {
        &self.timesteps
    }

    /// Returns the steps that remain without the `skipped` noisiest ones, the least noisy first.
    ///
    /// # Errors
    /// [`DiffusionError::NoStepLeft`] when none would remain.
    pub fn remaining(&self, skipped: usize) -> std::result::Result<&[Timestep], DiffusionError> {
        self.timesteps
            .len()
            .checked_sub(skipped)
            .and_then(|left| self.timesteps.get(..left))
            .filter(|left| !left.is_empty())
            .ok_or(DiffusionError::NoStepLeft {
                skipped,
                steps: self.timesteps.len(),
            })
    }

    /// Returns the time input of the network at `step`: its position in the original process; with
    /// `rescale` on a scale of 1000 steps, computed in float32 as the original does.
    #[must_use]
    pub fn model_time(&self, step: &Timestep, rescale: bool) -> f32 {
        let time = step.original as f32;
        if rescale {
            time * (1000.0 / self.original_steps as f64) as f32
        } else {
            time
        }
    }
}

impl Timestep {
    /// Samples q(x_t | x_0): the image `x_start` noised up to this step with the standard normal
    /// `noise` of the same shape.
    ///
    /// # Errors
    /// Errors of candle, for example if the shapes differ.
    pub fn q_sample(&self, x_start: &Tensor, noise: &Tensor) -> Result<Tensor> {
        weighted_sum(
            self.sqrt_alpha_cumprod,
            x_start,
            self.sqrt_one_minus_alpha_cumprod,
            noise,
        )
    }
}

/// Returns `a·x + b·y`, each operation rounded to the tensors' type.
pub(super) fn weighted_sum(a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<Tensor> {
    x.affine(a, 0.0)?.add(&y.affine(b, 0.0)?)
}

fn check_betas(betas: &[f64]) -> std::result::Result<(), DiffusionError> {
    let wrong = betas.iter().position(|&beta| !(beta > 0.0 && beta < 1.0));
    match wrong.and_then(|step| Some((step, *betas.get(step)?))) {
        None => Ok(()),
        Some((step, beta)) => Err(DiffusionError::Beta {
            step,
            steps: betas.len(),
            beta,
        }),
    }
}

fn cumulative_products(betas: &[f64]) -> impl Iterator<Item = f64> + '_ {
    betas.iter().scan(1.0, |product, beta| {
        *product *= 1.0 - beta;
        Some(*product)
    })
}

fn timesteps(betas: &[f64], map: &[usize]) -> Vec<Timestep> {
    let mut alpha_cumprod_prev = 1.0;
    let mut steps: Vec<Timestep> = betas
        .iter()
        .zip(cumulative_products(betas))
        .zip(map)
        .enumerate()
        .map(|(index, ((&beta, alpha_cumprod), &original))| {
            let prev = std::mem::replace(&mut alpha_cumprod_prev, alpha_cumprod);
            let posterior_variance = beta * (1.0 - prev) / (1.0 - alpha_cumprod);
            Timestep {
                index,
                original,
                beta,
                alpha_cumprod,
                alpha_cumprod_prev: prev,
                sqrt_alpha_cumprod: alpha_cumprod.sqrt(),
                sqrt_one_minus_alpha_cumprod: (1.0 - alpha_cumprod).sqrt(),
                sqrt_recip_alpha_cumprod: (1.0 / alpha_cumprod).sqrt(),
                sqrt_recipm1_alpha_cumprod: (1.0 / alpha_cumprod - 1.0).sqrt(),
                posterior_variance,
                posterior_log_variance_clipped: posterior_variance.ln(),
                posterior_mean_coef1: beta * prev.sqrt() / (1.0 - alpha_cumprod),
                posterior_mean_coef2: (1.0 - prev) * (1.0 - beta).sqrt() / (1.0 - alpha_cumprod),
                fixed_large_variance: beta,
            }
        })
        .collect();
    // The posterior variance of the first step is 0, because x_0 is known there, and its logarithm
    // is −∞. The original takes that of the second step instead, for both fixed choices.
    if let [first, second, ..] = steps.as_mut_slice() {
        first.posterior_log_variance_clipped = second.posterior_log_variance_clipped;
        first.fixed_large_variance = second.posterior_variance;
    }
    steps
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn respacing_keeps_alpha_bar() {
        let full = GaussianDiffusion::new(NoiseSchedule::Cosine, 4000, &Respacing::All).unwrap();
        let short =
            GaussianDiffusion::new(NoiseSchedule::Cosine, 4000, &Respacing::Stride(10)).unwrap();
        assert_eq!((full.num_timesteps(), short.num_timesteps()), (4000, 10));
        for step in short.timesteps() {
            let expected = full.timesteps()[step.original].alpha_cumprod;
            assert!((step.alpha_cumprod / expected - 1.0).abs() < 1e-12);
        }
        assert_eq!(short.timesteps()[9].original, 3600);
        assert_eq!(short.model_time(&short.timesteps()[9], true), 900.0);
        assert_eq!(short.model_time(&short.timesteps()[9], false), 3600.0);
    }

    #[test]
    fn degenerate_processes_are_refused() {
        let new = |steps, respacing: &str| {
            GaussianDiffusion::new(NoiseSchedule::Linear, steps, &respacing.parse().unwrap())
        };
        assert!(new(21, "").is_ok());
        // 1000/20 · 0.02 = 1: the last step would leave nothing of the image.
        assert!(matches!(
            new(20, ""),
            Err(DiffusionError::Beta { step: 19, .. })
        ));
        assert_eq!(new(1000, "1"), Err(DiffusionError::TooFewSteps(1)));
        assert_eq!(new(1000, "0"), Err(DiffusionError::TooFewSteps(0)));
        assert_eq!(new(0, ""), Err(DiffusionError::TooFewSteps(0)));
    }

    #[test]
    fn the_noisiest_steps_are_left_out() {
        let process =
            GaussianDiffusion::new(NoiseSchedule::Linear, 1000, &"5".parse().unwrap()).unwrap();
        assert_eq!(process.remaining(0).unwrap().len(), 5);
        assert_eq!(process.remaining(4).unwrap()[0].original, 0);
        for skipped in [5, 6, usize::MAX] {
            assert!(process.remaining(skipped).is_err());
        }
    }

    #[test]
    fn noising_keeps_unit_variance() {
        let process = GaussianDiffusion::new(NoiseSchedule::Linear, 1000, &Respacing::All).unwrap();
        let image = Tensor::new(&[1f32, 0.0], &Device::Cpu).unwrap();
        let noise = Tensor::new(&[0f32, 1.0], &Device::Cpu).unwrap();
        for step in process.timesteps() {
            let shares = step.q_sample(&image, &noise).unwrap();
            let norm = shares.sqr().unwrap().sum_all().unwrap();
            assert!((norm.to_scalar::<f32>().unwrap() - 1.0).abs() < 1e-6);
        }
    }
}
