//! Stable Diffusion in the real program, and the generator alone.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use candle_core::{Device, Tensor};
use dpsyn::internals::generators::stable_diffusion::Config;
use dpsyn::internals::generators::{
    Condition, Generated, Generator, Operation, SampleRequest, StableDiffusion, Variation,
};
use dpsyn::internals::images::{ImageBatch, SamplesReader};
use dpsyn::internals::streams::{Phase, RngKey};

use crate::support::stable_diffusion::run_fixture;
use crate::support::{RunFixture, private_image, released, wait_for};

const USAGE: i32 = 2;
const DATA: i32 = 3;
const WEIGHTS: i32 = 4;

fn conditions(fixture: &RunFixture, iteration: u32) -> Vec<i64> {
    let path = fixture.path(&format!("out/{iteration}/samples.npz"));
    let mut reader = SamplesReader::open(&path).unwrap();
    reader.arrays().i64s("conditions").unwrap().1
}

#[test]
fn every_image_keeps_its_prompt_and_prompts_are_declared() {
    let fixture = run_fixture();
    fixture.succeed(&[]);
    // Six images of each class. Class cat has the first prompt, class dog the other two.
    assert_eq!(
        conditions(&fixture, 0),
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    );
    for iteration in 1..=3 {
        let conditions = conditions(&fixture, iteration);
        assert!(conditions[..6].iter().all(|c| *c == 0), "{conditions:?}");
        assert!(
            conditions[6..].iter().all(|c| *c == 1 || *c == 2),
            "{conditions:?}"
        );
    }
    let text = std::fs::read_to_string(fixture.path("out/privacy.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_str(&text).unwrap();
    let public = &statement["declared_public"];
    assert_eq!(
        public["prompts"],
        serde_json::json!(["A photo of a cat", "a dog", "a hound"])
    );
    assert_eq!(public["conditions"][1]["class"], "dog");
    assert_eq!(public["conditions"][1]["conditions"][0], "prompt \"a dog\"");
    // The folder is small enough for a test.
    let size: usize = released(&fixture.path("sd"))
        .iter()
        .map(|(_, b)| b.len())
        .sum();
    assert!(size < 2_000_000, "{size}");
}

/// Variations inherit the prompt of their parent.
#[test]
fn a_killed_run_resumes_to_the_same_end() {
    let arguments = ["--non-private", "--set", "privacy.noise_multiplier=0"];
    let (control, interrupted) = (run_fixture(), run_fixture());
    control.succeed(&arguments);
    for path in ["out/0/grid.png", "out/1/votes.npz", "out/2/grid.png"] {
        let mut command = interrupted.command(&[&arguments[..], &["--resume"]].concat());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&interrupted.path(path), &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    interrupted.succeed(&[&arguments[..], &["--resume"]].concat());
    let files = |fixture: &RunFixture| -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = released(&fixture.path("out"));
        files.retain(|(path, _)| {
            let name = path.file_name().unwrap();
            name != "ledger.jsonl" && name != "privacy.json" && name != "log.txt"
        });
        for (path, _) in &mut files {
            *path = path.strip_prefix(fixture.root.path()).unwrap().to_owned();
        }
        files
    };
    let (control, interrupted) = (files(&control), files(&interrupted));
    assert!(control.len() > 10, "{}", control.len());
    assert_eq!(control.len(), interrupted.len());
    for ((path, control), (other, interrupted)) in control.iter().zip(&interrupted) {
        assert_eq!(path, other);
        assert!(control == interrupted, "{} differs", path.display());
    }
}

#[test]
fn a_dry_run_checks_the_model_and_spends_nothing() {
    let fixture = run_fixture();
    let output = fixture.run(&["--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    // 12 random images of 4 + 1 timesteps with two predictions each: 120. Then two lookahead
    // variations and one variation of 12 images: 4 timesteps at 0.9 (3 steps of 4, and one more),
    // 3 at 0.6 and 0.5.
    let expected = 12 * 5 * 2 + 12 * 3 * 2 * (4 + 3 + 3);
    assert!(
        text.contains(&format!("network evaluations: {expected} ")),
        "{text}"
    );
    assert!(!fixture.path("out").exists());
}

fn refused(fixture: &RunFixture, code: i32, arguments: &[&str], expected: &[&str]) {
    let text = fixture.fail(code, arguments);
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!fixture.path("out").exists(), "something was left: {text}");
}

#[test]
fn an_incomplete_folder_is_refused_with_the_file_s_name() {
    let fixture = run_fixture();
    for name in [
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
    ] {
        let path = fixture.path("sd").join(name);
        let aside = fixture.path("aside");
        std::fs::rename(&path, &aside).unwrap();
        refused(&fixture, WEIGHTS, &[], &["sd has no", name]);
        std::fs::rename(&aside, &path).unwrap();
    }
    std::fs::write(fixture.path("sd/unet/config.json"), "{").unwrap();
    refused(
        &fixture,
        WEIGHTS,
        &[],
        &["unet/config.json", "not valid JSON"],
    );
    refused(
        &fixture,
        WEIGHTS,
        &["--set", "model.checkpoint=nowhere"],
        &["nowhere is not a folder"],
    );
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let fixture = run_fixture();
    let path = fixture.path("sd/unet/diffusion_pytorch_model.safetensors");
    let whole = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let mut tensors = whole.clone();
    let taken = tensors.remove(name).unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    refused(&fixture, WEIGHTS, &[], &["missing: ", name]);
    tensors.insert(name.to_owned(), taken.t().unwrap().contiguous().unwrap());
    tensors.insert(
        "extra".to_owned(),
        Tensor::zeros(1, taken.dtype(), &Device::Cpu).unwrap(),
    );
    candle_core::safetensors::save(&tensors, &path).unwrap();
    refused(
        &fixture,
        WEIGHTS,
        &[],
        &["other shapes: ", name, "unknown to the model: extra"],
    );
    candle_core::safetensors::save(&whole, &path).unwrap();
    fixture.succeed(&["--dry-run"]);

    // The parts are complete, but belong to different models.
    let config = fixture.path("sd/text_encoder/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("\"hidden_size\":16", "\"hidden_size\":24"),
    )
    .unwrap();
    refused(
        &fixture,
        WEIGHTS,
        &[],
        &["hidden_size is 24", "cross_attention_dim of the UNet is 16"],
    );
    std::fs::write(
        &config,
        text.replace("\"vocab_size\":520", "\"vocab_size\":300"),
    )
    .unwrap();
    refused(&fixture, WEIGHTS, &[], &["vocab.json", "300"]);
}

#[test]
fn what_the_model_cannot_do_is_refused_before_anything_is_spent() {
    let fixture = run_fixture();
    let set = |key: &str, expected: &[&str]| refused(&fixture, USAGE, &["--set", key], expected);
    refused(
        &fixture,
        USAGE,
        &["--set", "model.image_size=10", "--set", "embedder.size=8"],
        &["model.image_size", "multiples of 4"],
    );
    set("model.scheduler=heun", &["heun", "dpm-solver++"]);
    set(
        "evolution.variation_degree=[1, 1.5]",
        &["evolution.variation_degree", "strength"],
    );
    set(
        "model.prompts=[]",
        &["model.prompts", "at least one prompt"],
    );
    set(
        "data.class_conditional=false",
        &["model.prompts", "data.class_conditional is false"],
    );
    set(
        "model.variation_num_inference_steps=1001",
        &["model.variation_num_inference_steps"],
    );
    // DDIM has no step left at a strength of less than one step; PNDM always has one.
    let nothing = "evolution.variation_degree=[1, 0.1]";
    refused(
        &fixture,
        USAGE,
        &["--set", nothing, "--set", "model.scheduler=ddim"],
        &["evolution.variation_degree", "at least 0.25"],
    );
    fixture.succeed(&["--set", nothing, "--dry-run"]);
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let without = text.replace("dog = [\"a dog\", \"a hound\"]\n", "");
    assert_ne!(text, without);
    std::fs::write(fixture.path("run.toml"), without).unwrap();
    let declared = ["--set", "data.classes=[\"cat\", \"dog\"]"];
    let missing = ["model.prompts", "no entry for class `dog` of data.classes"];
    refused(&fixture, USAGE, &declared, &missing);
    // Without that declaration, the classes are those with prompts.
    refused(&fixture, DATA, &[], &["its class `dog` is not declared"]);
}

#[test]
fn a_hub_out_of_reach_is_an_error_that_says_so() {
    let fixture = run_fixture();
    let cache = fixture.path("cache");
    let offline = |arguments: &[&str]| {
        let mut command = fixture.command(arguments);
        command
            .env("HF_HUB_CACHE", &cache)
            .env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(WEIGHTS), "{text}");
        text
    };
    let text = offline(&["--set", "model.checkpoint=owner/name"]);
    assert!(
        text.contains("owner/name") && text.contains("revision"),
        "{text}"
    );
    let text = offline(&[
        "--set",
        "model.checkpoint=owner/name",
        "--set",
        "model.revision=main",
    ]);
    assert!(
        text.contains("scheduler/scheduler_config.json of owner/name"),
        "{text}"
    );
    assert!(text.contains("HF_HUB_OFFLINE"), "{text}");
}

#[test]
fn a_long_prompt_warns_and_is_cut() {
    let fixture = run_fixture();
    let long = "cat ".repeat(30);
    let set = format!("model.prompts=\"{long}\"");
    let classes = ["--set", "data.classes=[\"cat\", \"dog\"]", "--dry-run"];
    let text = fixture.succeed(&[&["--set", &set], &classes[..]].concat());
    assert!(text.contains("warning: model.prompts"), "{text}");
    assert!(text.contains("77 tokens"), "{text}");
    let text = fixture.succeed(&["--dry-run"]);
    assert!(!text.contains("warning"), "{text}");
}

fn model(fixture: &RunFixture, options: &str) -> StableDiffusion {
    let text = format!(
        "checkpoint = \"sd\"\nimage_size = 8\nrandom_sampling_num_inference_steps = 4\n\
         variation_num_inference_steps = 4\nprompts = [\"a cat\", \"a dog\"]\n{options}"
    );
    let config: Config = toml::from_str(&text).unwrap();
    let base: &Path = fixture.root.path();
    let (model, digest) = StableDiffusion::load(&config, Some(base), &Device::Cpu).unwrap();
    assert_eq!(digest.len(), 64);
    model
}

fn draws(count: usize, phase: Phase) -> Vec<SampleRequest> {
    (0..count)
        .map(|sample| SampleRequest {
            condition: Condition(sample as u32 % 2),
            rng_key: RngKey {
                seed: 7,
                phase,
                iteration: 1,
                repeat: 0,
                sample: sample as u64,
            },
        })
        .collect()
}

#[test]
fn images_do_not_depend_on_the_batch() {
    let fixture = run_fixture();
    let images: Vec<u8> = (0..5).flat_map(|index| private_image(0, index)).collect();
    let images = Generated::from(ImageBatch::new(images, 5, 8, 8).unwrap());
    for scheduler in ["checkpoint", "ddim", "euler", "dpm-solver++"] {
        let with = |batch: usize| {
            let options = format!(
                "scheduler = \"{scheduler}\"\nrandom_sampling_batch_size = {batch}\n\
                 variation_batch_size = {batch}\n"
            );
            let model = model(&fixture, &options);
            let random = model.random(&draws(5, Phase::Random)).unwrap();
            let varied = model.vary(&images, &draws(5, Phase::Vary), Variation::new(0.6, 1));
            let varied = varied.unwrap().images.data().to_vec();
            (random.images.data().to_vec(), varied)
        };
        let one = with(1);
        assert!(one == with(3), "{scheduler}");
        assert!(
            one.0.iter().any(|byte| *byte != one.0[0]),
            "{scheduler}: a flat image"
        );
    }
}

#[test]
fn prompts_guidance_and_degrees_matter() {
    let fixture = run_fixture();
    let plain = model(&fixture, "");
    let mut other = draws(2, Phase::Random);
    let random = |model: &StableDiffusion, draws: &[SampleRequest]| {
        model.random(draws).unwrap().images.data().to_vec()
    };
    let first = random(&plain, &other);
    for options in [
        "random_sampling_guidance_scale = 1.0",
        "negative_prompt = \"blurry\"",
        "scheduler = \"ddim\"",
    ] {
        assert!(
            random(&model(&fixture, options), &other) != first,
            "{options}"
        );
    }
    // Without guidance, the negative prompt has no effect.
    let without = "random_sampling_guidance_scale = 1.0\n";
    assert!(
        random(&model(&fixture, without), &other)
            == random(
                &model(&fixture, &format!("{without}negative_prompt = \"x\"")),
                &other
            )
    );
    other[0].condition = Condition(1);
    let second = random(&plain, &other);
    assert!(first[..192] != second[..192] && first[192..] == second[192..]);
    other[0].condition = Condition(2);
    assert!(plain.random(&other).is_err());
    assert_eq!(plain.num_conditions(), 2);

    let image = Generated::from(ImageBatch::new(private_image(0, 1), 1, 8, 8).unwrap());
    let of = |degree: f64| Variation::new(degree, 1);
    let vary = |degree: f64| plain.vary(&image, &draws(1, Phase::Vary), of(degree));
    assert!(vary(0.5).unwrap() != vary(1.0).unwrap());
    // The correction changes every slice that skips two steps or more.
    let corrected = model(&fixture, "pndm_exact_slicing = false");
    let draw = draws(1, Phase::Vary);
    assert!(corrected.vary(&image, &draw, of(0.5)).unwrap() != vary(0.5).unwrap());
    assert!(corrected.vary(&image, &draw, of(1.0)).unwrap() == vary(1.0).unwrap());
    assert!(vary(1.1).is_err());
    // Images of another size are resized to that of the model.
    let large = ImageBatch::new(private_image(0, 1).repeat(4), 1, 16, 16).unwrap();
    let large = Generated::from(large);
    let varied = plain.vary(&large, &draw, of(0.5)).unwrap();
    assert_eq!((varied.images.height(), varied.images.width()), (8, 8));
    assert!(plain.vary(&large, &[], of(0.5)).is_err());

    assert_eq!(plain.evaluations(Operation::Random).unwrap(), 10);
    assert_eq!(plain.evaluations(Operation::Vary(of(0.5))).unwrap(), 6);
    let unguided = model(&fixture, "variation_guidance_scale = 0.5");
    assert_eq!(unguided.evaluations(Operation::Vary(of(0.5))).unwrap(), 3);
}
