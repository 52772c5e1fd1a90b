//! Tests of `[evaluation]` within a run.

use std::path::Path;

use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::images::{ImageBatch, SamplesReader, png};
use dpsyn::internals::metrics::frechet::Frechet;
use dpsyn::internals::metrics::moments::{Gaussian, Moments};

use crate::support::{
    CLASSES, NOISELESS, PER_CLASS, RunFixture, SIZE, copy_folder, private_image, released, wait_for,
};

const MARK: &str = "[private, not for release]";
const METRICS: &str = "evaluation.metrics=[\"fid\", \"precision-recall\", \"kid\"]";
/// Fields of a row, in order.
const FIELDS: usize = 13;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns population, name and value of each row.
fn rows(csv: &str) -> Vec<(u32, String, f64)> {
    let rows = csv.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), FIELDS, "{line}");
        let population = fields[0].parse().unwrap();
        (population, fields[1].to_owned(), fields[2].parse().unwrap())
    });
    rows.collect()
}

fn gaussian<'a>(images: impl Iterator<Item = &'a [u8]>) -> Gaussian {
    let levels: Vec<f32> = images.flatten().map(|v| f32::from(*v)).collect();
    let mut moments = Moments::new(SIZE * SIZE * 3);
    moments
        .push(&Embeddings::new(levels, SIZE * SIZE * 3).unwrap())
        .unwrap();
    moments.finish("images").unwrap()
}

/// Computes FID on pixels from the released samples and the private images.
fn expected_fid(fixture: &RunFixture, population: u32) -> f64 {
    let path = fixture.path(&format!("out/{population}/samples.npz"));
    let mut reader = SamplesReader::open(&path).unwrap();
    let samples = reader.read(0..reader.len()).unwrap();
    let private: Vec<Vec<u8>> = (0..CLASSES.len())
        .flat_map(|class| (0..PER_CLASS).map(move |index| private_image(class, index)))
        .collect();
    let reference = Frechet::new(&gaussian(private.iter().map(Vec::as_slice))).unwrap();
    reference.distance(&gaussian(samples.iter())).unwrap()
}

#[test]
fn without_evaluation_there_is_no_output_of_it() {
    let fixture = RunFixture::new();
    let text = fixture.succeed(&[]);
    assert!(!text.contains(MARK) && !text.contains("fid"), "{text}");
    assert!(!fixture.path("out/metrics.csv").exists());
    assert!(!fixture.path("out/private/metrics.csv").exists());
    assert!(!fixture.path("out/private/evaluation").exists());
    assert!(!read(&fixture.path("out/config.toml")).contains("evaluation"));
    // Without metrics there is no evaluation.
    let text = fixture.succeed(&["--resume", "--set", "evaluation.metrics=[]"]);
    assert!(!text.contains(MARK), "{text}");
    assert!(!fixture.path("out/private/metrics.csv").exists());
}

