//! Attacks on what a run could compute of its images beside the noisy histograms: classes, their
//! names, the number of images.

use super::compare::{
    MARK, assert_indistinguishable, assert_same_output, marked, published, unmarked,
};
use super::data_sets::{edit, fixture, zeros};

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
            &["--set", "data.declared_size=50", "--out", "other"],
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
    let other = self::fixture(&zeros(20));
    assert_indistinguishable(&fixture, &other, &replace);
    // What is stated holds: nothing under add-remove adjacency.
    let plan = fixture.run(&[&replace[..], &["--dry-run"]].concat());
    let plan = String::from_utf8(plan.stdout).unwrap();
    let row = plan
        .lines()
        .find(|line| line.trim_start().starts_with("1 "));
    assert_eq!(row.unwrap().split_whitespace().nth(3), Some("-"), "{plan}");
    let statement = published(&fixture.path("out"))["privacy.json"].clone();
    let statement: serde_json::Value = serde_json::from_slice(&statement).unwrap();
    assert_eq!(statement["declared_public"]["num_samples"], 20);
    let rows = statement["guarantees"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["adjacency"] == "replace-one"));
}

/// The paths of the data set, of its budget, of a private reference and of the results.
#[test]
fn paths_of_private_data_are_not_published() {
    let fixture = fixture(&zeros(40));
    // The second half of the images is the reference.
    for (images, folder) in [(0..20, "ward7"), (20..40, "ward8")] {
        std::fs::create_dir(fixture.path(folder)).unwrap();
        for name in &zeros(40)[images] {
            let (from, to) = (fixture.path("data"), fixture.path(folder));
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    let budget = std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(fixture.root.path())
        .args(["budget", "--file", "cohort6.toml", "init", "ward7"])
        .args(["--epsilon", "5", "--delta", "1e-3"])
        .output()
        .unwrap();
    assert!(budget.status.success(), "{budget:?}");
    let sets = [
        "data.path=ward7",
        "privacy.budget=cohort6.toml",
        "evaluation.metrics=[\"fid\"]",
        "evaluation.reference=ward8",
        "output.folder=study9",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    fixture.succeed(&sets);
    for (name, bytes) in published(&fixture.path("study9")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for path in ["cohort6", "ward7", "ward8", "study9"] {
            assert!(!text.contains(path), "{path} is in {name}");
        }
    }
    let public = std::fs::read_to_string(fixture.path("study9/config.toml")).unwrap();
    let first = public.lines().next().unwrap();
    for key in [
        "data.path",
        "output.folder",
        "evaluation.reference",
        "privacy.budget",
    ] {
        assert!(first.starts_with('#') && first.contains(key), "{public}");
    }
    assert!(
        public.contains("image_size") && public.contains("checkpoint"),
        "{public}"
    );
    let private = fixture.path("study9/private/config.toml");
    let complete = std::fs::read_to_string(&private).unwrap();
    for path in ["cohort6", "ward7", "ward8", "study9"] {
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
