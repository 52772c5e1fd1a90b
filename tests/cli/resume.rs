//! A run that version 1 of the ledger recorded cannot be continued, and nothing of it is lost.
//!
//! `tests/data/resume/README.md` says where the folder comes from.

use std::fs;
use std::path::Path;

use crate::support::{RunFixture, copy_folder, released};

#[test]
fn a_run_of_an_earlier_version_is_refused_and_its_charges_are_carried_on() {
    let fixture = RunFixture::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resume/offspring");
    copy_folder(&old, &fixture.path("out"));
    // Version control keeps no modes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(fixture.path("out/private"), closed).unwrap();
    }
    let before = released(&fixture.path("out"));
    let text = fixture.fail(5, &["--resume"]);
    assert!(text.contains("an earlier version of dpsyn"), "{text}");
    assert!(text.contains("evolution.initial_samples"), "{text}");
    let unchanged = |(path, bytes): &(std::path::PathBuf, Vec<u8>)| {
        fs::read(path).is_ok_and(|now| now == *bytes)
    };
    assert!(before.iter().all(unchanged));

    // Two releases of the earlier run, and those of the new one.
    let start = "evolution.initial_samples=out/1/samples.npz";
    fixture.succeed(&["--set", start, "--out", "new"]);
    let statement = fs::read_to_string(fixture.path("new/privacy.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_str(&statement).unwrap();
    assert_eq!(statement["earlier_runs"][0]["releases"], 2);
    assert_eq!(statement["earlier_runs"][0]["noise_multiplier"], 1.5);
}
