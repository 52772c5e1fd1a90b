//! `sd_unet`, `sd_vae`, `sd_text_encoder`: the networks of Stable Diffusion, one by one.

use candle_core::{DType, Device, Tensor};
use dpsyn::internals::models::clip::{ClipText, ClipTextConfig};
use dpsyn::internals::models::stable_diffusion::{
    AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
};

use super::case::Case;
use super::{Outcome, Tolerance, weights};

pub fn unet(case: &Case) -> Outcome {
    let config = UNet2DConditionConfig::from_json(case.value("/config")?)?;
    let unet = weights::build_or_load(case, &[], |vb| UNet2DCondition::new(&config, &vb))?;
    let text = case.tensor("encoder_hidden_states")?;
    let mut index = 0;
    while case.has(&format!("out_{index}")) {
        let sample = case.tensor(&format!("sample_{index}"))?;
        let timesteps = case.tensor(&format!("timestep_{index}"))?;
        let timesteps: Vec<f32> = timesteps.to_dtype(DType::F32)?.to_vec1()?;
        let mut seen = Vec::new();
        let out = unet.forward_observed(sample, &timesteps, text, |block, value| {
            let name = format!("act_{index}.{block}");
            if case.has(&name) {
                seen.push((name, value.clone()));
            }
            Ok(())
        })?;
        for (name, value) in &seen {
            // Activations are given for the first images only.
            let images = case.tensor(name)?.dim(0)?;
            check(case, name, &value.narrow(0, 0, images)?)?;
        }
        let prefix = format!("act_{index}.");
        for name in case.names().iter().filter(|name| name.starts_with(&prefix)) {
            if !seen.iter().any(|(seen, _)| seen == name) {
                return Err(format!("nothing was computed for `{name}`").into());
            }
        }
        check(case, &format!("out_{index}"), &out)?;
        index += 1;
    }
    if index == 0 {
        return Err("the case has no `out_0`".into());
    }
    Ok(())
}

pub fn vae(case: &Case) -> Outcome {
    let config = AutoencoderKlConfig::from_json(case.value("/config")?)?;
    let vae = weights::build_or_load(case, &[], |vb| AutoencoderKl::new(&config, &vb))?;
    let posterior = vae.encode(case.tensor("image")?)?;
    check(case, "moments_mean", &posterior.mean)?;
    check(case, "moments_logvar", &posterior.logvar)?;
    check(case, "sample", &posterior.sample(case.tensor("noise")?)?)?;
    check(case, "decoded", &vae.decode(case.tensor("z")?)?)
}

pub fn text_encoder(case: &Case) -> Outcome {
    let config: ClipTextConfig = serde_json::from_value(case.value("/config")?.clone())?;
    let text = weights::build_or_load(case, ClipText::IGNORED, |vb| ClipText::new(&config, &vb))?;
    for (ids, states) in [
        ("input_ids", "last_hidden_state"),
        ("uncond_ids", "uncond_last_hidden_state"),
    ] {
        let ids = case.tensor(ids)?.to_device(&Device::Cpu)?;
        check(case, states, &text.forward(&ids)?)?;
    }
    Ok(())
}

/// A network's result against the tensor of this name.
pub fn check(case: &Case, name: &str, found: &Tensor) -> Outcome {
    let (expected, shape) = case.f64s(name)?;
    if found.dims() != shape {
        return Err(format!("{name} is {:?}, expected {shape:?}", found.dims()).into());
    }
    let found: Vec<f64> = found.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let tolerance = case.network_tolerance(name, &expected);
    Tolerance::absolute(tolerance).check(name, &found, &expected)
}
