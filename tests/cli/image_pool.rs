//! Runs whose model is a pool of public images.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dpsyn::internals::images::{ImageBatch, SamplesReader, png};

use crate::support::{CLASSES, NOISELESS, RunFixture, SIZE, private_image, released};

/// Images in the pool.
const COUNT: usize = 40;
const MARK: &str = "[private, not for release]";

/// A fixture whose model is a pool of images like the private ones, none of which is private.
fn fixture(keys: &str) -> RunFixture {
    let fixture = RunFixture::new();
    std::fs::create_dir(fixture.path("pool")).unwrap();
    for index in 0..COUNT {
        write_image(
            &fixture.path(&format!("pool/{index:02}.png")),
            pool_image(index),
        );
    }
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let (data, rest) = text.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[embedder]\ntype = \"pixels\"").unwrap();
    let rest = rest.replace("[0, 0, 1, 2]", "[20, 20, 0.2, 4]");
    let text = format!(
        "{data}[model]\ntype = \"image-pool\"\npublic = true\npath = \"pool\"\nimage_size = {SIZE}\n\
         cache = \"cache\"\n{keys}\n[model.embedder]\ntype = \"pca\"\ncomponents = 5\n\
         [embedder]\ntype = \"pca\"\ncomponents = 6\ngrayscale = true\n{rest}"
    );
    std::fs::write(fixture.path("run.toml"), text).unwrap();
    fixture
}

fn pool_image(index: usize) -> Vec<u8> {
    let mut pixels = private_image(index % 2, index / 2);
    pixels[0] = pixels[0].wrapping_add(1);
    pixels
}

fn write_image(path: &Path, pixels: Vec<u8>) {
    let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
    std::fs::write(path, png(&image).unwrap()).unwrap();
}

fn images(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = SamplesReader::open(path).unwrap();
    let count = reader.len();
    let images = reader.read(0..count).unwrap();
    images.iter().map(<[u8]>::to_vec).collect()
}

/// The files of the cache.
fn cached(fixture: &RunFixture) -> Vec<std::path::PathBuf> {
    let files = released(&fixture.path("cache")).into_iter();
    files.map(|(path, _)| path).collect()
}

#[test]
fn samples_are_images_of_the_pool_and_the_cache_does_not_change_them() {
    let fixture = fixture("unique = true");
    let text = fixture.succeed(&NOISELESS);
    assert!(text.contains("image pool: 40 images"), "{text}");
    let pool: Vec<Vec<u8>> = (0..COUNT).map(pool_image).collect();
    for iteration in 0..=3 {
        let mut samples = images(&fixture.path(&format!("out/{iteration}/samples.npz")));
        assert!(samples.iter().all(|image| pool.contains(image)));
        samples.sort();
        samples.dedup();
        assert_eq!(samples.len(), 16, "population {iteration}");
    }
    let last = images(&fixture.path("out/3/samples.npz"));
    // Pixels, vectors, and the components of two embedders.
    let files = cached(&fixture);
    assert_eq!(files.len(), 4, "{files:?}");
    let again = |out: &str| {
        let text = fixture.succeed(&[&NOISELESS[..], &["--out", out]].concat());
        assert_eq!(images(&fixture.path(out).join("3/samples.npz")), last);
        assert_eq!(cached(&fixture), files);
        text
    };
    assert!(!again("second").contains("made again"));
    for file in &files {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, &bytes).unwrap();
    }
    assert!(again("third").contains("made again"));
    std::fs::remove_dir_all(fixture.path("cache")).unwrap();
    again("fourth");
    // The published configuration does not name folders of the user's.
    let public = std::fs::read_to_string(fixture.path("out/config.toml")).unwrap();
    let settings: toml::Table = public.parse().unwrap();
    assert!(settings["model"].get("cache").is_none(), "{public}");
    assert_eq!(settings["model"]["embedder"]["type"].as_str(), Some("pca"));
}

#[test]
fn a_pool_with_private_images_is_refused_before_anything_is_written() {
    let fixture = fixture("");
    let refuse = |arguments: &[&str], marked: Option<usize>| {
        let text = fixture.fail(2, arguments);
        assert!(!fixture.path("out").exists(), "something was left: {text}");
        let (about, others): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with(MARK));
        let number = marked.map(|number| format!("{MARK} {number} private images are among"));
        let found = about.iter().any(|line| {
            number
                .as_ref()
                .is_some_and(|number| line.starts_with(number))
        });
        assert_eq!(found, number.is_some(), "{text}");
        let others = others.join("\n");
        assert!(
            others.contains("model.public") && others.contains("overlap"),
            "{text}"
        );
        others
    };
    // By their path.
    for path in ["data", "./data/nested", "."] {
        refuse(&["--set", &format!("model.path={path}")], None);
    }
    // One image of the same pixels under another name, also where nothing but a plan is made.
    write_image(&fixture.path("pool/99.png"), private_image(1, 5));
    let one = refuse(&[], Some(1));
    refuse(&["--dry-run"], Some(1));
    // The model's images have another size than the private ones.
    let size = ["--set", "model.image_size=4", "--set", "embedder.size=4"];
    refuse(&size, Some(1));
    // The terminal's other lines are the same for one image and for all.
    for class in 0..CLASSES.len() {
        for index in 0..12 {
            let name = fixture.path(&format!("pool/x{class}{index}.png"));
            write_image(&name, private_image(class, index));
        }
    }
    assert_eq!(refuse(&[], Some(24)), one);
}

