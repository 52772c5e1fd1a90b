//! DDIM with η = 0.

use candle_core::{Result as TensorResult, Tensor, bail};

use super::spacing::whole;
use super::{PredictionType, Scheduler, Solver, TimestepSpacing, TrajectoryTables, split};
use crate::diffusion::DiffusionError;

struct Ddim {
    /// ᾱ of each timestep and of the next one.
    alphas: Vec<(f64, f64)>,
    prediction: PredictionType,
    clip: Option<f32>,
}

pub(super) fn tables(
    scheduler: &Scheduler,
    steps: usize,
    skipped: usize,
) -> Result<Option<TrajectoryTables>, DiffusionError> {
    let config = &scheduler.config;
    let trained = scheduler.alphas_cumprod.len();
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Leading);
    let mut timesteps = whole(spacing, steps, trained, config.steps_offset);
    timesteps.reverse();
    timesteps.drain(..skipped.min(timesteps.len()));
    scheduler.check(steps, &timesteps)?;
    let Some(&first) = timesteps.first() else {
        return Ok(None);
    };
    let stride = (trained / steps) as i64;
    let alpha = scheduler.alpha(first);
    Ok(Some(TrajectoryTables {
        timesteps: timesteps.iter().map(|t| *t as f32).collect(),
        input_divisors: Vec::new(),
        init_noise_sigma: 1.0,
        noising: (alpha.sqrt(), (1.0 - alpha).sqrt()),
        solver: Box::new(Ddim {
            alphas: timesteps
                .iter()
                .map(|t| (scheduler.alpha(*t), scheduler.alpha(t - stride)))
                .collect(),
            prediction: config.prediction_type,
            clip: config
                .clip_sample
                .unwrap_or(true)
                .then_some(config.clip_sample_range as f32),
        }),
    }))
}

impl Solver for Ddim {
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor> {
        let Some(&(alpha, alpha_next)) = self.alphas.get(index) else {
            bail!("step {index} of {}", self.alphas.len());
        };
        let (mut image, noise) = split(self.prediction, alpha, model_output, sample)?;
        if let Some(range) = self.clip {
            image = image.clamp(-range, range)?;
        }
        (image * alpha_next.sqrt())? + (noise * (1.0 - alpha_next).sqrt())?
    }
}
