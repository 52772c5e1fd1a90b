//! `sd_txt2img`, `sd_img2img`: whole walks through the checkpoint folder `sd_pipe`.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use dpsyn::internals::diffusion::{DenoiseLoop, Scheduler, SchedulerConfig, skipped_steps};
use dpsyn::internals::generators::improved_diffusion::to_signed;
use dpsyn::internals::generators::stable_diffusion::{Guidance, Pipeline, to_bytes};
use dpsyn::internals::hub::Checkpoint;
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::models::clip::{ClipText, ClipTextConfig};
use dpsyn::internals::models::stable_diffusion::{
    AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
};
use serde_json::{Value, json};

use super::case::Case;
use super::compare::check_bytes;
use super::sd_networks::check;
use super::{Outcome, Tolerance, weights};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One component: `sd_pipe/<part>/` beside the case, or without the folder, the case `stand_in`,
/// which has the same network by its formula.
fn component<M, C>(
    case: &Case,
    part: (&str, &str),
    stand_in: &str,
    read: impl FnOnce(&Value) -> Result<C>,
    ignored: &[&str],
    make: impl FnOnce(&C, VarBuilder<'static>) -> candle_core::Result<M>,
) -> Result<M> {
    let folder = case.directory.join("sd_pipe").join(part.0);
    if folder.is_dir() {
        let config = read(&json_file(&folder.join("config.json"))?)?;
        let checkpoint = Checkpoint::open(folder.join(part.1))?;
        return Ok(checkpoint.load(DType::F32, &Device::Cpu, ignored, |vb| make(&config, vb))?);
    }
    let other = json_file(&case.directory.join(format!("{stand_in}.json")))?;
    let config = read(&other["config"])?;
    let (seed, gain) = weights::seed_and_gain(&other["weights"])?;
    weights::build(seed, gain, &other["state_dict"], &[], |vb| {
        make(&config, vb)
    })
}

fn json_file(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn text_encoder(case: &Case) -> Result<ClipText> {
    component(
        case,
        ("text_encoder", "model.safetensors"),
        "sd_text_encoder",
        |value| Ok(serde_json::from_value::<ClipTextConfig>(value.clone())?),
        ClipText::IGNORED,
        |config, vb| ClipText::new(config, &vb),
    )
}

fn pipeline(case: &Case) -> Result<Pipeline> {
    let file = "diffusion_pytorch_model.safetensors";
    Ok(Pipeline {
        unet: component(
            case,
            ("unet", file),
            "sd_unet",
            |value| Ok(UNet2DConditionConfig::from_json(value)?),
            &[],
            |config, vb| UNet2DCondition::new(config, &vb),
        )?,
        vae: component(
            case,
            ("vae", file),
            "sd_vae",
            |value| Ok(AutoencoderKlConfig::from_json(value)?),
            &[],
            |config, vb| AutoencoderKl::new(config, &vb),
        )?,
    })
}

/// SD v1-4's, under the class that the case names.
fn scheduler(case: &Case) -> Result<Scheduler> {
    let class = match case.value("/scheduler")?.as_str() {
        Some("PNDM") => "PNDMScheduler",
        Some("DDIM") => "DDIMScheduler",
        other => return Err(format!("unknown scheduler {other:?}").into()),
    };
    let config = SchedulerConfig::from_json(&json!({
        "_class_name": class, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "clip_sample": false
    }))?;
    Ok(Scheduler::new(&config, config.kind, true))
}

pub fn txt2img(case: &Case) -> Outcome {
    let walk = scheduler(case)?.start(steps(case)?, 0)?;
    let start = walk.initial(case.tensor("latents")?)?;
    finish(case, &pipeline(case)?, walk, start)
}

pub fn img2img(case: &Case) -> Outcome {
    let strength = case.value("/strength")?.as_f64().ok_or("no strength")?;
    let steps = steps(case)?;
    let walk = scheduler(case)?.start(steps, skipped_steps(steps, strength))?;
    let pipeline = pipeline(case)?;
    let (bytes, shape) = case.u8s("image_in_uint8")?;
    let &[count, height, width, 3] = shape.as_slice() else {
        return Err(format!("image_in_uint8 is {shape:?}, not NHWC").into());
    };
    let images = to_signed(&ImageBatch::new(bytes, count, height, width)?, &Device::Cpu)?;
    let latents = pipeline.encode(&images, case.tensor("encoder_noise")?)?;
    let start = walk.noised(&latents, case.tensor("latent_noise")?)?;
    check(case, "init_latents", &start)?;
    finish(case, &pipeline, walk, start)
}

fn steps(case: &Case) -> Result<usize> {
    let steps = case.value("/num_inference_steps")?.as_u64();
    Ok(steps.ok_or("no num_inference_steps")? as usize)
}

fn finish(case: &Case, pipeline: &Pipeline, walk: DenoiseLoop, start: Tensor) -> Outcome {
    let (expected, _) = case.f64s("timesteps")?;
    let found: Vec<f64> = walk.timesteps().iter().map(|t| f64::from(*t)).collect();
    Tolerance::absolute(0.0).check("timesteps", &found, &expected)?;

    let text = text_encoder(case)?;
    let scale = case.value("/guidance_scale")?.as_f64();
    let guidance = Guidance {
        prompts: text.forward(case.tensor("prompt_ids")?)?,
        negative: text.forward(case.tensor("uncond_ids")?)?,
        scale: scale.ok_or("no guidance_scale")?,
    };
    let mut samples = Vec::new();
    let latents = pipeline.denoise(walk, start, &guidance, |_, sample| {
        samples.push(sample.clone());
        Ok(())
    })?;
    // Some cases keep a few steps only.
    let trajectory = case.tensor("trajectory")?;
    let kept: Vec<i64> = if case.has("trajectory_index") {
        case.tensor("trajectory_index")?.to_vec1()?
    } else {
        (0..samples.len() as i64).collect()
    };
    if trajectory.dim(0)? != kept.len() {
        return Err(format!(
            "{} steps are kept, {} given",
            kept.len(),
            trajectory.dim(0)?
        )
        .into());
    }
    for (row, index) in kept.into_iter().enumerate() {
        let name = format!("trajectory[{index}]");
        let sample = samples.get(index as usize).ok_or("a step too few")?;
        let numbers = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let expected = numbers(&trajectory.get(row)?)?;
        let tolerance = case.network_tolerance(&name, &expected);
        Tolerance::absolute(tolerance).check(&name, &numbers(sample)?, &expected)?;
    }

    let images = pipeline.decode(&latents)?;
    check(case, "image", &images.permute((0, 2, 3, 1))?.contiguous()?)?;
    let (expected, _) = case.u8s("image_uint8")?;
    check_bytes("image_uint8", to_bytes(&images)?.data(), &expected, 0.005)
}
