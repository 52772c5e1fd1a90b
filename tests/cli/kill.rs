//! A run that is killed and resumed leaves what an uninterrupted run leaves.
//!
//! With the feature `insecure-test-noise`, the process is killed at each named point
//! (`KillPoint`). Without it, the shipped program is killed at arbitrary moments.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{RunFixture, lattice, released, wait_for};

/// Four iterations of several shards each, whose selection needs the embeddings of the vote again.
const RUN: [&str; 6] = [
    "--set",
    "evolution.class_agreement=1",
    "--set",
    "evolution.variation_degree=[0, 0, 1, 1, 2]",
    "--set",
    "model.batch_size=4",
];
/// A run without noise, so that two runs are equal.
const WITHOUT_NOISE: [&str; 3] = ["--non-private", "--set", "privacy.noise_multiplier=0"];

/// Returns the iterations of the charges in the ledger, in order.
fn charges(folder: &Path) -> Vec<u64> {
    std::fs::read_to_string(folder.join("ledger.jsonl"))
        .unwrap()
        .lines()
        .filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["record"] == "charge").then(|| line["iteration"].as_u64().unwrap())
        })
        .collect()
}

/// Starts the run or resumes it.
fn start(fixture: &RunFixture, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
    let mut command = fixture.command(&[&RUN[..], arguments, &["--resume"]].concat());
    command.envs(environment.iter().copied());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets the run end.
fn finish(fixture: &RunFixture, arguments: &[&str], environment: &[(&str, &str)]) {
    let status = start(fixture, arguments, environment).wait().unwrap();
    assert!(status.success(), "a resumed run failed: {status}");
    assert_eq!(charges(&fixture.path("out")), [1, 2, 3, 4]);
}

/// Checks that no histogram of `before` is gone or has changed.
fn assert_unchanged(before: &[Option<Vec<i64>>], now: &[Option<Vec<i64>>]) {
    for (iteration, (before, now)) in (1..).zip(before.iter().zip(now)) {
        assert!(
            before.is_none() || before == now,
            "the histogram of iteration {iteration} changed"
        );
    }
}

fn histograms(fixture: &RunFixture) -> Vec<Option<Vec<i64>>> {
    let out = fixture.path("out");
    (1..=4).map(|iteration| lattice(&out, iteration)).collect()
}

/// Checks that both runs released the same files, except for those with the random id of the run or
/// the record of its interruptions.
fn assert_same(control: &RunFixture, interrupted: &RunFixture) {
    let files = |fixture: &RunFixture| {
        let mut files = released(&fixture.path("out"));
        for (path, _) in &mut files {
            *path = path.strip_prefix(fixture.root.path()).unwrap().to_owned();
        }
        files.retain(|(path, _)| {
            let name = path.file_name().unwrap();
            name != "ledger.jsonl" && name != "privacy.json" && name != "log.txt"
        });
        files
    };
    let (control, interrupted) = (files(control), files(interrupted));
    let names = |files: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&control), names(&interrupted));
    assert!(control.len() > 15, "{}", control.len());
    for ((path, control), (_, interrupted)) in control.iter().zip(&interrupted) {
        assert!(control == interrupted, "{} differs", path.display());
    }
}

/// Kills the run some times, each time a little later after its start, then lets it end. A run that
/// ends before it is killed is no failure: the moments depend on the machine.
fn kill_at_moments(fixture: &RunFixture, arguments: &[&str]) {
    let mut before = histograms(fixture);
    for attempt in 1..=12 {
        let mut child = start(fixture, arguments, &[]);
        std::thread::sleep(Duration::from_millis(10 * attempt));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = histograms(fixture);
        assert_unchanged(&before, &now);
        before = now;
    }
    finish(fixture, arguments, &[]);
    assert_unchanged(&before, &histograms(fixture));
}

#[test]
fn kill_9_at_any_moment_changes_nothing() {
    let (control, interrupted) = (RunFixture::new(), RunFixture::new());
    finish(&control, &WITHOUT_NOISE, &[]);
    kill_at_moments(&interrupted, &WITHOUT_NOISE);
    assert_same(&control, &interrupted);
    // With noise, every run is another one, but a histogram that was released stays.
    kill_at_moments(&RunFixture::new(), &[]);
}

#[cfg(feature = "insecure-test-noise")]
mod points {
    use dpsyn::KillPoint;

    use super::*;

    /// Resumes the run and kills it where it reaches `point` for the `count`-th time. Returns
    /// false if it ended before.
    fn kill_at(
        fixture: &RunFixture,
        point: KillPoint,
        count: u32,
        environment: &[(&str, &str)],
    ) -> bool {
        let chosen = format!("{}:{count}", point.name());
        let environment = [environment, &[("DPSYN_KILL_AT", &chosen)]].concat();
        let status = start(fixture, &[], &environment).wait().unwrap();
        // An aborted process has no exit code.
        assert!(status.success() || status.code().is_none(), "{status}");
        !status.success()
    }

    /// With known noise, a killed run and an uninterrupted one agree to the last bit.
    #[test]
    fn kill_at_each_point_changes_nothing() {
        let environment = [("DPSYN_TEST_NOISE_SEED", "12345")];
        let control = RunFixture::new();
        finish(&control, &[], &environment);
        for point in KillPoint::ALL {
            let interrupted = RunFixture::new();
            assert!(
                kill_at(&interrupted, point, 1, &environment),
                "the run does not reach {point:?}"
            );
            // Some points are reached once in a process.
            kill_at(&interrupted, point, 2, &environment);
            finish(&interrupted, &[], &environment);
            assert_same(&control, &interrupted);
        }
    }

    /// Noise from a key of the operating system.
    #[test]
    fn kill_around_the_release_never_shows_two_histograms() {
        for point in [
            KillPoint::Charged,
            KillPoint::HistogramDrawn,
            KillPoint::HistogramRecorded,
            KillPoint::HistogramInPlace,
            KillPoint::HistogramStored,
        ] {
            let fixture = RunFixture::new();
            assert!(kill_at(&fixture, point, 1, &[]));
            let first = histograms(&fixture);
            let in_place = [KillPoint::HistogramInPlace, KillPoint::HistogramStored];
            assert_eq!(first[0].is_some(), in_place.contains(&point), "{point:?}");
            assert!(kill_at(&fixture, point, 2, &[]));
            let second = histograms(&fixture);
            assert_unchanged(&first, &second);
            finish(&fixture, &[], &[]);
            assert_unchanged(&second, &histograms(&fixture));
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_after_the_shard_and_resumes() {
    let fixture = RunFixture::new();
    let many = [&RUN[..], &["--set", "evolution.lookahead_degree=12"]].concat();
    let mut child = fixture
        .command(&many)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Population 0 is stored, so the lookahead, the longest stage, has begun.
    wait_for(&fixture.path("out/0/grid.png"), &mut child);
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "{text}");
    fixture.succeed(&[&many[..], &["--resume"]].concat());
    assert_eq!(charges(&fixture.path("out")), [1, 2, 3, 4]);
}
