//! The whole program on `configs/quickstart.toml`.

use std::process::{Command, Stdio};

use super::Work;

/// A new run in a temporary folder.
pub fn run() -> Work {
    Box::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["run", "configs/quickstart.toml", "--device", "cpu", "--out"])
            .arg(folder.path().join("results"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "the quickstart failed: {status}");
    })
}
