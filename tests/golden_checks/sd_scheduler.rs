//! `sd_scheduler`: timesteps, and steps driven by given predictions.

use candle_core::{DType, Tensor};
use dpsyn::internals::diffusion::{Scheduler, SchedulerConfig, skipped_steps};
use serde_json::Value;

use super::case::Case;
use super::{Outcome, Tolerance};

pub fn check(case: &Case) -> Outcome {
    let (expected, _) = case.f64s("alphas_cumprod")?;
    for kind in ["pndm", "ddim"] {
        let scheduler = scheduler(case, kind)?;
        let alphas = scheduler.alphas_cumprod();
        let found: Vec<f64> = alphas.iter().map(|a| f64::from(*a)).collect();
        // One unit in the last place of float32.
        Tolerance {
            absolute: 0.0,
            relative: 1.2e-7,
        }
        .check("alphas_cumprod", &found, &expected)?;
    }
    for name in case.names() {
        let Some((kind, steps)) = name
            .strip_suffix(".timesteps")
            .and_then(|row| row.split_once('_'))
        else {
            continue;
        };
        // Those with a slice have a row of their own.
        if let Ok(steps) = steps.parse() {
            compare_timesteps(case, name, &scheduler(case, kind)?.timesteps(steps, 0)?)?;
        }
    }
    for row in case.value("/rows")?.as_array().ok_or("no rows")? {
        walk(case, row)?;
    }
    for row in case
        .value("/img2img_slices")?
        .as_array()
        .ok_or("no slices")?
    {
        slice(case, row)?;
    }
    Ok(())
}

fn number(row: &Value, key: &str) -> Result<usize, Box<dyn std::error::Error>> {
    let number = row[key]
        .as_u64()
        .ok_or_else(|| format!("{row}: no {key}"))?;
    Ok(number as usize)
}

/// The scheduler of the case's configuration, under the class that `kind` stands for.
fn scheduler(case: &Case, kind: &str) -> Result<Scheduler, Box<dyn std::error::Error>> {
    let (pointer, class) = match kind {
        "pndm" => ("/config", "PNDMScheduler"),
        "ddim" => ("/ddim_config", "DDIMScheduler"),
        other => return Err(format!("unknown scheduler {other}").into()),
    };
    let mut file = case.value(pointer)?.clone();
    file["_class_name"] = class.into();
    let config = SchedulerConfig::from_json(&file)?;
    Ok(Scheduler::new(&config, config.kind, true))
}

fn compare_timesteps(case: &Case, name: &str, found: &[f32]) -> Outcome {
    let (expected, _) = case.f64s(name)?;
    let found: Vec<f64> = found.iter().map(|t| f64::from(*t)).collect();
    Tolerance::absolute(0.0).check(name, &found, &expected)
}

fn walk(case: &Case, row: &Value) -> Outcome {
    let name = row["name"].as_str().ok_or("a row without a name")?;
    let kind = row["scheduler"].as_str().ok_or("no scheduler")?;
    let steps = number(row, "num_inference_steps")?;
    let mut walk = scheduler(case, kind)?.start(steps, number(row, "t_start")?)?;
    compare_timesteps(case, &format!("{name}.timesteps"), walk.timesteps())?;
    let outputs = case.tensor(&format!("{name}.model_outputs"))?;
    let sample = case.tensor(&format!("{name}.sample"))?;
    let tolerance = row["tolerance"]["suggest_abs_tol"].as_f64();
    let tolerance = Tolerance::absolute(tolerance.ok_or("no tolerance")?);
    let numbers = |t: &Tensor| -> Result<Vec<f64>, candle_core::Error> {
        t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    };

    let noised = walk.noised(sample, &outputs.get(0)?)?;
    let added = format!("{name}.added_noise");
    tolerance.check(&added, &numbers(&noised)?, &case.f64s(&added)?.0)?;

    let expected = case.tensor(&format!("{name}.prev_samples"))?;
    let mut sample = sample.clone();
    for index in 0..outputs.dim(0)? {
        if walk.input(&sample)?.is_none() {
            return Err(format!("{name} ends before step {index}").into());
        }
        sample = walk.step(&outputs.get(index)?, &sample)?;
        let what = format!("{name}.prev_samples[{index}]");
        tolerance.check(&what, &numbers(&sample)?, &numbers(&expected.get(index)?)?)?;
    }
    match walk.input(&sample)? {
        None => Ok(()),
        Some((t, _)) => Err(format!("{name} goes on to timestep {t}").into()),
    }
}

fn slice(case: &Case, row: &Value) -> Outcome {
    let steps = number(row, "num_inference_steps")?;
    let strength = row["strength"].as_f64().ok_or("no strength")?;
    let skipped = skipped_steps(steps, strength);
    let timesteps = scheduler(case, "pndm")?.timesteps(steps, skipped)?;
    let first = timesteps.first().map(|t| *t as usize);
    let found = (skipped, timesteps.len(), first);
    let expected = (
        number(row, "t_start")?,
        number(row, "n_timesteps")?,
        Some(number(row, "first_timestep")?),
    );
    if found != expected {
        return Err(format!("{row}: found {found:?}").into());
    }
    Ok(())
}
