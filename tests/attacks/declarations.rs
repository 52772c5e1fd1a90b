//! Attacks on what a run could compute of its images beside the noisy histograms: classes, their
//! names, the number of images.

use std::path::Path;

use dpsyn::internals::images::{ImageBatch, png};

use super::compare::{
    MARK, assert_indistinguishable, assert_same_output, assert_same_published, marked, published,
    unmarked,
};
use crate::support::{RunFixture, SIZE, private_image};

/// Writes image `index` of the fixture's pictures as `data/<name>`.
fn write(fixture: &RunFixture, name: &str, index: usize) {
    // Beyond 255 images, the texture of `private_image` repeats; the first pixels count on.
    let mut pixels = private_image(index % 2, index);
    pixels[..4].copy_from_slice(&(index as u32).to_le_bytes());
    let image = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
    std::fs::write(fixture.path("data").join(name), png(&image).unwrap()).unwrap();
}

/// Returns a fixture with the files of these names and classes `0` and `9` instead of its own.
fn fixture(names: &[String]) -> RunFixture {
    let fixture = RunFixture::new();
    std::fs::remove_dir_all(fixture.path("data")).unwrap();
    std::fs::create_dir(fixture.path("data")).unwrap();
    for (index, name) in names.iter().enumerate() {
        write(&fixture, name, index);
    }
    edit(
        &fixture,
        "classes = [\"cat\", \"dog\"]",
        "classes = [\"0\", \"9\"]",
    );
    edit(&fixture, "declared_size = 24\n", "");
    fixture
}

