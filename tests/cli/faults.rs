//! Faults of the machine: the promises of `docs/reliability.md`.
//!
//! After every fault the program ends with a documented code, nothing is lost or charged twice, and
//! `--resume` leads to what an undisturbed run gives.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::{RunFixture, released, wait_for};

const DATA: i32 = 3;
const PRIVACY: i32 = 5;
const OUTPUT: i32 = 6;
const COMPUTE: i32 = 8;

/// A run without noise, so that two runs are equal.
const WITHOUT_NOISE: [&str; 3] = ["--non-private", "--set", "privacy.noise_multiplier=0"];
/// Population 0 takes long enough for a test to interfere.
const SLOW: [&str; 4] = [
    "--set",
    "model.batch_size=1",
    "--set",
    "evolution.num_samples=200",
];

/// Says, past the capture of test output, that this machine cannot run a test.
fn not_checked(test: &str, reason: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "NOT CHECKED on this machine: {test}: {reason}"
    );
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn start(fixture: &RunFixture, arguments: &[&str]) -> Child {
    let mut command = fixture.command(arguments);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child, code: i32) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    text(&output)
}

/// The charged iterations, in order.
fn charges(folder: &Path) -> Vec<u64> {
    let ledger = fs::read_to_string(folder.join("ledger.jsonl")).unwrap_or_default();
    let lines = ledger
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let charges = lines.filter(|line| line["record"] == "charge");
    charges
        .map(|line| line["iteration"].as_u64().unwrap())
        .collect()
}

/// Everything that a run released, without the files that contain its random id or its
/// interruptions.
fn results(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = released(folder).into_iter();
    files
        .map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes))
        .filter(|(path, _)| {
            let name = path.to_str().unwrap();
            !["ledger.jsonl", "privacy.json", "log.txt"].contains(&name)
        })
        .collect()
}

fn undisturbed() -> Vec<(PathBuf, Vec<u8>)> {
    let fixture = RunFixture::new();
    fixture.succeed(&WITHOUT_NOISE);
    let results = results(&fixture.path("out"));
    assert!(results.len() > 15, "{}", results.len());
    results
}

/// Resumes a run without noise, or starts it if it left nothing, and compares it with an
/// undisturbed one.
fn assert_recovers(fixture: &RunFixture, expected: &[(PathBuf, Vec<u8>)]) {
    let out = fixture.path("out");
    let begun = fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some());
    let resume: &[&str] = if begun { &["--resume"] } else { &[] };
    fixture.succeed(&[&WITHOUT_NOISE[..], resume].concat());
    assert_eq!(charges(&out), [1, 2, 3]);
    assert!(results(&out) == expected, "the results are others");
}

/// No file may become larger than a limit: one after the other, every kind of file of a run is the
/// first that cannot be written. Needs no privilege.
#[cfg(unix)]
#[test]
fn a_write_that_fails_is_reported_and_nothing_is_lost() {
    let expected = undisturbed();
    let mut faults = std::collections::BTreeSet::new();
    let mut succeeded = false;
    // In units of 512 bytes (`sh`), or of 1024 in some shells.
    for blocks in [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 36, 200] {
        let fixture = RunFixture::new();
        let run = fixture.command(&WITHOUT_NOISE);
        // An ignored signal stays ignored: the write then fails with EFBIG.
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let output = Command::new("sh")
            .current_dir(fixture.root.path())
            .args(["-c", &limited])
            .arg(run.get_program())
            .args(run.get_args())
            .output()
            .unwrap();
        succeeded = output.status.success();
        if !succeeded {
            let text = text(&output);
            assert_eq!(
                output.status.code(),
                Some(OUTPUT),
                "{blocks} blocks: {text}"
            );
            let error = text.lines().find(|line| line.starts_with("error: "));
            let error = error.unwrap_or_else(|| panic!("{blocks} blocks: {text}"));
            assert!(error.contains("too large"), "{blocks} blocks: {text}");
            faults.insert(error.replace(char::is_numeric, "#"));
        }
        assert_recovers(&fixture, &expected);
    }
    assert!(succeeded, "no limit was large enough");
    assert!(
        faults.len() >= 4,
        "too few kinds of files failed: {faults:?}"
    );
}

