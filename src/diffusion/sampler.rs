//! Reverse diffusion: from noise, or from a noised image, to an image.

use std::iter::FusedIterator;

use candle_core::{Result, Tensor};

use super::dpm_solver::advance;
use super::gaussian::weighted_sum;
use super::{DiffusionError, GaussianDiffusion, Timestep};

/// The quantity that the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise ε in x_t.
    Epsilon,
    /// The image x_0.
    XStart,
}

/// The variance of a DDPM step. The other methods use only the number of channels that it implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variance {
    /// The network's output has twice the image's channels; the second half, in [−1, 1], places the
    /// log variance between the posterior's and β's (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange,
    /// β.
    FixedLarge,
    /// The posterior's variance.
    FixedSmall,
}

/// The method of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Ancestral sampling (Ho et al. 2020, algorithm 2): every step but the last adds noise.
    Ddpm,
    /// Song et al. 2021, eq. 12. With `eta` 0 it adds no noise and requests none.
    Ddim {
        /// 0: deterministic; 1: as noisy as ancestral sampling.
        eta: f64,
    },
    /// DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): deterministic like DDIM without noise,
    /// but of second order, and thus closer to the limit of infinitely many steps. The steps from
    /// the last but one noise level on are of first order, because λ changes most between the least
    /// noisy levels, and earlier predictions do not extrapolate over such steps
    /// (`lower_order_final` in the authors' code).
    DpmSolver,
}

/// Options of a [`Sampler`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// The method of a step.
    pub method: Method,
    /// The quantity that the network predicts.
    pub prediction: Prediction,
    /// The variance of a DDPM step.
    pub variance: Variance,
    /// Clips each prediction of x_0 to [−1, 1].
    pub clip_denoised: bool,
    /// Rescales the time input of the network to the range 0 to 1000.
    pub rescale_timesteps: bool,
}

/// A diffusion process together with the options of its reversal.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    diffusion: GaussianDiffusion,
    options: SamplerOptions,
}

/// The result of one step. Each tensor has the shape of x_t.
#[derive(Debug, Clone)]
pub struct Step {
    /// x_{t−1}; after the last step the result.
    pub sample: Tensor,
    /// The step's prediction of x_0.
    pub pred_xstart: Tensor,
}

impl Sampler {
    /// Creates a sampler of `diffusion`.
    #[must_use]
    pub fn new(diffusion: GaussianDiffusion, options: SamplerOptions) -> Self {
        Self { diffusion, options }
    }

