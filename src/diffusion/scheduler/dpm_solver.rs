//! DPM-Solver++(2M), the second-order multistep solver for the predicted image.

use candle_core::{Result as TensorResult, Tensor};

use super::spacing::{linspace, whole};
use super::{PredictionType, Scheduler, Solver, TimestepSpacing, TrajectoryTables, levels, split};
use crate::diffusion::DiffusionError;
use crate::diffusion::dpm_solver::{advance, shares};

/// Loops with fewer steps end with a first-order step, for stability.
const SHORT: usize = 15;

struct DpmSolver {
    /// The noise levels of the timesteps, and the final one.
    sigmas: Vec<f64>,
    prediction: PredictionType,
    /// True if the last step is of first order.
    lower_order_final: bool,
    /// The image that the previous step predicted.
    before: Option<Tensor>,
}

pub(super) fn tables(
    scheduler: &Scheduler,
    steps: usize,
    skipped: usize,
) -> Result<Option<TrajectoryTables>, DiffusionError> {
    let config = &scheduler.config;
    let trained = scheduler.alphas_cumprod.len();
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
    // One timestep more than needed; the least noisy one is dropped.
    let mut timesteps: Vec<i64> = match spacing {
        TimestepSpacing::Linspace => linspace(trained as f64 - 1.0, steps + 1)
            .skip(1)
            .map(|t| t.round_ties_even() as i64)
            .collect(),
        TimestepSpacing::Leading => {
            let stride = (trained / (steps + 1)) as i64;
            (1..=steps as i64)
                .map(|i| i * stride + config.steps_offset)
                .collect()
        }
        TimestepSpacing::Trailing => whole(spacing, steps, trained, config.steps_offset),
    };
    timesteps.reverse();
    scheduler.check(steps, &timesteps)?;
    let mut sigmas = scheduler.sigmas_at(timesteps.iter().map(|t| *t as f64));
    let skipped = skipped.min(timesteps.len());
    timesteps.drain(..skipped);
    sigmas.drain(..skipped);
    let Some(&first) = sigmas.first() else {
        return Ok(None);
    };
    Ok(Some(TrajectoryTables {
        timesteps: timesteps.iter().map(|t| *t as f32).collect(),
        input_divisors: Vec::new(),
        init_noise_sigma: 1.0,
        noising: shares(first),
        solver: Box::new(DpmSolver {
            sigmas,
            prediction: config.prediction_type,
            lower_order_final: steps < SHORT || !config.final_sigma_min,
            before: None,
        }),
    }))
}

impl Solver for DpmSolver {
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor> {
        let (sigma, next) = levels(&self.sigmas, index)?;
        let alpha = 1.0 / (sigma * sigma + 1.0);
        let (image, _) = split(self.prediction, alpha, model_output, sample)?;
        let last = index + 2 == self.sigmas.len();
        let before = self.before.replace(image.clone());
        let earlier = index.checked_sub(1).and_then(|i| self.sigmas.get(i));
        let before = match (&before, earlier) {
            (Some(before), Some(earlier)) if !(last && self.lower_order_final) => {
                Some((*earlier, before))
            }
            _ => None,
        };
        advance((sigma, next), sample, &image, before)
    }
}
