//! Sampling loops: the network's whole way back from noise, or from a noised image.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor};
use dpsyn::internals::diffusion::{Method, Prediction, Sampler, SamplerOptions, Step, Timestep};
use dpsyn::internals::generators::improved_diffusion::{Config, to_bytes, to_signed};
use dpsyn::internals::hub::Checkpoint;
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::models::improved_diffusion::UNet;
use serde_json::{Value, json};

use super::compare::check_bytes;
use super::{Case, Outcome, Tolerance, weights};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The best agreement of two implementations of a network, for results of about 1.
const NETWORK: f64 = 1e-5;

/// Every step is taken from where the reference stood, so that one ill-conditioned pixel (with a
/// cosine schedule, the first step multiplies the network's rounding by up to 81,165) does not hide
/// or excuse what happens later; then the whole loop runs by itself up to the bytes.
pub fn check(case: &Case) -> Outcome {
    let sampler = sampler(case)?;
    let unet = network(case)?;
    let labels: Option<Vec<u32>> = if case.has("y") {
        Some(case.tensor("y")?.to_dtype(DType::U32)?.to_vec1()?)
    } else {
        None
    };
    if let Some(map) = case.json["timestep_map"].as_array() {
        let found: Vec<_> = sampler.diffusion().timesteps().iter().collect();
        let found = found.iter().map(|at| Some(at.original as u64));
        if !found.eq(map.iter().map(Value::as_u64)) {
            return Err("timestep_map differs".into());
        }
    }
    let skipped = usize::try_from(case.value("/loop/start_t")?.as_u64().ok_or("no start_t")?)?;
    let start = start(case, &sampler, skipped)?;

    // What the network was given and what it returned first.
    let seen: RefCell<(Vec<f64>, Option<Tensor>)> = RefCell::default();
    let network = |x: &Tensor, time: f32| {
        let times = vec![time; x.dim(0)?];
        let output = unet.forward(x, &times, labels.as_deref())?;
        let mut seen = seen.borrow_mut();
        seen.0.extend(times.into_iter().map(f64::from));
        seen.1.get_or_insert_with(|| output.clone());
        Ok(output)
    };
    let noise = |step: usize| match case.tensor("step_noise") {
        Ok(noise) => noise.get(step),
        Err(error) => Err(candle_core::Error::Msg(error.to_string())),
    };

    let x_out = case.tensor("x_out")?;
    let remaining = sampler.diffusion().remaining(skipped)?;
    let steps = x_out.dim(0)?;
    if remaining.len() != steps {
        return Err(format!("{} steps, expected {steps}", remaining.len()).into());
    }
    for (index, at) in remaining.iter().rev().enumerate() {
        let x = match index {
            0 => start.clone(),
            _ => x_out.get(index - 1)?,
        };
        let noise = |step: usize| noise(index + step);
        let mut one = sampler.trajectory(x, skipped + index, network, noise)?;
        let step = one.next().ok_or("no step was taken")??;
        if index == 0 {
            check_first_output(case, seen.borrow().1.as_ref())?;
            check_prediction(case, "pred_xstart_first", &step, &sampler, at)?;
        }
        if index + 1 == steps {
            check_prediction(case, "pred_xstart_last", &step, &sampler, at)?;
        }
        let bounds = Bounds::of(case, &format!("x_out[{index}]"));
        let doubt = sample_share(&sampler, at) * prediction_doubt(&sampler, at);
        let expected = numbers(&x_out.get(index)?)?;
        bounds.check(&numbers(&step.sample)?, &expected, doubt)?;
    }
    let (expected, _) = case.f64s("model_t")?;
    Tolerance::absolute(0.0).check("model_t", &seen.borrow().0, &expected)?;

    let last = sampler
        .trajectory(start, skipped, network, noise)?
        .finish()?;
    let (expected, _) = case.u8s("final_uint8")?;
    check_bytes("final_uint8", to_bytes(&last)?.data(), &expected, 0.005)
}

/// The first input of the network: noise, or the start image noised.
fn start(case: &Case, sampler: &Sampler, skipped: usize) -> Result<Tensor> {
    let noise = case.tensor("noise")?.clone();
    if !case.has("start_image_uint8") {
        return Ok(noise);
    }
    let (bytes, shape) = case.u8s("start_image_uint8")?;
    let [count, height, width, 3] = shape[..] else {
        return Err(format!("start_image_uint8 is {shape:?}, not NHWC").into());
    };
    let images = to_signed(
        &ImageBatch::new(bytes, count, height, width)?,
        noise.device(),
    )?;
    let x = sampler.noised(&images, &noise, skipped)?;
    let (expected, _) = case.f64s("x_first")?;
    // Two products and a sum of float32.
    Tolerance::absolute(1e-6).check("x_first", &numbers(&x)?, &expected)?;
    Ok(x)
}

fn check_first_output(case: &Case, output: Option<&Tensor>) -> Outcome {
    let (expected, _) = case.f64s("model_out_first")?;
    let found = numbers(output.ok_or("the network was never called")?)?;
    let tolerance = case.network_tolerance("model_out_first", &expected);
    Tolerance::absolute(tolerance).check("model_out_first", &found, &expected)
}

fn check_prediction(
    case: &Case,
    name: &str,
    step: &Step,
    sampler: &Sampler,
    at: &Timestep,
) -> Outcome {
    let (expected, _) = case.f64s(name)?;
    let bounds = Bounds {
        name: name.to_owned(),
        ..Bounds::of(case, "pred_xstart")
    };
    let found = numbers(&step.pred_xstart)?;
    bounds.check(&found, &expected, prediction_doubt(sampler, at))
}

