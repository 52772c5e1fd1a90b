//! Killed at any moment and resumed, a run leaves what an undisturbed one leaves.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use dpsyn::internals::images::NpzReader;

use crate::support::{World, released, wait_for};

/// Slow enough to be hit in the middle, quick enough to be hit often.
const RUN: [&str; 6] = [
    "--set",
    "evolution.num_samples=40",
    "--set",
    "evolution.variation_degree=[0, 0, 1, 1, 2]",
    "--set",
    "model.batch_size=2",
];

fn lattice(folder: &Path, iteration: u32) -> Option<Vec<i64>> {
    let path = folder.join(format!("{iteration}/votes.npz"));
    let mut votes = NpzReader::open(&path).ok()?;
    Some(votes.i64s("lattice").unwrap().1)
}

/// Iterations in the ledger's charges, in order.
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

fn start(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
    let mut command = world.command(&[&RUN[..], arguments, &["--resume"]].concat());
    command.envs(environment.iter().copied());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills a run again and again, at moments spread over it, until at least `kills` have hit it, then lets it
/// end. A histogram that was once on disk must never change.
fn kill_and_resume(world: &World, arguments: &[&str], environment: &[(&str, &str)], kills: usize) {
    let out = world.path("out");
    let mut hit = 0;
    let mut seen: Vec<Option<Vec<i64>>> = vec![None; 5];
    // From right at the start to long enough to get on; later ones let more through.
    let mut wait = Duration::from_millis(3);
    loop {
        let mut child = start(world, arguments, environment);
        let deadline = Instant::now() + wait;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if hit < kills.max(1) * 4 && Instant::now() >= deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        for (iteration, seen) in (1u32..).zip(&mut seen) {
            let now = lattice(&out, iteration);
            if seen.is_some() {
                assert!(
                    *seen == now,
                    "the histogram of iteration {iteration} changed"
                );
            }
            *seen = now;
        }
        match ended {
            Some(status) if status.success() => break,
            Some(status) => panic!("a resumed run failed: {status}"),
            None => hit += 1,
        }
        wait = wait * 108 / 100 + Duration::from_millis(1);
    }
    assert!(hit >= kills, "only {hit} kills hit the run: make it longer");
    assert_eq!(charges(&out), [1, 2, 3, 4]);
}

/// The released files of both are the same, names and bytes, but for what carries the run's random id and the
/// story of its interruptions.
fn same(calm: &World, wild: &World) {
    let files = |world: &World| {
        let mut files = released(&world.path("out"));
        for (path, _) in &mut files {
            *path = path.strip_prefix(world.root.path()).unwrap().to_owned();
        }
        files.retain(|(path, _)| {
            let name = path.file_name().unwrap();
            name != "ledger.jsonl" && name != "privacy.json" && name != "log.txt"
        });
        files
    };
    let (calm, wild) = (files(calm), files(wild));
    let names = |files: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&calm), names(&wild));
    assert!(calm.len() > 15, "{}", calm.len());
    for ((path, calm), (_, wild)) in calm.iter().zip(&wild) {
        assert!(calm == wild, "{} differs", path.display());
    }
}

#[test]
fn kill_9_at_many_moments_changes_nothing() {
    let arguments = ["--non-private", "--set", "privacy.noise_multiplier=0"];
    let (calm, wild) = (World::new(), World::new());
    calm.succeed(&[&RUN[..], &arguments].concat());
    kill_and_resume(&wild, &arguments, &[], 20);
    same(&calm, &wild);
}

#[test]
fn kill_9_never_draws_noise_twice() {
    kill_and_resume(&World::new(), &[], &[], 5);
}

/// With known noise, the killed run and the undisturbed one agree to the last bit.
#[cfg(feature = "insecure-test-noise")]
#[test]
fn kill_9_with_known_noise_changes_nothing() {
    let environment = [("DPSYN_TEST_NOISE_SEED", "12345")];
    let (calm, wild) = (World::new(), World::new());
    assert!(start(&calm, &[], &environment).wait().unwrap().success());
    kill_and_resume(&wild, &[], &environment, 20);
    same(&calm, &wild);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_after_the_unit_and_resumes() {
    let world = World::new();
    let mut child = world
        .command(&[&RUN[..], &["--set", "evolution.lookahead_degree=12"]].concat())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Population 0 is there: the first lookahead, the longest stage, is under way.
    wait_for(&world.path("out/0/grid.png"), &mut child);
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "{text}");
    world.succeed(
        &[
            &RUN[..],
            &["--set", "evolution.lookahead_degree=12", "--resume"],
        ]
        .concat(),
    );
    assert_eq!(charges(&world.path("out")), [1, 2, 3, 4]);
}
