//! Parser of `scheduler/scheduler_config.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diffusion::{DiffusionError, NoiseSchedule};
use crate::models::stable_diffusion::Fields;

/// A kind of scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerKind {
    /// Pseudo linear multistep method (Liu et al. 2022, arXiv 2202.09778) without the initial
    /// Runge-Kutta steps, as in the published SD 1.x: `skip_prk_steps`.
    Pndm,
    /// Song et al. 2021, arXiv 2010.02502, with η = 0.
    Ddim,
    /// Euler's method in the variables of Karras et al. 2022, arXiv 2206.00364.
    Euler,
    /// DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095).
    #[serde(rename = "dpm-solver++")]
    DpmSolver,
}

/// The quantity that the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    #[default]
    Epsilon,
    /// √ᾱ · noise − √(1 − ᾱ) · image (Salimans & Ho 2022, arXiv 2202.00512).
    VPrediction,
}

/// The choice of training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimestepSpacing {
    /// Evenly from the first to the last.
    Linspace,
    /// Multiples of an integer stride from `steps_offset` on.
    Leading,
    /// Even strides back from the last.
    Trailing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BetaSchedule {
    #[default]
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

/// A noise schedule and its options, by the names in the file. An option that is absent has the
/// default of diffusers for the scheduler in use.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The scheduler that the file names.
    pub kind: SchedulerKind,
    /// β of each training timestep.
    betas: Vec<f32>,
    /// The quantity that the network predicts.
    pub prediction_type: PredictionType,
    /// Added to the timesteps of [`TimestepSpacing::Leading`].
    pub steps_offset: i64,
    /// True if ᾱ before the first timestep is 1; false if it is that of the first timestep.
    pub set_alpha_to_one: Option<bool>,
    /// The choice of training timesteps.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// True if DDIM clips each predicted image.
    pub clip_sample: Option<bool>,
    /// Bound of the absolute value of clipped images.
    pub clip_sample_range: f64,
    /// True if Euler and DPM-Solver++ end at the noise of the first timestep instead of at 0.
    pub final_sigma_min: bool,
}

/// More steps than any model was trained with; the schedule's memory stays small below it.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

impl SchedulerConfig {
    /// Reads a `scheduler_config.json` of diffusers.
    ///
    /// # Errors
    /// [`DiffusionError::Scheduler`] naming a key that is wrong, or an option that is not
    /// supported.
    pub fn from_json(value: &Value) -> Result<Self, DiffusionError> {
        Self::read(value)
            .map_err(|error| DiffusionError::Scheduler(error.key.to_owned(), error.message))
    }

    // One function, because it is the list of the file's keys, in the order of their checks.
    fn read(value: &Value) -> Result<Self, crate::sections::InvalidKey> {
        use crate::sections::InvalidKey;
        let mut fields = Fields::new(value)?;
        let class: String = fields.need("_class_name")?;
        let kind = match class.as_str() {
            "PNDMScheduler" => SchedulerKind::Pndm,
            "DDIMScheduler" => SchedulerKind::Ddim,
            "EulerDiscreteScheduler" => SchedulerKind::Euler,
            "DPMSolverMultistepScheduler" => SchedulerKind::DpmSolver,
            other => {
                return Err(InvalidKey::new(
                    "_class_name",
                    format!(
                        "is \"{other}\": expected PNDMScheduler, DDIMScheduler, \
                         EulerDiscreteScheduler or DPMSolverMultistepScheduler; change the file, \
                         or set another one by model.scheduler"
                    ),
                ));
            }
        };
        let steps: usize = fields.or("num_train_timesteps", 1000)?;
        if !(2..=MAX_TRAIN_TIMESTEPS).contains(&steps) {
            return Err(InvalidKey::new(
                "num_train_timesteps",
                format!("is {steps}: expected 2 to {MAX_TRAIN_TIMESTEPS}"),
            ));
        }
        let ends: (f64, f64) = (
            fields.or("beta_start", 0.0001)?,
            fields.or("beta_end", 0.02)?,
        );
        let schedule: BetaSchedule = fields.or("beta_schedule", BetaSchedule::default())?;
        let betas = match fields.take::<Vec<f32>>("trained_betas")? {
            Some(betas) if betas.len() == steps => betas,
            Some(betas) => {
                let message = format!("has {} entries: expected {steps}", betas.len());
                return Err(InvalidKey::new("trained_betas", message));
            }
            None => betas(schedule, ends, steps),
        };
        if betas.iter().any(|beta| !(0.0..1.0).contains(beta)) {
            let message = format!("{ends:?} leads to a beta that is not in [0, 1)");
            return Err(InvalidKey::new("beta_end", message));
        }
        // Options of PNDM, Euler or DPM-Solver++ only, at the values that are implemented.
        if kind == SchedulerKind::Pndm && !fields.or("skip_prk_steps", false)? {
            return Err(InvalidKey::new(
                "skip_prk_steps",
                "is false: only true is supported",
            ));
        }
        fields.ignore(&["skip_prk_steps"]);
        fields.only("algorithm_type", "dpmsolver++")?;
        fields.only("solver_order", 2)?;
        fields.only("solver_type", "midpoint")?;
        fields.only("lower_order_final", true)?;
        fields.only("interpolation_type", "linear")?;
        fields.only("timestep_type", "discrete")?;
        let final_sigmas: String = fields.or("final_sigmas_type", "zero".to_owned())?;
        let final_sigma_min = match final_sigmas.as_str() {
            "zero" => false,
            "sigma_min" => true,
            other => {
                let message = format!("is \"{other}\": expected \"zero\" or \"sigma_min\"");
                return Err(InvalidKey::new("final_sigmas_type", message));
            }
        };
        if let Some(limit) = fields.take::<f64>("lambda_min_clipped")? {
            let message = format!("is {limit}: only no limit is supported");
            return Err(InvalidKey::new("lambda_min_clipped", message));
        }
        // These have an effect only together with an option that is refused.
        fields.ignore(&[
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "sigma_max",
            "sigma_min",
            "flow_shift",
            "time_shift_type",
        ]);
        let config = Self {
            kind,
            betas,
            prediction_type: fields.or("prediction_type", PredictionType::default())?,
            steps_offset: fields.or("steps_offset", 0)?,
            set_alpha_to_one: fields.take("set_alpha_to_one")?,
            timestep_spacing: fields.take("timestep_spacing")?,
            clip_sample: fields.take("clip_sample")?,
            clip_sample_range: fields.or("clip_sample_range", 1.0)?,
            final_sigma_min,
        };
        if !(0..steps as i64).contains(&config.steps_offset) {
            let message = format!("is {}: expected 0 to {}", config.steps_offset, steps - 1);
            return Err(InvalidKey::new("steps_offset", message));
        }
        if !(config.clip_sample_range.is_finite() && config.clip_sample_range > 0.0) {
            let message = format!("is {}: expected a number above 0", config.clip_sample_range);
            return Err(InvalidKey::new("clip_sample_range", message));
        }
        // Other options, such as thresholding, Karras sigmas or rescaled betas, must be off.
        fields.finish()?;
        Ok(config)
    }

