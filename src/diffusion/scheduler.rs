//! Schedulers of latent diffusion models: the timesteps of the network, and the update of the
//! latents by each prediction.
//!
//! Follows huggingface/diffusers (`schedulers/scheduling_pndm.py`, `scheduling_ddim.py`,
//! `scheduling_euler_discrete.py`, `scheduling_dpmsolver_multistep.py`), including timesteps and
//! slicing. The tables are float32 as in diffusers; coefficients are computed from them in float64.
//!
//! The schedulers of candle-transformers are not used: its cosine schedule divides integers, and it
//! has neither PNDM nor image-to-image.

mod config;
mod ddim;
mod dpm_solver;
mod euler;
mod pndm;
mod spacing;

pub use config::{PredictionType, SchedulerConfig, SchedulerKind, TimestepSpacing};

use candle_core::{Result as TensorResult, Tensor, bail};

use super::DiffusionError;
use spacing::interpolate;

/// A noise schedule and the method that reverses it.
#[derive(Debug, Clone)]
pub struct Scheduler {
    kind: SchedulerKind,
    config: SchedulerConfig,
    /// ᾱ of each training timestep.
    alphas_cumprod: Vec<f32>,
    exact_slicing: bool,
}

/// The update rule of one kind of scheduler.
trait Solver: Send {
    /// Advances the sample from the `index`-th timestep (of those that are taken) to the next one.
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor>;
}

/// Precomputed tables of one denoising loop.
struct TrajectoryTables {
    timesteps: Vec<f32>,
    /// Divisors of the samples before the network; empty for 1.
    input_divisors: Vec<f64>,
    /// Factor of the initial standard normal noise.
    init_noise_sigma: f64,
    /// The shares of an image and of noise at the first timestep.
    noising: (f64, f64),
    solver: Box<dyn Solver>,
}

/// The denoising loop: from noise, or a noised image, to latents without noise.
pub struct DenoiseLoop {
    tables: TrajectoryTables,
    at: usize,
}

impl Scheduler {
    /// Creates the scheduler `kind` on the noise schedule of `config`.
    ///
    /// `exact_slicing` concerns PNDM only. With it, a loop that skips steps takes a slice of the
    /// timesteps of the whole loop, as diffusers does (and as in the experiments of Private
    /// Evolution): the repetition of the second timestep is lost, but the solver still treats its
    /// second call as the repetition, so that every later sample is one step noisier than the
    /// timestep that the network receives. Without it, the loop repeats the second of its own
    /// timesteps.
    #[must_use]
    pub fn new(config: &SchedulerConfig, kind: SchedulerKind, exact_slicing: bool) -> Self {
        Self {
            kind,
            alphas_cumprod: config.alphas_cumprod(),
            config: config.clone(),
            exact_slicing,
        }
    }

    /// Returns the kind of the scheduler.
    #[must_use]
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }

    /// Returns ᾱ of each training timestep, float32 as in the original.
    #[must_use]
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// Returns the timesteps of a loop of `steps` steps without the `skipped` noisiest ones, in the
    /// order of the calls of the network.
    ///
    /// # Errors
    /// Those of [`Scheduler::start`].
    pub fn timesteps(&self, steps: usize, skipped: usize) -> Result<Vec<f32>, DiffusionError> {
        self.tables(steps, skipped).map(|tables| tables.timesteps)
    }

    /// Starts a loop of `steps` steps without the `skipped` noisiest ones.
    ///
    /// # Errors
    /// [`DiffusionError::InferenceSteps`] if the schedule cannot be divided into this number of
    /// steps, and [`DiffusionError::NoStepLeft`] if all are skipped.
    pub fn start(&self, steps: usize, skipped: usize) -> Result<DenoiseLoop, DiffusionError> {
        let tables = self.tables(steps, skipped)?;
        Ok(DenoiseLoop { tables, at: 0 })
    }

    fn tables(&self, steps: usize, skipped: usize) -> Result<TrajectoryTables, DiffusionError> {
        let trained = self.alphas_cumprod.len();
        if steps == 0 || steps > trained {
            return Err(DiffusionError::InferenceSteps {
                steps,
                expected: format!("1 to {trained}"),
            });
        }
        let tables = match self.kind {
            SchedulerKind::Pndm => pndm::tables(self, steps, skipped)?,
            SchedulerKind::Ddim => ddim::tables(self, steps, skipped)?,
            SchedulerKind::Euler => euler::tables(self, steps, skipped)?,
            SchedulerKind::DpmSolver => dpm_solver::tables(self, steps, skipped)?,
        };
        match tables {
            Some(tables) if !tables.timesteps.is_empty() => Ok(tables),
            _ => Err(DiffusionError::NoStepLeft { skipped, steps }),
        }
    }

    /// Returns ᾱ of a timestep, or its substitute before the first one.
    fn alpha(&self, timestep: i64) -> f64 {
        let alpha = match usize::try_from(timestep) {
            Ok(index) => self.alphas_cumprod.get(index).copied(),
            Err(_) if self.set_alpha_to_one() => Some(1.0),
            Err(_) => self.alphas_cumprod.first().copied(),
        };
        // Timesteps are checked when a loop starts.
        f64::from(alpha.unwrap_or(f32::NAN))
    }

    fn set_alpha_to_one(&self) -> bool {
        let default = self.kind == SchedulerKind::Ddim;
        self.config.set_alpha_to_one.unwrap_or(default)
    }

    /// Returns σ = √((1 − ᾱ) / ᾱ) of each training timestep.
    fn sigmas(&self) -> Vec<f64> {
        let sigma = |alpha: &f32| f64::from(((1.0 - alpha) / alpha).sqrt());
        self.alphas_cumprod.iter().map(sigma).collect()
    }

    /// Returns the noise levels of `timesteps`, interpolated between the
    /// training timesteps, and the final level.
    fn sigmas_at(&self, timesteps: impl Iterator<Item = f64>) -> Vec<f64> {
        let table = self.sigmas();
        let mut sigmas: Vec<f64> = timesteps.map(|t| interpolate(&table, t)).collect();
        let lowest = table.first().copied().unwrap_or(f64::NAN);
        sigmas.push(if self.config.final_sigma_min {
            lowest
        } else {
            0.0
        });
        sigmas
    }

    /// Returns an error for timesteps that the network was not trained on.
    fn check(&self, steps: usize, timesteps: &[i64]) -> Result<(), DiffusionError> {
        let trained = self.alphas_cumprod.len() as i64;
        match timesteps.iter().find(|t| !(0..trained).contains(*t)) {
            None => Ok(()),
            Some(t) => Err(DiffusionError::InferenceSteps {
                steps,
                expected: format!("a number that does not lead to timestep {t} of {trained}"),
            }),
        }
    }
}

