//! Euler's method without churn: a straight line to the next noise level.

use candle_core::{Result as TensorResult, Tensor};

use super::spacing::linspace;
use super::{PredictionType, Scheduler, Solver, TimestepSpacing, TrajectoryTables, levels};
use crate::diffusion::DiffusionError;

struct Euler {
    /// The noise levels of the timesteps, and the final one.
    sigmas: Vec<f64>,
    prediction: PredictionType,
}

pub(super) fn tables(
    scheduler: &Scheduler,
    steps: usize,
    skipped: usize,
) -> Result<Option<TrajectoryTables>, DiffusionError> {
    let config = &scheduler.config;
    let trained = scheduler.alphas_cumprod.len();
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
    let mut timesteps: Vec<f64> = match spacing {
        TimestepSpacing::Linspace => linspace(trained as f64 - 1.0, steps)
            .map(|t| f64::from(t as f32))
            .collect(),
        spacing => {
            let whole = super::spacing::whole(spacing, steps, trained, config.steps_offset);
            scheduler.check(steps, &whole)?;
            whole.into_iter().map(|t| t as f64).collect()
        }
    };
    timesteps.reverse();
    let mut sigmas = scheduler.sigmas_at(timesteps.iter().copied());
    let largest = sigmas.iter().copied().fold(0.0, f64::max);
    let init_noise_sigma = match spacing {
        TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
        _ => largest,
    };
    let skipped = skipped.min(timesteps.len());
    timesteps.drain(..skipped);
    sigmas.drain(..skipped);
    let Some(&first) = sigmas.first() else {
        return Ok(None);
    };
    Ok(Some(TrajectoryTables {
        timesteps: timesteps.iter().map(|t| *t as f32).collect(),
        input_divisors: sigmas.iter().map(|s| (s * s + 1.0).sqrt()).collect(),
        init_noise_sigma,
        noising: (1.0, first),
        solver: Box::new(Euler {
            sigmas,
            prediction: config.prediction_type,
        }),
    }))
}

impl Solver for Euler {
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor> {
        let (sigma, next) = levels(&self.sigmas, index)?;
        let derivative = match self.prediction {
            PredictionType::Epsilon => model_output.clone(),
            PredictionType::VPrediction => {
                let variance = sigma * sigma + 1.0;
                let image = ((sample / variance)? - (model_output * (sigma / variance.sqrt()))?)?;
                ((sample - image)? / sigma)?
            }
        };
        sample + (derivative * (next - sigma))?
    }
}
