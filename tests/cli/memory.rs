//! Peak memory of a run.

use std::process::Stdio;
use std::time::Duration;

use crate::support::RunFixture;

/// Returns `VmHWM` (the peak so far) and `VmRSS` of this process in megabytes.
pub fn of_this_process() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        let kilobytes: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        kilobytes / 1000
    };
    (of("VmHWM:"), of("VmRSS:"))
}

/// Returns the peak resident memory of a run in kilobytes, as the kernel counts it.
fn peak(fixture: &RunFixture, arguments: &[&str]) -> u64 {
    let mut child = fixture
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kilobytes) = line.and_then(|l| l.split_whitespace().next()) {
            // The last figure is the peak. The first one may be that of this process, whose memory
            // the child shares until its program is loaded.
            peak = kilobytes.parse().unwrap();
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the peaks with lookahead degree 1 and 8.
fn peaks(num_samples: u32) -> (u64, u64) {
    let run = |degree: u32, folder: &str| {
        let (samples, degree) = (
            format!("evolution.num_samples={num_samples}"),
            format!("evolution.lookahead_degree={degree}"),
        );
        let fixture = RunFixture::new();
        let common = [
            "--set",
            "model.batch_size=100",
            "--set",
            "evolution.variation_degree=[0, 2]",
        ];
        let set = ["--set", &samples, "--set", &degree, "--out", folder];
        peak(&fixture, &[&common[..], &set].concat())
    };
    (run(1, "one"), run(8, "eight"))
}

fn check(num_samples: u32) {
    let (one, eight) = peaks(num_samples);
    println!("{num_samples} samples: peak {one} kB with lookahead degree 1, {eight} kB with 8");
    // If the embeddings of all 8 variations were kept, each sample would take 8 × 192 numbers.
    let kept = u64::from(num_samples) * 7 * 192 * 4 / 1000;
    assert!(eight < one + kept / 2, "{one} kB, then {eight} kB");
}

#[test]
fn memory_does_not_grow_with_the_lookahead_degree() {
    check(2_000);
}

#[test]
#[ignore = "minutes: the figures for 20,000 samples"]
fn memory_does_not_grow_with_the_lookahead_degree_of_20_000_samples() {
    check(20_000);
}