    /// The process.
    #[must_use]
    pub fn diffusion(&self) -> &GaussianDiffusion {
        &self.diffusion
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Noises `image` up to the first of the steps that remain without the `start_t` noisiest ones:
    /// the input of [`Sampler::trajectory`] for a variation.
    ///
    /// # Errors
    /// [`DiffusionError::NoStepLeft`], as an error of candle, and errors of candle.
    pub fn noised(&self, image: &Tensor, noise: &Tensor, start_t: usize) -> Result<Tensor> {
        let [.., first] = self.remaining(start_t)? else {
            candle_core::bail!("no step is left to noise an image for");
        };
        first.q_sample(image, noise)
    }

    /// Returns an iterator over the reverse steps from `x` (NCHW, float32), without the `start_t`
    /// noisiest steps (0: from pure noise). The sample of the last step is the result, which
    /// [`Trajectory::finish`] returns directly.
    ///
    /// `network` is called with x_t and the time of the step, the same for the whole batch, and
    /// returns its prediction in float32. `noise` is called with the number of steps already taken,
    /// only when noise is needed (never at the last step, never by DDIM with eta 0 or
    /// DPM-Solver++), and returns standard normal numbers of the shape of `x`.
    ///
    /// # Errors
    /// [`DiffusionError::NoStepLeft`], as an error of candle.
    pub fn trajectory<M, N>(
        &self,
        x: Tensor,
        start_t: usize,
        network: M,
        noise: N,
    ) -> Result<Trajectory<'_, M, N>>
    where
        M: FnMut(&Tensor, f32) -> Result<Tensor>,
        N: FnMut(usize) -> Result<Tensor>,
    {
        Ok(Trajectory {
            sampler: self,
            remaining: self.remaining(start_t)?,
            taken: 0,
            x,
            before: None,
            network,
            noise,
        })
    }

    fn remaining(&self, start_t: usize) -> Result<&[Timestep]> {
        self.diffusion
            .remaining(start_t)
            .map_err(|error: DiffusionError| candle_core::Error::wrap(error))
    }

    /// Takes one reverse step from `x`, given the `output` of the network and the previous
    /// prediction.
    fn step(
        &self,
        at: &Timestep,
        x: &Tensor,
        output: &Tensor,
        before: Option<&Before>,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Step> {
        let (prediction, variance) = self.split(x, output)?;
        let pred_xstart = match self.options.prediction {
            Prediction::XStart => prediction,
            Prediction::Epsilon => weighted_sum(
                at.sqrt_recip_alpha_cumprod,
                x,
                -at.sqrt_recipm1_alpha_cumprod,
                &prediction,
            )?,
        };
        let pred_xstart = if self.options.clip_denoised {
            pred_xstart.clamp(-1f32, 1f32)?
        } else {
            pred_xstart
        };
        let sample = match self.options.method {
            Method::Ddim { eta } => ddim(at, x, &pred_xstart, eta, noise)?,
            Method::Ddpm => self.ddpm(at, x, &pred_xstart, variance, noise)?,
            Method::DpmSolver => dpm_solver(at, x, &pred_xstart, before)?,
        };
        Ok(Step {
            sample,
            pred_xstart,
        })
    }

    /// Splits the output of the network into the prediction and, if there is one, the variance
    /// fraction.
    fn split(&self, x: &Tensor, output: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (batch, channels, height, width) = x.dims4()?;
        let learned = self.options.variance == Variance::LearnedRange;
        let expected = [batch, channels * if learned { 2 } else { 1 }, height, width];
        if output.dims() != expected {
            candle_core::bail!(
                "the network returned {:?} for an input of {:?}, expected {expected:?}",
                output.dims(),
                x.dims()
            );
        }
        if !learned {
            return Ok((output.clone(), None));
        }
        let prediction = output.narrow(1, 0, channels)?.contiguous()?;
        let variance = match self.options.method {
            Method::Ddpm => Some(output.narrow(1, channels, channels)?.contiguous()?),
            Method::Ddim { .. } | Method::DpmSolver => None,
        };
        Ok((prediction, variance))
    }

    fn ddpm(
        &self,
        at: &Timestep,
        x: &Tensor,
        pred_xstart: &Tensor,
        variance: Option<Tensor>,
        noise: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mean = weighted_sum(
            at.posterior_mean_coef1,
            pred_xstart,
            at.posterior_mean_coef2,
            x,
        )?;
        // The original multiplies the noise of the last step by 0 instead.
        if at.index == 0 {
            return Ok(mean);
        }
        let fixed = |log_variance: f64| f64::from((0.5 * log_variance as f32).exp());
        let scaled = match (self.options.variance, variance) {
            (Variance::LearnedRange, Some(values)) => {
                let fraction = values.affine(0.5, 0.5)?;
                let log_variance = weighted_sum(
                    at.beta.ln(),
                    &fraction,
                    at.posterior_log_variance_clipped,
                    &fraction.affine(-1.0, 1.0)?,
                )?;
                log_variance.affine(0.5, 0.0)?.exp()?.mul(&noise()?)?
            }
            (Variance::FixedLarge, _) => {
                noise()?.affine(fixed(at.fixed_large_variance.ln()), 0.0)?
            }
            (Variance::FixedSmall | Variance::LearnedRange, _) => {
                noise()?.affine(fixed(at.posterior_log_variance_clipped), 0.0)?
            }
        };
        mean.add(&scaled)
    }
}

fn ddim(
    at: &Timestep,
    x: &Tensor,
    pred_xstart: &Tensor,
    eta: f64,
    noise: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    // ε is recomputed from the (clipped) prediction of x_0.
    let recipm1 = f64::from(at.sqrt_recipm1_alpha_cumprod as f32);
    let eps = x
        .affine(at.sqrt_recip_alpha_cumprod, 0.0)?
        .sub(pred_xstart)?
        .affine(1.0 / recipm1, 0.0)?;
    // Cast first, then take the roots in float32, as in the original.
    let alpha_bar = at.alpha_cumprod as f32;
    let alpha_bar_prev = at.alpha_cumprod_prev as f32;
    let sigma = eta as f32
        * ((1.0 - alpha_bar_prev) / (1.0 - alpha_bar)).sqrt()
        * (1.0 - alpha_bar / alpha_bar_prev).sqrt();
    let mean = weighted_sum(
        f64::from(alpha_bar_prev.sqrt()),
        pred_xstart,
        f64::from((1.0 - alpha_bar_prev - sigma * sigma).sqrt()),
        &eps,
    )?;
    if eta == 0.0 || at.index == 0 {
        return Ok(mean);
    }
    mean.add(&noise()?.affine(f64::from(sigma), 0.0)?)
}

/// State that a multistep method passes to the next step.
struct Before {
    /// Noise over signal at the step of the prediction.
    sigma: f64,
    pred_xstart: Tensor,
}

fn dpm_solver(
    at: &Timestep,
    x: &Tensor,
    pred_xstart: &Tensor,
    before: Option<&Before>,
) -> Result<Tensor> {
    let next = (1.0 / at.alpha_cumprod_prev - 1.0).sqrt();
    let before = before
        .filter(|_| at.index > 1)
        .map(|before| (before.sigma, &before.pred_xstart));
    advance(
        (at.sqrt_recipm1_alpha_cumprod, next),
        x,
        pred_xstart,
        before,
    )
}

/// An iterator over reverse steps, created by [`Sampler::trajectory`]. Ends after the first error.
pub struct Trajectory<'a, M, N> {
    sampler: &'a Sampler,
    remaining: &'a [Timestep],
    taken: usize,
    x: Tensor,
    before: Option<Before>,
    network: M,
    noise: N,
}

impl<M, N> Trajectory<'_, M, N>
where
    M: FnMut(&Tensor, f32) -> Result<Tensor>,
    N: FnMut(usize) -> Result<Tensor>,
{
    /// Takes all remaining steps and returns the last sample.
    ///
    /// # Errors
    /// The first error of the network, the noise or candle.
    pub fn finish(mut self) -> Result<Tensor> {
        for step in self.by_ref() {
            step?;
        }
        Ok(self.x)
    }

    fn advance(&mut self, at: &Timestep) -> Result<Step> {
        let time = self
            .sampler
            .diffusion
            .model_time(at, self.sampler.options.rescale_timesteps);
        let output = (self.network)(&self.x, time)?;
        let taken = self.taken;
        let noise = &mut self.noise;
        let before = self.before.take();
        let step = self
            .sampler
            .step(at, &self.x, &output, before.as_ref(), || noise(taken))?;
        if self.sampler.options.method == Method::DpmSolver {
            self.before = Some(Before {
                sigma: at.sqrt_recipm1_alpha_cumprod,
                pred_xstart: step.pred_xstart.clone(),
            });
        }
        Ok(step)
    }
}

impl<M, N> Iterator for Trajectory<'_, M, N>
where
    M: FnMut(&Tensor, f32) -> Result<Tensor>,
    N: FnMut(usize) -> Result<Tensor>,
{
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let (at, rest) = self.remaining.split_last()?;
        let step = self.advance(at);
        match &step {
            Ok(step) => {
                self.x = step.sample.clone();
                self.taken += 1;
                self.remaining = rest;
            }
            Err(_) => self.remaining = &[],
        }
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Fewer after an error.
        (
            usize::from(!self.remaining.is_empty()),
            Some(self.remaining.len()),
        )
    }
}

