//! A tiny Stable Diffusion with random weights, in the layout of the hub.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use dpsyn::internals::models::clip::{ClipText, ClipTextConfig};
use dpsyn::internals::models::stable_diffusion::{
    AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
};
use serde_json::{Value, json};

use super::{RunFixture, SIZE, made_up};

/// Creates a run whose `run.toml` uses the Stable Diffusion checkpoint in the folder `sd`.
pub fn run_fixture() -> RunFixture {
    let fixture = RunFixture::new();
    write_model(&fixture.path("sd"), &tiny(), DType::F32);
    std::fs::write(fixture.path("run.toml"), config()).unwrap();
    fixture
}

fn config() -> String {
    format!(
        r#"
[data]
path = "data"
image_size = {SIZE}
class_conditional = true
declared_size = 24

[model]
type = "stable-diffusion"
checkpoint = "sd"
image_size = {SIZE}
random_sampling_num_inference_steps = 4
random_sampling_batch_size = 3
variation_num_inference_steps = 4
variation_batch_size = 5

[model.prompts]
cat = "A photo of a cat"
dog = ["a dog", "a hound"]

[embedder]
type = "pixels"

[evolution]
num_samples = 12
variation_degree = [1.0, 0.9, 0.6, 0.5]
lookahead_degree = 2
threshold = 0.5
seed = 3

[privacy]
noise_multiplier = 1.5
delta = 1e-3

[output]
folder = "out"
"#
    )
}

/// The configuration files of the parts of a model.
pub struct Parts {
    pub unet: Value,
    pub vae: Value,
    pub text_encoder: Value,
}

/// A tiny model in which images of 8 × 8 have latents of 4 × 4.
pub fn tiny() -> Parts {
    Parts {
        unet: json!({
            "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 2,
            "block_out_channels": [8, 16], "cross_attention_dim": 16,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "in_channels": 4,
            "layers_per_block": 1, "norm_num_groups": 4, "out_channels": 4, "sample_size": 4,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]
        }),
        vae: json!({
            "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [8, 16],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 3,
            "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4, "out_channels": 3,
            "sample_size": 8, "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]
        }),
        text_encoder: json!({
            "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu", "hidden_size": 16,
            "intermediate_size": 32, "max_position_embeddings": 77, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 520
        }),
    }
}

/// Writes a model with random weights: the text encoder in `f16`, the others as `dtype`, the
/// autoencoder under the old name of its file.
pub fn write_model(folder: &Path, parts: &Parts, dtype: DType) {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let scheduler = json!({
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false
    });
    write("scheduler/scheduler_config.json", scheduler.to_string());
    write("unet/config.json", parts.unet.to_string());
    write("vae/config.json", parts.vae.to_string());
    write("text_encoder/config.json", parts.text_encoder.to_string());
    write("tokenizer/vocab.json", vocabulary());
    write("tokenizer/merges.txt", "#version: 0.2\n".to_owned());

    let config = UNet2DConditionConfig::from_json(&parts.unet).unwrap();
    let weights = made_up(1, dtype, |vb| UNet2DCondition::new(&config, &vb));
    let path = folder.join("unet/diffusion_pytorch_model.safetensors");
    candle_core::safetensors::save(&weights, path).unwrap();
    let config = AutoencoderKlConfig::from_json(&parts.vae).unwrap();
    let weights = made_up(2, dtype, |vb| AutoencoderKl::new(&config, &vb));
    let path = folder.join("vae/diffusion_pytorch_model.bin");
    candle_core::safetensors::save(&weights, path).unwrap();
    let config: ClipTextConfig = serde_json::from_value(parts.text_encoder.clone()).unwrap();
    let weights = made_up(3, DType::F16, |vb| ClipText::new(&config, &vb));
    let path = folder.join("text_encoder/model.safetensors");
    candle_core::safetensors::save(&weights, path).unwrap();
}

/// Returns a vocabulary of single bytes, in CLIP's encoding, and the special tokens.
fn vocabulary() -> String {
    // Printable bytes map to themselves, the others to characters from 256 on.
    let printing = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut strange = 256..;
    let letters: Vec<String> = (0..256u32)
        .map(|byte| {
            let code = if printing(byte) {
                byte
            } else {
                strange.next().unwrap()
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    let ends = letters.iter().map(|letter| format!("{letter}</w>"));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let tokens = letters.iter().cloned().chain(ends).chain(special);
    let table: BTreeMap<String, usize> = tokens.zip(0..).collect();
    serde_json::to_string(&table).unwrap()
}
