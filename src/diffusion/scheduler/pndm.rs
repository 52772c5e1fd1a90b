//! PNDM without Runge-Kutta steps: a linear multistep method from the third prediction on
//! (`step_plms`).

use std::collections::VecDeque;

use candle_core::{Result as TensorResult, Tensor, bail};

use super::spacing::whole;
use super::{PredictionType, Scheduler, Solver, TimestepSpacing, TrajectoryTables};
use crate::diffusion::DiffusionError;

struct Pndm {
    /// For each call, ᾱ of the sample before and after.
    alphas: Vec<(f64, f64)>,
    prediction: PredictionType,
    /// The last predictions, the latest last; at most four.
    outputs: VecDeque<Tensor>,
    /// The sample from which the repeated second call starts again.
    first_sample: Option<Tensor>,
}

pub(super) fn tables(
    scheduler: &Scheduler,
    steps: usize,
    skipped: usize,
) -> Result<Option<TrajectoryTables>, DiffusionError> {
    let config = &scheduler.config;
    let trained = scheduler.alphas_cumprod.len();
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Leading);
    let mut once = whole(spacing, steps, trained, config.steps_offset);
    once.reverse();
    let timesteps = if scheduler.exact_slicing {
        let mut timesteps = repeat_second(once);
        timesteps.drain(..skipped.min(timesteps.len()));
        timesteps
    } else {
        once.drain(..skipped.min(once.len()));
        repeat_second(once)
    };
    let stride = (trained / steps) as i64;
    // The second call repeats the step of the first one.
    let ends: Vec<(i64, i64)> = timesteps
        .iter()
        .enumerate()
        .map(|(call, &t)| {
            if call == 1 {
                (t + stride, t)
            } else {
                (t, t - stride)
            }
        })
        .collect();
    let from: Vec<i64> = ends.iter().map(|(from, _)| *from).collect();
    scheduler.check(steps, &from)?;
    let Some(&first) = timesteps.first() else {
        return Ok(None);
    };
    let alpha = scheduler.alpha(first);
    Ok(Some(TrajectoryTables {
        timesteps: timesteps.iter().map(|t| *t as f32).collect(),
        input_divisors: Vec::new(),
        init_noise_sigma: 1.0,
        noising: (alpha.sqrt(), (1.0 - alpha).sqrt()),
        solver: Box::new(Pndm {
            alphas: ends
                .iter()
                .map(|(from, to)| (scheduler.alpha(*from), scheduler.alpha(*to)))
                .collect(),
            prediction: config.prediction_type,
            outputs: VecDeque::new(),
            first_sample: None,
        }),
    }))
}

/// Returns `timesteps` with the second one repeated, if there is one.
fn repeat_second(mut timesteps: Vec<i64>) -> Vec<i64> {
    if let Some(&second) = timesteps.get(1) {
        timesteps.insert(1, second);
    }
    timesteps
}

impl Solver for Pndm {
    fn step(
        &mut self,
        index: usize,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> TensorResult<Tensor> {
        let Some(&(alpha, alpha_next)) = self.alphas.get(index) else {
            bail!("step {index} of {}", self.alphas.len());
        };
        // The prediction of the repeated call is used once and not kept.
        if index != 1 {
            self.outputs.push_back(model_output.clone());
            if self.outputs.len() > 4 {
                self.outputs.pop_front();
            }
        }
        let mut from = sample.clone();
        let mut latest = self.outputs.iter().rev();
        let mut weighted = |weights: &[f64], divisor: f64| -> TensorResult<Tensor> {
            let mut sum: Option<Tensor> = None;
            for (weight, output) in weights.iter().zip(&mut latest) {
                let term = (output * *weight)?;
                sum = Some(match sum {
                    Some(sum) => (sum + term)?,
                    None => term,
                });
            }
            match sum {
                Some(sum) => sum / divisor,
                None => bail!("no prediction is remembered"),
            }
        };
        let combined = match index {
            0 => {
                self.first_sample = Some(sample.clone());
                model_output.clone()
            }
            1 => {
                let Some(first) = self.first_sample.take() else {
                    bail!("a second step without a first");
                };
                from = first;
                (weighted(&[1.0], 1.0)? + model_output).and_then(|sum| sum / 2.0)?
            }
            2 => weighted(&[3.0, -1.0], 2.0)?,
            3 => weighted(&[23.0, -16.0, 5.0], 12.0)?,
            _ => weighted(&[55.0, -59.0, 37.0, -9.0], 24.0)?,
        };
        next(self.prediction, (alpha, alpha_next), &combined, &from)
    }
}

/// Computes formula (9) of the paper.
fn next(
    prediction: PredictionType,
    (alpha, alpha_next): (f64, f64),
    output: &Tensor,
    sample: &Tensor,
) -> TensorResult<Tensor> {
    let (beta, beta_next) = (1.0 - alpha, 1.0 - alpha_next);
    let noise = match prediction {
        PredictionType::Epsilon => output.clone(),
        PredictionType::VPrediction => ((output * alpha.sqrt())? + (sample * beta.sqrt())?)?,
    };
    let share = (alpha_next / alpha).sqrt();
    let denominator = alpha * beta_next.sqrt() + (alpha * beta * alpha_next).sqrt();
    // Both are 0 only if no noise is left.
    let noise_share = if denominator > 0.0 {
        (alpha_next - alpha) / denominator
    } else {
        0.0
    };
    (sample * share)? - (noise * noise_share)?
}
