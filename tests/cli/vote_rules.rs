//! Rules of the vote that follow from declared numbers, and what the plan says about them.

use std::fs;
use std::process::{Command, Output};

use crate::support::RunFixture;

/// The plan of `--dry-run`: standard output and standard error.
fn plan(fixture: &RunFixture, overrides: &[&str]) -> (String, String) {
    let mut arguments = vec!["--dry-run"];
    for value in overrides {
        arguments.extend(["--set", *value]);
    }
    let output = fixture.run(&arguments);
    assert!(output.status.success(), "{output:?}");
    texts(&output)
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The thresholds in the table of a plan, without that of the initial population.
fn thresholds(plan: &str) -> Vec<f64> {
    let rows = plan.lines().map(|line| line.split_whitespace().collect());
    let rows = rows.filter(|row: &Vec<&str>| {
        row.len() > 6 && row[0].parse::<u32>().is_ok_and(|number| number > 0)
    });
    rows.map(|row| row[6].parse().unwrap()).collect()
}

#[test]
fn an_automatic_threshold_follows_from_declared_numbers() {
    let fixture = RunFixture::new();
    let auto = |size: u32| {
        let size = format!("data.declared_size={size}");
        let (plan, _) = plan(&fixture, &["evolution.threshold=auto", &size]);
        thresholds(&plan)
    };
    // 24 votes for 16 samples, σ = 1.5: 0.85 standard deviations.
    assert_eq!(auto(24), [1.28; 3]);
    assert_eq!(auto(900), [1.28; 3]);
    assert_eq!(auto(1), [0.0; 3]);
    let (mixed, _) = plan(&fixture, &["evolution.threshold=[1, 'auto', 0.25]"]);
    assert_eq!(thresholds(&mixed), [1.0, 1.28, 0.25]);
}

#[test]
fn an_automatic_threshold_needs_a_declared_number() {
    let fixture = RunFixture::new();
    let text = fs::read_to_string(fixture.path("run.toml")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("declared_size"));
    let text: Vec<&str> = lines.collect();
    fs::write(fixture.path("undeclared.toml"), text.join("\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["run", "undeclared.toml", "--dry-run"])
        .args(["--set", "evolution.threshold=auto"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let (_, error) = texts(&output);
    assert!(
        error.contains("evolution.threshold") && error.contains("data.declared_size"),
        "{error}"
    );
}

#[test]
fn weak_votes_are_warned_of() {
    let fixture = RunFixture::new();
    let warnings = |overrides: &[&str]| {
        let (_, error) = plan(&fixture, overrides);
        let lines = error
            .lines()
            .filter(|line| line.starts_with("warning: iteration"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&[]), [""; 0]);
    // 3 / 16 / 1.5.
    let weak = warnings(&["data.declared_size=3"]);
    assert!(
        weak.len() == 1 && weak[0].contains("0.12 times the noise"),
        "{weak:?}"
    );
    let zero = ["data.declared_size=10", "evolution.threshold=0"];
    let noisy = warnings(&zero);
    assert!(
        noisy.len() == 1
            && noisy[0].contains("for their noise alone (evolution.threshold = \"auto\" or"),
        "{noisy:?}"
    );
    // The votes are too weak for a threshold that leaves fewer.
    let auto = ["data.declared_size=6", "evolution.threshold=auto"];
    let noisy = warnings(&auto);
    assert!(
        noisy.len() == 1 && noisy[0].contains("for their noise alone (fewer"),
        "{noisy:?}"
    );
    // Parents by rank are not drawn by their votes.
    assert_eq!(
        warnings(&[&zero[..], &["evolution.selection=rank"]].concat()),
        [""; 0]
    );
}

#[test]
fn classes_agree_only_with_others() {
    let fixture = RunFixture::new();
    let one_class = [
        "--set",
        "evolution.class_agreement=1",
        "--set",
        "data.classes=[\"cat\"]",
        "--set",
        "data.undeclared_class=leave-out",
    ];
    let text = fixture.fail(2, &one_class);
    assert!(text.contains("there is one class only"), "{text}");
    let text = fixture.fail(2, &["--set", "evolution.class_agreement=-1"]);
    assert!(text.contains("evolution.class_agreement"), "{text}");
    fixture.succeed(&["--set", "evolution.class_agreement=[0, 1, 2.5]"]);
}

/// A declared number changes what is drawn where a threshold follows from it.
#[test]
fn a_run_keeps_its_automatic_thresholds() {
    let fixture = RunFixture::new();
    let auto = ["--set", "evolution.threshold=auto"];
    fixture.succeed(&auto);
    let other = ["--resume", "--set", "data.declared_size=3"];
    let text = fixture.fail(5, &[&auto[..], &other].concat());
    assert!(text.contains("config_sha256"), "{text}");
    fixture.succeed(&[&auto[..], &["--resume"]].concat());
}
