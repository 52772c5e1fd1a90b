//! Private images in every layout give the same samples, and what is passed over is said.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use dpsyn::internals::images::{ImageBatch, SamplesWriter, png};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::{
    CLASSES, NOISELESS, PER_CLASS, RunFixture, SIZE, lattice, private_image, sample_bytes,
};

const DATA: i32 = 3;
const USAGE: i32 = 2;
/// The classes as numbers.
const NUMBERS: &str = "data.classes=['0', '1']";

/// The images of the fixture in the order of its folder: class, index and pixels.
fn images() -> Vec<(usize, usize, Vec<u8>)> {
    let all = (0..CLASSES.len()).flat_map(|class| (0..PER_CLASS).map(move |index| (class, index)));
    all.map(|(class, index)| (class, index, private_image(class, index)))
        .collect()
}

fn encoded(pixels: Vec<u8>) -> Vec<u8> {
    png(&ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap()).unwrap()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Runs without noise with other settings; returns the last samples and their histogram.
fn samples(fixture: &RunFixture, folder: &str, settings: &[&str]) -> (Vec<u8>, Vec<i64>) {
    let output = format!("output.folder={folder}");
    let mut arguments = NOISELESS.to_vec();
    arguments.extend(["--set", &output]);
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    fixture.succeed(&arguments);
    let folder = fixture.path(folder);
    let bytes = sample_bytes(&folder.join("3/samples.npz"));
    (bytes, lattice(&folder, 3).unwrap())
}

/// Writes the images under `idx/` as MNIST is published, with three channels.
fn write_idx(fixture: &RunFixture) {
    let images = images();
    let header = |magic: u32, sides: &[usize]| {
        let mut bytes = magic.to_be_bytes().to_vec();
        for side in sides {
            bytes.extend((*side as u32).to_be_bytes());
        }
        bytes
    };
    let mut pixels = header(0x0804, &[images.len(), SIZE, SIZE, 3]);
    let mut labels = header(0x0801, &[images.len()]);
    for (class, _, image) in images {
        pixels.extend(image);
        labels.push(class as u8);
    }
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(&pixels).unwrap();
    write(
        &fixture.path("idx/train-images-idx4-ubyte.gz"),
        gz.finish().unwrap(),
    );
    write(&fixture.path("idx/train-labels-idx1-ubyte"), labels);
}

fn write_tar(path: &Path, images: &[(usize, usize, Vec<u8>)]) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    for (class, index, pixels) in images {
        let key = format!("{class}{index:02}");
        add(format!("{key}.png"), &encoded(pixels.clone()));
        match index % 2 {
            0 => add(format!("{key}.cls"), CLASSES[*class].as_bytes()),
            _ => {
                let json = format!("{{\"label\": \"{}\"}}", CLASSES[*class]);
                add(format!("{key}.json"), json.as_bytes());
            }
        }
    }
    write(path, archive.into_inner().unwrap());
}

#[test]
fn every_layout_gives_the_same_samples() {
    let fixture = RunFixture::new();
    let expected = samples(&fixture, "folder", &[]);
    let mut rows = "label,file\n".to_owned();
    for (class, index, pixels) in images() {
        let (name, png) = (CLASSES[class], encoded(pixels));
        write(&fixture.path(&format!("tree/{name}/{index:02}.png")), &png);
        write(
            &fixture.path(&format!("leaves/{}/{name}/{index:02}.png", index % 2)),
            &png,
        );
        // No ending: a table names its files.
        write(&fixture.path(&format!("table/all/{class}{index:02}")), &png);
        rows += &format!("{name},all/{class}{index:02}\n");
    }
    write(&fixture.path("table/labels.csv"), rows);
    let mut npz = SamplesWriter::create(std::io::Cursor::new(Vec::new()), 24, SIZE, SIZE).unwrap();
    for (_, _, pixels) in images() {
        npz.push(&ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap())
            .unwrap();
    }
    let numbers: Vec<i64> = images().iter().map(|(class, ..)| *class as i64).collect();
    npz.i64s("labels", &numbers).unwrap();
    write(
        &fixture.path("data.npz"),
        npz.finish().unwrap().into_inner(),
    );
    write_idx(&fixture);
    let all = images();
    write_tar(&fixture.path("shards/train-000.tar"), &all[..9]);
    write_tar(&fixture.path("shards/train-001.tar"), &all[9..]);
    write_tar(&fixture.path("shards/test-000.tar"), &all[..2]);
    for (name, settings) in [
        ("tree", &["data.path=tree", "data.labels=folder"][..]),
        ("leaves", &["data.path=leaves", "data.labels=leaf-folder"]),
        ("csv", &["data.path=table/labels.csv"]),
        ("csv-folder", &["data.path=table", "data.labels=csv"]),
        ("npz", &["data.path=data.npz", NUMBERS]),
        ("idx", &["data.path=idx", "data.format=idx", NUMBERS]),
        (
            "idx-file",
            &["data.path=idx/train-images-idx4-ubyte.gz", NUMBERS],
        ),
        (
            "tar",
            &[
                "data.path=shards",
                "data.format=webdataset",
                "data.split=train",
            ],
        ),
    ] {
        let folder = format!("out-{name}");
        assert!(samples(&fixture, &folder, settings) == expected, "{name}");
    }
}