    /// Returns ᾱ of each training timestep: products in float64 of float32 factors, each rounded to
    /// float32, as in PyTorch.
    pub(super) fn alphas_cumprod(&self) -> Vec<f32> {
        let mut product = 1.0f64;
        self.betas
            .iter()
            .map(|beta| {
                product *= f64::from(1.0 - beta);
                product as f32
            })
            .collect()
    }
}

fn betas(schedule: BetaSchedule, (first, last): (f64, f64), steps: usize) -> Vec<f32> {
    match schedule {
        BetaSchedule::Linear => linspace(first as f32, last as f32, steps),
        BetaSchedule::ScaledLinear => linspace(first.sqrt() as f32, last.sqrt() as f32, steps)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::SquaredcosCapV2 => NoiseSchedule::Cosine
            .betas(steps)
            .into_iter()
            .map(|beta| beta as f32)
            .collect(),
    }
}

/// Returns `torch.linspace` in float32, which counts from both ends.
fn linspace(first: f32, last: f32, count: usize) -> Vec<f32> {
    let step = (last - first) / (count.max(2) - 1) as f32;
    (0..count)
        .map(|index| {
            if index < count / 2 {
                first + step * index as f32
            } else {
                last - step * (count - 1 - index) as f32
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Scheduler;
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        #[test]
        fn no_file_panics(
            class in prop::sample::select(vec![
                "PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler",
                "DPMSolverMultistepScheduler",
            ]),
            key in prop::sample::select(vec![
                "beta_end", "beta_schedule", "beta_start", "clip_sample_range",
                "final_sigmas_type", "num_train_timesteps", "prediction_type", "steps_offset",
                "timestep_spacing", "trained_betas", "whatever",
            ]),
            value in prop::sample::select(vec![
                json!(null), json!(true), json!(0), json!(-1), json!(1), json!(1e300),
                json!(u64::MAX), json!(0.5), json!("leading"), json!("trailing"),
                json!("sigma_min"), json!("squaredcos_cap_v2"), json!([]), json!([0.1]), json!({}),
                json!(50), json!(999),
            ]),
            steps in 0usize..60,
            skipped in 0usize..60,
        ) {
            let file = json!({"_class_name": class, "skip_prk_steps": true, key: value});
            if let Ok(config) = SchedulerConfig::from_json(&file) {
                for exact in [false, true] {
                    let scheduler = Scheduler::new(&config, config.kind, exact);
                    if let Ok(timesteps) = scheduler.timesteps(steps, skipped) {
                        let trained = scheduler.alphas_cumprod().len() as f32;
                        prop_assert!(timesteps.iter().all(|t| (0.0..trained).contains(t)));
                    }
                }
            }
        }
    }

    #[test]
    fn the_published_file_is_read() {
        let config = SchedulerConfig::from_json(&json!({
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "trained_betas": null, "clip_sample": false
        }))
        .unwrap();
        assert_eq!(config.kind, SchedulerKind::Pndm);
        assert_eq!((config.steps_offset, config.clip_sample), (1, Some(false)));
        let alphas = config.alphas_cumprod();
        assert!((alphas[0] - (1.0 - 0.00085)).abs() < 1e-7);
        assert!((0.004..0.006).contains(&alphas[999]), "{}", alphas[999]);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_the_key() {
        for (value, key) in [
            (json!({}), "_class_name"),
            (
                json!({"_class_name": "LMSDiscreteScheduler"}),
                "_class_name",
            ),
            (json!({"_class_name": "PNDMScheduler"}), "skip_prk_steps"),
            (
                json!({"_class_name": "DDIMScheduler", "thresholding": true}),
                "thresholding",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}),
                "rescale_betas_zero_snr",
            ),
            (
                json!({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}),
                "use_karras_sigmas",
            ),
            (
                json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}),
                "solver_order",
            ),
            (
                json!({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}),
                "lambda_min_clipped",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "beta_schedule": "x"}),
                "beta_schedule",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "beta_end": 2}),
                "beta_end",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "steps_offset": -1}),
                "steps_offset",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "prediction_type": "sample"}),
                "prediction_type",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "num_train_timesteps": 1}),
                "num_train_timesteps",
            ),
            (
                json!({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}),
                "trained_betas",
            ),
        ] {
            let error = SchedulerConfig::from_json(&value).unwrap_err().to_string();
            assert!(error.contains(key), "{value}: {error}");
        }
    }
}
