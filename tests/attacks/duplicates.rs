//! Copies of an image: with `data.duplicates = "once"`, they have no influence on the votes.

use super::compare::{MARK, marked};
use crate::support::{NOISELESS, RunFixture, lattice};

/// Copies the first cat as `name`.
fn copy_cat(fixture: &RunFixture, name: &str) {
    let data = fixture.path("data/nested");
    std::fs::copy(data.join("cat_00.png"), data.join(name)).unwrap();
}

/// Returns the exact histogram of the first vote, in votes, and the lines for the owner.
fn votes(fixture: &RunFixture, out: &str, duplicates: &str) -> (Vec<i64>, String) {
    let duplicates = format!("data.duplicates={duplicates}");
    let set = ["--out", out, "--set", &duplicates];
    let output = fixture.run(&[&set[..], &NOISELESS].concat());
    assert!(output.status.success(), "{output:?}");
    let votes = lattice(&fixture.path(out), 1).unwrap();
    let votes = votes.into_iter().map(|count| count >> 20).collect();
    (votes, marked(&output))
}

#[test]
fn a_copy_counts_once_if_so_configured() {
    let (one, more) = (RunFixture::new(), RunFixture::new());
    copy_cat(&more, "cat_90.png");
    let (before, _) = votes(&one, "once", "once");
    let (after, notes) = votes(&more, "once", "once");
    assert_eq!(before.iter().sum::<i64>(), 24);
    assert_eq!(before, after);
    assert!(
        notes.contains("copies of images: 1, not counted"),
        "{notes}"
    );
    // By default, a copy is an image, and its owner learns of it.
    let (before, notes) = votes(&one, "keep", "keep");
    assert_eq!(notes, "");
    let (after, notes) = votes(&more, "keep", "keep");
    assert_eq!(after.iter().sum::<i64>(), 25);
    let difference: i64 = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).sum();
    assert_eq!(difference, 1);
    assert!(notes.contains("copies of images: 1, counted"), "{notes}");
    assert!(notes.contains("there are 25 private images"), "{notes}");
    assert!(notes.lines().all(|line| line.starts_with(MARK)), "{notes}");
}

#[cfg(unix)]
#[test]
fn a_hard_link_is_a_copy() {
    let fixture = RunFixture::new();
    let data = fixture.path("data/nested");
    std::fs::hard_link(data.join("cat_00.png"), data.join("cat_91.png")).unwrap();
    let (_, notes) = votes(&fixture, "out", "keep");
    assert!(notes.contains("copies of images: 1, counted"), "{notes}");
}

/// The same picture in two classes is two images: if it counted once, the removal of the first
/// would move its vote to the other class.
#[test]
fn equal_pictures_of_two_classes_both_count() {
    let (both, one) = (RunFixture::new(), RunFixture::new());
    copy_cat(&both, "dog_90.png");
    copy_cat(&one, "dog_90.png");
    std::fs::remove_file(one.path("data/nested/cat_00.png")).unwrap();
    let (before, notes) = votes(&both, "out", "once");
    assert!(!notes.contains("copies"), "{notes}");
    let (after, _) = votes(&one, "out", "once");
    let squares: i64 = before.iter().zip(&after).map(|(a, b)| (a - b).pow(2)).sum();
    assert_eq!(squares, 1, "one image less changes one bin by one vote");
    assert_eq!(before.iter().sum::<i64>(), 25);
}

/// Copies are found again by a resumed run, whose fingerprint has each image once.
#[test]
fn a_run_resumes_with_other_copies() {
    let fixture = RunFixture::new();
    copy_cat(&fixture, "cat_90.png");
    let once = ["--set", "data.duplicates=once"];
    fixture.succeed(&once);
    std::fs::remove_file(fixture.path("data/nested/cat_90.png")).unwrap();
    fixture.succeed(&[&once[..], &["--resume"]].concat());
    let text = fixture.fail(5, &["--resume"]);
    assert!(text.contains("config_sha256"), "{text}");
}
