//! Noise schedules and respacing: every combination that the json's `rows` list.

use dpsyn::internals::diffusion::{
    DiffusionError, GaussianDiffusion, NoiseSchedule, Respacing, Timestep,
};
use serde_json::Value;

use super::case::fail;
use super::{Case, Outcome, Tolerance};

/// Float64 arrays: "cumprod/log/cos differ by a few ulp between libraries".
const ARRAYS: Tolerance = Tolerance {
    absolute: 0.0,
    relative: 1e-12,
};

pub fn check(case: &Case) -> Outcome {
    let rows = case
        .value("/rows")?
        .as_array()
        .ok_or("`/rows` is no list")?;
    let mut checked = 0;
    for row in rows {
        checked += check_row(case, row).map_err(|error| format!("{row}: {error}"))?;
    }
    if checked != case.names().len() {
        return fail(format!(
            "{checked} tensors belong to the rows, the case has {}",
            case.names().len()
        ));
    }
    Ok(())
}

/// Returns how many tensors were compared.
fn check_row(case: &Case, row: &Value) -> Result<usize, Box<dyn std::error::Error>> {
    let text = |key: &str| row[key].as_str().ok_or(format!("no text `{key}`"));
    let (schedule, respacing) = (text("noise_schedule")?, text("timestep_respacing")?);
    let steps = row["diffusion_steps"]
        .as_u64()
        .ok_or("no `diffusion_steps`")?;
    let schedules = match schedule {
        "any" => vec![NoiseSchedule::Linear, NoiseSchedule::Cosine],
        name => vec![name.parse()?],
    };
    let mut checked = 0;
    for one in schedules {
        let built = build(one, usize::try_from(steps)?, respacing);
        match (built, row["num_timesteps"].as_u64()) {
            (Ok(process), Some(expected)) => {
                if process.num_timesteps() as u64 != expected {
                    return Err(format!("{} steps", process.num_timesteps()).into());
                }
                let respacing = if respacing.is_empty() {
                    "all"
                } else {
                    respacing
                };
                let prefix = format!("{schedule}_{steps}_{respacing}.");
                checked += check_arrays(case, &prefix, &process)?;
            }
            (Ok(_), None) => return Err("the original refuses this, we do not".into()),
            (Err(error), Some(_)) => return Err(error.into()),
            // The texts differ on purpose: the original's names the wrong number for "ddimN".
            (Err(_), None) => {}
        }
    }
    Ok(checked)
}

fn build(
    schedule: NoiseSchedule,
    steps: usize,
    respacing: &str,
) -> Result<GaussianDiffusion, DiffusionError> {
    GaussianDiffusion::new(schedule, steps, &respacing.parse::<Respacing>()?)
}

fn check_arrays(
    case: &Case,
    prefix: &str,
    process: &GaussianDiffusion,
) -> Result<usize, Box<dyn std::error::Error>> {
    let mut checked = 0;
    for name in case.names() {
        let Some(array) = name.strip_prefix(prefix) else {
            continue;
        };
        let (expected, _) = case.f64s(name)?;
        let (found, tolerance) = values(process, array).ok_or(format!("no array `{array}`"))?;
        tolerance.check(array, &found, &expected)?;
        checked += 1;
    }
    if checked == 0 {
        return Err(format!("no tensor is named {prefix}*").into());
    }
    Ok(checked)
}

/// The array of this name, and how exact it must be.
fn values(process: &GaussianDiffusion, array: &str) -> Option<(Vec<f64>, Tolerance)> {
    let exact = Tolerance::absolute(0.0);
    let (value, tolerance): (&dyn Fn(&Timestep) -> f64, _) = match array {
        "timestep_map" => (&|step| step.original as f64, exact),
        "model_t_rescaled" => (&|step| f64::from(process.model_time(step, true)), exact),
        "betas" => (&|step| step.beta, ARRAYS),
        "alphas_cumprod" => (&|step| step.alpha_cumprod, ARRAYS),
        "alphas_cumprod_prev" => (&|step| step.alpha_cumprod_prev, ARRAYS),
        "sqrt_alphas_cumprod" => (&|step| step.sqrt_alpha_cumprod, ARRAYS),
        "sqrt_one_minus_alphas_cumprod" => (&|step| step.sqrt_one_minus_alpha_cumprod, ARRAYS),
        "sqrt_recip_alphas_cumprod" => (&|step| step.sqrt_recip_alpha_cumprod, ARRAYS),
        "sqrt_recipm1_alphas_cumprod" => (&|step| step.sqrt_recipm1_alpha_cumprod, ARRAYS),
        "posterior_variance" => (&|step| step.posterior_variance, ARRAYS),
        "posterior_log_variance_clipped" => (&|step| step.posterior_log_variance_clipped, ARRAYS),
        "posterior_mean_coef1" => (&|step| step.posterior_mean_coef1, ARRAYS),
        "posterior_mean_coef2" => (&|step| step.posterior_mean_coef2, ARRAYS),
        "fixed_large_variance" => (&|step| step.fixed_large_variance, ARRAYS),
        _ => return None,
    };
    Some((process.timesteps().iter().map(value).collect(), tolerance))
}
