//! Pairs of data sets that differ in one image, or in what is no image at all: names, times and
//! rights of files. Everything that is published is the same, up to the noise.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use dpsyn::internals::images::{ImageBatch, png};

use super::compare::{
    MARK, assert_indistinguishable, assert_same_output, assert_same_published, fixed_lines, marked,
    published, unmarked,
};
use super::data_sets::{fixture, zeros};
use crate::support::{RunFixture, SIZE, private_image};

/// Everything that a run can write: pictures of all samples, and metrics of the private images.
const EVERYTHING: [&str; 4] = [
    "--set",
    "output.plot_images=true",
    "--set",
    "evaluation.metrics=[\"fid\", \"precision-recall\", \"kid\", \"memorization\"]",
];

/// Writes a picture of one color, `[side, side, 3]`.
fn write_plain(path: &Path, side: usize, level: u8) {
    let image = ImageBatch::new(vec![level; side * side * 3], 1, side, side).unwrap();
    fs::write(path, png(&image).unwrap()).unwrap();
}

/// Compares two data sets under both adjacencies, also what a finished run prints when it is
/// resumed.
fn assert_same_under_both(one: &RunFixture, other: &RunFixture, more: &[&str]) -> Vec<[Output; 2]> {
    let compare = |adjacency: &str| {
        for fixture in [one, other] {
            // Of an earlier comparison; `--fresh` would carry its charges.
            let _ = fs::remove_dir_all(fixture.path("out"));
        }
        let adjacency = format!("privacy.adjacency={adjacency}");
        let set = [more, &["--set", &adjacency]].concat();
        let outputs = assert_indistinguishable(one, other, &set);
        let again = [more, &["--resume", "--set", &adjacency]].concat();
        assert_same_output(&one.run(&again), &other.run(&again));
        assert_same_published(&one.path("out"), &other.path("out"));
        outputs
    };
    ["add-remove", "replace-one"].map(compare).into()
}

#[test]
fn an_image_more_and_another_image_are_not_visible() {
    let (one, more, replaced) = (RunFixture::new(), RunFixture::new(), RunFixture::new());
    write_plain(&more.path("data/nested/cat_90.png"), SIZE, 255);
    write_plain(&replaced.path("data/nested/cat_03.png"), SIZE, 0);
    for other in [&more, &replaced] {
        for outputs in assert_same_under_both(&one, other, &EVERYTHING) {
            // The owner sees metrics, which differ.
            assert_ne!(marked(&outputs[0]), marked(&outputs[1]));
            assert!(marked(&outputs[0]).contains("fid"), "{outputs:?}");
        }
    }
}

/// With and without the only image of a class, and with that image in another class.
#[test]
fn the_only_image_of_a_class_is_not_visible() {
    let with = fixture(&[zeros(20), vec!["9_20.png".to_owned()]].concat());
    let without = fixture(&zeros(20));
    let moved = fixture(&zeros(21));
    assert_same_under_both(&with, &without, &[]);
    assert_same_under_both(&with, &moved, &[]);
}

