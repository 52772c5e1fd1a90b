//! The result of a run as an attacker sees it, and the comparison of two of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Output;
use std::time::SystemTime;

use dpsyn::internals::images::NpzReader;
use serde_json::{Map, Value};

use super::figures::assert_figures_follow;
use crate::support::{RunFixture, released};

/// The prefix of lines on the terminal that are for the owner only.
pub const MARK: &str = "[private, not for release]";

/// Files whose bytes depend on the noise, and whose size does not: the noisy histogram, and the
/// samples that were selected by it. The first population does not depend on the noise.
fn is_noisy(name: &str) -> bool {
    name.ends_with("/votes.npz") || name.ends_with("/samples.npz") && name != "0/samples.npz"
}

/// Pictures of samples that were selected by the noise; their sizes depend on them.
fn is_noisy_picture(name: &str) -> bool {
    name.ends_with(".png") && name != "0/grid.png"
}

/// Removes the random and noisy values of `privacy.json`: the identity of the run, and the classes
/// without a noisy count above the threshold.
fn statement(bytes: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    let fields = value.as_object_mut().unwrap();
    for key in ["run_id", "uniform_fallbacks"] {
        assert!(fields.remove(key).is_some(), "privacy.json has no `{key}`");
    }
    remove_earlier_ids(fields);
    value
}

/// Removes the random identities of the runs whose charges a run carries.
fn remove_earlier_ids(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(runs)) = fields.get_mut("earlier_runs") {
        for run in runs.iter_mut().filter_map(Value::as_object_mut) {
            assert!(run.remove("run_id").is_some(), "{run:?}");
        }
    }
}

/// Removes the random and noisy values of `ledger.jsonl`: the identity of the run and digests of
/// noisy histograms, or of what depends on them.
fn ledger(bytes: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(bytes).unwrap().lines();
    let record = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.retain(|key, _| {
            key != "run_id" && (!key.contains("sha256") || key == "config_sha256")
        });
        remove_earlier_ids(fields);
        value
    };
    lines.map(record).collect()
}

/// Removes the identity of the run, and what follows from the noisy histogram: messages about
/// counts below the threshold and about few samples with votes, and the figures of a population.
pub fn fixed_lines(text: &str) -> Vec<String> {
    let noisy = ["exceeds the threshold", "fall on few samples"];
    let lines = text
        .lines()
        .filter(|line| !noisy.iter().any(|words| line.contains(words)));
    let fixed = |line: &str| {
        let ends = [": run ", " samples; "];
        let before = ends.iter().find_map(|end| line.split_once(end));
        before.map_or(line, |(before, _)| before).to_owned()
    };
    lines.map(fixed).collect()
}

/// Returns the lines on standard error that are not marked as private.
pub fn unmarked(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(MARK)).collect();
    lines.join("\n")
}

/// Returns the lines on standard error that are marked as private.
pub fn marked(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(MARK)).collect();
    lines.join("\n")
}

/// Returns all published files of a result folder by their names.
pub fn published(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = released(folder).into_iter();
    let named = files.map(|(path, bytes)| {
        let name = path.strip_prefix(folder).unwrap();
        (name.to_str().unwrap().replace('\\', "/"), bytes)
    });
    named.collect()
}

/// The metadata of a published file or folder.
#[derive(Debug, PartialEq)]
struct Entry {
    is_folder: bool,
    /// `None` on systems without permission bits.
    mode: Option<u32>,
    modified: SystemTime,
}

/// Returns everything in a result folder, the folder itself and `private` included, without the
/// content of `private`. Sizes are those of the bytes, which are compared by their kind.
fn entries(root: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap();
        if metadata.is_dir() && name != Path::new("private") {
            paths.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        #[cfg(unix)]
        let mode = {
            use std::os::unix::fs::PermissionsExt;
            Some(metadata.permissions().mode())
        };
        #[cfg(not(unix))]
        let mode = None;
        let entry = Entry {
            is_folder: metadata.is_dir(),
            mode,
            modified: metadata.modified().unwrap(),
        };
        found.insert(name.to_str().unwrap().replace('\\', "/"), entry);
    }
    found
}

