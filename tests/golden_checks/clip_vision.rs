//! `clip_vision`: CLIP's vision tower, by weights under both names.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use dpsyn::internals::hub::Checkpoint;
use dpsyn::internals::models::clip::{ClipVision, ClipVisionConfig};

use super::clip_text::{check_hidden_states, check_tensor};
use super::{Case, Outcome, weights};

pub fn check(case: &Case) -> Outcome {
    let config: ClipVisionConfig = serde_json::from_value(case.value("/config")?.clone())?;
    let build = |vb: VarBuilder<'static>| ClipVision::new(&config, &vb);
    let (seed, gain) = weights::seed_and_gain(case.value("/weights")?)?;
    let table = case.value("/state_dict")?;
    check_one(case, &weights::build(seed, gain, table, &[], build)?)?;
    let renamed = open_ai_names(weights::by_formula(seed, gain, table)?)?;
    let renamed = VarBuilder::from_tensors(renamed, DType::F32, &Device::Cpu);
    check_one(case, &build(renamed)?).map_err(|error| format!("by OpenAI's names: {error}"))?;
    // Every file that is there, not only the first.
    let files = case.value("/weights/files")?.as_array();
    for file in files.into_iter().flatten().filter_map(|f| f.as_str()) {
        let path = case.directory.join(file);
        if path.exists() {
            let named = |error: Box<dyn std::error::Error>| format!("{file}: {error}");
            let (dtype, ignored) = (DType::F32, ClipVision::IGNORED);
            let network = Checkpoint::open(&path)?.load(dtype, &Device::Cpu, ignored, build)?;
            check_one(case, &network).map_err(named)?;
            let heads = Some(config.num_attention_heads);
            let opened = ClipVision::open(&path, heads, config.hidden_act, &Device::Cpu)?;
            if opened.config() != &config {
                return Err(format!("{file}: its shapes say {:?}", opened.config()).into());
            }
        }
    }
    Ok(())
}

/// Hugging Face's tensors as OpenAI has them: renamed, the projection transposed, the three
/// projections of each layer as one.
fn open_ai_names(
    mut tensors: HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>, candle_core::Error> {
    let mut renamed = HashMap::new();
    let layers: Vec<String> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix("self_attn.q_proj.weight"))
        .map(str::to_owned)
        .collect();
    for layer in layers {
        for kind in ["weight", "bias"] {
            let parts = ["q", "k", "v"]
                .map(|part| tensors.remove(&format!("{layer}self_attn.{part}_proj.{kind}")));
            let joined = Tensor::cat(&parts.into_iter().flatten().collect::<Vec<_>>(), 0)?;
            tensors.insert(format!("{layer}attn.in_proj_{kind}"), joined);
        }
    }
    for (name, tensor) in tensors {
        let (name, tensor) = if name == "visual_projection.weight" {
            ("visual.proj".to_owned(), tensor.t()?.contiguous()?)
        } else {
            let name = [
                ("vision_model.", "visual."),
                ("embeddings.class_embedding", "class_embedding"),
                (
                    "embeddings.position_embedding.weight",
                    "positional_embedding",
                ),
                ("embeddings.patch_embedding", "conv1"),
                ("encoder.layers", "transformer.resblocks"),
                ("self_attn", "attn"),
                ("layer_norm", "ln_"),
                ("fc1", "c_fc"),
                ("fc2", "c_proj"),
                ("pre_layrnorm", "ln_pre"),
                ("post_layernorm", "ln_post"),
            ]
            .iter()
            .fold(name, |name, (from, to)| name.replace(from, to));
            (name, tensor)
        };
        renamed.insert(name, tensor);
    }
    Ok(renamed)
}

fn check_one(case: &Case, network: &ClipVision) -> Outcome {
    let mut seen = Vec::new();
    let mut last = None;
    let out = network.forward_observed(case.tensor("pixel_values")?, |index, value| {
        let name = format!("hidden_states.{index}");
        if case.has(&name) {
            seen.push((name, value.clone()));
        }
        last = Some(value.clone());
        Ok(())
    })?;
    check_hidden_states(case, &seen)?;
    check_tensor(case, "last_hidden_state", &last.ok_or("no hidden state")?)?;
    check_tensor(case, "image_embeds", &out)
}
