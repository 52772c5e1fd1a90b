//! Sampling loops: the network's whole way back from noise, or from a noised image.

use std::cell::RefCell;

use candle_core::{DType, Tensor};
use dpsyn::diffusion::{Method, Sampler, SamplerOptions};
use dpsyn::generators::improved_diffusion::{Config, to_bytes, to_signed};
use dpsyn::images::ImageBatch;
use dpsyn::models::improved_diffusion::UNet;
use serde_json::{Value, json};

use super::compare::check_bytes;
use super::{Case, Outcome, Tolerance, weights};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub fn check(case: &Case) -> Outcome {
    let sampler = sampler(case)?;
    let unet = network(case)?;
    let labels: Option<Vec<u32>> = if case.has("y") {
        Some(case.tensor("y")?.to_dtype(DType::U32)?.to_vec1()?)
    } else {
        None
    };
    let start_t = usize::try_from(case.value("/loop/start_t")?.as_u64().ok_or("no start_t")?)?;
    let noise = case.tensor("noise")?.clone();
    let x = if case.has("start_image_uint8") {
        let (bytes, shape) = case.u8s("start_image_uint8")?;
        let [count, height, width, 3] = shape[..] else {
            return Err(format!("start_image_uint8 is {shape:?}, not NHWC").into());
        };
        let images = ImageBatch::new(bytes, count, height, width)?;
        sampler.noised(&to_signed(&images, noise.device())?, &noise, start_t)?
    } else {
        noise
    };
    if case.has("x_first") {
        // Two products and a sum of float32.
        let (expected, _) = case.f64s("x_first")?;
        Tolerance::absolute(1e-6).check("x_first", &numbers(&x)?, &expected)?;
    }
    if let Some(map) = case.json["timestep_map"].as_array() {
        let found = sampler.diffusion().timesteps();
        if !found
            .iter()
            .map(|at| Some(at.original as u64))
            .eq(map.iter().map(Value::as_u64))
        {
            return Err("timestep_map differs".into());
        }
    }

    // What the network was given and what it returned first.
    let seen: RefCell<(Vec<f32>, Option<Tensor>)> = RefCell::default();
    let network = |x: &Tensor, time: f32| {
        let times = vec![time; x.dim(0)?];
        let output = unet.forward(x, &times, labels.as_deref())?;
        let mut seen = seen.borrow_mut();
        seen.0.extend(times);
        seen.1.get_or_insert_with(|| output.clone());
        Ok(output)
    };
    let noise = |step: usize| {
        let drawn = case.tensor("step_noise");
        drawn
            .map_err(|error| candle_core::Error::Msg(error.to_string()))?
            .get(step)
    };
    let mut steps = Vec::new();
    for step in sampler.trajectory(x, start_t, network, noise)? {
        steps.push(step?);
    }
    let (times, first_output) = seen.into_inner();

    let (expected, _) = case.f64s("model_t")?;
    let found: Vec<f64> = times.into_iter().map(f64::from).collect();
    Tolerance::absolute(0.0).check("model_t", &found, &expected)?;
    if case.has("model_out_first") {
        let (expected, _) = case.f64s("model_out_first")?;
        let output = first_output.ok_or("the network was never called")?;
        let tolerance = case.network_tolerance("model_out_first", &expected);
        Tolerance::absolute(tolerance).check("model_out_first", &numbers(&output)?, &expected)?;
    }
    let expected_steps = case.tensor("x_out")?.dim(0)?;
    if steps.len() != expected_steps {
        return Err(format!("{} steps, expected {expected_steps}", steps.len()).into());
    }
    let (first, last) = match (steps.first(), steps.last()) {
        (Some(first), Some(last)) => (first, last),
        _ => return Err("no steps".into()),
    };
    if case.has("pred_xstart_first") {
        check_step(
            case,
            "pred_xstart",
            "pred_xstart_first",
            &first.pred_xstart,
            case.tensor("pred_xstart_first")?,
        )?;
    }
    for (index, step) in steps.iter().enumerate() {
        let name = format!("x_out[{index}]");
        check_step(
            case,
            &name,
            &name,
            &step.sample,
            &case.tensor("x_out")?.get(index)?,
        )?;
    }
    if case.has("pred_xstart_last") {
        check_step(
            case,
            "pred_xstart",
            "pred_xstart_last",
            &last.pred_xstart,
            case.tensor("pred_xstart_last")?,
        )?;
    }
    let (expected, _) = case.u8s("final_uint8")?;
    check_bytes(
        "final_uint8",
        to_bytes(&last.sample)?.data(),
        &expected,
        0.005,
    )
}

fn check_step(case: &Case, key: &str, name: &str, found: &Tensor, expected: &Tensor) -> Outcome {
    let (found, expected) = (numbers(found)?, numbers(expected)?);
    let mut d: Vec<f64> = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .collect();
    d.sort_by(f64::total_cmp);
    let j = &case.json["float32_vs_float64"][key];
    println!(
        "{name}: max {:.2e} (ref {:.2e}) q999 {:.2e} (ref {:.2e}) median {:.2e}",
        d[d.len() - 1],
        j["max_abs"].as_f64().unwrap(),
        d[d.len() * 999 / 1000],
        j["q999_abs"].as_f64().unwrap(),
        d[d.len() / 2]
    );
    Ok(())
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
    let sampler = config.sampler()?;
    // The generator knows eta 0 only.
    let method = match sampler.options().method {
        Method::Ddim { .. } => Method::Ddim {
            eta: run["eta"].as_f64().ok_or("no eta")?,
        },
        Method::Ddpm => Method::Ddpm,
    };
    let options = SamplerOptions {
        method,
        ..*sampler.options()
    };
    Ok(Sampler::new(sampler.diffusion().clone(), options))
}

/// The network on its formula weights; the table of tensors may lie in another case's json, which
/// then is named in its place.
fn network(case: &Case) -> Result<UNet> {
    let table = match case.value("/unet_state_dict")? {
        Value::String(text) => {
            let named = |word: &&str| word.ends_with(".json");
            let file = text.split_whitespace().find(named);
            let file = file.ok_or_else(|| format!("unet_state_dict names no file: {text}"))?;
            let other: Value = serde_json::from_slice(&std::fs::read(case.directory.join(file))?)?;
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
    weights::build(seed, gain, &table, |vb| UNet::new(&config, &vb))
}