fn edit(fixture: &RunFixture, from: &str, to: &str) {
    let path = fixture.path("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

fn zeros(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("0_{index:03}.png"))
        .collect()
}

/// 200 images of class 0 and one of class 9, or 201 of class 0.
#[test]
fn a_class_with_one_image_is_not_visible() {
    for adjacency in ["add-remove", "replace-one"] {
        let mut names = zeros(201);
        let without = fixture(&names);
        names[200] = "9_200.png".to_owned();
        let with = fixture(&names);
        let adjacency = format!("privacy.adjacency={adjacency}");
        let outputs = assert_indistinguishable(&with, &without, &["--set", &adjacency]);
        for output in &outputs {
            assert_eq!(marked(output), "");
        }
        let statement = published(&with.path("out"))["privacy.json"].clone();
        let statement: serde_json::Value = serde_json::from_slice(&statement).unwrap();
        let declared = &statement["declared_public"];
        assert_eq!(declared["class_names"], serde_json::json!(["0", "9"]));
        assert_eq!(declared["class_shares"], serde_json::json!([0.5, 0.5]));
        assert_eq!(declared["declared_size"], serde_json::Value::Null);
    }
}

/// The comparison finds something: without the declaration of class 9, the two data sets differ.
#[test]
fn an_undeclared_class_ends_the_run_and_only_the_owner_learns_its_name() {
    let mut names = zeros(201);
    names[200] = "9_200.png".to_owned();
    let one = fixture(&names);
    names[200] = "patient7_200.png".to_owned();
    let other = fixture(&names);
    for fixture in [&one, &other] {
        edit(fixture, "classes = [\"0\", \"9\"]", "classes = [\"0\"]");
    }
    let (first, second) = (one.run(&[]), other.run(&[]));
    assert_eq!(first.status.code(), Some(3), "{first:?}");
    assert_same_output(&first, &second);
    assert!(marked(&first).contains("9_200.png") && marked(&first).contains("`9`"));
    assert!(!unmarked(&second).contains("patient7"), "{second:?}");
    assert!(!one.path("out").exists() && !other.path("out").exists());
    // Left out, the image is as if it had never been there.
    let without = fixture(&zeros(200));
    edit(&without, "classes = [\"0\", \"9\"]", "classes = [\"0\"]");
    let leave_out = ["--set", "data.undeclared_class=leave-out"];
    let outputs = assert_indistinguishable(&other, &without, &leave_out);
    assert!(
        marked(&outputs[0]).contains("not declared: 1, left out"),
        "{outputs:?}"
    );
    assert_eq!(marked(&outputs[1]), "");
}

/// `<patient>_<slice>` is how exports of hospitals are named.
#[test]
fn patient_numbers_in_file_names_are_not_published() {
    let name = |index: usize| format!("MRN{:05}_{index}.png", 10_023 + 77 * (index / 10));
    let names: Vec<String> = (0..200).map(name).collect();
    let fixture = fixture(&names);
    edit(&fixture, "classes = [\"0\", \"9\"]\n", "");
    let text = fixture.fail(2, &[]);
    assert!(
        text.contains("data.classes") && !text.contains("MRN"),
        "{text}"
    );
    edit(&fixture, "class_conditional = true\n", "");
    let output = fixture.run(&[]);
    assert!(output.status.success(), "{output:?}");
    let mut places = published(&fixture.path("out"));
    places.insert("standard output".to_owned(), output.stdout.clone());
    places.insert("standard error".to_owned(), output.stderr.clone());
    for (name, bytes) in &places {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("MRN") && !name.contains("MRN"), "{name}");
    }
    // The command that shows the names to their owner marks every line and warns.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .args(["classes"])
        .arg(fixture.path("data"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(text.lines().all(|line| line.starts_with(MARK)), "{text}");
    assert!(
        text.contains("MRN10023: 10") && text.contains("patient numbers"),
        "{text}"
    );
}

#[test]
fn the_number_of_images_is_not_visible() {
    for more in [&[][..], &["--set", "data.declared_size=200"]] {
        let (one, other) = (fixture(&zeros(211)), fixture(&zeros(212)));
        let outputs = assert_indistinguishable(&one, &other, more);
        if !more.is_empty() {
            let expected = [
                "there are 211 private images",
                "there are 212 private images",
            ];
            for (output, expected) in outputs.iter().zip(expected) {
                assert!(marked(output).contains(expected), "{output:?}");
            }
        }
    }
}

/// The bounds that need the number of images are checked for the owner alone.
#[test]
fn delta_and_threshold_are_compared_with_the_real_number_for_the_owner_only() {
    let (one, other) = (fixture(&zeros(49)), fixture(&zeros(50)));
    let large = [
        "--set",
        "privacy.delta=0.02",
        "--set",
        "evolution.threshold=58.5",
    ];
    let outputs = assert_indistinguishable(&one, &other, &large);
    // σ = 1.5: six standard deviations are 9 votes.
    let (first, second) = (marked(&outputs[0]), marked(&outputs[1]));
    assert!(
        first.contains("evolution.threshold") && !first.contains("delta"),
        "{first}"
    );
    assert!(second.contains("less than 1/n = 1/50"), "{second}");
    assert!(!second.contains("evolution.threshold"), "{second}");
    // A declared number is checked in public.
    let text = one.fail(
        2,
        &[
            &large[..],
            &["--set", "data.declared_size=50", "--out", "declared"],
        ]
        .concat(),
    );
    assert!(text.contains("1/50") && !text.contains(MARK), "{text}");
}

/// The plan on standard output has declared numbers; those that are counted are marked.
#[test]
fn counted_numbers_of_a_plan_are_for_the_owner() {
    let mut names = zeros(30);
    names.push("9_1.png".to_owned());
    let fixture = fixture(&names);
    let output = fixture.run(&["--dry-run"]);
    let plan = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        plan.contains("private images: number not declared in 2 classes"),
        "{plan}"
    );
    assert!(plan.contains("and each private image"), "{plan}");
    let counted = marked(&output);
    for line in ["private images: 31", "class 0: 30", "class 9: 1"] {
        assert!(counted.contains(&format!("{MARK} {line}")), "{counted}");
    }
}

/// 201 files, of which one is replaced by a truncated one.
#[test]
fn a_skipped_file_is_not_visible() {
    let (whole, damaged) = (fixture(&zeros(201)), fixture(&zeros(201)));
    let path = damaged.path("data/0_100.png");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    for adjacency in ["add-remove", "replace-one"] {
        let adjacency = format!("privacy.adjacency={adjacency}");
        let skip = ["--set", "data.on_bad_image=skip", "--set", &adjacency];
        let outputs =
            assert_indistinguishable(&whole, &damaged, &[&skip[..], &["--fresh"]].concat());
        assert!(marked(&outputs[1]).contains("skipped"), "{outputs:?}");
        assert!(marked(&outputs[1]).contains("0_100.png"), "{outputs:?}");
    }
}

#[test]
fn a_truncation_is_a_replacement() {
    let fixture = fixture(&zeros(21));
    let truncated = ["--set", "data.num_samples=20"];
    let text = fixture.fail(2, &truncated);
    for part in [
        "data.num_samples",
        "\"replace-one\"",
        "a folder with the images",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    // Under replace-one, nothing tells whether the source has more images.
    let replace = [&truncated[..], &["--set", "privacy.adjacency=replace-one"]].concat();
    assert_indistinguishable(&fixture, &self::fixture(&zeros(20)), &replace);
}

/// The path of the data set and of the results, and that of a private reference.
#[test]
fn paths_of_private_data_are_not_published() {
    let fixture = fixture(&zeros(20));
    copy(&fixture.path("data"), &fixture.path("ward7"));
    // A reference that is declared public later must have other images.
    for (index, name) in zeros(20).iter().enumerate() {
        write(&fixture, name, index + 100);
    }
    copy(&fixture.path("data"), &fixture.path("ward8"));
    let sets = [
        "data.path=ward7",
        "evaluation.metrics=[\"fid\"]",
        "evaluation.reference=ward8",
        "output.folder=study9",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    fixture.succeed(&sets);
    for (name, bytes) in published(&fixture.path("study9")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for path in ["ward7", "ward8", "study9"] {
            assert!(!text.contains(path), "{path} is in {name}");
        }
    }
    let public = std::fs::read_to_string(fixture.path("study9/config.toml")).unwrap();
    let first = public.lines().next().unwrap();
    for key in ["data.path", "output.folder", "evaluation.reference"] {
        assert!(first.starts_with('#') && first.contains(key), "{public}");
    }
    assert!(
        public.contains("image_size") && public.contains("checkpoint"),
        "{public}"
    );
    let private = fixture.path("study9/private/config.toml");
    let complete = std::fs::read_to_string(&private).unwrap();
    for path in ["ward7", "ward8", "study9"] {
        assert!(complete.contains(path), "{path} is not in {complete}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // A public reference is named.
    fixture.succeed(
        &[
            &sets[..],
            &["--resume", "--set", "evaluation.reference_is_public=true"],
        ]
        .concat(),
    );
    let public = std::fs::read_to_string(fixture.path("study9/config.toml")).unwrap();
    assert!(
        public.contains("ward8") && !public.contains("ward7"),
        "{public}"
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The comparison itself finds a difference in each kind of file.
#[test]
fn the_comparison_finds_differences() {
    let one = fixture(&zeros(20));
    one.succeed(&[]);
    let out = one.path("out");
    let differs = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let other = one.path("changed");
        copy_tree(&out, &other);
        let path = other.join(name);
        let bytes = change(std::fs::read(&path).unwrap());
        std::fs::write(&path, bytes).unwrap();
        let (out, other) = (out.clone(), other.clone());
        let found = std::panic::catch_unwind(move || assert_same_published(&out, &other));
        std::fs::remove_dir_all(one.path("changed")).unwrap();
        assert!(found.is_err(), "{name}");
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1).into_bytes()
        }
    };
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    differs(
        "privacy.json",
        &replace("\"declared_size\": null", "\"declared_size\": 20"),
    );
    differs(
        "ledger.jsonl",
        &replace("\"iteration\":1", "\"iteration\":2"),
    );
    differs("log.txt", &replace("population 0: 16", "population 0: 17"));
    differs("config.toml", &replace("seed = 3", "seed = 4"));
    differs("0/samples.npz", &|mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    });
    differs("1/votes.npz", &longer);
    differs("3/samples.npz", &longer);
    differs("0/grid.png", &longer);
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if from.is_dir() {
            copy_tree(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}
