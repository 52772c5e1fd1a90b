//! `dpsyn audit` with the real binary.
//!
//! Audits have confidence 1 − 10⁻⁶, so a test of correct noise fails with at most that probability.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::RunFixture;

const CERTAIN: [&str; 2] = ["--confidence", "0.999999"];

fn audit(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(folder)
        .arg("audit")
        .args(arguments)
        .args(["--json", "report.json"])
        .env_remove("DPSYN_TEST_NOISE_SEED")
        .output()
        .unwrap()
}

/// Runs an audit that ends with this exit code; returns standard output and the report.
#[track_caller]
fn report(folder: &Path, code: i32, arguments: &[&str]) -> (String, Value) {
    let output = audit(folder, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    let report = std::fs::read(folder.join("report.json")).unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        serde_json::from_slice(&report).unwrap(),
    )
}

fn bound(report: &Value, method: &str) -> f64 {
    let bounds = report["bounds"].as_array().unwrap();
    let bound = bounds.iter().find(|bound| bound["method"] == method);
    bound.unwrap()["epsilon_lower"].as_f64().unwrap()
}

/// Asserts that no bound from noisy counts exceeds the claim, and that the tightest is near it.
#[track_caller]
fn assert_noise_is_correct(report: &Value, at_least: f64) {
    let claim = report["claim"]["epsilon"].as_f64().unwrap();
    for bound in report["bounds"].as_array().unwrap() {
        if bound["method"] != "transcript" {
            let epsilon = bound["epsilon_lower"].as_f64().unwrap();
            assert!(epsilon <= claim, "{report:#}");
        }
    }
    assert!(bound(report, "gaussian") >= at_least * claim, "{report:#}");
}

#[test]
fn the_mechanism_is_below_its_claim_under_replace_one_adjacency() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--epsilon=4",
        "--adjacency=replace-one",
        "--releases=2",
        "--trials=6000",
        "--canaries=100",
    ];
    let (text, report) = report(folder.path(), 0, &[&arguments[..], &CERTAIN].concat());
    assert!(text.ends_with("; below the claim\n"), "{text}");
    assert_eq!(report["report"], "dpsyn audit");
    assert_eq!(report["version"], 1);
    assert_eq!(report["verdict"], "below the claim");
    let claim = &report["claim"];
    assert!((3.999..=4.0).contains(&claim["epsilon"].as_f64().unwrap()));
    assert_eq!(claim["releases"], 2);
    assert_eq!(claim["adjacency"], "replace-one");
    assert_eq!(report["worlds"]["bins"], 64);
    assert_eq!(report["trials_per_world"], 6000);
    // The canary reaches the whole sensitivity.
    let distance = report["worlds"]["l2_distance_votes"].as_f64().unwrap();
    assert!((distance - 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(
        report["transcript_differences"],
        Value::Array(Vec::new()),
        "{report:#}"
    );
    assert_eq!(bound(&report, "transcript"), 0.0);
    assert_noise_is_correct(&report, 0.5);
}

/// No number of private images is published, so that a neighbor with one image more differs in the
/// noisy histogram only.
#[test]
fn an_added_image_shows_in_the_noisy_histogram_only() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--epsilon=4", "--trials=4000", "--canaries=0"];
    let (_, report) = report(folder.path(), 0, &[&arguments[..], &CERTAIN].concat());
    assert_eq!(report["transcript_differences"], serde_json::json!([]));
    assert_eq!(bound(&report, "transcript"), 0.0);
    assert_noise_is_correct(&report, 0.4);
}

/// With a configuration, noise, votes and classes are its own; neither its data nor its model is
/// read.
#[test]
fn a_configuration_is_audited_without_its_data() {
    let fixture = RunFixture::new();
    fixture.make_unconditional();
    std::fs::remove_dir_all(fixture.path("data")).unwrap();
    std::fs::remove_file(fixture.path("model.safetensors")).unwrap();
    let arguments = [
        "run.toml",
        "--set=evolution.nearest_neighbors=3",
        "--adjacency=replace-one",
        "--trials=2000",
        "--canaries=50",
    ];
    let folder = fixture.root.path();
    let (_, report) = report(folder, 0, &[&arguments[..], &CERTAIN].concat());
    let claim = &report["claim"];
    assert_eq!(claim["noise_multiplier"], 1.5);
    assert_eq!(claim["nearest_neighbors"], 3);
    assert_eq!(claim["releases"], 3);
    assert_eq!(claim["delta"], 1e-3);
    let distance = report["worlds"]["l2_distance_votes"].as_f64().unwrap();
    assert!((distance - 6f64.sqrt()).abs() < 1e-12);
    assert_noise_is_correct(&report, 0.3);
}

/// The classes are declared, so that the only image of a class shows in the noisy histogram only.
#[test]
fn the_only_image_of_a_class_shows_in_the_noisy_histogram_only() {
    let fixture = RunFixture::new();
    let arguments = [
        "run.toml",
        "--adjacency=replace-one",
        "--epsilon=4",
        "--trials=4000",
        "--canaries=0",
    ];
    let folder = fixture.root.path();
    let (_, report) = report(folder, 0, &[&arguments[..], &CERTAIN].concat());
    let classes = report["worlds"]["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 2);
    assert_eq!(report["transcript_differences"], serde_json::json!([]));
    assert_eq!(bound(&report, "transcript"), 0.0);
    assert_noise_is_correct(&report, 0.4);
}

/// The noise of a test build repeats itself if it is seeded.
#[cfg(feature = "insecure-test-noise")]
#[test]
fn seeded_noise_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(folder.path())
        .args(["audit", "--trials=2000", "--adjacency=replace-one"])
        .env("DPSYN_TEST_NOISE_SEED", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(11));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("NOT PRIVATE"), "{text}");
}

#[test]
fn invalid_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (option, named) in [
        ("--trials=99", "--trials"),
        ("--confidence=1", "--confidence"),
        ("--canaries=1000000", "--canaries"),
        ("--epsilon=-1", "epsilon"),
        ("--delta=2", "delta"),
        ("--releases=0", "epsilon"),
        ("--adjacency=remove", "--adjacency"),
        ("--set=a=1", "CONFIG"),
        ("none.toml", "none.toml"),
    ] {
        let output = audit(folder.path(), &[option]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{option}: {text}");
        assert!(text.contains(named), "{option}: {text}");
        assert!(!folder.path().join("report.json").exists());
    }
}

/// The audit at its full size, for releases of the program: a few minutes.
#[test]
#[ignore = "takes minutes"]
fn the_noise_is_correct_at_a_hundred_thousand_trials() {
    let folder = tempfile::tempdir().unwrap();
    for (claim, at_least) in [("--epsilon=1", 0.6), ("--epsilon=4", 0.85)] {
        let arguments = [claim, "--adjacency=replace-one"];
        let (_, found) = report(folder.path(), 0, &[&arguments[..], &CERTAIN].concat());
        assert_eq!(found["trials_per_world"], 100_000);
        assert_noise_is_correct(&found, at_least);
    }
}
