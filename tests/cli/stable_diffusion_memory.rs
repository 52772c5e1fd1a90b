//! Peak memory of Stable Diffusion v1-4 at 512 × 512.

use candle_core::{DType, Device};
use dpsyn::internals::generators::stable_diffusion::Config;
use dpsyn::internals::generators::{
    Condition, Generator, SampleRequest, StableDiffusion, Variation,
};
use dpsyn::internals::streams::{Phase, RngKey};
use serde_json::json;

use crate::memory::of_this_process as memory;
use crate::support::stable_diffusion::{Parts, write_model};

/// The architecture of v1-4 with random weights and one step: all steps need the same memory.
#[test]
#[ignore = "minutes, 5 GB of temporary disk and more than 10 GB of memory: figures for NOTES"]
fn memory_at_512() {
    let folder = tempfile::tempdir().unwrap();
    write_model(
        folder.path(),
        &Parts {
            unet: json!({"cross_attention_dim": 768}),
            vae: json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}),
            text_encoder: json!({
                "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072,
                "max_position_embeddings": 77, "num_attention_heads": 12,
                "num_hidden_layers": 12, "vocab_size": 49_408
            }),
        },
        DType::F16,
    );
    println!("written: peak {} MB, now {} MB", memory().0, memory().1);
    // An earlier peak of this process would hide those to come.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let config: Config = toml::from_str(&format!(
        "checkpoint = {:?}\nscheduler = \"ddim\"\nprompts = \"A photo of ragdoll cat\"\n\
         random_sampling_num_inference_steps = 1\nvariation_num_inference_steps = 1\n",
        folder.path().to_str().unwrap()
    ))
    .unwrap();
    let (model, _) = StableDiffusion::load(&config, None, &Device::Cpu).unwrap();
    println!("loaded: peak {} MB, now {} MB", memory().0, memory().1);
    let counts: Vec<usize> = match std::env::var("DPSYN_MEMORY_BATCHES") {
        Ok(text) => text
            .split(',')
            .map(|count| count.parse().unwrap())
            .collect(),
        Err(_) => vec![1, 10],
    };
    for count in counts {
        let draws: Vec<SampleRequest> = (0..count as u64)
            .map(|sample| SampleRequest {
                condition: Condition(0),
                rng_key: RngKey {
                    seed: 1,
                    phase: Phase::Random,
                    iteration: 0,
                    repeat: 0,
                    sample,
                },
            })
            .collect();
        let begun = std::time::Instant::now();
        let images = model.random(&draws).unwrap();
        println!(
            "random, batch {count}: peak {} MB ({:?})",
            memory().0,
            begun.elapsed()
        );
        let begun = std::time::Instant::now();
        let varied = model.vary(&images, &draws, Variation::new(1.0, 1)).unwrap();
        println!(
            "variation, batch {count}: peak {} MB ({:?})",
            memory().0,
            begun.elapsed()
        );
        assert_eq!((varied.len(), varied.images.height()), (count, 512));
    }
}
