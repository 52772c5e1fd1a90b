//! The schedulers that latent diffusion models are sampled with: which timesteps the network sees, and what
//! each of its predictions makes of the latents.
//!
//! Follows huggingface/diffusers (`schedulers/scheduling_pndm.py`, `scheduling_ddim.py`,
//! `scheduling_euler_discrete.py`, `scheduling_dpmsolver_multistep.py`), timesteps and slicing included. Its
//! tables are float32 and so are ours; coefficients are worked out from them in float64.

mod config;
mod ddim;
mod dpm_solver;
mod euler;
mod pndm;
mod spacing;

pub use config::{PredictionType, SchedulerConfig, SchedulerKind, TimestepSpacing};

use candle_core::{Result as TensorResult, Tensor, bail};

use super::DiffusionError;

/// A noise schedule and a way to undo it.
#[derive(Debug, Clone)]
pub struct Scheduler {
    kind: SchedulerKind,
    config: SchedulerConfig,
    /// ᾱ of each training timestep.
    alphas_cumprod: Vec<f32>,
    exact_slicing: bool,
}

/// What one kind of scheduler does with a prediction.
trait Solver: Send {
    /// From the sample at the `index`-th timestep (of those that are taken) to the next one.
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor>;
}

/// What a scheduler works out for one walk.
struct TrajectoryTables {
    timesteps: Vec<f32>,
    /// What each sample is divided by before the network sees it; empty for 1.
    input_divisors: Vec<f64>,
    /// What standard normal noise is multiplied by to begin with.
    init_noise_sigma: f64,
    /// The shares of an image and of noise at the first timestep.
    noising: (f64, f64),
    solver: Box<dyn Solver>,
}

/// The way from noise, or a noised image, to latents without noise.
pub struct DenoiseLoop {
    tables: TrajectoryTables,
    at: usize,
}

impl Scheduler {
    /// The scheduler `kind` on the noise schedule of `config`.
    ///
    /// `exact_slicing` concerns PNDM only. With it, a walk that leaves out steps is cut from the timesteps of the
    /// whole one as diffusers does it (and as Private Evolution's experiments ran): the repetition of the
    /// second timestep is lost, but the solver still takes its second call for it, so that from then on every
    /// sample is one step noisier than the network is told. Without it, the walk begins anew at its first
    /// timestep, with a repetition of its own.
    #[must_use]
    pub fn new(config: &SchedulerConfig, kind: SchedulerKind, exact_slicing: bool) -> Self {
        Self {
            kind,
            alphas_cumprod: config.alphas_cumprod(),
            config: config.clone(),
            exact_slicing,
        }
    }

    /// Which scheduler it is.
    #[must_use]
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }

    /// ᾱ of each training timestep, float32 as in the original.
    #[must_use]
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// The timesteps of a walk of `steps` steps less the `skipped` noisiest, in the order in which the
    /// network sees them.
    ///
    /// # Errors
    /// As [`Scheduler::start`].
    pub fn timesteps(&self, steps: usize, skipped: usize) -> Result<Vec<f32>, DiffusionError> {
        self.tables(steps, skipped).map(|tables| tables.timesteps)
    }

    /// Begins a walk of `steps` steps that leaves out the `skipped` noisiest.
    ///
    /// # Errors
    /// [`DiffusionError::InferenceSteps`] for a number of steps that the schedule cannot be divided into, and
    /// [`DiffusionError::NoStepLeft`] when all are left out.
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

    /// ᾱ of a timestep, or what stands for it before the first one.
    fn alpha(&self, timestep: i64) -> f64 {
        let alpha = match usize::try_from(timestep) {
            Ok(index) => self.alphas_cumprod.get(index).copied(),
            Err(_) if self.set_alpha_to_one() => Some(1.0),
            Err(_) => self.alphas_cumprod.first().copied(),
        };
        // Timesteps are checked when a walk begins.
        f64::from(alpha.unwrap_or(f32::NAN))
    }

    fn set_alpha_to_one(&self) -> bool {
        let default = self.kind == SchedulerKind::Ddim;
        self.config.set_alpha_to_one.unwrap_or(default)
    }

    /// σ = √((1 − ᾱ) / ᾱ) of each training timestep.
    fn sigmas(&self) -> Vec<f64> {
        let sigma = |alpha: &f32| f64::from(((1.0 - alpha) / alpha).sqrt());
        self.alphas_cumprod.iter().map(sigma).collect()
    }

    /// Refuses timesteps that the network was not trained on.
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

impl DenoiseLoop {
    /// All timesteps, in the order in which the network sees them.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.tables.timesteps
    }

    /// Standard normal noise as the walk begins with it.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn initial(&self, noise: &Tensor) -> TensorResult<Tensor> {
        noise * self.tables.init_noise_sigma
    }

    /// `latents` with so much of `noise` as belongs to the first timestep.
    ///
    /// # Errors
    /// Noise of another shape.
    pub fn noised(&self, latents: &Tensor, noise: &Tensor) -> TensorResult<Tensor> {
        let (signal, noise_share) = self.tables.noising;
        (latents * signal)? + (noise * noise_share)?
    }

    /// The next timestep and the sample as the network wants it there; `None` at the end of the walk.
    ///
    /// # Errors
    /// Whatever candle reports.
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

    /// Goes on to the next timestep with what the network predicts at this one.
    ///
    /// # Errors
    /// A walk that has ended, and whatever candle reports.
    pub fn step(&mut self, model_output: &Tensor, sample: &Tensor) -> TensorResult<Tensor> {
        if self.at >= self.tables.timesteps.len() {
            bail!("a step after the last timestep");
        }
        let next = self.tables.solver.step(self.at, model_output, sample)?;
        self.at += 1;
        Ok(next)
    }

    /// Walks to the end from `sample`: `network` gets a sample and a timestep, `observe` each new sample.
    ///
    /// # Errors
    /// Whatever `network`, `observe` or candle report.
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

/// How many of `steps` steps img2img leaves out at this strength, as diffusers counts: the steps that it
/// takes are `steps · strength`, rounded down in float64.
#[must_use]
pub fn skipped_steps(steps: usize, strength: f64) -> usize {
    let taken = (steps as f64 * strength) as usize;
    steps - taken.min(steps)
}

/// The image and the noise that a prediction stands for, at a timestep with this ᾱ.
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
