//! DPM-Solver++(2M) and DDIM on data whose exact network is known, in `f64`.

use candle_core::{Device, Result, Tensor};

use super::*;

/// A mixture of normal distributions: weight, mean and standard deviation of each.
type Mixture = &'static [(f64, f64, f64)];

const ONE: Mixture = &[(1.0, 0.3, 0.5)];
/// Mostly within [−1, 1], like the values of images.
const SEVERAL: Mixture = &[(0.4, -0.8, 0.05), (0.3, 0.7, 0.1), (0.3, 0.1, 0.3)];

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The exact E[x_0 | x_t] at ᾱ = `alpha_bar`.
fn denoised(data: Mixture, x: f64, alpha_bar: f64) -> f64 {
    let share = alpha_bar.sqrt();
    let parts = data.iter().map(|&(weight, mean, spread)| {
        let variance = alpha_bar * spread * spread + 1.0 - alpha_bar;
        let off = x - share * mean;
        let log_weight = weight.ln() - 0.5 * variance.ln() - off * off / (2.0 * variance);
        (log_weight, mean + share * spread * spread / variance * off)
    });
    let parts: Vec<(f64, f64)> = parts.collect();
    let largest = parts.iter().map(|part| part.0).fold(f64::MIN, f64::max);
    let weights = || parts.iter().map(|part| (part.0 - largest).exp());
    let sum: f64 = weights().zip(&parts).map(|(w, part)| w * part.1).sum();
    sum / weights().sum::<f64>()
}

struct Case {
    data: Mixture,
    sampler: Sampler,
}

impl Case {
    fn new(
        data: Mixture,
        (schedule, steps): (NoiseSchedule, usize),
        respacing: &str,
        method: Method,
    ) -> Self {
        let respacing = respacing.parse().unwrap();
        let diffusion = GaussianDiffusion::new(schedule, steps, &respacing).unwrap();
        let options = SamplerOptions {
            method,
            prediction: Prediction::Epsilon,
            variance: Variance::LearnedRange,
            clip_denoised: false,
            rescale_timesteps: false,
        };
        let sampler = Sampler::new(diffusion, options);
        Self { data, sampler }
    }

    fn with(mut self, change: impl FnOnce(&mut SamplerOptions)) -> Self {
        let mut options = *self.sampler.options();
        change(&mut options);
        self.sampler = Sampler::new(self.sampler.diffusion().clone(), options);
        self
    }

    /// Returns the sample after each step, starting from `x`.
    fn trajectory(&self, x: &[f64], skipped: usize) -> Vec<Vec<f64>> {
        let sampler = &self.sampler;
        let network = |x: &Tensor, time: f32| -> Result<Tensor> {
            let steps = sampler.diffusion().timesteps();
            let at = steps.iter().find(|at| at.original as f32 == time).unwrap();
            let predict = |x: f64| {
                let image = denoised(self.data, x, at.alpha_cumprod);
                match sampler.options().prediction {
                    Prediction::XStart => image,
                    Prediction::Epsilon => {
                        (x - at.sqrt_alpha_cumprod * image) / at.sqrt_one_minus_alpha_cumprod
                    }
                }
            };
            let predicted: Vec<f64> = values(x).into_iter().map(predict).collect();
            let predicted = Tensor::from_vec(predicted, x.shape(), x.device())?;
            match sampler.options().variance {
                // Values that would change the result if the method used the variance.
                Variance::LearnedRange => Tensor::cat(&[&predicted, &(&predicted * 7.0)?], 1),
                _ => Ok(predicted),
            }
        };
        let start = Tensor::from_slice(x, (x.len(), 1, 1, 1), &Device::Cpu).unwrap();
        let noise = |_| candle_core::bail!("noise was requested");
        let steps = sampler.trajectory(start, skipped, network, noise).unwrap();
        steps.map(|step| values(&step.unwrap().sample)).collect()
    }

    fn end(&self, x: &[f64]) -> Vec<f64> {
        self.trajectory(x, 0).pop().unwrap()
    }
}

