//! The identities of the shipped configurations, which decide whether a run can be resumed.

use std::path::Path;

use dpsyn::internals::config::Settings;
use serde_json::Value;

/// The excluded keys of version 0.1.0, which had one list for all types of models and embedders. A
/// run of that version resumes only if today's lists of the single types exclude the same keys.
const EXCLUDED: [(&str, &[&str]); 4] = [
    // The last key is younger, and only some configurations set it.
    ("data", &["path", "on_bad_image", "labels"]),
    (
        "model",
        &[
            "checkpoint",
            "batch_size",
            "api_key_env",
            "backoff",
            "concurrency",
            "max_attempts",
            "max_backoff",
            "max_cost",
            "max_images_per_call",
            "max_requests",
            "max_retry_after",
            "price_per_image",
            "random_sampling_batch_size",
            "response_format",
            "revision",
            "timeout",
            "variation_batch_size",
        ],
    ),
    // The last key is younger, but every configuration has it.
    ("embedder", &["weights", "batch_size", "private_device"]),
    ("evolution", &["initial_samples"]),
];

/// The types of models of version 0.1.0.
const TYPES: [&str; 3] = ["improved-diffusion", "openai-images", "stable-diffusion"];

fn identity_of_0_1_0(settings: &Settings) -> Value {
    let mut value = serde_json::to_value(settings).unwrap();
    for (section, keys) in EXCLUDED {
        let section = value[section].as_object_mut().unwrap();
        section.retain(|key, _| !keys.contains(&key.as_str()));
    }
    let sections = value.as_object_mut().unwrap();
    sections.retain(|name, _| name != "output" && name != "evaluation");
    value
}

#[test]
fn shipped_configurations_have_the_identities_of_version_0_1_0() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut types = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        // Optional keys that no shipped configuration sets.
        for overrides in [vec![], vec!["evolution.initial_samples='s.npz'".to_owned()]] {
            let settings = Settings::load(&path, &overrides).unwrap().settings;
            let identity = settings.identity().unwrap();
            if !TYPES.contains(&identity["model"]["type"].as_str().unwrap()) {
                continue;
            }
            let expected = identity_of_0_1_0(&settings);
            assert_eq!(
                identity.to_string(),
                expected.to_string(),
                "{}",
                path.display()
            );
            types.push(identity["model"]["type"].as_str().unwrap().to_owned());
        }
    }
    types.sort();
    types.dedup();
    assert_eq!(types, TYPES);
}
