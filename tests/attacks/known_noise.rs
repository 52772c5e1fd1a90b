//! Attacks with known noise, in builds with the feature `insecure-test-noise`: the folders of two
//! data sets with equal counts are equal to the last byte, so nothing but the counts is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use dpsyn::internals::images::{ImageBatch, png};

use super::compare::{assert_same_published, published};
use super::hosted::{changes, observe};
use crate::support::{RunFixture, SIZE, lattice, private_image};

const SEED: (&str, &str) = ("DPSYN_TEST_NOISE_SEED", "20260101");
/// Everything that a run can write.
const EVERYTHING: [&str; 4] = [
    "--set",
    "output.plot_images=true",
    "--set",
    "evaluation.metrics=[\"fid\", \"memorization\"]",
];

fn run(fixture: &RunFixture, arguments: &[&str]) -> Output {
    let mut command = fixture.command(arguments);
    let output = command.env(SEED.0, SEED.1).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// Returns the published files without the random id of the run.
fn without_id(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = published(folder);
    let statement: serde_json::Value = serde_json::from_slice(&files["privacy.json"]).unwrap();
    let id = statement["run_id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 32);
    for name in ["privacy.json", "ledger.jsonl", "log.txt"] {
        let bytes = files.get_mut(name).unwrap();
        let text = std::str::from_utf8(bytes).unwrap();
        assert_eq!(text.matches(&id).count(), 1, "{name}: {text}");
        *bytes = text.replace(&id, "").into_bytes();
    }
    files
}

#[track_caller]
fn assert_equal(one: &RunFixture, other: &RunFixture) {
    assert_same_published(&one.path("out"), &other.path("out"));
    let (one, other) = (without_id(&one.path("out")), without_id(&other.path("out")));
    assert!(one.len() > 60, "{}", one.len());
    for (name, bytes) in &one {
        assert!(*bytes == other[name], "{name} differs");
    }
}

fn write(fixture: &RunFixture, name: &str, pixels: Vec<u8>) {
    let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
    let path = fixture.path("data/nested").join(name);
    fs::write(path, png(&image).unwrap()).unwrap();
}

/// A change of a data set that does not change the counts.
type Change = fn(&RunFixture);

#[test]
fn data_sets_with_equal_counts_have_equal_folders() {
    let cases: [(&str, Change); 5] = [
        // Another image, which differs in one level of one pixel and votes for the same samples.
        ("data.duplicates=keep", |fixture| {
            let mut pixels = private_image(1, 7);
            pixels[5] += 1;
            write(fixture, "dog_07.png", pixels);
        }),
        ("data.duplicates=once", |fixture| {
            write(fixture, "dog_99.png", private_image(1, 7));
        }),
        ("data.on_bad_image=skip", |fixture| {
            fs::write(fixture.path("data/nested/dog_99.png"), "no image").unwrap();
        }),
        ("data.undeclared_class=leave-out", |fixture| {
            write(fixture, "horse_99.png", private_image(0, 99));
        }),
        // Other names and folders.
        ("data.duplicates=keep", |fixture| {
            let (from, to) = ("data/nested", "data/MRN0815");
            fs::rename(fixture.path(from), fixture.path(to)).unwrap();
            let folder = fixture.path(to);
            fs::rename(folder.join("cat_00.png"), folder.join("cat_zz.png")).unwrap();
        }),
    ];
    for (set, change) in cases {
        let (one, other) = (RunFixture::new(), RunFixture::new());
        change(&other);
        let arguments = [&["--set", set], &EVERYTHING[..]].concat();
        let outputs = [&one, &other].map(|fixture| run(fixture, &arguments));
        assert_eq!(outputs[0].stdout, outputs[1].stdout, "{set}");
        assert_equal(&one, &other);
    }
}

/// One image more, with the same key: all noise is different, and nothing else.
#[test]
fn noise_of_other_counts_is_independent() {
    let many = [
        "--set",
        "evolution.num_samples=800",
        "--set",
        "model.timestep_respacing=\"2\"",
        "--set",
        "model.batch_size=400",
        "--set",
        "evolution.lookahead_degree=0",
        "--set",
        "evolution.variation_degree=[0, 1]",
    ];
    let (one, other) = (RunFixture::new(), RunFixture::new());
    write(&other, "cat_90.png", vec![255; SIZE * SIZE * 3]);
    let noise = |fixture: &RunFixture| -> Vec<i64> {
        run(fixture, &many);
        let plain = ["--out", "plain", "--non-private", "--set"];
        fixture.succeed(&[&many[..], &plain, &["privacy.noise_multiplier=0"]].concat());
        let (noisy, exact) = ("out", "plain");
        let read = |folder| lattice(&fixture.path(folder), 1).unwrap();
        let bins = read(noisy).into_iter().zip(read(exact));
        bins.map(|(noisy, exact)| noisy - exact).collect()
    };
    let (first, second) = (noise(&one), noise(&other));
    assert_same_published(&one.path("out"), &other.path("out"));
    assert_eq!(first.len(), 800);
    // Of independent noise, a bin repeats with probability 2·10⁻⁷. The key is fixed, so a test that
    // passes once passes always.
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    // σ = 1.5 votes, and a normal score: 5.4 has probability 7·10⁻⁸ each.
    let votes = |noise: &i64| *noise as f64 / f64::from(1u32 << 20) / 1.5;
    let bins = 800f64.sqrt();
    let product: f64 = first
        .iter()
        .zip(&second)
        .map(|(a, b)| votes(a) * votes(b))
        .sum();
    assert!((product / bins).abs() < 5.4, "{product}");
    for noise in [&first, &second] {
        let sum: f64 = noise.iter().map(votes).sum();
        let squares: f64 = noise.iter().map(|noise| votes(noise).powi(2) - 1.0).sum();
        assert!((sum / bins).abs() < 5.4, "{sum}");
        assert!((squares / bins / 2f64.sqrt()).abs() < 5.4, "{squares}");
    }
    // The difference of the two releases is therefore not that of the counts, as it would be if the
    // noise were the same.
    let spread: f64 = first
        .iter()
        .zip(&second)
        .map(|(a, b)| (votes(a) - votes(b)).powi(2))
        .sum();
    assert!(spread / 800.0 > 1.5, "{spread}");
}

/// The vendor of a hosted model sees the same requests, and the journal is the same.
#[test]
fn a_vendor_sees_the_same_requests_for_equal_counts() {
    let [_, _, damaged] = changes();
    let one = observe(
        |fixture| {
            damaged(fixture);
            fs::remove_file(fixture.path("data/nested/cat_90.png")).unwrap();
        },
        &[SEED],
    );
    let other = observe(damaged, &[SEED]);
    assert!(one.requests.len() > 3 + 2 * 8, "{:?}", one.requests);
    assert_eq!(one.requests, other.requests);
    assert_eq!(one.journal, other.journal);
    let pixels = |run: &RunFixture| published(&run.path("out"))["2/samples.npz"].clone();
    assert!(pixels(&one.fixture) == pixels(&other.fixture));
}

/// Whatever this build writes with a known key says that it is not private.
#[test]
fn outputs_with_known_noise_are_stamped() {
    let fixture = RunFixture::new();
    let output = run(&fixture, &[]);
    let files = published(&fixture.path("out"));
    for name in ["privacy.json", "ledger.jsonl", "log.txt", "config.toml"] {
        let text = String::from_utf8_lossy(&files[name]);
        let stamp = match name {
            "ledger.jsonl" => "fixed test seed",
            _ => "NOT PRIVATE",
        };
        assert!(text.contains(stamp), "{name}: {text}");
    }
    let statement: serde_json::Value = serde_json::from_slice(&files["privacy.json"]).unwrap();
    assert_eq!(statement["guarantees"], serde_json::json!([]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NOT PRIVATE"));
}