#[test]
fn the_images_that_an_embedder_is_fitted_to_are_checked_as_well() {
    let fixture = fixture("");
    std::fs::create_dir(fixture.path("fit")).unwrap();
    for index in 0..COUNT {
        let mut pixels = pool_image(index);
        pixels[1] ^= 1;
        write_image(&fixture.path(&format!("fit/{index:02}.png")), pixels);
    }
    let public = "embedder.public={path = \"fit\", cache = \"cache\"}";
    fixture.succeed(&["--set", public]);
    let config = std::fs::read_to_string(fixture.path("out/config.toml")).unwrap();
    assert!(!config.contains("cache ="), "{config}");
    write_image(&fixture.path("fit/a.png"), private_image(0, 3));
    let text = fixture.fail(2, &["--set", public, "--out", "other"]);
    assert!(
        text.contains("embedder.public") && text.contains("overlap"),
        "{text}"
    );
    assert!(!fixture.path("other").exists());
    // That of the space in which variations are near their parents, too, and nothing is left of it.
    let own = "model.embedder={type = \"pca\", components = 3, public = {path = \"fit\", cache = \"own\"}}";
    let text = fixture.fail(2, &["--set", own, "--out", "other"]);
    assert!(
        text.contains("model.public") && text.contains("overlap"),
        "{text}"
    );
    let left = std::fs::read_dir(fixture.path("own")).unwrap().count();
    assert_eq!(left, 0, "the cache holds private pixels");
    // A path among the private images is refused before anything is read.
    let path = own
        .replace("\"fit\"", "\"data\"")
        .replace("\"own\"", "\"none\"");
    let text = fixture.fail(2, &["--set", &path, "--out", "other"]);
    assert!(
        text.contains("model.embedder.public") && text.contains("overlap"),
        "{text}"
    );
    assert!(!fixture.path("none").exists());
    // The metrics' embedder, too.
    let metrics = [
        "--set",
        "evaluation.metrics=[\"fid\"]",
        "--set",
        "evaluation.embedder={type = \"pca\", components = 3, public = {path = \"fit\"}}",
        "--out",
        "other",
    ];
    let mut command = fixture.command(&metrics);
    let output = command
        .env("XDG_CACHE_HOME", fixture.path("user"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("evaluation.embedder.public") && text.contains("overlap"),
        "{text}"
    );
    // The folder for caches is the user's where none is given.
    assert!(fixture.path("user/dpsyn/pools").is_dir());
}

#[test]
fn errors_name_the_key_and_leave_nothing() {
    let fixture = fixture("");
    let refuse = |set: &str, expected: &[&str]| {
        let text = fixture.fail(2, &["--set", set]);
        for part in expected {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        assert!(!fixture.path("out").exists(), "something was left: {text}");
    };
    refuse(
        "model.public=false",
        &["model.public", "public = true", "[data]"],
    );
    refuse(
        "model.embedder.components=0",
        &["model.embedder.components", "at least 1"],
    );
    refuse(
        "model.embedder.componets=3",
        &["unknown key `componets`", "[model.embedder]"],
    );
    refuse(
        "model.embedder.type=pcb",
        &["model.embedder type `pcb`", "`pca`"],
    );
    refuse(
        "model.embedder.components=40",
        &["model.embedder.components", "40 public images"],
    );
    refuse(
        "evolution.variation_degree=[1, 1.5, 1, 1]",
        &["evolution.variation_degree", "1.5"],
    );
    refuse(
        "evolution.variation_degree=[1, 41, 1, 1]",
        &["evolution.variation_degree", "the 40 images"],
    );
    refuse(
        "model.class_labels={cat = [\"00\"], dog = []}",
        &["model.class_labels.dog"],
    );
    let missing = fixture.fail(3, &["--set", "model.path=nowhere"]);
    assert!(missing.contains("nowhere"), "{missing}");
    // Another model has no embedder of its own, and no pool for the vote's to be fitted to.
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let start = text.find("[model]").unwrap();
    let end = text.find("[embedder]").unwrap();
    let model = "[model]\ntype = \"stable-diffusion\"\ncheckpoint = \"m\"\nimage_size = 64\n\
                 prompts = \"x\"\n";
    let other = format!("{}{model}{}", &text[..start], &text[end..]);
    std::fs::write(fixture.path("run.toml"), other).unwrap();
    refuse("embedder.size=8", &["embedder.public", "no image pool"]);
    refuse("model.embedder.type=pixels", &["unknown key `embedder`"]);
}

#[test]
fn a_run_that_is_killed_and_resumed_has_the_same_samples() {
    for keys in ["", "unique = true"] {
        let control = fixture(keys);
        control.succeed(&NOISELESS);
        let killed = fixture(keys);
        for attempt in 1..=6 {
            let mut command = killed.command(&[&NOISELESS[..], &["--resume"]].concat());
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.unwrap();
            std::thread::sleep(Duration::from_millis(15 * attempt));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        killed.succeed(&[&NOISELESS[..], &["--resume"]].concat());
        for iteration in 0..=3 {
            let path = format!("out/{iteration}/samples.npz");
            assert_eq!(images(&killed.path(&path)), images(&control.path(&path)));
        }
        // Another pool is another run.
        write_image(&killed.path("pool/99.png"), pool_image(77));
        let text = killed.fail_with_any(&[&NOISELESS[..], &["--resume"]].concat());
        assert!(
            text.contains("ledger") || text.contains("configuration"),
            "{text}"
        );
    }
}
