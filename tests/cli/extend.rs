//! More iterations on a finished run: one claim over both, no charge twice, and every refusal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{RunFixture, lattice, released, sample_bytes, wait_for};

/// Exit codes.
const USAGE: i32 = 2;
const DATA: i32 = 3;
const PRIVACY: i32 = 5;
const OUTPUT: i32 = 6;

/// A run without noise.
const WITHOUT_NOISE: [&str; 3] = ["--non-private", "--set", "privacy.noise_multiplier=0"];

/// `dpsyn extend …` in the folder of the fixture, on the CPU.
fn command(fixture: &RunFixture, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpsyn"));
    command
        .current_dir(fixture.root.path())
        .args(["extend", "--device", "cpu"])
        .args(arguments)
        .env_remove("DPSYN_TEST_NOISE_SEED");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Extends, and expects success.
fn extend(fixture: &RunFixture, arguments: &[&str]) -> Output {
    let output = command(fixture, arguments).output().unwrap();
    let error = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    output
}

/// Expects this exit code and these words, that the folders of results are unchanged, and that
/// there is no new one.
fn refused(fixture: &RunFixture, code: i32, arguments: &[&str], words: &[&str]) {
    let before = everything(fixture);
    let output = command(fixture, arguments).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    for word in words {
        assert!(
            error.contains(word),
            "{arguments:?}: no {word:?} in {error}"
        );
    }
    assert!(everything(fixture) == before, "{arguments:?} wrote a file");
}

/// The bytes of all files of the fixture, those in `private/` included.
fn everything(fixture: &RunFixture) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = released(fixture.root.path());
    for entry in fs::read_dir(fixture.root.path()).unwrap() {
        let private = entry.unwrap().path().join("private");
        if private.exists() {
            files.extend(released(&private));
        }
    }
    files
}

