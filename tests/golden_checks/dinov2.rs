//! `dinov2`: the network under both schemes of names; `dinov2_preprocess`: an image on its way into
//! it.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use dpsyn::internals::embedders::{Dinov2Embedder, Embedder};
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::models::dinov2::{Dinov2, Dinov2Config};

use super::clip_text::{check_hidden_states, check_tensor};
use super::compare::check_bytes;
use super::{Case, Outcome, Tolerance, weights};

pub fn check(case: &Case) -> Outcome {
    let tensors = tensors_of(case)?;
    check_names(case, &tensors, "Meta's names")?;
    check_names(case, &hugging_face_names(tensors)?, "transformers' names")
}

/// Checks every input of the case through a checkpoint file, as `dpsyn` opens it.
fn check_names(case: &Case, tensors: &HashMap<String, Tensor>, names: &str) -> Outcome {
    let named = |error: Box<dyn std::error::Error>| format!("by {names}: {error}");
    let file = tempfile::NamedTempFile::new()?;
    candle_core::safetensors::save(tensors, file.path())?;
    let expected: Dinov2Config = serde_json::from_value(case.value("/config")?.clone())?;
    let (seed, _) = weights::seed_and_gain(case.value("/weights")?)?;
    let inputs = case.value("/inputs")?.as_object();
    for (size, input) in inputs.ok_or("the inputs are no table")? {
        let idx = input["idx"].as_u64().ok_or("an input without an index")?;
        let shape = weights::shape(&input["shape"])?;
        let x = (weights::tensor(seed, idx, &shape, (0.0, 1.0))? * 2.0)?;
        let network = Dinov2::open(file.path(), size.parse()?, DType::F32, &Device::Cpu)?;
        let found = Dinov2Config {
            inner_size: None,
            ..network.config().clone()
        };
        if found != expected {
            return Err(named(format!("the shapes say {found:?}").into()).into());
        }
        let mut seen = Vec::new();
        let out = network.forward_observed(&x, |index, value| {
            seen.push((format!("hidden_states.{index}"), value.clone()));
            Ok(())
        })?;
        check_tensor(case, &format!("x_norm_clstoken_{size}"), &out).map_err(named)?;
        // They are given for this size only.
        if size == "42" {
            check_hidden_states(case, &seen).map_err(named)?;
        }
    }
    Ok(())
}

pub fn preprocess(case: &Case) -> Outcome {
    const SIDE: usize = 224;
    let config: Dinov2Config = serde_json::from_value(case.value("/config")?.clone())?;
    let vb = VarBuilder::from_tensors(tensors_of(case)?, DType::F32, &Device::Cpu);
    let network = Dinov2::new(&config, SIDE, &vb)?;
    let (pixels, shape) = case.u8s("image")?;
    let [1, height, width, 3] = shape[..] else {
        return Err(format!("image has shape {shape:?}, not [1, height, width, 3]").into());
    };
    let images = ImageBatch::new(pixels, 1, height, width)?;
    let resized = Dinov2Embedder::resized(&images, SIDE)?;
    let row = 111 * SIDE * 3;
    check_bytes(
        "resized_row_111_uint8",
        &resized.data()[row..row + SIDE * 3],
        &case.u8s("resized_row_111_uint8")?.0,
        0.0,
    )?;
    let embedder = Dinov2Embedder::new(network, SIDE, 1, Device::Cpu)?;
    let input = embedder.network_input(&images)?;
    let found = input.narrow(2, 111, 1)?.to_dtype(DType::F64)?;
    let found: Vec<f64> = found.flatten_all()?.to_vec1()?;
    let (expected, _) = case.f64s("normalized_row_111")?;
    Tolerance::absolute(1e-6).check("normalized_row_111", &found, &expected)?;
    // With the private images' size being the network's, `embed` would resize in floating point
    // first.
    let at_size = embedder.embed(&resized)?;
    let found = Tensor::from_slice(at_size.data(), (1, config.hidden_size), &Device::Cpu)?;
    check_tensor(case, "x_norm_clstoken", &found)
}

fn tensors_of(case: &Case) -> Result<HashMap<String, Tensor>, Box<dyn std::error::Error>> {
    let (seed, gain) = weights::seed_and_gain(case.value("/weights")?)?;
    weights::by_formula(seed, gain, case.value("/state_dict")?)
}

/// Meta's tensors as the hub has them: renamed, the joined projection of each block split in three.
fn hugging_face_names(
    tensors: HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>, candle_core::Error> {
    let mut renamed = HashMap::new();
    for (name, tensor) in tensors {
        if let Some((block, kind)) = name.split_once(".attn.qkv.") {
            let block = block.replace("blocks.", "encoder.layer.");
            for (part, third) in ["query", "key", "value"].iter().zip(tensor.chunk(3, 0)?) {
                let name = format!("{block}.attention.attention.{part}.{kind}");
                renamed.insert(name, third.contiguous()?);
            }
            continue;
        }
        let name = [
            ("cls_token", "embeddings.cls_token"),
            ("mask_token", "embeddings.mask_token"),
            ("register_tokens", "embeddings.register_tokens"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("mlp.w12", "mlp.weights_in"),
            ("mlp.w3", "mlp.weights_out"),
        ]
        .iter()
        .fold(name, |name, (from, to)| name.replace(from, to));
        let name = match name.strip_prefix("norm.") {
            Some(rest) => format!("layernorm.{rest}"),
            None => name,
        };
        renamed.insert(name, tensor);
    }
    Ok(renamed)
}