/// The structure of a zip archive, without the data and their checksums.
fn structure(path: &Path) -> Vec<String> {
    let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let members = archive.len();
    let describe = |index: usize| {
        let member = archive.by_index(index).unwrap();
        format!(
            "{} {} {} {:?} {:?} {:?} {:?} {:?}",
            member.name().unwrap(),
            member.size(),
            member.compressed_size(),
            member.compression(),
            member.last_modified(),
            member.unix_mode(),
            member.extra_data(),
            member.comment(),
        )
    };
    let mut members: Vec<String> = (0..members).map(describe).collect();
    members.push(format!("{:?}", archive.comment()));
    members
}

/// Compares a noisy archive of two runs: everything but the values, and the labels of samples.
/// Within each, what follows from the noisy histogram must follow from it.
fn assert_same_noisy(name: &str, one: &Path, other: &Path) {
    let paths = [one.join(name), other.join(name)];
    let [first, second] = &paths;
    assert_eq!(structure(first), structure(second), "{name}");
    let open = |path: &Path| NpzReader::open(path).unwrap();
    if name.ends_with("/samples.npz") {
        let labels = paths
            .each_ref()
            .map(|path| open(path).i64s("labels").unwrap());
        assert_eq!(labels[0], labels[1], "{name}");
        return;
    }
    let config = fs::read_to_string(one.join("config.toml")).unwrap();
    let threshold = config
        .lines()
        .find_map(|line| line.strip_prefix("threshold = "));
    let threshold: f64 = threshold.unwrap().parse().unwrap();
    for path in &paths {
        let mut votes = open(path);
        let (_, lattice) = votes.i64s("lattice").unwrap();
        let (_, noisy) = votes.f64s("noisy").unwrap();
        let (_, above) = votes.f64s("votes").unwrap();
        assert_eq!(lattice.len(), noisy.len());
        for ((lattice, noisy), votes) in lattice.iter().zip(&noisy).zip(&above) {
            assert_eq!(*lattice as f64 / f64::from(1u32 << 20), *noisy, "{name}");
            assert_eq!((noisy - threshold).max(0.0), *votes, "{name}");
        }
    }
}

/// Compares everything outside of `private/` in two result folders: names, kinds, permissions,
/// times, sizes and bytes, except the places that the functions above list.
pub fn assert_same_published(one: &Path, other: &Path) {
    assert_eq!(entries(one), entries(other));
    let folders = (one, other);
    let (one, other) = (published(one), published(other));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (name, bytes) in &one {
        let others = &other[name];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match name.as_str() {
            "privacy.json" => assert_eq!(statement(bytes), statement(others)),
            "ledger.jsonl" => {
                assert_eq!(ledger(bytes), ledger(others));
                assert_eq!(bytes.len(), others.len(), "{name}");
            }
            "log.txt" => {
                let logs = [text(bytes), text(others)];
                assert_eq!(fixed_lines(&logs[0]), fixed_lines(&logs[1]));
                assert_figures_follow(folders.0, &logs[0]);
                assert_figures_follow(folders.1, &logs[1]);
            }
            name if is_noisy(name) => {
                assert_eq!(bytes.len(), others.len(), "{name}");
                assert_same_noisy(name, folders.0, folders.1);
            }
            // Signature and header: height, width, color type.
            name if is_noisy_picture(name) => assert_eq!(bytes[..33], others[..33], "{name}"),
            _ => assert!(
                bytes == others,
                "{name} differs: {}\n{}",
                text(bytes),
                text(others)
            ),
        }
    }
}

/// Compares the streams and exit codes of two commands, except lines that are marked as private.
pub fn assert_same_output(one: &Output, other: &Output) {
    assert_eq!(one.status.code(), other.status.code(), "{one:?}\n{other:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&one.stdout), text(&other.stdout));
    assert_eq!(fixed_lines(&unmarked(one)), fixed_lines(&unmarked(other)));
}

/// Runs the same command on two data sets, first with `--dry-run`, and compares everything that is
/// published. Returns the outputs of the real runs.
pub fn assert_indistinguishable(
    one: &RunFixture,
    other: &RunFixture,
    arguments: &[&str],
) -> [Output; 2] {
    let plan = [arguments, &["--dry-run"]].concat();
    let (first, second) = (one.run(&plan), other.run(&plan));
    assert_same_output(&first, &second);
    assert!(first.status.success(), "{first:?}");
    assert!(first.stdout == second.stdout);
    let (first, second) = (one.run(arguments), other.run(arguments));
    assert_same_output(&first, &second);
    assert!(first.status.success(), "{first:?}");
    assert_same_published(&one.path("out"), &other.path("out"));
    [first, second]
}