fn statement(fixture: &RunFixture, folder: &str) -> Value {
    let text = fs::read_to_string(fixture.path(folder).join("privacy.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Both ε after the last iteration, as the statement shows them.
fn epsilons(fixture: &RunFixture, folder: &str) -> Vec<(String, String)> {
    let guarantees = statement(fixture, folder)["guarantees"].clone();
    let guarantees = guarantees.as_array().unwrap();
    let last = guarantees.last().unwrap()["after_iteration"].clone();
    guarantees
        .iter()
        .filter(|guarantee| guarantee["after_iteration"] == last)
        .map(|guarantee| {
            let shown = |key: &str| guarantee[key].to_string();
            (shown("adjacency"), shown("epsilon"))
        })
        .collect()
}

/// The lines of a ledger as JSON.
fn ledger(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("ledger.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The iterations of the charges in a ledger, in order.
fn charges(folder: &Path) -> Vec<u64> {
    let lines = ledger(folder).into_iter();
    let charges = lines.filter(|line| line["record"] == "charge");
    charges
        .map(|line| line["iteration"].as_u64().unwrap())
        .collect()
}

fn config(folder: &Path) -> toml::Table {
    let text = fs::read_to_string(folder.join("private/config.toml")).unwrap();
    text.parse().unwrap()
}

#[test]
fn three_and_two_iterations_cost_what_five_cost() {
    let fixture = RunFixture::new();
    // σ follows from ε, so it is in the ledger only.
    let given = fs::read_to_string(fixture.path("run.toml")).unwrap();
    let given = given.replace("noise_multiplier = 1.5", "epsilon = 3.0");
    fs::write(fixture.path("run.toml"), &given).unwrap();
    fixture.succeed(&[]);
    let before = everything(&fixture);
    let sigma = ledger(&fixture.path("out"))[0]["noise_multiplier"].clone();
    let sigma = sigma.as_f64().unwrap();
    assert!(sigma > 1.0, "{sigma}");

    let planned = extend(&fixture, &["out", "--iterations", "2", "--dry-run"]);
    assert!(!fixture.path("out-extended").exists());
    let done = extend(&fixture, &["out", "--iterations", "2"]);
    assert_eq!(text(&done.stdout).trim(), "out-extended/2/samples.npz");
    // The finished run is as it was.
    let out: Vec<_> = before
        .iter()
        .filter(|(path, _)| path.starts_with(fixture.path("out")))
        .collect();
    assert!(out.len() > 20);
    for (path, bytes) in out {
        assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
    }

    let one = given.replace("epsilon = 3.0", &format!("noise_multiplier = {sigma:?}"));
    fs::write(fixture.path("one.toml"), one).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["run", "one.toml", "--device", "cpu", "--out", "one"])
        .args(["--set", "evolution.variation_degree=[0, 0, 1, 2, 2, 2]"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let extended = epsilons(&fixture, "out-extended");
    assert_eq!(extended.len(), 2);
    assert_eq!(extended, epsilons(&fixture, "one"));
    assert_ne!(extended, epsilons(&fixture, "out"));

    // Ledger, plan, log and statement have the earlier charges.
    let new = &ledger(&fixture.path("out-extended"))[0];
    let old = &ledger(&fixture.path("out"))[0];
    let run = &new["earlier_runs"][0];
    assert_eq!(run["run_id"], old["run_id"]);
    assert_eq!(
        (run["releases"].as_u64(), run["noise_multiplier"].as_f64()),
        (Some(3), Some(sigma))
    );
    assert_eq!(new["noise_multiplier"], old["noise_multiplier"]);
    assert_ne!(new["run_id"], old["run_id"]);
    let claim = statement(&fixture, "out-extended");
    assert_eq!(claim["earlier_runs"], new["earlier_runs"]);
    let line =
        format!("epsilon includes 3 releases of an earlier run with noise multiplier {sigma}");
    let log = fs::read_to_string(fixture.path("out-extended/log.txt")).unwrap();
    assert!(log.contains(&line), "{log}");
    let plan = text(&planned.stdout);
    assert!(plan.contains(&line), "{plan}");
    // The last row of the plan is the total, and its first row the cost so far.
    let single = extended_plan(&fixture, "one.toml");
    let rows = |plan: &str| -> Vec<Vec<String>> {
        let table = plan.lines().skip_while(|line| !line.contains("population"));
        let rows = table
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect());
        rows.take_while(|row: &Vec<String>| row[0].parse::<u32>().is_ok())
            .collect()
    };
    let (extension, single) = (rows(&plan), rows(&single));
    assert_eq!((extension.len(), single.len()), (3, 6));
    for (row, same) in extension.iter().zip(&single[3..]) {
        // Both columns of epsilon; those of the vote begin with the vote of the extension.
        assert_eq!(row[3..5], same[3..5], "{plan}");
    }
}

/// The plan of a run of five iterations.
fn extended_plan(fixture: &RunFixture, config: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["run", config, "--device", "cpu", "--dry-run"])
        .args(["--set", "evolution.variation_degree=[0, 0, 1, 2, 2, 2]"])
        .output()
        .unwrap();
    text(&output.stdout)
}

#[test]
fn an_extension_goes_on_where_the_run_stopped_and_can_be_extended() {
    let fixture = RunFixture::new();
    // Class shares that only the fold of later populations makes 12 and 6 of 18.
    let shape = [
        "--set",
        "evolution.num_samples=[16, 15, 18, 18]",
        "--set",
        "evolution.keep_selected=true",
        "--set",
        "evolution.next_variations=2",
        "--set",
        "evolution.class_shares={cat = 0.6, dog = 0.4}",
    ];
    fixture.succeed(&shape);
    extend(&fixture, &["out/", "--iterations", "1"]);
    let first = fixture.path("out-extended");
    let kept = sample_bytes(&fixture.path("out/3/samples.npz"));
    assert!(sample_bytes(&first.join("0/samples.npz")) == kept);
    let evolution = &config(&first)["evolution"];
    assert_eq!(evolution["num_samples"].as_integer(), Some(18));
    assert_eq!(evolution["variation_degree"].as_float(), Some(2.0));
    assert_eq!(evolution["iterations"].as_integer(), Some(1));
    assert_eq!(evolution["threshold"].as_float(), Some(0.5));
    // Iterations are counted from 1 again, with other random numbers.
    assert_eq!(evolution["seed"].as_integer(), Some(4));

    // An extension of the extension, with overrides and its own place.
    extend(
        &fixture,
        &[
            "out-extended",
            "--iterations",
            "2",
            "--out",
            "second",
            "--set",
            "evolution.num_samples=[18, 18, 24]",
            "--set",
            "evolution.variation_degree=[0, 2, 3]",
            "--set",
            "privacy.noise_multiplier=2.5",
        ],
    );
    let second = fixture.path("second");
    let samples = sample_bytes(&second.join("2/samples.npz"));
    assert_eq!(samples.len(), 24 * 8 * 8 * 3);
    let earlier = statement(&fixture, "second")["earlier_runs"].clone();
    let ids: Vec<&Value> = earlier.as_array().unwrap().iter().collect();
    let charged: Vec<_> = ids.iter().map(|run| run["releases"].as_u64()).collect();
    assert_eq!(charged, [Some(3), Some(1)]);
    assert_eq!(ids[0]["run_id"], ledger(&fixture.path("out"))[0]["run_id"]);
    assert_eq!(ids[1]["run_id"], ledger(&first)[0]["run_id"]);
    // 3 + 1 releases with σ = 1.5 and 2 with σ = 2.5 are one Gaussian mechanism.
    let mu: f64 = 4.0 / 1.5f64.powi(2) + 2.0 / 2.5f64.powi(2);
    let sigma = mu.powf(-0.5);
    let expected = dpsyn::epsilon(sigma, 1, 1e-3, dpsyn::Adjacency::AddRemove).unwrap();
    let shown = &epsilons(&fixture, "second")[0];
    assert_eq!(shown.0, "\"add-remove\"");
    let shown: f64 = shown.1.parse().unwrap();
    assert!((shown - expected).abs() < 2e-6, "{shown} {expected}");
}

#[test]
fn a_killed_extension_resumes_without_a_second_charge() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let slow = ["--set", "evolution.lookahead_degree=12"];
    let arguments = [&["out", "--iterations", "3"], &slow[..]].concat();
    let mut child = command(&fixture, &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = fixture.path("out-extended");
    wait_for(&folder.join("1/votes.npz"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let header = ledger(&folder)[0].clone();
    let histogram = lattice(&folder, 1).unwrap();
    // Without --resume, the folder is refused; an unfinished extension is not extended.
    refused(&fixture, OUTPUT, &arguments, &["out-extended", "--resume"]);
    refused(
        &fixture,
        OUTPUT,
        &["out-extended", "--iterations", "1"],
        &[
            "not finished",
            "dpsyn run out-extended/private/config.toml --out out-extended --resume",
        ],
    );
    extend(&fixture, &[&arguments[..], &["--resume"]].concat());
    assert_eq!(charges(&folder), [1, 2, 3]);
    assert_eq!(ledger(&folder)[0], header);
    assert_eq!(lattice(&folder, 1).unwrap(), histogram);
    assert_eq!(header["earlier_runs"].as_array().unwrap().len(), 1);
    // The command that the refusal names also continues it: here, there is nothing left to do.
    fixture.succeed(&["--out", "other"]);
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["run", "out-extended/private/config.toml", "--device", "cpu"])
        .args(["--out", "out-extended", "--resume"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(charges(&folder), [1, 2, 3]);
    // It continues an extension of that run only.
    let arguments = [
        "other",
        "--iterations",
        "3",
        "--out",
        "out-extended",
        "--resume",
    ];
    refused(&fixture, OUTPUT, &arguments, &["no extension of other"]);
}

#[test]
fn the_budget_counts_the_earlier_releases_once() {
    let fixture = RunFixture::new();
    let budget = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
            .current_dir(fixture.root.path())
            .arg("budget")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let sum = |releases| {
        let epsilon = dpsyn::epsilon(1.5, releases, 1e-3, dpsyn::Adjacency::AddRemove).unwrap();
        format!("total: epsilon {:.3} of 5.2", (epsilon * 1e3).ceil() / 1e3)
    };
    budget(&["init", "data", "--epsilon", "5.2", "--delta", "1e-3"]);
    fixture.succeed(&["--set", "privacy.budget=budget.toml"]);
    assert!(budget(&["show"]).contains(&sum(3)));
    // Five releases cost 5.182, six would cost 5.824, and eight (3 + 3 + 2) more.
    extend(&fixture, &["out", "--iterations", "2"]);
    let shown = budget(&["show"]);
    assert!(shown.contains(&sum(5)), "{shown}");
    assert_eq!(shown.matches("complete").count(), 2, "{shown}");
    let third = ["out-extended", "--iterations", "1"];
    refused(&fixture, PRIVACY, &third, &["would be exceeded"]);
}

#[test]
fn what_is_no_finished_run_of_these_images_is_refused() {
    let fixture = RunFixture::new();
    fs::create_dir(fixture.path("empty")).unwrap();
    let two = ["--iterations", "2"];
    let with = |arguments: &[&'static str]| [arguments, &two[..]].concat();
    for folder in ["empty", "absent", "run.toml", "data"] {
        refused(
            &fixture,
            OUTPUT,
            &with(&[folder]),
            &[folder, "ledger.jsonl"],
        );
    }
    fixture.succeed(&[]);
    refused(
        &fixture,
        USAGE,
        &["out", "--iterations", "0"],
        &["--iterations"],
    );
    refused(&fixture, USAGE, &["out"], &["--iterations"]);
    refused(
        &fixture,
        OUTPUT,
        &with(&["out", "--out", "data"]),
        &["data is not empty", "--resume"],
    );
    for more in [&[][..], &["--resume"]] {
        let same = [&with(&["out", "--out", "./out"]), more].concat();
        refused(&fixture, OUTPUT, &same, &["is not changed"]);
    }
    for (set, key) in [
        (
            "evolution.initial_samples=out/1/samples.npz",
            "evolution.initial_samples",
        ),
        ("evolution.iterations=7", "--iterations"),
        (
            "evolution.variation_degree=[2, 2]",
            "evolution.variation_degree",
        ),
        ("evolution.num_samples=8", "evolution.num_samples: 8"),
        ("privacy.epsilon=9", "privacy.epsilon"),
        ("evolution.thresold=1", "threshold"),
    ] {
        refused(
            &fixture,
            USAGE,
            &with(&["out", "--set", set]),
            &["--set", key],
        );
    }
    let set = with(&["out", "--non-private"]);
    refused(&fixture, USAGE, &set, &["expected 0 with --non-private"]);

    // Other images, whichever way they came about.
    let removed = fixture.path("data/nested/cat_00.png");
    let image = fs::read(&removed).unwrap();
    fs::remove_file(&removed).unwrap();
    let message = ["private images", "out/ledger.jsonl", "dpsyn run"];
    refused(&fixture, PRIVACY, &with(&["out"]), &message);
    refused(&fixture, PRIVACY, &with(&["out", "--dry-run"]), &message);
    fs::write(&removed, &image).unwrap();
    fs::write(fixture.path("data/nested/cat_99.png"), &image).unwrap();
    refused(&fixture, PRIVACY, &with(&["out"]), &message);
    fs::remove_file(fixture.path("data/nested/cat_99.png")).unwrap();

    // Relative paths, in another working folder.
    fs::create_dir(fixture.path("elsewhere")).unwrap();
    let output = command(&fixture, &with(&["../out"]))
        .current_dir(fixture.path("elsewhere"))
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(DATA), "{error}");
    for word in [
        "data and model.safetensors are missing",
        "private/config.toml",
        "--set",
    ] {
        assert!(error.contains(word), "{error}");
    }

    // Files of the run that were changed or are missing.
    let file = |name: &str| fixture.path("out").join(name);
    let without = |name: &str, code: i32, words: &[&str]| {
        let bytes = fs::read(file(name)).unwrap();
        fs::remove_file(file(name)).unwrap();
        refused(&fixture, code, &with(&["out"]), words);
        fs::write(file(name), bytes).unwrap();
    };
    without(
        "private/config.toml",
        OUTPUT,
        &["private/config.toml", "--resume"],
    );
    without(
        "private/fingerprint",
        PRIVACY,
        &["private/fingerprint", "is missing"],
    );
    without(
        "private/ledger.jsonl",
        PRIVACY,
        &["private/ledger.jsonl", "its copy"],
    );
    without("3/samples.npz", OUTPUT, &["not finished", "--resume"]);
    let lines = fs::read_to_string(file("ledger.jsonl")).unwrap();
    let quieter = lines.replace("\"noise_multiplier\":1.5", "\"noise_multiplier\":9.5");
    assert_ne!(lines, quieter);
    fs::write(file("ledger.jsonl"), quieter).unwrap();
    refused(
        &fixture,
        PRIVACY,
        &with(&["out"]),
        &["ledger.jsonl", "its copy"],
    );
    let fewer: String = lines.split_inclusive('\n').take(5).collect();
    fs::write(file("ledger.jsonl"), fewer).unwrap();
    refused(
        &fixture,
        OUTPUT,
        &with(&["out"]),
        &["2 of 3 releases", "--resume"],
    );
    fs::write(file("ledger.jsonl"), "no ledger\n").unwrap();
    refused(
        &fixture,
        PRIVACY,
        &with(&["out"]),
        &["ledger.jsonl", "header"],
    );
    let first = lines.replace("\"version\":2", "\"version\":1");
    fs::write(file("ledger.jsonl"), first).unwrap();
    refused(
        &fixture,
        PRIVACY,
        &with(&["out"]),
        &["an earlier version of dpsyn"],
    );
    fs::write(file("ledger.jsonl"), lines).unwrap();
    let text = fs::read_to_string(file("private/config.toml")).unwrap();
    let longer = text.replace("variation_degree = [", "variation_degree = [0.0, ");
    fs::write(file("private/config.toml"), longer).unwrap();
    let words = ["4 iterations", "ledger.jsonl for 3"];
    refused(&fixture, OUTPUT, &with(&["out"]), &words);
    fs::write(file("private/config.toml"), text).unwrap();
    // As it was, it can be extended.
    extend(&fixture, &with(&["out"]));
}

#[test]
fn a_run_without_noise_is_extended_on_request_only() {
    let fixture = RunFixture::new();
    fixture.succeed(&WITHOUT_NOISE);
    let arguments = ["out", "--iterations", "1"];
    refused(&fixture, USAGE, &arguments, &["--non-private", "out"]);
    extend(&fixture, &[&arguments[..], &["--non-private"]].concat());
    let claim = statement(&fixture, "out-extended");
    assert!(
        claim["summary"].as_str().unwrap().contains("NOT PRIVATE"),
        "{claim}"
    );
    assert_eq!(claim["guarantees"].as_array().unwrap().len(), 0);
    // No noise: the same extension again is the same to the last bit.
    let again = [&arguments[..], &["--non-private", "--out", "again"]].concat();
    extend(&fixture, &again);
    let samples = |folder: &str| sample_bytes(&fixture.path(folder).join("1/samples.npz"));
    assert!(samples("out-extended") == samples("again"));
}