/// A file that is not an image comes to the data set, or an image is damaged.
#[test]
fn a_damaged_file_is_not_visible_when_it_is_skipped() {
    let (one, more, damaged) = (RunFixture::new(), RunFixture::new(), RunFixture::new());
    fs::write(more.path("data/nested/cat_90.png"), "no image").unwrap();
    let path = damaged.path("data/nested/dog_05.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let skip = ["--set", "data.on_bad_image=skip"];
    for other in [&more, &damaged] {
        for outputs in assert_same_under_both(&one, other, &skip) {
            assert!(marked(&outputs[1]).contains("skipped"), "{outputs:?}");
        }
    }
}

/// Without `skip`, the run ends before anything is written. Its exit code says that a file is
/// damaged; only marked lines say which.
#[test]
fn a_damaged_file_ends_the_run_and_only_the_owner_learns_its_name() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    let broken = |fixture: &RunFixture, name: &str| {
        fs::write(fixture.path("data/nested").join(name), "no image").unwrap();
        let output = fixture.run(&[]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(marked(&output).contains(name), "{output:?}");
        assert!(!unmarked(&output).contains(name), "{output:?}");
        assert!(!fixture.path("out").exists());
        output
    };
    assert_same_output(
        &broken(&one, "cat_90.png"),
        &broken(&other, "dog_123456.jpg"),
    );
}

#[test]
fn an_image_of_an_undeclared_class_is_not_visible_when_it_is_left_out() {
    let (one, more, replaced) = (RunFixture::new(), RunFixture::new(), RunFixture::new());
    write_plain(&more.path("data/nested/horse_90.png"), SIZE, 255);
    fs::rename(
        replaced.path("data/nested/dog_05.png"),
        replaced.path("data/nested/zebra_05.png"),
    )
    .unwrap();
    let leave_out = ["--set", "data.undeclared_class=leave-out"];
    for other in [&more, &replaced] {
        for outputs in assert_same_under_both(&one, other, &leave_out) {
            assert!(marked(&outputs[1]).contains("not declared"), "{outputs:?}");
        }
    }
}

/// The same pictures under numbers of patients, in other folders and in another order.
#[test]
fn names_and_folders_of_files_are_not_visible() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    let data = other.path("data/nested");
    let names: Vec<_> = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in names {
        let (class, rest) = name.split_once('_').unwrap();
        let number: usize = rest.trim_end_matches(".png").parse().unwrap();
        let ward = other.path(&format!("data/ward{}", number % 3));
        fs::create_dir_all(&ward).unwrap();
        let patient = format!("{class}_MRN{:05}_scan.PNG", 99_000 - 77 * number);
        fs::rename(data.join(&name), ward.join(patient)).unwrap();
    }
    fs::remove_dir(&data).unwrap();
    assert_same_under_both(&one, &other, &EVERYTHING);
    let output = other.run(&["--fresh"]);
    let mut places = published(&other.path("out"));
    places.insert("standard output".to_owned(), output.stdout.clone());
    places.insert("standard error".to_owned(), unmarked(&output).into_bytes());
    for (name, bytes) in &places {
        let text = String::from_utf8_lossy(bytes);
        for secret in ["MRN", "ward"] {
            assert!(!text.contains(secret) && !name.contains(secret), "{name}");
        }
    }
}

#[test]
fn times_and_rights_of_private_files_are_not_visible() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    for (index, entry) in fs::read_dir(other.path("data/nested")).unwrap().enumerate() {
        let path = entry.unwrap().path();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 400 * index as u64);
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o400 | (index as u32 & 0o77));
            fs::set_permissions(&path, mode).unwrap();
        }
    }
    assert_same_under_both(&one, &other, &EVERYTHING);
}

/// Decoding the picture takes longer than the rest of the run.
#[test]
fn a_very_large_image_is_not_visible() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    write_plain(&other.path("data/nested/cat_03.png"), 4000, 128);
    assert_same_under_both(&one, &other, &[]);
}

/// Messages as JSON have no times either, which depend on the private images.
#[test]
fn messages_as_json_are_the_same() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    write_plain(&other.path("data/nested/cat_90.png"), SIZE, 255);
    let messages = |fixture: &RunFixture| {
        let output = fixture.run(&[&["--log-format", "json"], &EVERYTHING[..]].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let mut messages = Vec::new();
        for line in text.lines() {
            let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
            let shown = fixed_lines(event["message"].as_str().unwrap());
            if !line.contains(MARK) && !shown.is_empty() {
                event["message"] = shown.join("\n").into();
                messages.push(event.to_string());
            }
        }
        assert!(messages.len() > 5, "{text}");
        messages
    };
    assert_eq!(messages(&one), messages(&other));
    assert_same_published(&one.path("out"), &other.path("out"));
}

/// Metrics of a private reference beside the run's images: the reference may be any images.
#[test]
fn a_private_reference_is_not_visible() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    for (fixture, count) in [(&one, 5), (&other, 6)] {
        fs::create_dir(fixture.path("reference")).unwrap();
        for index in 0..count {
            let image = ImageBatch::new(private_image(0, 40 + index), 1, SIZE, SIZE).unwrap();
            let name = format!("reference/cat_{index}.png");
            fs::write(fixture.path(&name), png(&image).unwrap()).unwrap();
        }
    }
    let reference = ["--set", "evaluation.reference=reference"];
    assert_indistinguishable(&one, &other, &[&EVERYTHING[..], &reference].concat());
}