/// Returns the noise level of step `index` and the one that it leads to.
fn levels(sigmas: &[f64], index: usize) -> TensorResult<(f64, f64)> {
    match sigmas.get(index..) {
        Some(&[sigma, next, ..]) => Ok((sigma, next)),
        _ => bail!("step {index} of {}", sigmas.len()),
    }
}

impl DenoiseLoop {
    /// Returns all timesteps, in the order of the calls of the network.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.tables.timesteps
    }

    /// Scales standard normal noise to the first sample of the loop.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn initial(&self, noise: &Tensor) -> TensorResult<Tensor> {
        noise * self.tables.init_noise_sigma
    }

    /// Returns `latents` noised to the level of the first timestep.
    ///
    /// # Errors
    /// Errors of candle if `noise` has another shape.
    pub fn noised(&self, latents: &Tensor, noise: &Tensor) -> TensorResult<Tensor> {
        let (signal, noise_share) = self.tables.noising;
        (latents * signal)? + (noise * noise_share)?
    }

    /// Returns the next timestep and the input of the network there; `None` at the end of the loop.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn input(&self, sample: &Tensor) -> TensorResult<Option<(f32, Tensor)>> {
        let Some(&timestep) = self.tables.timesteps.get(self.at) else {
            return Ok(None);
        };
        let input = match self.tables.input_divisors.get(self.at) {
            Some(divisor) => (sample / *divisor)?,
            None => sample.clone(),
        };
        Ok(Some((timestep, input)))
    }

    /// Advances to the next timestep by the prediction of the network at this one.
    ///
    /// # Errors
    /// An error if the loop has ended, and errors of candle.
    pub fn step(&mut self, model_output: &Tensor, sample: &Tensor) -> TensorResult<Tensor> {
        if self.at >= self.tables.timesteps.len() {
            bail!("a step after the last timestep");
        }
        let next = self.tables.solver.step(self.at, model_output, sample)?;
        self.at += 1;
        Ok(next)
    }

    /// Runs the loop to its end from `sample`. `network` receives a sample and a timestep;
    /// `observe` receives each new sample.
    ///
    /// # Errors
    /// Errors of `network`, `observe` or candle.
    pub fn run(
        mut self,
        mut sample: Tensor,
        mut network: impl FnMut(&Tensor, f32) -> TensorResult<Tensor>,
        mut observe: impl FnMut(usize, &Tensor) -> TensorResult<()>,
    ) -> TensorResult<Tensor> {
        while let Some((timestep, input)) = self.input(&sample)? {
            let index = self.at;
            sample = self.step(&network(&input, timestep)?, &sample)?;
            observe(index, &sample)?;
        }
        Ok(sample)
    }
}

/// Returns the number of steps that img2img skips at this strength, as in diffusers: it takes
/// `steps · strength` steps, rounded down in float64.
#[must_use]
pub fn skipped_steps(steps: usize, strength: f64) -> usize {
    let taken = (steps as f64 * strength) as usize;
    steps - taken.min(steps)
}

/// Returns the image and the noise that a prediction implies, at a timestep with this ᾱ.
fn split(
    prediction: PredictionType,
    alpha: f64,
    model_output: &Tensor,
    sample: &Tensor,
) -> TensorResult<(Tensor, Tensor)> {
    let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    Ok(match prediction {
        PredictionType::Epsilon => (
            ((sample - (model_output * noise)?)? / signal)?,
            model_output.clone(),
        ),
        PredictionType::VPrediction => (
            ((sample * signal)? - (model_output * noise)?)?,
            ((model_output * signal)? + (sample * noise)?)?,
        ),
    })
}

#[cfg(test)]
mod tests;