#[test]
fn values_of_private_images_stay_private_and_name_both_sets() {
    let fixture = RunFixture::new();
    let output = fixture.run(&["--set", METRICS]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let csv = read(&fixture.path("out/private/metrics.csv"));
    let rows = rows(&csv);
    let names: Vec<&str> = rows.iter().map(|row| row.1.as_str()).collect();
    assert_eq!(names, ["fid", "precision", "recall", "kid"].repeat(4));
    for line in csv.lines().skip(1) {
        let known = "16,24,private images,pixels,8,f32,";
        assert!(line.contains(known), "{line}");
    }
    for (population, name, value) in &rows {
        if name == "fid" {
            let expected = expected_fid(&fixture, *population);
            assert!(
                (value - expected).abs() < 1e-6 * expected,
                "{value} {expected}"
            );
        }
    }
    // Each value is on the terminal with its mark, and in no file outside of `private/`.
    let marked: Vec<&str> = text.lines().filter(|line| line.contains(MARK)).collect();
    assert_eq!(marked.len(), rows.len(), "{text}");
    for (line, (population, name, value)) in marked.iter().zip(&rows) {
        let expected = format!("{MARK} {population}: {name} {value:.6}");
        assert!(line.starts_with(&expected), "{line} is not {expected}");
        assert!(line.contains("16 samples against 24 images of private images"));
    }
    let unmarked: Vec<&str> = text.lines().filter(|line| !line.contains(MARK)).collect();
    let unmarked = unmarked.join("\n").into_bytes();
    let mut places = released(&fixture.path("out"));
    places.push(("standard output".into(), output.stdout));
    places.push(("unmarked lines".into(), unmarked));
    for (place, bytes) in &places {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(MARK), "{}", place.display());
        for (_, name, value) in &rows {
            // A share such as 0.5 occurs in every configuration.
            if name == "fid" || name == "kid" {
                for spelling in [
                    value.to_string(),
                    format!("{value:.6}"),
                    format!("{value:.3}"),
                ] {
                    assert!(
                        !text.contains(&spelling),
                        "{name} {spelling} is in {}",
                        place.display()
                    );
                }
                for raw in [
                    value.to_le_bytes().to_vec(),
                    (*value as f32).to_le_bytes().to_vec(),
                ] {
                    let found = bytes.windows(raw.len()).any(|window| window == raw);
                    assert!(!found, "{name} is in {}", place.display());
                }
            }
        }
    }
    #[cfg(unix)]
    for name in ["out/private", "out/private/evaluation"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(fixture.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
}

#[test]
fn only_missing_metrics_are_computed() {
    let fixture = RunFixture::new();
    // A run that was finished before an evaluation was configured.
    fixture.succeed(&[]);
    let samples = std::fs::read(fixture.path("out/3/samples.npz")).unwrap();
    let fid = ["--resume", "--set", "evaluation.metrics=[\"fid\"]"];
    let text = fixture.succeed(&[&fid[..], &["--set", "evaluation.every=2"]].concat());
    assert_eq!(text.matches(MARK).count(), 3, "populations 0, 2, 3: {text}");
    let text = fixture.succeed(&fid);
    assert_eq!(text.matches(MARK).count(), 1, "population 1: {text}");
    let path = fixture.path("out/private/metrics.csv");
    let before = read(&path);
    assert_eq!(rows(&before).len(), 4);
    // `metrics.csv` is restored from its parts.
    std::fs::remove_file(&path).unwrap();
    let text = fixture.succeed(&fid);
    assert!(!text.contains(MARK), "{text}");
    assert_eq!(read(&path), before);
    // Another metric, then another k: both get rows.
    let more = |k: &str| {
        let text = fixture.succeed(&["--resume", "--set", METRICS, "--set", k]);
        text.matches(MARK).count()
    };
    assert_eq!(more("evaluation.nearest_neighbors=3"), 12);
    assert_eq!(more("evaluation.nearest_neighbors=2"), 8);
    assert_eq!(more("evaluation.nearest_neighbors=3"), 0);
    let memorisation = ["--resume", "--set", "evaluation.metrics=[\"memorisation\"]"];
    let text = fixture.succeed(&memorisation);
    assert_eq!(text.matches(MARK).count(), 4 * 5, "{text}");
    let all = rows(&read(&path));
    assert_eq!(all.len(), 4 * (1 + 2 + 2 + 1 + 5));
    assert!(all.is_sorted_by_key(|row| row.0));
    // Neither the samples nor the budget change.
    assert!(std::fs::read(fixture.path("out/3/samples.npz")).unwrap() == samples);
}

#[test]
fn an_own_embedder_and_a_number_of_samples_for_fid() {
    let fixture = RunFixture::new();
    let own = |numbers: &str, folder: &str| {
        fixture.succeed(&[
            "--set",
            "evaluation.metrics=[\"fid\", \"kid\"]",
            "--set",
            "evaluation.embedder={type = \"pixels\", size = 4, greyscale = true}",
            "--set",
            numbers,
            "--out",
            folder,
        ]);
        read(&fixture.path(&format!("{folder}/private/metrics.csv")))
    };
    let fewer = own("evaluation.num_fid_samples=10", "fewer");
    assert!(
        fewer.contains(
            ",10,24,private images,grey pixels,4,f32,10 of 16 samples without replacement; biased upwards"
        ),
        "{fewer}"
    );
    assert!(
        fewer.contains(",16,24,private images,grey pixels,4,f32,mean of 100 subsets of 16;"),
        "{fewer}"
    );
    let more = own("evaluation.num_fid_samples=40", "more");
    assert!(
        more.contains(",40,24,private images,grey pixels,4,f32,40 of 16 samples with replacement,"),
        "{more}"
    );
}

#[test]
fn a_reference_that_is_declared_public_is_not_marked() {
    let fixture = RunFixture::new();
    write_other_images(&fixture.path("reference"));
    let against = [
        "--set",
        METRICS,
        "--set",
        "evaluation.reference=reference",
        "--set",
        "evaluation.reference_is_public=true",
    ];
    let text = fixture.succeed(&against);
    assert!(!text.contains(MARK) && text.contains("3: fid "), "{text}");
    let csv = read(&fixture.path("out/metrics.csv"));
    assert_eq!(rows(&csv).len(), 16);
    assert!(csv.contains(",24,reference,pixels,8,f32,"), "{csv}");
    assert!(!fixture.path("out/private/metrics.csv").exists());
    let text = fixture.succeed(&[&against[..], &["--resume"]].concat());
    assert!(!text.contains("fid"), "{text}");
    assert_eq!(read(&fixture.path("out/metrics.csv")), csv);
    // Its statistics are stored under a name that depends on the images, and serve as a reference.
    let kept = std::fs::read_dir(fixture.path("out"))
        .unwrap()
        .find_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with("reference-").then_some(name)
        });
    let kept = format!("evaluation.reference=out/{}", kept.unwrap());
    fixture.succeed(&[
        "--out",
        "again",
        "--set",
        "evaluation.metrics=[\"fid\"]",
        "--set",
        &kept,
        "--set",
        "evaluation.reference_is_public=true",
    ]);
    assert_eq!(rows(&read(&fixture.path("again/metrics.csv"))).len(), 4);
    // Without the declaration, the same folder counts as private.
    let text = fixture.succeed(&[
        "--out",
        "held",
        "--set",
        METRICS,
        "--set",
        "evaluation.reference=reference",
    ]);
    assert_eq!(text.matches(MARK).count(), 16, "{text}");
    assert!(!fixture.path("held/metrics.csv").exists());
    assert_eq!(
        rows(&read(&fixture.path("held/private/metrics.csv"))).len(),
        16
    );
}