/// A file system of its own, which needs root.
#[cfg(target_os = "linux")]
struct SmallDisk(PathBuf);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// Mounts one of `kilobytes` at `path`; `None` where that is not permitted.
    fn mount(path: PathBuf, kilobytes: u32) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(path))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_and_the_run_continues_when_there_is_room() {
    let expected = undisturbed();
    let (mut failed, mut succeeded) = (0, 0);
    for kilobytes in [16, 32, 48, 64, 80, 96, 128, 160, 4096] {
        let fixture = RunFixture::new();
        let Some(disk) = SmallDisk::mount(fixture.path("out"), kilobytes) else {
            not_checked("a full disk (ENOSPC)", "mounting a tmpfs is not permitted");
            return;
        };
        let output = fixture.run(&WITHOUT_NOISE);
        if output.status.success() {
            succeeded += 1;
        } else {
            let text = text(&output);
            assert_eq!(output.status.code(), Some(OUTPUT), "{kilobytes} kB: {text}");
            assert!(text.contains("No space left"), "{kilobytes} kB: {text}");
            failed += 1;
        }
        disk.remount("size=64m");
        assert_recovers(&fixture, &expected);
    }
    assert!(failed >= 3 && succeeded >= 1, "{failed} {succeeded}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_result_folder_is_refused_and_stays_as_it_is() {
    let expected = undisturbed();
    let fixture = RunFixture::new();
    let Some(disk) = SmallDisk::mount(fixture.path("out"), 65_536) else {
        not_checked(
            "a read-only file system",
            "mounting a tmpfs is not permitted",
        );
        return;
    };
    let many = ["--set", "evolution.lookahead_degree=50"];
    let mut child = start(&fixture, &many);
    wait_for(&fixture.path("out/0/grid.png"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = released(&disk.0);
    disk.remount("ro");
    let text = fixture.fail(OUTPUT, &[&many[..], &["--resume"]].concat());
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(released(&disk.0) == before);
    disk.remount("rw");
    fixture.succeed(&[&many[..], &["--resume"]].concat());
    drop(disk);
    fs::remove_dir(fixture.path("out")).unwrap();
    assert_recovers(&fixture, &expected);
}

/// The same by the mode of the folder, where root does not ignore it.
#[cfg(unix)]
#[test]
fn a_folder_without_the_right_to_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = RunFixture::new();
    let folder = fixture.path("closed");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.join("probe"), "").is_ok() {
        not_checked("a folder of mode 0555", "root may write into it");
        return;
    }
    let text = fixture.fail(OUTPUT, &["--out", "closed/out"]);
    assert!(text.contains("closed/out"), "{text}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.succeed(&["--out", "closed/out"]);
}

/// The published log cannot be appended to, at the end of a run and at the start of the next.
#[cfg(target_os = "linux")]
#[test]
fn a_log_on_a_full_device_ends_the_run_without_a_charge() {
    let fixture = RunFixture::new();
    fs::create_dir_all(fixture.path("out/.work")).unwrap();
    std::os::unix::fs::symlink("/dev/full", fixture.path("out/log.txt")).unwrap();
    let text = fixture.fail(OUTPUT, &["--resume"]);
    assert!(
        text.contains("log.txt") && text.contains("No space left"),
        "{text}"
    );
    assert!(charges(&fixture.path("out")).is_empty());
    fs::remove_file(fixture.path("out/log.txt")).unwrap();
    fixture.succeed(&["--resume"]);
    assert_eq!(charges(&fixture.path("out")), [1, 2, 3]);
}

/// A private image changes or vanishes after the check of all images and before they are embedded.
/// A change of one private image, during a run.
type Fault<'a> = &'a dyn Fn(&Path);

#[test]
fn a_private_image_that_changes_during_a_run_ends_it_before_a_charge() {
    let image = "data/nested/cat_03.png";
    let vanish = |path: &Path| fs::remove_file(path).unwrap();
    let change = |path: &Path| {
        fs::copy(path.with_file_name("cat_04.png"), path).unwrap();
    };
    let damage = |path: &Path| fs::write(path, "no image").unwrap();
    let faults: [(Fault, i32, &str); 3] = [
        (&vanish, DATA, "cat_03.png"),
        (&change, PRIVACY, "the private images changed"),
        (&damage, DATA, "cat_03.png"),
    ];
    for (fault, code, expected) in faults {
        let fixture = RunFixture::new();
        let path = fixture.path(image);
        let kept = fs::read(&path).unwrap();
        let mut child = start(&fixture, &SLOW);
        // The images have been checked, and population 0 is being generated, one by one.
        wait_for(&fixture.path("out/config.toml"), &mut child);
        fault(&path);
        let text = end(child, code);
        assert!(text.contains(expected), "{text}");
        assert!(charges(&fixture.path("out")).is_empty(), "{text}");
        fs::write(&path, kept).unwrap();
        fixture.succeed(&[&SLOW[..], &["--resume"]].concat());
        assert_eq!(charges(&fixture.path("out")), [1, 2, 3]);
    }
}

/// Copies a `.safetensors` file with the first number of its last tensor replaced by a NaN.
fn with_nan(from: &Path, to: &Path) {
    let mut bytes = fs::read(from).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(to, bytes).unwrap();
}

#[test]
fn a_nan_of_the_model_or_the_embedder_ends_the_run_before_a_charge() {
    let fixture = RunFixture::new();
    crate::support::write_dinov2(&fixture.path("dinov2.safetensors"), 0);
    with_nan(
        &fixture.path("model.safetensors"),
        &fixture.path("model_nan.safetensors"),
    );
    with_nan(
        &fixture.path("dinov2.safetensors"),
        &fixture.path("dinov2_nan.safetensors"),
    );
    let text = fixture.fail(
        COMPUTE,
        &["--set", "model.checkpoint=model_nan.safetensors"],
    );
    assert!(text.contains("NaN"), "{text}");
    assert!(charges(&fixture.path("out")).is_empty());
    let embedder = |weights: &str| {
        format!(
            "embedder={{type = \"dinov2\", weights = \"{weights}\", resolution = 8, input_size = 28}}"
        )
    };
    // The fixture's section has keys of another type, so the configuration is written anew.
    let config = fs::read_to_string(fixture.path("run.toml")).unwrap();
    let (before, rest) = config.split_once("[embedder]").unwrap();
    let (_, rest) = rest.split_once("[evolution]").unwrap();
    fs::write(
        fixture.path("run.toml"),
        format!("{before}[evolution]{rest}"),
    )
    .unwrap();
    let nan = embedder("dinov2_nan.safetensors");
    let text = fixture.fail(COMPUTE, &["--out", "embedded", "--set", &nan]);
    assert!(text.contains("not finite"), "{text}");
    assert!(charges(&fixture.path("embedded")).is_empty());
    fixture.succeed(&["--out", "finite", "--set", &embedder("dinov2.safetensors")]);
}

#[cfg(unix)]
#[test]
fn sigterm_ends_the_process_and_the_run_continues() {
    use std::os::unix::process::ExitStatusExt;
    let fixture = RunFixture::new();
    let many = [
        &WITHOUT_NOISE[..],
        &["--set", "evolution.lookahead_degree=50"],
    ]
    .concat();
    let mut child = start(&fixture, &many);
    wait_for(&fixture.path("out/0/grid.png"), &mut child);
    let sent = Command::new("kill").arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status}");
    fixture.succeed(&[&many[..], &["--resume"]].concat());
    let control = RunFixture::new();
    control.succeed(&many);
    assert!(results(&fixture.path("out")) == results(&control.path("out")));
}

/// The kernel refuses one call, always: to sync, to rename, to shorten, to set times.
#[cfg(target_os = "linux")]
mod calls {
    use super::*;
    use crate::support::seccomp::{Action, output_without};

    const EIO: u32 = 5;

    #[test]
    fn an_error_of_any_call_that_keeps_files_is_reported_and_nothing_is_lost() {
        let expected = undisturbed();
        for (name, calls) in [
            ("fsync", &[libc::SYS_fsync, libc::SYS_fdatasync][..]),
            ("rename", &[libc::SYS_renameat, libc::SYS_renameat2, RENAME]),
            ("utimensat", &[libc::SYS_utimensat]),
            ("flock", &[libc::SYS_flock]),
        ] {
            let fixture = RunFixture::new();
            let run = |arguments: &[&str]| {
                let command = fixture.command(&[&WITHOUT_NOISE[..], arguments].concat());
                let output = output_without(command, calls, Action::Errno(EIO));
                let text = text(&output);
                assert_eq!(output.status.code(), Some(OUTPUT), "{name}: {text}");
                assert!(text.contains("os error 5"), "{name}: {text}");
            };
            run(&[]);
            assert!(charges(&fixture.path("out")).is_empty(), "{name}");
            // And in the middle of a run.
            let _ = fs::remove_dir_all(fixture.path("out"));
            let mut child = start(&fixture, &WITHOUT_NOISE);
            wait_for(&fixture.path("out/1/votes.npz"), &mut child);
            child.kill().unwrap();
            child.wait().unwrap();
            let votes = fs::read(fixture.path("out/1/votes.npz")).unwrap();
            run(&["--resume"]);
            assert!(fs::read(fixture.path("out/1/votes.npz")).unwrap() == votes);
            assert_recovers(&fixture, &expected);
        }
    }

    /// The call of this name, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    const RENAME: i64 = libc::SYS_rename;
    #[cfg(not(target_arch = "x86_64"))]
    const RENAME: i64 = libc::SYS_renameat;

    /// Runs under `strace`, which makes one chosen call fail; `None` where it is not installed or
    /// may not trace.
    fn traced(fixture: &RunFixture, inject: &[&str], arguments: &[&str]) -> Option<Output> {
        let run = fixture.command(&[&WITHOUT_NOISE[..], arguments].concat());
        let output = Command::new("strace")
            .current_dir(fixture.root.path())
            .args(["-f", "-qq", "-o", "strace.txt"])
            .args(inject)
            .arg(run.get_program())
            .args(run.get_args())
            .output()
            .ok()?;
        let text = text(&output);
        (!text.contains("strace:")).then_some(output)
    }

    /// A disk that fails once, at every stage of a run.
    #[test]
    fn an_error_of_one_sync_is_reported_and_nothing_is_lost() {
        let expected = undisturbed();
        let mut failed = 0;
        for number in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 10_000] {
            let fixture = RunFixture::new();
            let inject = format!("inject=fsync:error=EIO:when={number}");
            let Some(output) = traced(&fixture, &["-e", "trace=fsync", "-e", &inject], &[]) else {
                not_checked("EIO of one sync", "there is no strace that may trace");
                return;
            };
            if !output.status.success() {
                let text = text(&output);
                assert_eq!(output.status.code(), Some(OUTPUT), "sync {number}: {text}");
                assert!(text.contains("os error 5"), "sync {number}: {text}");
                failed += 1;
            }
            assert_recovers(&fixture, &expected);
        }
        assert!((4..11).contains(&failed), "{failed} of 11 runs failed");
    }

    #[test]
    fn an_error_of_reading_a_private_image_names_the_file_before_anything_is_written() {
        let fixture = RunFixture::new();
        let path = fixture.path("data/nested/cat_03.png");
        let path = path.to_str().unwrap();
        let inject = [
            "-P",
            path,
            "-e",
            "trace=read,pread64",
            "-e",
            "inject=read:error=EIO",
        ];
        let Some(output) = traced(&fixture, &inject, &[]) else {
            not_checked(
                "EIO of a private image",
                "there is no strace that may trace",
            );
            return;
        };
        assert_eq!(output.status.code(), Some(DATA), "{}", text(&output));
        assert!(text(&output).contains("cat_03.png"), "{}", text(&output));
        assert!(!fixture.path("out").exists());
    }
}
