//! Published files and folders have one constant timestamp, whatever the private images are.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::{RunFixture, wait_for};

/// A lookahead of several shards, so that a run writes and removes unfinished work.
const SEVERAL: [&str; 2] = ["--set", "evolution.lookahead_degree=4"];
const METRICS: [&str; 4] = [
    "--set",
    "evaluation.metrics=[\"fid\"]",
    "--set",
    "output.plot_images=true",
];

/// 2000-01-01T00:00:00Z.
fn constant() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800)
}

/// Files and folders below `root`, itself included, without the content of `private/`, each as it
/// was before it was read.
fn published(root: &Path) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // A process that is still running may have removed it.
        let Ok(metadata) = fs::symlink_metadata(&folder) else {
            continue;
        };
        found.push((folder.clone(), metadata));
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && path.file_name().unwrap() != "private" {
                folders.push(path);
            } else {
                found.push((path, metadata));
            }
        }
    }
    found
}

/// Checks that nothing published has another time, and returns the number of files and folders.
fn check(root: &Path) -> usize {
    let found = published(root);
    for (path, metadata) in &found {
        let path = path.display();
        assert_eq!(metadata.modified().unwrap(), constant(), "{path}: written");
        assert_eq!(metadata.accessed().unwrap(), constant(), "{path}: read");
    }
    found.len()
}

#[test]
fn a_finished_run_has_one_time_and_its_private_folder_has_others() {
    let fixture = RunFixture::new();
    fixture.succeed(&[&SEVERAL[..], &METRICS].concat());
    let out = fixture.path("out");
    // Four populations of 16 pictures, samples, grids, votes, and the files of the run.
    assert!(check(&out) > 4 * 16 + 4 * 2 + 3 * 3 + 4);
    // Private times are kept, so the stamps above are no effect of the file system.
    let private = fs::metadata(out.join("private/log.txt")).unwrap();
    assert!(private.modified().unwrap() > constant());
    // A refused command has only read.
    fixture.fail(5, &["--resume", "--set", "privacy.noise_multiplier=3"]);
    check(&out);
    // Another process evaluates into the folder of the run.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["eval", "out/3/samples.npz", "--against", "data", "--public"])
        .args(["--embedder", "pixels", "--metrics", "fid", "--out", "out"])
        .args(["--device", "cpu"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(out.join("metrics.csv").exists());
    check(&out);
}

/// A file has no other time under its final name at any moment of a run.
#[test]
fn no_file_of_an_iteration_ever_has_another_time() {
    let fixture = RunFixture::new();
    let mut child = fixture
        .command(&SEVERAL)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&fixture.path("out/0"), &mut child);
    let mut seen = std::collections::HashSet::new();
    while child.try_wait().unwrap().is_none() {
        for iteration in 0..=3 {
            let folder = fixture.path(&format!("out/{iteration}"));
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let Ok(metadata) = fs::symlink_metadata(&path) else {
                    continue;
                };
                if !name.starts_with(".tmp") {
                    assert_eq!(metadata.modified().unwrap(), constant(), "{name}");
                    seen.insert(path);
                }
            }
        }
    }
    assert!(child.wait().unwrap().success());
    // The loop looked while the files were made: at the latest ones once, after the others.
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn a_killed_run_is_stamped_when_it_resumes() {
    let fixture = RunFixture::new();
    let many = ["--set", "evolution.lookahead_degree=100"];
    let mut child = fixture
        .command(&many)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&fixture.path("out/.work/1/lookahead"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let out = fixture.path("out");
    // What a process that is killed between a write and its stamp leaves.
    for name in ["ledger.jsonl", "log.txt", "0/samples.npz", ".work/1"] {
        let file = fs::File::open(out.join(name)).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
    }
    // The run ends early, and nothing is written that would stamp these files by itself.
    std::fs::write(out.join("0/samples.npz"), "damaged").unwrap();
    let text = fixture.fail(6, &[&many[..], &["--resume"]].concat());
    assert!(text.contains("samples.npz"), "{text}");
    check(&out);
}
