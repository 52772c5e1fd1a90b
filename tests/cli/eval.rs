//! Tests of `dpsyn eval`.

use std::process::{Command, Output};

use dpsyn::internals::images::{ImageBatch, NpzReader, NpzWriter, SamplesWriter};

use crate::support::{CLASSES, PER_CLASS, RunFixture, SIZE, private_image, write_inception};

const MARK: &str = "[private, not for release]";

/// Creates a fixture with `samples.npz` of `count` private images with inverted colors.
fn run_fixture(count: usize) -> RunFixture {
    let fixture = RunFixture::new();
    write_samples(&fixture, "samples.npz", count, |v| 255 - v);
    fixture
}

fn write_samples(fixture: &RunFixture, name: &str, count: usize, change: fn(u8) -> u8) {
    let file = std::fs::File::create(fixture.path(name)).unwrap();
    let mut writer = SamplesWriter::create(file, count, SIZE, SIZE).unwrap();
    for index in 0..count {
        let pixels = private_image(index % CLASSES.len(), index / CLASSES.len() % PER_CLASS);
        let pixels = pixels.into_iter().map(change).collect();
        writer
            .push(&ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap())
            .unwrap();
    }
    writer.finish().unwrap();
}

fn eval(fixture: &RunFixture, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .arg("eval")
        .args(arguments)
        .output()
        .unwrap()
}