impl<M, N> FusedIterator for Trajectory<'_, M, N>
where
    M: FnMut(&Tensor, f32) -> Result<Tensor>,
    N: FnMut(usize) -> Result<Tensor>,
{
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};

    use super::*;
    use crate::diffusion::NoiseSchedule;
    use crate::streams::{Phase, RngKey};

    const OPTIONS: SamplerOptions = SamplerOptions {
        method: Method::Ddim { eta: 0.0 },
        prediction: Prediction::Epsilon,
        variance: Variance::FixedLarge,
        clip_denoised: false,
        rescale_timesteps: false,
    };

    fn sampler(options: SamplerOptions) -> Sampler {
        let diffusion =
            GaussianDiffusion::new(NoiseSchedule::Linear, 1000, &"20".parse().unwrap()).unwrap();
        Sampler::new(diffusion, options)
    }

    fn normal(shape: (usize, usize, usize, usize), sample: u64) -> Tensor {
        let key = RngKey {
            seed: 1,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample,
        };
        let mut values = vec![0f32; shape.0 * shape.1 * shape.2 * shape.3];
        key.rng().fill_normal(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn no_noise(_: usize) -> Result<Tensor> {
        candle_core::bail!("noise was asked for")
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap();
        difference
            .flatten_all()
            .unwrap()
            .max(D::Minus1)
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    /// A network that predicts exactly recovers the image, and DDIM requests no noise.
    #[test]
    fn a_perfect_network_is_followed_to_its_image() {
        let shape = (2, 3, 4, 4);
        let image = normal(shape, 1).tanh().unwrap();
        for prediction in [Prediction::Epsilon, Prediction::XStart] {
            let sampler = sampler(SamplerOptions {
                prediction,
                clip_denoised: true,
                ..OPTIONS
            });
            for start_t in [0, 7, 19] {
                let x = sampler.noised(&image, &normal(shape, 2), start_t).unwrap();
                let mut times = Vec::new();
                let network = |x: &Tensor, time: f32| {
                    times.push(time);
                    let at = sampler
                        .diffusion()
                        .timesteps()
                        .iter()
                        .find(|at| at.original as f32 == time)
                        .unwrap();
                    match prediction {
                        Prediction::XStart => Ok(image.clone()),
                        Prediction::Epsilon => (x - image.affine(at.sqrt_alpha_cumprod, 0.0)?)?
                            .affine(1.0 / at.sqrt_one_minus_alpha_cumprod, 0.0),
                    }
                };
                let found = sampler
                    .trajectory(x, start_t, network, no_noise)
                    .unwrap()
                    .finish()
                    .unwrap();
                // ᾱ is 4e-5 at the noisiest step, so float32 leaves about 1e-7 · 160 there.
                assert!(largest_difference(&found, &image) < 1e-4);
                assert_eq!(times.len(), 20 - start_t);
                assert!(times.windows(2).all(|pair| pair[0] > pair[1]));
            }
        }
    }

    /// Ancestral sampling of a Gaussian with the exact network has the moments of the Gaussian, and
    /// so has DDIM with eta 1. Noise is requested in order and not at the last step.
    #[test]
    fn noisy_steps_keep_the_distribution() {
        // x_0 ~ N(0.3, 0.5²): E[x_0 | x_t] = 0.3 + 0.25 √ᾱ / (0.25 ᾱ + 1 − ᾱ) · (x_t − 0.3 √ᾱ).
        let diffusion =
            GaussianDiffusion::new(NoiseSchedule::Cosine, 1000, &"200".parse().unwrap()).unwrap();
        for (method, variance) in [
            (Method::Ddpm, Variance::FixedSmall),
            (Method::Ddpm, Variance::FixedLarge),
            (Method::Ddim { eta: 1.0 }, Variance::FixedSmall),
        ] {
            let sampler = Sampler::new(
                diffusion.clone(),
                SamplerOptions {
                    method,
                    variance,
                    prediction: Prediction::XStart,
                    ..OPTIONS
                },
            );
            let shape = (1, 1, 100, 100);
            let mut asked = Vec::new();
            let network = |x: &Tensor, time: f32| {
                let at = sampler.diffusion().timesteps().iter();
                let at = at.clone().find(|at| at.original as f32 == time).unwrap();
                let (share, alpha_bar) = (at.sqrt_alpha_cumprod, at.alpha_cumprod);
                let slope = 0.25 * share / (0.25 * alpha_bar + 1.0 - alpha_bar);
                x.affine(slope, 0.3 - slope * 0.3 * share)
            };
            let noise = |step: usize| {
                asked.push(step);
                Ok(normal(shape, 100 + step as u64))
            };
            let found = sampler
                .trajectory(normal(shape, 3), 0, network, noise)
                .unwrap()
                .finish()
                .unwrap();
            let values: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e4;
            let deviation = (values
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>()
                / 1e4)
                .sqrt();
            // Standard errors 0.005 and 0.0035; 200 steps discretize to within 0.02.
            assert!(
                (mean - 0.3).abs() < 0.025,
                "{method:?} {variance:?}: mean {mean}"
            );
            assert!(
                (deviation - 0.5).abs() < 0.035,
                "{method:?} {variance:?}: {deviation}"
            );
            assert_eq!(asked, (0..199).collect::<Vec<_>>());
        }
    }

    #[test]
    fn learned_variances_lie_between_the_fixed_ones() {
        let shape = (1, 3, 4, 4);
        // At the last step but one, where the two fixed choices differ most.
        let first = |variance: Variance, fraction: Option<f64>| {
            let sampler = sampler(SamplerOptions {
                method: Method::Ddpm,
                variance,
                ..OPTIONS
            });
            let network = |x: &Tensor, _: f32| {
                let zeros = x.zeros_like()?;
                match fraction {
                    None => Ok(zeros),
                    Some(value) => Tensor::cat(&[&zeros, &zeros.affine(1.0, value)?], 1),
                }
            };
            let mut steps = sampler
                .trajectory(normal(shape, 1), 18, network, |_| Ok(normal(shape, 2)))
                .unwrap();
            steps.next().unwrap().unwrap().sample
        };
        let learned = |fraction: f64| first(Variance::LearnedRange, Some(fraction));
        let small = first(Variance::FixedSmall, None);
        let large = first(Variance::FixedLarge, None);
        assert!(largest_difference(&learned(1.0), &large) < 1e-6);
        assert!(largest_difference(&learned(-1.0), &small) < 1e-6);
        let gap = largest_difference(&small, &large);
        for end in [&small, &large] {
            let part = largest_difference(&learned(0.0), end) / gap;
            assert!(part > 0.1 && part < 0.9, "{part} of {gap}");
        }
    }

    #[test]
    fn errors_end_the_trajectory() {
        let sampler = sampler(OPTIONS);
        let x = normal((1, 3, 4, 4), 1);
        let too_few = |x: &Tensor, _: f32| x.narrow(1, 0, 2);
        let mut steps = sampler.trajectory(x.clone(), 0, too_few, no_noise).unwrap();
        let error = steps.next().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("[1, 2, 4, 4]") && error.contains("[1, 3, 4, 4]"),
            "{error}"
        );
        assert!(steps.next().is_none());
        let network = |x: &Tensor, _: f32| Ok(x.clone());
        assert!(sampler.trajectory(x, 20, network, no_noise).is_err());
    }
}
