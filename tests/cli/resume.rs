//! A run that an earlier version began is finished by this one, with the same result.
//!
//! `tests/data/resume/README.md` says where the folders come from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

use crate::support::{lattice, sample_bytes};

/// A copy of the inputs and of one interrupted run in a temporary folder.
struct InterruptedRun {
    root: tempfile::TempDir,
    name: &'static str,
    expected: serde_json::Value,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resume")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Writes the weights: the committed safetensors header, then each value by a formula.
fn write_model(path: &Path) {
    let header = fs::read(fixtures().join("model.header.json")).unwrap();
    let tensors: serde_json::Value = serde_json::from_slice(&header).unwrap();
    let ends = tensors.as_object().unwrap().values();
    let bytes = ends
        .map(|tensor| tensor["data_offsets"][1].as_u64().unwrap())
        .max()
        .unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(&header);
    for index in 0..bytes / 4 {
        // A multiplicative hash: in [-1/8, 1/8), exact in `f32`.
        let hashed = ((index * 2_654_435_761) >> 7) % 2048;
        let value = (hashed as f32 - 1024.0) / 8192.0;
        file.extend(value.to_le_bytes());
    }
    fs::write(path, file).unwrap();
}

impl InterruptedRun {
    fn new(name: &'static str) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy(&fixtures().join("data"), &root.path().join("data"));
        copy(&fixtures().join(name), &root.path().join(name));
        fs::copy(fixtures().join("run.toml"), root.path().join("run.toml")).unwrap();
        write_model(&root.path().join("model.safetensors"));
        let expected = fs::read_to_string(fixtures().join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        Self {
            root,
            name,
            expected: expected[name].clone(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join(self.name)
    }

    fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_dpsyn"))
            .current_dir(self.root.path())
            .args(["run", "run.toml", "--device", "cpu", "--resume"])
            .args(["--out", self.name])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Puts the identity of today's configuration into the ledger.
    ///
    /// The earlier version computed the classes from the images and published them, so its
    /// configuration, and therefore its identity, does not declare them. Such a run is refused. To
    /// test the formats of its other files, the ledger is changed as if it had declared them.
    fn declare_classes(&self, arguments: &[&str]) {
        let refused = self.command(arguments);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        let text = String::from_utf8(refused.stderr).unwrap();
        let digests: Vec<&str> = text
            .split('"')
            .filter(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()))
            .collect();
        let [before, now] = digests[..] else {
            panic!("{text}");
        };
        let path = self.folder().join("ledger.jsonl");
        let ledger = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("config_sha256") && ledger.contains(before),
            "{text}"
        );
        fs::write(path, ledger.replace(before, now)).unwrap();
    }

    fn resume(&self, arguments: &[&str]) {
        self.declare_classes(arguments);
        let output = self.command(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(!self.folder().join(".work").exists());
    }

    /// Compares populations and histograms with those of the earlier version.
    fn check(&self) {
        let samples = self.expected["samples"].as_array().unwrap();
        for (iteration, expected) in samples.iter().enumerate() {
            let path = self.folder().join(format!("{iteration}/samples.npz"));
            let digest = Sha256::digest(sample_bytes(&path));
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&hex, expected, "population {iteration}");
        }
        let histograms = self.expected["lattice"].as_array().unwrap();
        for (iteration, expected) in (1u32..).zip(histograms) {
            let expected: Vec<i64> = serde_json::from_value(expected.clone()).unwrap();
            let found = lattice(&self.folder(), iteration);
            assert_eq!(found, Some(expected), "iteration {iteration}");
        }
    }
}

#[test]
fn a_lookahead_of_an_earlier_version_is_finished() {
    let run = InterruptedRun::new("lookahead");
    let shards = run.folder().join(".work/3/lookahead");
    assert!(shards.join("6-9.partial").exists() && !shards.join("6-9.mean").exists());
    run.resume(&["--non-private", "--set", "privacy.noise_multiplier=0"]);
    run.check();
}

#[test]
fn a_population_of_an_earlier_version_is_finished_and_no_histogram_changes() {
    let run = InterruptedRun::new("offspring");
    assert!(run.folder().join(".work/2/vary/0-3.u8").exists());
    assert!(!run.folder().join("2/samples.npz").exists());
    run.resume(&[]);
    run.check();
    assert!(lattice(&run.folder(), 4).is_some());
}