/// Writes as many images of the same classes, none of which is a private one.
fn write_other_images(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for (class, name) in CLASSES.iter().enumerate() {
        for index in 0..PER_CLASS {
            let mut pixels = private_image(class, index);
            pixels[0] = pixels[0].wrapping_add(1);
            let path = folder.join(format!("{name}_{index:02}.png"));
            write_image(&path, pixels);
        }
    }
}

fn write_image(path: &Path, pixels: Vec<u8>) {
    let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
    std::fs::write(path, png(&image).unwrap()).unwrap();
}

#[test]
fn the_runs_own_images_are_not_declared_public_by_their_path() {
    let fixture = RunFixture::new();
    let mut paths = vec![
        "data".to_owned(),
        "./data/nested".to_owned(),
        ".".to_owned(),
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(fixture.path("data"), fixture.path("link")).unwrap();
        paths.push("link".to_owned());
    }
    for path in paths {
        let reference = format!("evaluation.reference={path}");
        let sets = ["--set", METRICS, "--set", &reference];
        let public = ["--set", "evaluation.reference_is_public=true"];
        let text = fixture.fail(2, &[&sets[..], &public].concat());
        assert!(
            text.contains("evaluation.reference_is_public") && text.contains("overlap"),
            "{path}: {text}"
        );
        assert!(!fixture.path("out").exists(), "something was left: {text}");
    }
}