/// The error of a step's prediction of x_0 at single pixels that has no other reason than the
/// network's rounding.
fn prediction_doubt(sampler: &Sampler, at: &Timestep) -> f64 {
    let options = sampler.options();
    match options.prediction {
        Prediction::XStart => NETWORK,
        Prediction::Epsilon if options.clip_denoised => {
            (NETWORK * at.sqrt_recipm1_alpha_cumprod).min(2.0)
        }
        Prediction::Epsilon => NETWORK * at.sqrt_recipm1_alpha_cumprod,
    }
}

/// The share of the prediction of x_0 in the step's sample.
fn sample_share(sampler: &Sampler, at: &Timestep) -> f64 {
    match sampler.options().method {
        Method::Ddpm => at.posterior_mean_coef1,
        Method::Ddim { .. } | Method::DpmSolver => {
            let through_noise = (1.0 - at.alpha_cumprod_prev).sqrt();
            (at.alpha_cumprod_prev.sqrt() - through_noise / at.sqrt_recipm1_alpha_cumprod).abs()
        }
    }
}

/// The rounding error of one tensor according to the case: ten times what float32 moved it.
struct Bounds {
    name: String,
    largest: f64,
    q999: f64,
}

impl Bounds {
    fn of(case: &Case, name: &str) -> Self {
        let measured = &case.json["float32_vs_float64"][name];
        let number = |key: &str| measured[key].as_f64().unwrap_or(0.0);
        let floor = NETWORK * number("ref_abs_max").max(1.0);
        Self {
            name: name.to_owned(),
            largest: number("suggest_abs_tol").max(floor),
            q999: (10.0 * number("q999_abs")).max(floor),
        }
    }

    /// No value may be further off than the largest bound, or than `doubt` at single pixels; nearly
    /// all must be within the 99.9 % bound.
    fn check(&self, found: &[f64], expected: &[f64], doubt: f64) -> Outcome {
        Tolerance::absolute(self.largest.max(doubt)).check(&self.name, found, expected)?;
        let pairs = found.iter().zip(expected);
        let mut distances: Vec<f64> = pairs.map(|(f, e)| (f - e).abs()).collect();
        distances.sort_by(f64::total_cmp);
        let q999 = distances.get(distances.len() * 999 / 1000).copied();
        match q999 {
            Some(q999) if q999 > self.q999 => Err(format!(
                "{}: the 99.9 % quantile of the differences is {q999:e}, allowed {:e}",
                self.name, self.q999
            )
            .into()),
            Some(_) => Ok(()),
            None => Err(format!("{} is empty", self.name).into()),
        }
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The sampler, by way of the generator's own configuration.
fn sampler(case: &Case) -> Result<Sampler> {
    let (unet, diffusion, run) = (
        case.value("/unet_config")?,
        case.value("/diffusion_config")?,
        case.value("/loop")?,
    );
    let config: Config = serde_json::from_value(json!({
        "checkpoint": case.name,
        "image_size": unet["image_size"],
        "learn_sigma": diffusion["learn_sigma"],
        "diffusion_steps": diffusion["steps"],
        "noise_schedule": diffusion["noise_schedule"],
        "timestep_respacing": diffusion["timestep_respacing"],
        "rescale_timesteps": diffusion["rescale_timesteps"],
        "predict_xstart": diffusion["predict_xstart"],
        "sigma_small": diffusion["sigma_small"],
        "use_ddim": run["use_ddim"],
        "clip_denoised": run["clip_denoised"],
    }))?;
    let samplers = config.samplers()?;
    let sampler = samplers.of(0)?;
    // The generator knows eta 0 only.
    let method = match sampler.options().method {
        Method::Ddim { .. } => Method::Ddim {
            eta: run["eta"].as_f64().ok_or("no eta")?,
        },
        other => other,
    };
    let options = SamplerOptions {
        method,
        ..*sampler.options()
    };
    Ok(Sampler::new(sampler.diffusion().clone(), options))
}

/// The network. Its table of tensors may lie in another case's json, which then is named in its
/// place; a checkpoint file beside the case stands in where that is missing.
fn network(case: &Case) -> Result<UNet> {
    let table = match case.value("/unet_state_dict")? {
        Value::String(text) => {
            let named = |word: &&str| word.ends_with(".json");
            let file = text.split_whitespace().find(named);
            let file = file.ok_or_else(|| format!("unet_state_dict names no file: {text}"))?;
            let other = case.directory.join(file);
            if !other.exists() {
                return from_checkpoint(case);
            }
            let other: Value = serde_json::from_slice(&std::fs::read(other)?)?;
            other["state_dict"].clone()
        }
        table => table.clone(),
    };
    let (seed, gain) = weights::seed_and_gain(case.value("/unet_weights")?)?;
    let classes = table.as_array().and_then(|rows| {
        let row = rows.iter().find(|row| row[0] == "label_emb.weight")?;
        row[1][0].as_u64()
    });
    let config = weights::unet_config(case.value("/unet_config")?, classes.map(|n| n as usize))?;
    weights::build(seed, gain, &table, &[], |vb| UNet::new(&config, &vb))
}

/// The network from the file that `unet_weights` names.
fn from_checkpoint(case: &Case) -> Result<UNet> {
    let file = case.json["unet_weights"]["files"][0].as_str();
    let file = file.ok_or("neither a table of tensors nor a checkpoint file is given")?;
    let checkpoint = Checkpoint::open(case.directory.join(file))?;
    let label_emb = checkpoint
        .tensors()
        .find(|info| info.name == "label_emb.weight");
    let classes = label_emb.and_then(|info| info.shape.first().copied());
    let config = weights::unet_config(case.value("/unet_config")?, classes)?;
    Ok(checkpoint.load(DType::F32, &Device::Cpu, &[], |vb| UNet::new(&config, &vb))?)
}
