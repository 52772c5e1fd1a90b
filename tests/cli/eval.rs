//! `dpsyn eval`.

use std::process::{Command, Output};

use dpsyn::images::{ImageBatch, NpzReader, NpzWriter, SamplesWriter};

use crate::support::{CLASSES, PER_CLASS, SIZE, World, private_image, write_inception};

const MARK: &str = "[private, not for release]";

/// A world with `samples.npz` of `count` images that are private images with their colours turned.
fn world(count: usize) -> World {
    let world = World::new();
    write_samples(&world, "samples.npz", count, |v| 255 - v);
    world
}

fn write_samples(world: &World, name: &str, count: usize, change: fn(u8) -> u8) {
    let file = std::fs::File::create(world.path(name)).unwrap();
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

fn eval(world: &World, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(world.root.path())
        .arg("eval")
        .args(arguments)
        .output()
        .unwrap()
}

fn succeed(world: &World, arguments: &[&str]) -> String {
    let output = eval(world, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number behind a figure's name.
fn figure(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find(|line| line.contains(&format!(": {name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    let after = line.split(&format!(": {name} ")).nth(1).unwrap();
    let number = after.split([' ', ':']).next().unwrap();
    number.parse().unwrap()
}

#[test]
fn figures_are_marked_unless_the_reference_is_declared_public() {
    let world = world(20);
    let pixels = [
        "samples.npz",
        "--against",
        "data",
        "--embedder",
        "pixels",
        "--metrics",
        "fid,precision-recall,kid",
    ];
    let text = succeed(&world, &pixels);
    assert_eq!(text.lines().count(), 4, "{text}");
    for line in text.lines() {
        assert!(line.starts_with(MARK), "{line}");
        assert!(
            line.contains("20 samples against 24 images of data; pixels, resolution 8, f32"),
            "{line}"
        );
    }
    assert!(!world.path("private").exists());
    let with = |more: &[&str]| succeed(&world, &[&pixels[..], more].concat());
    let private = with(&["--out", "results"]);
    assert_eq!(private, text);
    let csv = std::fs::read_to_string(world.path("results/private/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(!world.path("results/metrics.csv").exists());
    let public = with(&["--out", "open", "--public"]);
    assert_eq!(public, text.replace(&format!("{MARK} "), ""));
    let csv = std::fs::read_to_string(world.path("open/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(!world.path("open/private").exists());
    // Again, the rows are the same ones.
    with(&["--out", "open", "--public"]);
    let again = std::fs::read_to_string(world.path("open/metrics.csv")).unwrap();
    assert_eq!(again, csv);
}

#[test]
fn statistics_can_stand_for_the_images_that_they_are_of() {
    let world = world(20);
    let pixels = ["samples.npz", "--embedder", "pixels", "--public"];
    let with = |more: &[&str]| succeed(&world, &[&pixels[..], more].concat());
    let direct = with(&["--against", "data", "--out", "open"]);
    let folder = std::fs::read_dir(world.path("open")).unwrap();
    let kept = folder
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "npz"))
        .unwrap();
    let kept = kept.to_str().unwrap();
    let mut npz = NpzReader::open(std::path::Path::new(kept)).unwrap();
    assert_eq!(npz.i64s("count").unwrap().1, [24]);
    assert_eq!(npz.f64s("sigma").unwrap().0, [192, 192]);
    let of_statistics = with(&["--against", kept]);
    let (a, b) = (figure(&direct, "fid"), figure(&of_statistics, "fid"));
    assert!((a - b).abs() < 1e-6 * a, "{direct} {of_statistics}");
    assert!(
        of_statistics.contains("against 24 images of"),
        "{of_statistics}"
    );
    // Kept ones are found: the reference is embedded no second time, and gives the same.
    assert_eq!(with(&["--against", "data", "--out", "open"]), direct);
    let refused = |code: i32, more: &[&str], expected: &str| {
        let output = eval(&world, &[&pixels[..], &["--against", kept], more].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    };
    refused(3, &["--resolution", "4"], "`mu` has 192 numbers");
    refused(3, &["--greyscale"], "`mu` has 192 numbers");
    refused(2, &["--metrics", "kid"], "--metrics: `kid` compares images");
}

#[test]
fn statistics_of_others_say_less() {
    let world = world(5);
    let file = std::fs::File::create(world.path("stats.npz")).unwrap();
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
        &world,
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
fn inception_with_any_weights_tells_sets_apart_and_scores_where_there_is_a_classifier() {
    let world = world(12);
    write_inception(&world.path("inception.safetensors"), Some(7));
    write_samples(&world, "same.npz", 24, |v| v);
    let with = |samples: &str, more: &[&str]| {
        let arguments = ["--against", "data", "--weights", "inception.safetensors"];
        succeed(&world, &[&[samples][..], &arguments, more].concat())
    };
    let far = with("samples.npz", &["--metrics", "fid,inception-score"]);
    assert!(far.contains("inception (weights "), "{far}");
    let score = figure(&far, "inception-score");
    assert!((1.0..=7.0).contains(&score), "{far}");
    let near = with("same.npz", &[]);
    // The same 24 images in another order.
    assert!(
        figure(&near, "fid").abs() < 1e-3 * figure(&far, "fid"),
        "{near} {far}"
    );
    write_inception(&world.path("bare.safetensors"), None);
    let output = eval(
        &world,
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
fn bad_input_ends_with_its_code_before_anything_is_done() {
    let world = world(4);
    let refused = |code: i32, arguments: &[&str], expected: &str| {
        let output = eval(&world, &[arguments, &["--out", "left"]].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
        assert!(!world.path("left").exists(), "{arguments:?}");
    };
    let data = ["samples.npz", "--against", "data"];
    let with = |more: &[&'static str]| [&data[..], more].concat();
    refused(2, &data, "--weights");
    refused(2, &with(&["--embedder", "pixle"]), "inception, clip, pixels");
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