/// An operator who copies the private images to another place has not made them public.
#[test]
fn copies_of_private_images_are_not_declared_public() {
    let fixture = RunFixture::new();
    copy_folder(&fixture.path("data"), &fixture.path("copied"));
    write_other_images(&fixture.path("mixed"));
    let refuse = |folder: &str, images: usize| {
        let reference = format!("evaluation.reference={folder}");
        let public = "evaluation.reference_is_public=true";
        let sets = ["--set", METRICS, "--set", &reference, "--set", public];
        let text = fixture.fail(2, &sets);
        assert!(!fixture.path("out").exists(), "something was left: {text}");
        let (marked, others): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.contains(MARK));
        let number = format!("{MARK} {images} private images are among");
        assert!(
            marked.len() == 1 && marked[0].starts_with(&number),
            "{text}"
        );
        others.join("\n").replace(folder, "reference")
    };
    let all = refuse("copied", 24);
    assert!(
        all.contains("evaluation.reference_is_public") && all.contains("overlap"),
        "{all}"
    );
    // Whoever reads only the unmarked lines cannot tell one image from all of them, nor a copy of
    // other bytes and another name.
    let mut pixels = private_image(1, 5);
    write_image(&fixture.path("mixed/cat_99.png"), pixels.clone());
    assert_eq!(refuse("mixed", 1), all);
    // One level of one pixel is another image: the comparison is exact, as documented.
    pixels[7] ^= 1;
    write_image(&fixture.path("mixed/cat_99.png"), pixels);
    fixture.succeed(&[
        "--set",
        METRICS,
        "--set",
        "evaluation.reference=mixed",
        "--set",
        "evaluation.reference_is_public=true",
    ]);
}

/// A private reference that changes after it was checked fails every metric, and the run is the one
/// that it would be without evaluation.
/// A reference of 23 or of 24 images, with as many neighbors: that one has too few images is a fact
/// about it, which neither ends the run nor appears in a line without a mark.
#[test]
fn the_size_of_a_private_reference_does_not_end_the_run() {
    let fixture = RunFixture::new();
    write_other_images(&fixture.path("reference"));
    let count = std::fs::read_dir(fixture.path("reference"))
        .unwrap()
        .count();
    let neighbors = format!("evaluation.nearest_neighbors={count}");
    let text = fixture.succeed(&[
        "--set",
        "evaluation.metrics=[\"precision-recall\"]",
        "--set",
        "evaluation.reference=reference",
        "--set",
        &neighbors,
        "--set",
        "evolution.num_samples=200",
    ]);
    let about: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("reference images") || line.contains("precision"))
        .collect();
    assert!(!about.is_empty(), "{text}");
    assert!(about.iter().all(|line| line.starts_with(MARK)), "{text}");
}

#[test]
fn a_private_reference_that_fails_does_not_end_the_run() {
    let slow = [
        "--set",
        "model.batch_size=1",
        "--set",
        "evolution.num_samples=200",
    ];
    let control = RunFixture::new();
    control.succeed(&[&NOISELESS[..], &slow].concat());
    let fixture = RunFixture::new();
    write_other_images(&fixture.path("reference"));
    let against = ["--set", METRICS, "--set", "evaluation.reference=reference"];
    let mut child = fixture
        .command(&[&NOISELESS[..], &slow, &against].concat())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The reference has been checked, and population 0 is being generated, image by image.
    wait_for(&fixture.path("out/config.toml"), &mut child);
    write_image(&fixture.path("reference/cat_03.png"), private_image(1, 1));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let failures: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("changed"))
        .collect();
    assert_eq!(failures.len(), 4, "{text}");
    assert!(failures.iter().all(|line| line.starts_with(MARK)), "{text}");
    assert!(!fixture.path("out/private/metrics.csv").exists());
    assert!(read(&fixture.path("out/private/log.txt")).contains(failures[0]));
    // Nothing outside of `private/` tells that there was a failure.
    let files = |fixture: &RunFixture| -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let out = fixture.path("out");
        let named = released(&out).into_iter();
        named
            .map(|(path, bytes)| (path.strip_prefix(&out).unwrap().to_owned(), bytes))
            .filter(|(path, _)| {
                // The random id of the run, and the evaluation that was configured.
                let name = path.to_str().unwrap();
                !["ledger.jsonl", "privacy.json", "log.txt", "config.toml"].contains(&name)
                    && name != ".evaluation.lock"
            })
            .collect()
    };
    assert!(files(&fixture) == files(&control));
    let log = read(&fixture.path("out/log.txt"));
    assert!(!log.contains(MARK) && !log.contains("fid"), "{log}");
}

