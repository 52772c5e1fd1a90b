//! Copies, restored states and misplaced files: none of them yields a second draw for a charge, a
//! foreign histogram under a charge, or a statement that claims less than what lies beside it.

use std::fs;
use std::path::Path;

use crate::support::{RunFixture, copy_folder, lattice, released};

/// Exit code of the privacy core.
const PRIVACY: i32 = 5;

/// Puts a finished run of three iterations back to the state that it had with the first `lines`
/// lines of its ledger: what a snapshot of the folder, restored later, contains.
fn restore(folder: &Path, lines: usize, with_private_copy: bool) {
    let ledger = fs::read_to_string(folder.join("ledger.jsonl")).unwrap();
    let earlier: String = ledger.split_inclusive('\n').take(lines).collect();
    fs::write(folder.join("ledger.jsonl"), &earlier).unwrap();
    if with_private_copy {
        fs::write(folder.join("private/ledger.jsonl"), &earlier).unwrap();
    }
    // Line 1 is the header; an iteration has two lines.
    for iteration in 1..=3 {
        if lines < 1 + 2 * iteration {
            let _ = fs::remove_dir_all(folder.join(iteration.to_string()));
        }
    }
}

fn histograms(folder: &Path) -> Vec<Vec<i64>> {
    (1..=3).map(|i| lattice(folder, i).unwrap()).collect()
}

/// Three draws for one charge used to average the noise away: (6.348 instead of 5.000).
#[test]
fn every_copy_and_every_restored_state_draws_the_same_noise() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let out = fixture.path("out");
    let first = histograms(&out);
    // After the first iteration; charged for the second; recorded for the second.
    for lines in [3, 4, 5] {
        let name = format!("copy{lines}");
        let folder = fixture.path(&name);
        copy_folder(&out, &folder);
        restore(&folder, lines, true);
        fixture.succeed(&["--resume", "--out", &name]);
        assert_eq!(histograms(&folder), first, "{lines} lines");
    }
    // Another run has other noise.
    fixture.succeed(&["--out", "other"]);
    assert_ne!(histograms(&fixture.path("other")), first);
}

#[test]
fn a_ledger_with_fewer_lines_than_were_written_is_refused() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    for lines in 0..7 {
        let name = format!("cut{lines}");
        copy_folder(&fixture.path("out"), &fixture.path(&name));
        restore(&fixture.path(&name), lines, false);
        let text = fixture.fail(PRIVACY, &["--resume", "--out", &name]);
        assert!(text.contains("its copy"), "{text}");
    }
}

#[test]
fn a_histogram_from_elsewhere_is_not_adopted() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let plain = ["--non-private", "--set", "privacy.noise_multiplier=0"];
    fixture.succeed(&[&plain[..], &["--out", "plain"]].concat());
    fixture.succeed(&["--out", "other"]);
    for (source, expected) in [
        ("plain", "not of this private run"),
        ("other", "no record that it was drawn"),
        ("out", "no record that it was drawn"),
    ] {
        let folder = fixture.path("victim");
        copy_folder(&fixture.path("out"), &folder);
        // Charged for iteration 2, and nothing drawn.
        restore(&folder, 4, true);
        fs::create_dir(folder.join("2")).unwrap();
        let votes = fixture.path(source).join("2/votes.npz");
        fs::copy(votes, folder.join("2/votes.npz")).unwrap();
        let text = fixture.fail_with_any(&["--resume", "--out", "victim"]);
        assert!(text.contains(expected), "{source}: {text}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// privacy.json used to say epsilon 0 beside the results of two releases.
#[test]
fn a_statement_never_claims_less_than_what_lies_beside_it() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let out = fixture.path("out");
    let before = released(&out);
    fs::remove_file(out.join("ledger.jsonl")).unwrap();
    fs::remove_dir_all(out.join("private")).unwrap();
    let text = fixture.fail_with_any(&["--resume"]);
    assert!(text.contains("has no charge"), "{text}");
    for (path, bytes) in before {
        if path.file_name().unwrap() != "ledger.jsonl" {
            assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
        }
    }
}

#[test]
fn another_population_cannot_be_voted_on_under_a_charge() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    // Of another seed: by chance, the same noisy votes may select the same images.
    fixture.succeed(&["--out", "other", "--set", "evolution.seed=4"]);
    let folder = fixture.path("out");
    // Charged for iteration 2; its candidates are population 1.
    restore(&folder, 4, true);
    fs::copy(
        fixture.path("other/1/samples.npz"),
        folder.join("1/samples.npz"),
    )
    .unwrap();
    let text = fixture.fail(PRIVACY, &["--resume"]);
    assert!(text.contains("is not the one that was charged"), "{text}");
    assert!(!folder.join("2/votes.npz").exists());
}

/// The same noise in another order costs the same after all iterations, but what was released under
/// more noise would be stated with less: a list is bound to its order, also in an edited ledger.
#[test]
fn a_reordered_noise_schedule_is_refused() {
    let fixture = RunFixture::new();
    let with = |list: &str| format!("privacy.noise_multiplier={list}");
    let (list, reordered) = (with("[6, 3, 1.5]"), with("[1.5, 3, 6]"));
    fixture.succeed(&["--set", &list]);
    let out = fixture.path("out");
    let first = histograms(&out);
    for lines in [1, 2, 3, 4, 5] {
        let name = format!("copy{lines}");
        let folder = fixture.path(&name);
        copy_folder(&out, &folder);
        restore(&folder, lines, true);
        let resume = ["--resume", "--out", &name, "--set"];
        for other in [&reordered, &with("1.5"), &with("[6, 3, 1.6]")] {
            let text = fixture.fail(PRIVACY, &[&resume[..], &[other]].concat());
            assert!(
                text.contains("`noise_multiplier` was [6.0,3.0,1.5]"),
                "{text}"
            );
        }
        // The original order draws the same noise.
        fixture.succeed(&[&resume[..], &[&list]].concat());
        assert_eq!(histograms(&folder), first, "{lines} lines");
    }
    // Edited everywhere: the digest of the configuration, the parameters on the lattice and the
    // charges of the first iterations are still those of the original order.
    let folder = fixture.path("edited");
    copy_folder(&out, &folder);
    restore(&folder, 3, true);
    for name in ["ledger.jsonl", "private/ledger.jsonl"] {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"noise_multiplier\":[6.0,3.0,1.5]"));
        fs::write(&path, text.replacen("[6.0,3.0,1.5]", "[1.5,3.0,6.0]", 1)).unwrap();
    }
    let resume = ["--resume", "--out", "edited", "--set"];
    let text = fixture.fail(PRIVACY, &[&resume[..], &[&reordered]].concat());
    assert!(text.contains("`lattice_sigma` was"), "{text}");
    let text = fixture.fail(PRIVACY, &[&resume[..], &[&list]].concat());
    assert!(
        text.contains("`noise_multiplier` was [1.5,3.0,6.0]"),
        "{text}"
    );
}