fn succeed(fixture: &RunFixture, arguments: &[&str]) -> String {
    let output = eval(fixture, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the value that follows the name of a metric.
fn value(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find(|line| line.contains(&format!(": {name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    let after = line.split(&format!(": {name} ")).nth(1).unwrap();
    let number = after.split([' ', ':']).next().unwrap();
    number.parse().unwrap()
}

#[test]
fn values_are_marked_unless_the_reference_is_declared_public() {
    let fixture = run_fixture(20);
    let pixels = [
        "samples.npz",
        "--against",
        "data",
        "--embedder",
        "pixels",
        "--metrics",
        "fid,precision-recall,kid",
    ];
    let text = succeed(&fixture, &pixels);
    assert_eq!(text.lines().count(), 4, "{text}");
    for line in text.lines() {
        assert!(line.starts_with(MARK), "{line}");
        assert!(
            line.contains("20 samples against 24 images of data; pixels, resolution 8, f32"),
            "{line}"
        );
    }
    assert!(!fixture.path("private").exists());
    let with = |more: &[&str]| succeed(&fixture, &[&pixels[..], more].concat());
    let private = with(&["--out", "results"]);
    assert_eq!(private, text);
    let csv = std::fs::read_to_string(fixture.path("results/private/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(!fixture.path("results/metrics.csv").exists());
    let public = with(&["--out", "open", "--public"]);
    assert_eq!(public, text.replace(&format!("{MARK} "), ""));
    let csv = std::fs::read_to_string(fixture.path("open/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(!fixture.path("open/private").exists());
    // A second evaluation writes the same rows.
    with(&["--out", "open", "--public"]);
    let again = std::fs::read_to_string(fixture.path("open/metrics.csv")).unwrap();
    assert_eq!(again, csv);
}

#[test]
fn statistics_replace_their_images() {
    let fixture = run_fixture(20);
    let pixels = ["samples.npz", "--embedder", "pixels", "--public"];
    let with = |more: &[&str]| succeed(&fixture, &[&pixels[..], more].concat());
    let direct = with(&["--against", "data", "--out", "open"]);
    let folder = std::fs::read_dir(fixture.path("open")).unwrap();
    let kept = folder
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "npz"))
        .unwrap();
    let kept = kept.to_str().unwrap();
    let mut npz = NpzReader::open(std::path::Path::new(kept)).unwrap();
    assert_eq!(npz.i64s("count").unwrap().1, [24]);
    assert_eq!(npz.f64s("sigma").unwrap().0, [192, 192]);
    let of_statistics = with(&["--against", kept]);
    let (a, b) = (value(&direct, "fid"), value(&of_statistics, "fid"));
    assert!((a - b).abs() < 1e-6 * a, "{direct} {of_statistics}");
    assert!(
        of_statistics.contains("against 24 images of"),
        "{of_statistics}"
    );
    // Stored statistics are found: the reference is not embedded again, and the values are the
    // same.
    assert_eq!(with(&["--against", "data", "--out", "open"]), direct);
    let refused = |code: i32, more: &[&str], expected: &str| {
        let output = eval(
            &fixture,
            &[&pixels[..], &["--against", kept], more].concat(),
        );
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    };
    refused(3, &["--resolution", "4"], "`mu` has 192 numbers");
    refused(3, &["--greyscale"], "`mu` has 192 numbers");
    refused(2, &["--metrics", "kid"], "--metrics: `kid` compares images");
}

#[test]
fn statistics_of_other_programs_have_no_origin() {
    let fixture = run_fixture(5);
    let file = std::fs::File::create(fixture.path("stats.npz")).unwrap();
    let mut npz = NpzWriter::new(file);
    npz.f64s("mu", &[3], &[128.0; 3]).unwrap();
    npz.f64s(
        "sigma",
        &[3, 3],
        &[4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 4.0],
    )
    .unwrap();
    npz.finish().unwrap();
    let text = succeed(
        &fixture,
        &[
            "samples.npz",
            "--against",
            "stats.npz",
            "--embedder",
            "pixels",
            "--resolution",
            "1",
        ],
    );
    assert!(
        text.starts_with(MARK) && text.contains("5 samples against stats.npz; pixels"),
        "{text}"
    );
}

#[test]
fn inception_separates_sets_and_scores_if_its_weights_have_a_classifier() {
    let fixture = run_fixture(12);
    write_inception(&fixture.path("inception.safetensors"), Some(7));
    write_samples(&fixture, "same.npz", 24, |v| v);
    let with = |samples: &str, more: &[&str]| {
        let arguments = ["--against", "data", "--weights", "inception.safetensors"];
        succeed(&fixture, &[&[samples][..], &arguments, more].concat())
    };
    let far = with("samples.npz", &["--metrics", "fid,inception-score"]);
    assert!(far.contains("inception (weights "), "{far}");
    let score = value(&far, "inception-score");
    assert!((1.0..=7.0).contains(&score), "{far}");
    let near = with("same.npz", &[]);
    // The same 24 images in another order.
    assert!(
        value(&near, "fid").abs() < 1e-3 * value(&far, "fid"),
        "{near} {far}"
    );
    write_inception(&fixture.path("bare.safetensors"), None);
    let output = eval(
        &fixture,
        &[
            "samples.npz",
            "--against",
            "data",
            "--weights",
            "bare.safetensors",
            "--metrics",
            "inception-score",
        ],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains("fc.weight") && text.contains("bare.safetensors"),
        "{text}"
    );
}

#[test]
fn invalid_input_is_refused_with_its_exit_code() {
    let fixture = run_fixture(4);
    let refused = |code: i32, arguments: &[&str], expected: &str| {
        let output = eval(&fixture, &[arguments, &["--out", "left"]].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
        assert!(!fixture.path("left").exists(), "{arguments:?}");
    };
    let data = ["samples.npz", "--against", "data"];
    let with = |more: &[&'static str]| [&data[..], more].concat();
    refused(2, &data, "--weights");
    refused(
        2,
        &with(&["--embedder", "pixle"]),
        "inception, clip, dinov2, pixels",
    );
    refused(
        2,
        &with(&["--embedder", "pixels", "--weights", "x"]),
        "--weights",
    );
    refused(
        2,
        &with(&["--embedder", "pixels", "--metrics", "fd"]),
        "precision-recall",
    );
    refused(
        2,
        &with(&["--embedder", "pixels", "--metrics", "fid,fid"]),
        "listed twice",
    );
    refused(
        2,
        &with(&["--embedder", "pixels", "--metrics", "inception-score"]),
        "classifier",
    );
    refused(
        2,
        &with(&[
            "--embedder",
            "pixels",
            "--metrics",
            "precision-recall",
            "--nearest-neighbors",
            "4",
        ]),
        "--nearest-neighbors: `precision-recall` needs at least 5 samples, not 4",
    );
    refused(
        2,
        &with(&["--embedder", "pixels", "--resolution", "0"]),
        "size",
    );
    refused(4, &with(&["--weights", "nowhere.pth"]), "nowhere.pth");
    refused(4, &with(&["--weights", "run.toml"]), "run.toml");
    refused(
        3,
        &["nowhere.npz", "--against", "data", "--embedder", "pixels"],
        "nowhere.npz",
    );
    refused(
        3,
        &["run.toml", "--against", "data", "--embedder", "pixels"],
        "run.toml",
    );
    refused(
        3,
        &[
            "samples.npz",
            "--against",
            "nowhere",
            "--embedder",
            "pixels",
        ],
        "nowhere",
    );
    #[cfg(not(feature = "cuda"))]
    refused(
        7,
        &with(&["--embedder", "pixels", "--device", "cuda:9"]),
        "CUDA",
    );
}

/// Writes labeled images: `labels[i]` is the class of image `i`, a private image after `change`.
fn write_labeled(fixture: &RunFixture, name: &str, labels: &[i64], change: fn(u8) -> u8) {
    let path = fixture.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SamplesWriter::create(file, labels.len(), SIZE, SIZE).unwrap();
    for (index, label) in labels.iter().enumerate() {
        let pixels = private_image(*label as usize % CLASSES.len(), index % PER_CLASS);
        let pixels = pixels.into_iter().map(change).collect();
        writer
            .push(&ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap())
            .unwrap();
    }
    writer.i64s("labels", labels).unwrap();
    writer.finish().unwrap();
}

/// Returns the labels of two alternating classes.
fn alternating(count: i64) -> Vec<i64> {
    (0..count).map(|index| index % 2).collect()
}

/// Returns the names of the files in a folder.
fn names(fixture: &RunFixture, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fixture.path(folder)).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn copies_of_private_images_are_detected_and_drawn_in_the_private_folder() {
    let fixture = run_fixture(20);
    write_samples(&fixture, "same.npz", 20, |v| v);
    let with = |samples: &str, more: &[&str]| {
        let arguments = ["--against", "data", "--embedder", "pixels"];
        let arguments = [&[samples][..], &arguments, &["--metrics", "memorisation"]].concat();
        let output = eval(&fixture, &[&arguments[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (copies, log) = with("same.npz", &["--out", "results"]);
    assert_eq!(copies.lines().count(), 5, "{copies}");
    assert!(
        copies.lines().all(|line| line.starts_with(MARK)),
        "{copies}"
    );
    assert_eq!(value(&copies, "identical"), 1.0);
    assert_eq!(value(&copies, "distance-to-reference"), 0.0);
    let number = copies.split("distance-within-reference ").nth(1).unwrap();
    let number = number.split(':').next().unwrap();
    assert!(!log.contains(number), "{log}");
    assert_eq!(names(&fixture, "results"), [".evaluation.lock", "private"]);
    let private = names(&fixture, "results/private");
    let pictures: Vec<&String> = private.iter().filter(|n| n.ends_with(".png")).collect();
    assert_eq!(pictures.len(), 1, "{private:?}");
    assert!(log.contains(pictures[0].as_str()), "{log}");
    let picture = std::fs::read(fixture.path("results/private").join(pictures[0])).unwrap();
    let picture = dpsyn::internals::images::decode(&picture, &Default::default())
        .unwrap()
        .image;
    // Ten rows of two, each image with a border of 2.
    let step = SIZE + 2;
    assert_eq!(
        (picture.height, picture.width),
        (2 + 10 * step, 2 + 2 * step)
    );
    for row in 0..10 * step {
        let line = &picture.pixels[row * picture.width * 3..][..picture.width * 3];
        assert_eq!(
            line[6..6 + 3 * SIZE],
            line[6 + 3 * step..][..3 * SIZE],
            "{row}"
        );
    }
    let (others, log) = with("samples.npz", &[]);
    assert_eq!(value(&others, "identical"), 0.0);
    assert!(value(&others, "distance-to-reference") > 100.0, "{others}");
    assert!(!log.contains("closest pairs"), "{log}");
    let (public, _) = with("same.npz", &["--public", "--out", "open"]);
    assert_eq!(public, copies.replace(&format!("{MARK} "), ""));
    let open = names(&fixture, "open");
    assert!(open.iter().any(|n| n.ends_with(".png")), "{open:?}");
    assert!(!open.contains(&"private".to_owned()), "{open:?}");
}

#[test]
fn classifiers_are_trained_on_labeled_samples_alone() {
    let fixture = run_fixture(4);
    write_labeled(&fixture, "labeled.npz", &alternating(48), |v| v);
    let test = [
        "--against",
        "data",
        "--embedder",
        "pixels",
        "--metrics",
        "downstream",
    ];
    let with =
        |samples: &str, more: &[&str]| succeed(&fixture, &[&[samples][..], &test, more].concat());
    let good = with("labeled.npz", &["--out", "results"]);
    assert_eq!(good.lines().count(), 1);
    assert!(good.starts_with(MARK), "{good}");
    assert!(
        good.contains("48 samples against 24 images of data; pixels, resolution 8, f32; logistic"),
        "{good}"
    );
    assert!(value(&good, "downstream-accuracy") > 0.9, "{good}");
    assert_eq!(names(&fixture, "results"), [".evaluation.lock", "private"]);
    let csv = std::fs::read_to_string(fixture.path("results/private/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    let public = with("labeled.npz", &["--public"]);
    assert_eq!(public, good.replace(&format!("{MARK} "), ""));
    // A run with its classes in another order: the same labels mean the other classes.
    write_labeled(&fixture, "run/3/samples.npz", &alternating(48), |v| v);
    let statement = r#"{"declared_public": {"class_names": ["dog", "cat"]}}"#;
    std::fs::write(fixture.path("run/privacy.json"), statement).unwrap();
    let wrong = with("run/3/samples.npz", &["--public"]);
    assert!(value(&wrong, "downstream-accuracy") < 0.1, "{wrong}");
    // Another metric needs no labels, and has the same value as alone.
    let both = with("labeled.npz", &["--metrics", "kid"]);
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn a_network_is_trained_for_each_seed() {
    let fixture = run_fixture(4);
    write_labeled(&fixture, "labeled.npz", &alternating(12), |v| v);
    let with = |more: &[&str]| {
        let samples = ["labeled.npz", "--against", "data", "--embedder", "pixels"];
        let network = ["--metrics", "downstream", "--classifier", "cnn"];
        succeed(&fixture, &[&samples[..], &network, more].concat())
    };
    let text = with(&["--seeds", "2"]);
    assert!(text.starts_with(MARK), "{text}");
    assert!(
        text.contains("cnn on pixels; mean of 2 seeds; standard deviation"),
        "{text}"
    );
    let text = with(&["--seeds", "1", "--public"]);
    assert!(!text.contains(MARK), "{text}");
    assert!(text.contains("cnn on pixels; 1 seed"), "{text}");
    assert!((0.0..=1.0).contains(&value(&text, "downstream-accuracy")));
}

#[test]
fn sets_that_cannot_be_trained_on_or_tested_are_refused() {
    let fixture = run_fixture(4);
    write_labeled(&fixture, "labeled.npz", &alternating(8), |v| v);
    write_labeled(&fixture, "three.npz", &[0, 1, 2, 0], |v| v);
    write_labeled(&fixture, "one.npz", &[0, 0, 0], |v| v);
    write_labeled(&fixture, "run/3/samples.npz", &alternating(8), |v| v);
    let statement = r#"{"declared_public": {"class_names": ["cow", "dog"]}}"#;
    std::fs::write(fixture.path("run/privacy.json"), statement).unwrap();
    let refused = |code: i32, arguments: &[&str], expected: &str| {
        let pixels = ["--embedder", "pixels", "--out", "left"];
        let output = eval(&fixture, &[arguments, &pixels].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!fixture.path("left").exists(), "{arguments:?}");
    };
    let downstream = |samples: &'static str, against: &'static str, more: &[&'static str]| {
        let these = [samples, "--against", against, "--metrics", "downstream"];
        [&these[..], more].concat()
    };
    let case = |code, samples, against, more: &[&'static str], expected| {
        refused(code, &downstream(samples, against, more), expected);
    };
    case(3, "samples.npz", "data", &[], "labels");
    case(3, "labeled.npz", "samples.npz", &[], "labels");
    case(3, "three.npz", "data", &[], "label 2: expected 0 to 1");
    case(3, "one.npz", "data", &[], "1 different labels");
    case(3, "labeled.npz", "three.npz", &[], "3 classes [0, 1, 2]");
    case(3, "labeled.npz", "one.npz", &[], "at least 2");
    case(
        3,
        "run/3/samples.npz",
        "data",
        &[],
        "[cow, dog], the test set's [cat, dog]",
    );
    case(2, "labeled.npz", "data", &["--seeds", "2"], "omit it");
    case(
        2,
        "labeled.npz",
        "data",
        &["--classifier", "svm"],
        "logistic, cnn or nearest-neighbor",
    );
    case(
        2,
        "labeled.npz",
        "data",
        &["--classifier", "cnn", "--resolution", "4"],
        "cannot be tested on images of",
    );
    refused(
        2,
        &["labeled.npz", "--against", "data", "--seeds", "2"],
        "needs --metrics downstream",
    );
    let stats = std::fs::File::create(fixture.path("stats.npz")).unwrap();
    let mut npz = NpzWriter::new(stats);
    npz.f64s("mu", &[192], &[1.0; 192]).unwrap();
    let mut sigma = vec![0.0; 192 * 192];
    (0..192).for_each(|i| sigma[i * 193] = 1.0);
    npz.f64s("sigma", &[192, 192], &sigma).unwrap();
    npz.finish().unwrap();
    case(
        2,
        "labeled.npz",
        "stats.npz",
        &[],
        "`downstream` compares images",
    );
    refused(
        2,
        &[
            "labeled.npz",
            "--against",
            "stats.npz",
            "--metrics",
            "memorisation",
        ],
        "`memorisation` compares images",
    );
}

#[test]
fn clip_is_a_feature_space() {
    let fixture = run_fixture(12);
    crate::support::write_clip(&fixture.path("clip.safetensors"));
    let arguments = ["samples.npz", "--against", "data", "--embedder", "clip"];
    let weights = ["--weights", "clip.safetensors", "--metrics", "memorisation"];
    let text = succeed(&fixture, &[&arguments[..], &weights].concat());
    assert!(text.contains("clip (weights "), "{text}");
    assert_eq!(value(&text, "identical"), 0.0);
    let output = eval(&fixture, &arguments);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("`clip` needs its weights"), "{text}");
}

#[test]
fn dinov2_is_a_space_of_the_frechet_distance() {
    let fixture = run_fixture(12);
    crate::support::write_dinov2(&fixture.path("dinov2.safetensors"), 0);
    let arguments = ["samples.npz", "--against", "data", "--embedder", "dinov2"];
    let weights = ["--weights", "dinov2.safetensors"];
    let text = succeed(&fixture, &[&arguments[..], &weights].concat());
    assert!(text.contains("dinov2 (weights "), "{text}");
    assert!(value(&text, "fid") > 0.0, "{text}");
    let output = eval(&fixture, &arguments);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("`dinov2` needs its weights"), "{text}");
}
