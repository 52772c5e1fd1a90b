//! The configurations that are shipped, and `dpsyn privacy`.

use std::path::{Path, PathBuf};
use std::process::Command;

use dpsyn::internals::config::{Loaded, Settings};
use dpsyn::internals::images::{Duplicates, UndeclaredClass};
use dpsyn::internals::metrics::{EvaluationConfig, MetricKind};
use serde_json::json;

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn shipped(name: &str) -> Loaded {
    Settings::load(&repository("configs").join(name), &[]).unwrap()
}

fn degrees(loaded: &Loaded) -> Vec<f64> {
    loaded
        .populations
        .iter()
        .map(|g| g.variation_degree)
        .collect()
}

fn values(loaded: &Loaded) -> serde_json::Value {
    serde_json::to_value(&loaded.settings).unwrap()
}

#[test]
fn every_shipped_configuration_is_valid_and_survives_its_resolved_form() {
    let mut count = 0;
    for entry in std::fs::read_dir(repository("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let loaded = Settings::load(&path, &[]).unwrap();
            let resolved = loaded.settings.to_toml().unwrap();
            let sources =
                dpsyn::internals::config::ConfigSources::new("resolved".into(), resolved, &[])
                    .unwrap();
            let again = Settings::check(&sources).unwrap();
            assert_eq!(
                again.settings.identity().unwrap(),
                loaded.settings.identity().unwrap()
            );
            assert_eq!(again.populations, loaded.populations);
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}

#[test]
fn cifar10_is_the_original_s() {
    let loaded = shipped("cifar10.toml");
    let expected: Vec<f64> = (0..=20).map(|t| f64::from(2 * t)).collect();
    assert_eq!(degrees(&loaded), expected);
    assert!(loaded.populations.iter().all(|g| g.num_samples == 50_000));
    let settings = values(&loaded);
    assert_eq!(settings["evolution"]["lookahead_degree"], 8);
    assert_eq!(settings["evolution"]["threshold"], 10.0);
    assert_eq!(settings["privacy"]["noise_multiplier"], 50f64.sqrt());
    assert_eq!(settings["privacy"]["delta"], 1e-5);
    assert_eq!(settings["data"]["image_size"], 32);
    assert_eq!(settings["data"]["declared_size"], 50_000);
    assert_eq!(loaded.data.class_names().len(), 10);
    assert_eq!(settings["model"]["timestep_respacing"], "100");
    assert_eq!(settings["model"]["num_channels"], 192);
    assert_eq!(settings["model"]["diffusion_steps"], 4000);
    assert_eq!(settings["model"]["num_classes"], 1000);
    assert_eq!(settings["embedder"]["type"], "inception");
    let mut unconditional = values(&shipped("cifar10_unconditional.toml"));
    assert_eq!(unconditional["data"]["class_conditional"], false);
    unconditional["data"]["class_conditional"] = true.into();
    unconditional["data"]["classes"] = settings["data"]["classes"].clone();
    unconditional["output"] = settings["output"].clone();
    assert_eq!(unconditional, settings);
}

#[test]
fn camelyon17_is_the_original_s() {
    let loaded = shipped("camelyon17.toml");
    let expected: Vec<f64> = (0..20).map(|t| f64::from(t / 5)).collect();
    assert_eq!(degrees(&loaded), expected);
    assert!(loaded.populations.iter().all(|g| g.num_samples == 302_436));
    let settings = values(&loaded);
    assert_eq!(settings["evolution"]["threshold"], 4.0);
    assert_eq!(settings["privacy"]["noise_multiplier"], 2.1793);
    assert_eq!(settings["privacy"]["delta"], 3e-6);
    assert_eq!(settings["data"]["image_size"], 64);
    assert_eq!(settings["data"]["declared_size"], 302_436);
    assert_eq!(loaded.data.class_names(), ["0", "1"]);
    assert_eq!(settings["model"]["timestep_respacing"], "ddim10");
}

#[test]
fn camelyon17_with_two_respacings_is_the_library_s() {
    let loaded = shipped("camelyon17_29.toml");
    let mut expected: Vec<f64> = (0..19).map(|t| f64::from(t / 5)).collect();
    expected.extend((20..=30).map(f64::from));
    assert_eq!(degrees(&loaded), expected);
    assert_eq!(loaded.populations.len(), 1 + 29);
    let settings = values(&loaded);
    let respacing = [vec!["ddim10"; 19], vec!["40"; 11]].concat();
    assert_eq!(settings["model"]["timestep_respacing"], json!(respacing));
    assert_eq!(settings["privacy"]["noise_multiplier"], 8f64.sqrt());
    // Everything else is as in the original script.
    let mut script = values(&shipped("camelyon17.toml"));
    script["model"]["timestep_respacing"] = json!(respacing);
    script["evolution"]["variation_degree"] = json!(expected);
    script["privacy"]["noise_multiplier"] = settings["privacy"]["noise_multiplier"].clone();
    script["output"] = settings["output"].clone();
    assert_eq!(settings, script);
    // The ε of the paper.
    let table = privacy(&["configs/camelyon17_29.toml"]);
    let last = table.lines().rfind(|l| l.trim_start().starts_with("29"));
    assert!(last.unwrap().contains("9.922"), "{table}");
}

#[test]
fn both_cats_in_one_run_are_the_library_s() {
    let loaded = shipped("cats.toml");
    assert_eq!(loaded.data.class_names(), ["cookie", "doudou"]);
    let settings = values(&loaded);
    let prompt = "A photo of ragdoll cat";
    let prompts = json!({ "cookie": prompt, "doudou": prompt });
    assert_eq!(settings["model"]["prompts"], prompts);
    assert_eq!(settings["evolution"]["num_samples"], 200);
    // Everything else is as in the original script for one cat.
    let mut one = values(&shipped("cookie.toml"));
    one["model"]["prompts"] = prompts;
    one["evolution"]["num_samples"] = 200.into();
    for section in ["data", "output"] {
        one[section] = settings[section].clone();
    }
    assert_eq!(settings, one);
}

#[test]
fn the_cats_are_the_original_s() {
    let mut expected = vec![1.0, 0.98, 0.96, 0.94, 0.92];
    expected.extend((10..=22).rev().map(|n| f64::from(4 * n) / 100.0));
    for name in ["cookie", "doudou"] {
        let loaded = shipped(&format!("{name}.toml"));
        assert_eq!(degrees(&loaded), expected);
        assert_eq!(loaded.populations.len(), 1 + 17);
        assert!(loaded.populations.iter().all(|g| g.num_samples == 100));
        let settings = values(&loaded);
        assert_eq!(settings["data"]["declared_size"], 100);
        assert_eq!(settings["data"]["image_size"], 512);
        let model = &settings["model"];
        assert_eq!(model["type"], "stable-diffusion");
        assert_eq!(model["checkpoint"], "CompVis/stable-diffusion-v1-4");
        assert_eq!(model["image_size"], 512);
        assert_eq!(model["prompts"], "A photo of ragdoll cat");
        assert_eq!(model["negative_prompt"], "");
        assert_eq!(model["scheduler"], "checkpoint");
        assert_eq!(model["pndm_exact_slicing"], true);
        for part in ["random_sampling", "variation"] {
            assert_eq!(model[format!("{part}_guidance_scale")], 7.5);
            assert_eq!(model[format!("{part}_num_inference_steps")], 50);
            assert_eq!(model[format!("{part}_batch_size")], 10);
        }
        assert_eq!(settings["embedder"]["type"], "inception");
        assert_eq!(settings["embedder"]["resolution"], 512);
        assert_eq!(settings["evolution"]["lookahead_degree"], 8);
        assert_eq!(settings["evolution"]["nearest_neighbors"], 1);
        assert_eq!(settings["evolution"]["threshold"], 2.0);
        assert_eq!(settings["privacy"]["noise_multiplier"], 2.0);
        assert_eq!(settings["privacy"]["delta"], 1e-3);
        assert_eq!(settings["output"]["folder"], format!("results/{name}"));
    }
    // 17 releases at σ = 2.
    let table = privacy(&["configs/cookie.toml"]);
    let last = table.lines().rfind(|l| l.trim_start().starts_with("17"));
    assert!(last.unwrap().contains("7.89"), "{table}");
}

#[test]
fn simulators_have_the_settings_of_the_library() {
    for (name, size, iterations, images) in [
        ("mnist_text_library.toml", 28, 4, 60_000),
        ("celeba_sprites.toml", 32, 7, 145_064),
        ("nearest_images.toml", 32, 6, 145_064),
    ] {
        let loaded = shipped(name);
        assert_eq!(loaded.populations.len(), 1 + iterations, "{name}");
        assert!(loaded.populations.iter().all(|g| g.num_samples == 60_000));
        let settings = values(&loaded);
        assert_eq!(settings["data"]["image_size"], size);
        assert_eq!(settings["data"]["class_conditional"], true);
        assert_eq!(settings["model"]["image_size"], size);
        assert_eq!(settings["embedder"]["type"], "inception");
        assert_eq!(settings["embedder"]["resolution"], size);
        assert_eq!(settings["evolution"]["lookahead_degree"], 8);
        assert_eq!(settings["evolution"]["threshold"], 1.0);
        assert_eq!(settings["privacy"]["epsilon"], 10.0);
        // δ is 1/(n ln n), rounded down to two digits.
        assert_eq!(settings["data"]["declared_size"], images);
        let n = f64::from(images);
        let delta = settings["privacy"]["delta"].as_f64().unwrap();
        let share = delta * n * n.ln();
        assert!(share <= 1.0 && share > 0.98, "{name}: {share}");
    }
    let pool = shipped("nearest_images.toml");
    let expected = [1000.0, 1000.0, 500.0, 200.0, 100.0, 50.0, 20.0];
    assert_eq!(degrees(&pool), expected);
    let sprites = shipped("celeba_sprites.toml");
    let expected = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.08, 0.06];
    assert_eq!(degrees(&sprites), expected);
    let steps = values(&shipped("mnist_text_library.toml"))["model"]["steps"].clone();
    assert_eq!(steps["font"], json!([1.0, 0.8, 0.4, 0.2, 0.0]));
    let close = |key: &str, steps_of_range: [f64; 5], range: f64| {
        for (index, step) in steps_of_range.into_iter().enumerate() {
            let share = steps[key][index].as_f64().unwrap();
            assert!((share - step / range).abs() < 1e-3, "{key} {index}");
        }
    };
    close("size", [6.0, 5.0, 4.0, 3.0, 2.0], 19.0);
    close("rotation", [11.0, 9.0, 7.0, 5.0, 3.0], 60.0);
    close("weight", [1.0, 1.0, 1.0, 0.0, 0.0], 2.0);
}

#[test]
fn cookie_openai_is_the_original_s() {
    let loaded = shipped("cookie_openai.toml");
    assert_eq!(loaded.populations.len(), 18);
    assert!(loaded.populations.iter().all(|g| g.num_samples == 100));
    let settings = values(&loaded);
    assert_eq!(settings["evolution"]["lookahead_degree"], 8);
    assert_eq!(settings["evolution"]["threshold"], 2.0);
    assert_eq!(settings["privacy"]["noise_multiplier"], 2.0);
    assert_eq!(settings["data"]["image_size"], 512);
    assert_eq!(settings["model"]["size"], "512x512");
    assert_eq!(settings["model"]["prompts"], "A photo of ragdoll cat");
    assert_eq!(settings["model"]["max_images_per_call"], 10);
    assert_eq!(settings["model"]["max_attempts"], 15);
}

#[test]
fn every_key_is_in_the_reference_table() {
    let table = std::fs::read_to_string(repository("configs/README.md")).unwrap();
    let evaluation = EvaluationConfig {
        num_fid_samples: Some(2),
        embedder: Some(shipped("cifar10.toml").settings.embedder.embedder),
        ..EvaluationConfig::with_metrics(vec![MetricKind::Fid])
    };
    for name in [
        "cifar10.toml",
        "cookie.toml",
        "cookie_openai.toml",
        "quickstart.toml",
    ] {
        let mut loaded = shipped(name);
        loaded.settings.data.undeclared_class = UndeclaredClass::LeaveOut;
        loaded.settings.data.duplicates = Duplicates::Once;
        loaded.settings.data.num_samples = Some(1);
        loaded.settings.evaluation = Some(evaluation.clone());
        let settings = values(&loaded);
        for (section, keys) in settings.as_object().unwrap() {
            for key in keys.as_object().unwrap().keys() {
                let row = format!("| `{section}.{key}`");
                assert!(table.contains(&row), "configs/README.md lacks {row}");
            }
        }
    }
}

fn privacy(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(repository(""))
        .arg("privacy")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn privacy_answers_without_a_run() {
    let table = privacy(&["configs/cifar10.toml"]);
    let last = table
        .lines()
        .rfind(|l| l.trim_start().starts_with("20"))
        .unwrap();
    let cells: Vec<&str> = last.split_whitespace().collect();
    // 2.5944… and 3.8490… rounded up.
    assert_eq!(cells, ["20", "2.595", "3.849"], "{table}");
    let first = table
        .lines()
        .find(|l| l.trim_start().starts_with("1 "))
        .unwrap();
    assert!(first.contains("0.497"), "{first}");
    let answer = privacy(&["--epsilon", "1", "--iterations", "5", "--delta", "1e-5"]);
    assert!(
        answer.contains("needs a noise multiplier of 8.3"),
        "{answer}"
    );
    let flags = [
        "--noise-multiplier",
        "7.0710678118654755",
        "--iterations",
        "20",
        "--delta",
        "1e-5",
    ];
    assert!(privacy(&flags).contains(last), "{table}");
}