#[test]
fn one_process_at_a_time_writes_metrics_into_a_folder() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let lock = std::fs::File::create(fixture.path("out/.evaluation.lock")).unwrap();
    lock.lock().unwrap();
    // Another process holds the lock.
    let unfinished = fixture.path("out/.tmpHALF");
    std::fs::write(&unfinished, "half").unwrap();
    let text = fixture.succeed(&["--resume"]);
    assert!(unfinished.exists(), "{text}");
    let text = fixture.fail(6, &["--resume", "--set", METRICS]);
    assert!(
        text.contains("another process is writing metrics"),
        "{text}"
    );
    drop(lock);
    fixture.succeed(&["--resume", "--set", METRICS]);
    assert!(!unfinished.exists());
}

#[test]
fn impossible_evaluations_are_refused_before_anything_is_charged() {
    let fixture = RunFixture::new();
    let refused = |code: i32, sets: &[&str], expected: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let text = fixture.fail(code, &sets);
        for part in expected {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        assert!(!fixture.path("out").exists(), "something was left: {text}");
    };
    refused(
        2,
        &["evaluation.metrics=[\"fd\"]"],
        &[
            "unknown variant `fd`",
            "expected one of `fid`, `precision-recall`",
        ],
    );
    refused(
        2,
        &["evaluation.metrics=[\"downstream\"]"],
        &["evaluation.metrics", "dpsyn eval", "--against TEST_SET"],
    );
    refused(
        2,
        &["evaluation.every=2"],
        &["missing field `metrics`", "[evaluation]"],
    );
    refused(
        2,
        &[METRICS, "evaluation.evry=2"],
        &["unknown key `evry`", "`every`"],
    );
    refused(
        2,
        &[METRICS, "evaluation.every=0"],
        &["evaluation.every", "at least 1"],
    );
    refused(
        2,
        &[METRICS, "evaluation.nearest_neighbors=16"],
        &["evaluation.nearest_neighbors", "at least 17 samples"],
    );
    refused(
        2,
        &[METRICS, "evaluation.reference_is_public=true"],
        &["evaluation.reference_is_public"],
    );
    refused(
        2,
        &["evaluation.metrics=[\"inception-score\"]"],
        &["inception-score", "classifier", "pixels"],
    );
    refused(
        2,
        &[METRICS, "evaluation.embedder={type = \"pixel\"}"],
        &["evaluation.embedder", "`pixel`"],
    );
    refused(
        2,
        &[METRICS, "evaluation.embedder=\"pixels\""],
        &["[evaluation.embedder]"],
    );
    refused(
        4,
        &[
            METRICS,
            "evaluation.embedder={type = \"inception\", weights = \"none.pth\", resolution = 8}",
        ],
        &["none.pth"],
    );
    refused(3, &[METRICS, "evaluation.reference=nowhere"], &["nowhere"]);
    refused(
        3,
        &[METRICS, "evaluation.reference=run.toml"],
        &["run.toml", "a file of no known kind"],
    );
    std::fs::create_dir(fixture.path("broken")).unwrap();
    std::fs::write(fixture.path("broken/a_1.png"), "no image").unwrap();
    refused(3, &[METRICS, "evaluation.reference=broken"], &["a_1.png"]);
}

#[test]
fn a_dry_run_describes_the_destination_of_metrics() {
    let fixture = RunFixture::new();
    let output = fixture.run(&["--dry-run", "--set", METRICS]);
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(
        plan.contains("evaluation: fid, precision-recall, kid against the private images, written to private/metrics.csv, not for release"),
        "{plan}"
    );
}
