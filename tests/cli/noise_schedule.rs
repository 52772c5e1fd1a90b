//! Runs whose noise changes from iteration to iteration.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{NOISELESS, RunFixture, lattice};

const LIST: [&str; 2] = ["--set", "privacy.noise_multiplier=[6, 3, 1.5]"];

/// Runs another command than `run` in the folder of the fixture.
fn dpsyn(fixture: &RunFixture, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn printed(fixture: &RunFixture, arguments: &[&str]) -> String {
    let output = dpsyn(fixture, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the plan that `dpsyn run --dry-run` prints.
fn planned(fixture: &RunFixture, arguments: &[&str]) -> String {
    let output = fixture.run(&[arguments, &["--dry-run"]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ledger(fixture: &RunFixture, folder: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture.path(folder).join("ledger.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// ε under the adjacency of the claim after each iteration, from `privacy.json`.
fn epsilons(fixture: &RunFixture, folder: &str) -> Vec<f64> {
    let text = fs::read_to_string(fixture.path(folder).join("privacy.json")).unwrap();
    let statement: Value = serde_json::from_str(&text).unwrap();
    let rows = statement["guarantees"].as_array().unwrap().iter();
    let declared = rows.filter(|row| row["declared"] == true);
    declared
        .map(|row| row["epsilon"].as_f64().unwrap())
        .collect()
}

/// The columns of the lines that begin with a number.
fn table(text: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let rows = text.lines().map(words);
    rows.filter(|row: &Vec<String>| row.first().is_some_and(|word| word.parse::<u32>().is_ok()))
        .collect()
}

#[test]
fn plan_statement_ledger_and_accountant_agree() {
    let fixture = RunFixture::new();
    let plan = planned(&fixture, &LIST);
    fixture.succeed(&LIST);
    let epsilons = epsilons(&fixture, "out");
    assert_eq!(epsilons.len(), 3);

    let header = &ledger(&fixture, "out")[0];
    assert_eq!(header["noise_multiplier"], json!([6.0, 3.0, 1.5]));
    assert_eq!(header["nearest_neighbors"], 1);
    for (t, sigma) in [(1, 6.0), (2, 3.0), (3, 1.5)] {
        let charge = &ledger(&fixture, "out")[2 * t - 1];
        assert_eq!(charge["noise_multiplier"], sigma);
        assert_eq!(charge["epsilon_so_far"], epsilons[t - 1]);
    }

    // The plan and `dpsyn privacy` round the same numbers up to three digits.
    let accounted = printed(&fixture, &[&["privacy", "run.toml"][..], &LIST].concat());
    let (plan, accounted) = (table(&plan), table(&accounted));
    assert_eq!(plan[0][3], "-");
    for (t, sigma) in [(1, "6"), (2, "3"), (3, "1.5")] {
        assert_eq!(plan[t][3], sigma);
        assert_eq!(accounted[t - 1][1], sigma);
        assert_eq!(plan[t][4], accounted[t - 1][2]);
        let shown: f64 = plan[t][4].parse().unwrap();
        let above = shown - epsilons[t - 1];
        assert!((-1e-6..=1e-3).contains(&above), "{shown} {epsilons:?}");
    }
    let arguments = [
        "privacy",
        "--iterations=3",
        "--delta=1e-3",
        "--noise-multiplier",
    ];
    let given = printed(&fixture, &[&arguments[..], &["[6, 3, 1.5]"]].concat());
    assert_eq!(table(&given), accounted);

    // The same noise in another order costs the same at the end, and another time before.
    let other = ["--set", "privacy.noise_multiplier=[1.5, 3, 6]"];
    let other = printed(&fixture, &[&["privacy", "run.toml"][..], &other].concat());
    let other = table(&other);
    assert_eq!(other[2][2..], accounted[2][2..]);
    assert_ne!(other[0][2..], accounted[0][2..]);
}

#[test]
fn a_list_of_another_length_is_refused_before_anything_is_spent() {
    let fixture = RunFixture::new();
    for (list, named) in [
        (
            "[6, 3]",
            "2 entries where 3 were expected: one for each iteration",
        ),
        ("[6, 3, 2, 1]", "4 entries where 3 were expected"),
        (
            "[6, 0.01, 3]",
            "expected 0.0625 to 1048576, found 0.01 in iteration 2",
        ),
        ("[6, 0, 3]", "0 in iteration 2 gives no privacy"),
        ("[6, \"x\", 3]", "expected a finite number"),
    ] {
        let set = format!("privacy.noise_multiplier={list}");
        let text = fixture.fail(2, &["--set", &set]);
        assert!(
            text.contains("noise_multiplier") && text.contains(named),
            "{text}"
        );
        assert!(!fixture.path("out").exists());
    }
    let arguments = [
        "privacy",
        "--iterations=3",
        "--delta=1e-3",
        "--noise-multiplier",
    ];
    for (list, named) in [
        ("[6, 3]", "2 entries where 3 were expected"),
        ("[6, x]", "expected a number or a list"),
    ] {
        let output = dpsyn(&fixture, &[&arguments[..], &[list]].concat());
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn an_extension_goes_on_with_the_last_noise_and_a_budget_counts_both() {
    let fixture = RunFixture::new();
    let init = ["budget", "init", "data", "--epsilon=20", "--delta=1e-3"];
    printed(&fixture, &init);
    fixture.succeed(&[&LIST[..], &["--set", "privacy.budget=budget.toml"]].concat());
    let extend = ["extend", "out", "--iterations=2", "--device=cpu"];
    printed(&fixture, &extend);
    let header = &ledger(&fixture, "out-extended")[0];
    assert_eq!(header["noise_multiplier"], 1.5);
    let earlier = &header["earlier_runs"][0];
    assert_eq!(earlier["noise_multiplier"], json!([6.0, 3.0, 1.5]));
    assert_eq!(earlier["releases"], 3);
    // 5 releases, as in one run.
    let one = "--noise-multiplier=[6, 3, 1.5, 1.5, 1.5]";
    let one = printed(
        &fixture,
        &["privacy", one, "--iterations=5", "--delta=1e-3"],
    );
    let total: f64 = table(&one)[4][2].parse().unwrap();
    let after = epsilons(&fixture, "out-extended")[1];
    assert!((-1e-6..=1e-3).contains(&(total - after)), "{total} {after}");
    let shown = printed(&fixture, &["budget", "show"]);
    assert!(shown.contains("3 releases with noise multiplier [6, 3, 1.5], epsilon"));
    let line = shown.lines().last().unwrap();
    assert_eq!(line, format!("total: epsilon {total:.3} of 20"));

    let list = ["--out=third", "--set=privacy.noise_multiplier=[1.5, 9]"];
    printed(&fixture, &[&extend[..], &list].concat());
    assert_eq!(
        ledger(&fixture, "third")[0]["noise_multiplier"],
        json!([1.5, 9.0])
    );
}

/// Votes, noise and charge of an iteration have the k of that iteration.
#[test]
fn each_iteration_votes_with_its_own_neighbors() {
    let fixture = RunFixture::new();
    let neighbors = ["--set", "evolution.nearest_neighbors=[1, 3, 2]"];
    fixture.succeed(&[&NOISELESS[..], &neighbors, &["--out", "plain"]].concat());
    let votes = |t| -> i64 { lattice(&fixture.path("plain"), t).unwrap().iter().sum() };
    assert!(votes(1) > 0);
    assert_eq!([votes(2), votes(3)], [3 * votes(1), 2 * votes(1)]);

    let plan = planned(&fixture, &neighbors);
    assert!(
        plan.contains("noise multiplier 1.5, [1, 3, 2] nearest neighbor(s)"),
        "{plan}"
    );
    fixture.succeed(&neighbors);
    let lines = ledger(&fixture, "out");
    assert_eq!(lines[0]["noise_multiplier"], 1.5);
    assert_eq!(lines[0]["nearest_neighbors"], json!([1, 3, 2]));
    for (t, k) in [(1, 1u32), (2, 3), (3, 2)] {
        assert_eq!(lines[2 * t - 1]["noise_multiplier"], 1.5);
        assert_eq!(lines[2 * t - 1]["nearest_neighbors"], k);
        // ⌈1.5·√k·2²⁰⌉ + 1
        let sigma = (1.5 * f64::from(k).sqrt() * f64::from(1u32 << 20)).ceil() + 1.0;
        assert_eq!(lines[0]["lattice_sigma"][t - 1], format!("{sigma}"));
    }
    // ε does not depend on k.
    fixture.succeed(&["--out", "one"]);
    assert_eq!(epsilons(&fixture, "out"), epsilons(&fixture, "one"));
    let text = fixture.fail(
        5,
        &["--resume", "--set", "evolution.nearest_neighbors=[3, 1, 2]"],
    );
    assert!(text.contains("`nearest_neighbors` was [1,3,2]"), "{text}");
    let audit = [
        "audit",
        "run.toml",
        "--set=evolution.nearest_neighbors=[1, 3, 2]",
    ];
    let output = dpsyn(&fixture, &audit);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("evolution.nearest_neighbors: changes from iteration"),
        "{error}"
    );
}

/// The most powerful test of three releases with unequal noise stays below the claim, and near it.
#[test]
fn an_audit_weighs_each_release_by_its_noise() {
    let fixture = RunFixture::new();
    let arguments = [
        "audit",
        "run.toml",
        "--set=privacy.noise_multiplier=[30, 1.5, 6]",
        "--trials=20000",
        "--canaries=50",
        "--confidence=0.999999",
        "--json=audit.json",
    ];
    let text = printed(&fixture, &arguments);
    assert!(
        text.contains("noise multiplier [30.0000, 1.5000, 6.0000]"),
        "{text}"
    );
    let report = fs::read_to_string(fixture.path("audit.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let claim = &report["claim"];
    assert_eq!(claim["noise_multiplier"], json!([30.0, 1.5, 6.0]));
    let mu = claim["mu"].as_f64().unwrap();
    let expected = (1.0f64 / 900.0 + 1.0 / 2.25 + 1.0 / 36.0).sqrt();
    assert!((mu - expected).abs() < 1e-12, "{mu}");
    let bounds = report["bounds"].as_array().unwrap();
    let gaussian = bounds
        .iter()
        .find(|bound| bound["method"] == "gaussian")
        .unwrap();
    // μ is 0.69. Without weights, the score of the three histograms would have only
    // 3/√(30² + 1.5² + 6²) = 0.1 standard deviations between the worlds.
    let found = gaussian["mu_lower"].as_f64().unwrap();
    assert!((0.35..mu).contains(&found), "{found}");
}