#[test]
fn what_is_passed_over_is_said_to_the_owner_only() {
    let fixture = RunFixture::new();
    for name in ["notes.txt", "x.svg", "y.SVG", "._a.png", "@eaDir/cat_1.png"] {
        write(&fixture.path(&format!("data/{name}")), "x");
    }
    let output = fixture.run(&["--dry-run"]);
    let text = String::from_utf8(output.stderr).unwrap();
    let line = "[private, not for release] left out: 2 .svg, 1 .txt, 1 folders of other programs, \
                1 hidden";
    assert!(text.contains(line), "{text}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("svg"));
}

#[test]
fn folders_with_one_prefix_are_not_one_class_in_silence() {
    let fixture = RunFixture::new();
    for (class, index, pixels) in images() {
        let path = format!("isic/{}/ISIC_{class}{index:02}.png", CLASSES[class]);
        write(&fixture.path(&path), encoded(pixels));
    }
    let text = fixture.fail(DATA, &["--dry-run", "--set", "data.path=isic"]);
    for part in [
        "its class `ISIC` is not declared",
        "data.labels = \"folder\"",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let declared = [
        "--dry-run",
        "--set",
        "data.path=isic",
        "--set",
        "data.classes=['ISIC', 'x']",
    ];
    let text = fixture.succeed(&declared);
    let part = "warning: class `ISIC` is in 2 folders that have no other class";
    assert!(text.contains(part), "{text}");
    let classes = Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["classes", "isic", "--labels", "folder"])
        .output()
        .unwrap();
    let text = String::from_utf8(classes.stdout).unwrap();
    assert!(text.contains("classes = [\"cat\", \"dog\"]"), "{text}");
}

#[test]
fn a_missing_file_of_a_table_is_named_with_its_line() {
    let fixture = RunFixture::new();
    let rows = "file,label\nnested/cat_00.png,cat\nnested/cat_99.png,cat\n";
    fs::write(fixture.path("data/labels.csv"), rows).unwrap();
    let text = fixture.fail(DATA, &["--dry-run", "--set", "data.labels=csv"]);
    for part in ["labels.csv", "line 3: there is no file `nested/cat_99.png`"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_choice_by_class_has_more_noise() {
    let fixture = RunFixture::new();
    let run = |folder: &str, choice: &str| {
        let (output, choose) = (
            format!("output.folder={folder}"),
            format!("data.choose={choice}"),
        );
        let settings = [
            "--set",
            &output,
            "--set",
            &choose,
            "--set",
            "data.num_samples=10",
            "--set",
            "privacy.adjacency=replace-one",
        ];
        fixture.succeed(&settings);
        let text = fs::read_to_string(fixture.path(folder).join("privacy.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (random, by_class) = (run("random", "random"), run("by-class", "stratified"));
    let mechanism = |json: &serde_json::Value, key: &str| json["mechanism"][key].clone();
    assert_eq!(mechanism(&random, "noise_multiplier"), 1.5);
    assert_eq!(mechanism(&by_class, "noise_multiplier"), 1.5);
    assert_eq!(mechanism(&random, "noise_parameter_votes"), 1.5);
    assert_eq!(
        mechanism(&by_class, "noise_parameter_votes"),
        1.5 * 2f64.sqrt()
    );
    assert_eq!(mechanism(&by_class, "l2_sensitivity_votes")[0]["l2"], 2.0);
    let text = fixture.fail(USAGE, &["--set", "data.choose=random", "--dry-run"]);
    assert!(
        text.contains("data.choose") && text.contains("num_samples"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn control_characters_in_names_do_not_reach_a_terminal() {
    let fixture = RunFixture::new();
    fs::write(fixture.path("data/cat_\u{1b}[31m\u{7}.png"), "no image").unwrap();
    for arguments in [
        &["--dry-run"][..],
        &["--dry-run", "--set", "data.on_bad_image=skip"],
    ] {
        let output = fixture.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("cat_\\u{1b}[31m\\u{7}.png"), "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{7}'),
            "{text}"
        );
    }
}

#[test]
fn dark_images_of_sixteen_bits_are_reported_and_a_window_mends_them() {
    let fixture = RunFixture::new();
    fixture.make_unconditional();
    let folder = fixture.path("deep");
    fs::create_dir(&folder).unwrap();
    for index in 0..4_u16 {
        let mut file = fs::File::create(folder.join(format!("{index}.png"))).unwrap();
        let mut encoder = ::png::Encoder::new(&mut file, SIZE as u32, SIZE as u32);
        encoder.set_color(::png::ColorType::Grayscale);
        encoder.set_depth(::png::BitDepth::Sixteen);
        let values = (0..SIZE * SIZE).map(|n| (n as u16 * 64 + index).to_be_bytes());
        let values: Vec<u8> = values.flatten().collect();
        encoder
            .write_header()
            .unwrap()
            .write_image_data(&values)
            .unwrap();
    }
    let text = fixture.succeed(&["--dry-run", "--set", "data.path=deep"]);
    let part = "[private, not for release] warning: the largest value of the 16-bit images is 4035";
    assert!(text.contains(part), "{text}");
    let window = ["--set", "data.sixteen_bit=[0, 4095]"];
    let text = fixture.succeed(&[&["--dry-run", "--set", "data.path=deep"], &window[..]].concat());
    assert!(!text.contains("16-bit"), "{text}");
}