/// Approximate quantiles of the normal distribution.
fn noise() -> Vec<f64> {
    (0..200)
        .map(|i| {
            let p: f64 = (f64::from(i) + 0.5) / 200.0;
            (p / (1.0 - p)).ln() / 1.702
        })
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

const LINEAR: (NoiseSchedule, usize) = (NoiseSchedule::Linear, 1000);
const COSINE: (NoiseSchedule, usize) = (NoiseSchedule::Cosine, 4000);

/// Distance between the sample after `count` steps and the exact solution, at the least noisy
/// level. For normal data, the exact solution keeps the quantile of a sample.
fn gaussian_error(
    process: (NoiseSchedule, usize),
    method: Method,
    count: usize,
    skipped: usize,
) -> f64 {
    let case = Case::new(ONE, process, &format!("quad{count}"), method);
    let at = |alpha_bar: f64| {
        let (_, mean, spread) = ONE[0];
        let deviation = (alpha_bar * spread * spread + 1.0 - alpha_bar).sqrt();
        alpha_bar.sqrt() * mean + deviation * 1.1
    };
    let steps = case.sampler.diffusion().timesteps();
    let start = at(steps[count - 1 - skipped].alpha_cumprod);
    let samples = case.trajectory(&[start], skipped);
    (samples[samples.len() - 2][0] - at(steps[0].alpha_cumprod)).abs()
}

#[test]
fn the_solver_is_of_second_order_and_ddim_of_first() {
    for (process, skip) in [(LINEAR, false), (COSINE, true)] {
        let errors = |method| {
            let error = |count: &usize| {
                let skipped = if skip { count / 2 } else { 0 };
                gaussian_error(process, method, *count, skipped)
            };
            [20, 40, 80, 160].iter().map(error).collect::<Vec<_>>()
        };
        let (first, second) = (errors(Method::Ddim { eta: 0.0 }), errors(Method::DpmSolver));
        // Doubling the number of steps halves one error and quarters the other. The gain is larger
        // where the sizes of the steps become equal.
        for pair in first.windows(2) {
            let gain = pair[0] / pair[1];
            assert!((1.8..2.2).contains(&gain), "{first:?}");
        }
        for pair in second.windows(2) {
            let gain = pair[0] / pair[1];
            assert!((3.8..6.0).contains(&gain), "{second:?}");
        }
        assert!(second[0] < first[0] / 3.0, "{first:?} {second:?}");
    }
}

/// The reference is DDIM over every step, which is close to the limit of infinitely many steps.
#[test]
fn twenty_steps_serve_where_a_hundred_did() {
    let noise = noise();
    for process in [LINEAR, COSINE] {
        let ddim = Method::Ddim { eta: 0.0 };
        let exact = Case::new(SEVERAL, process, "", ddim).end(&noise);
        let error = |respacing, method| {
            let found = Case::new(SEVERAL, process, respacing, method).end(&noise);
            distance(&found, &exact)
        };
        let few = error("quad20", Method::DpmSolver);
        let (twenty, hundred) = (error("20", ddim), error("100", ddim));
        assert!(few < twenty / 4.0, "{process:?}: {few}, {twenty}");
        assert!(few < hundred, "{process:?}: {few}, {hundred}");
        // Even steps, for which the solver is not recommended, are no worse than DDIM's either.
        let even = error("20", Method::DpmSolver);
        assert!(even < twenty, "{process:?}: {even}, {twenty}");
    }
}

/// The form of the prediction and the predicted variance do not change the result.
#[test]
fn every_kind_of_model_is_solved_alike() {
    let noise = noise();
    let solve = |change: fn(&mut SamplerOptions)| {
        let case = Case::new(SEVERAL, COSINE, "quad12", Method::DpmSolver);
        case.with(change).end(&noise)
    };
    let learned = solve(|_| {});
    assert_eq!(learned, solve(|_| {}));
    for change in [
        (|options| options.variance = Variance::FixedSmall) as fn(&mut SamplerOptions),
        |options| options.prediction = Prediction::XStart,
    ] {
        assert!(distance(&solve(change), &learned) < 1e-9);
    }
    // Clipping changes the result, because some predictions are outside the range of images.
    let clipped = solve(|options| options.clip_denoised = true);
    assert!(clipped.iter().all(|x| x.abs() <= 1.0));
    assert!(distance(&clipped, &learned) > 1e-6);
}
