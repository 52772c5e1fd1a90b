//! The budget of a data set, over several runs of the real binary.

use std::process::{Output, Stdio};

use crate::support::{RunFixture, wait_for};

fn budget(fixture: &RunFixture, arguments: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["budget"])
        .args(arguments)
        .output()
        .unwrap()
}

fn shown(fixture: &RunFixture, arguments: &[&str]) -> String {
    let output = budget(fixture, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn runs_share_a_budget_that_survives_renaming_and_refuses_what_exceeds_it() {
    let fixture = RunFixture::new();
    // A run takes 3.754 at δ = 1e-3, and two of them 5.8.
    let init = ["init", "data", "--epsilon", "5", "--delta", "1e-3"];
    assert!(shown(&fixture, &init).contains("total: epsilon 0.000 of 5"));
    let with = ["--set", "privacy.budget=budget.toml"];
    fixture.succeed(&with);
    let text = shown(&fixture, &["show"]);
    assert!(
        text.contains("complete") && text.contains("total: epsilon 3.754 of 5"),
        "{text}"
    );

    // The same images in another folder under other names.
    std::fs::rename(fixture.path("data/nested"), fixture.path("renamed")).unwrap();
    let renamed = ["--set", "data.path=renamed"];
    let text = fixture.fail(5, &[&with[..], &renamed, &["--out", "second"]].concat());
    assert!(text.contains("would be exceeded"), "{text}");
    assert!(
        !fixture.path("second").exists(),
        "refused before anything is made"
    );
    let more_noise = ["--set", "privacy.noise_multiplier=6", "--out", "third"];
    fixture.succeed(&[&with[..], &renamed, &more_noise].concat());
    fixture.succeed(&[&with[..], &renamed, &more_noise, &["--resume"]].concat());

    // Other images have no budget here until their owner says so.
    std::fs::remove_file(fixture.path("renamed/cat_03.png")).unwrap();
    let fourth = ["--set", "privacy.noise_multiplier=20", "--out", "fourth"];
    let text = fixture.fail(5, &[&with[..], &renamed, &fourth].concat());
    assert!(text.contains("budget of other images"), "{text}");
    shown(&fixture, &["add-images", "renamed"]);
    fixture.succeed(&[&with[..], &renamed, &fourth].concat());

    // The file is closed to others, and nothing of it is in a result folder.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(fixture.path("budget.toml"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(shown(&fixture, &["show"]).matches("complete").count(), 3);
    assert!(!budget(&fixture, &["close", "data"]).status.success());
}

/// The name of a private file that cannot be read is for its owner only.
#[cfg(unix)]
#[test]
fn an_unreadable_image_is_named_to_its_owner_only() {
    let fixture = RunFixture::new();
    let link = fixture.path("data/nested/cat_99.png");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let output = budget(
        &fixture,
        &["init", "data", "--epsilon", "5", "--delta", "1e-3"],
    );
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    for line in text.lines().filter(|line| line.contains("cat_99")) {
        assert!(line.contains("[private, not for release]"), "{text}");
    }
    assert!(text.contains("cat_99"), "{text}");
}

#[test]
fn a_run_that_is_going_on_is_not_closed() {
    let fixture = RunFixture::new();
    shown(
        &fixture,
        &["init", "data", "--epsilon", "5", "--delta", "1e-3"],
    );
    let run = [
        "--set",
        "privacy.budget=budget.toml",
        "--set",
        "evolution.lookahead_degree=200",
    ];
    let mut child = fixture.command(&run).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&fixture.path("out/0/grid.png"), &mut child);
    let output = budget(&fixture, &["close", "out"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(error.contains("in use by another process"), "{error}");
    assert!(shown(&fixture, &["show"]).contains("reserved for its plan"));
    child.kill().unwrap();
    child.wait().unwrap();
    // It is abandoned now, whether it has a charge or not.
    let text = shown(&fixture, &["close", "out"]);
    assert!(text.contains("is closed and counts with"), "{text}");
    assert!(text.contains("complete"), "{text}");
    let text = shown(&fixture, &["close", "out"]);
    assert!(text.contains("was closed already"), "{text}");
}
