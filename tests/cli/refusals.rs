//! Bad input ends the program with a documented code before anything is spent.

use std::process::Stdio;

use dpsyn::internals::images::{SamplesReader, SamplesWriter};

use crate::support::{NOISELESS, RunFixture, SIZE, wait_for};

const USAGE: i32 = 2;
const DATA: i32 = 3;
const WEIGHTS: i32 = 4;
const PRIVACY: i32 = 5;
const OUTPUT: i32 = 6;
const DEVICE: i32 = 7;

fn refused(fixture: &RunFixture, code: i32, arguments: &[&str], expected: &[&str]) {
    let text = fixture.fail(code, arguments);
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!fixture.path("out").exists(), "something was left: {text}");
}

#[test]
fn configurations() {
    let fixture = RunFixture::new();
    let set = |key: &str, expected: &[&str]| {
        refused(&fixture, USAGE, &["--set", key], expected);
    };
    set(
        "evolution.num_samples=9000000000000000000",
        &["evolution.num_samples", "expected 1 to"],
    );
    set("data.image_size=16", &["embedder.size"]);
    set(
        "evolution.thresold=1",
        &["unknown key `thresold`", "`threshold`"],
    );
    set(
        "evolution.threshold=-1",
        &["evolution.threshold", "at least 0"],
    );
    set(
        "evolution.threshold=1000",
        &["evolution.threshold", "no votes of 24 images reach"],
    );
    set(
        "evolution.class_shares={cat = 1e308, dog = 1e308}",
        &["evolution.class_shares", "too large"],
    );
    set(
        "evolution.num_samples=15",
        &["evolution.num_samples", "2 classes"],
    );
    set(
        "evolution.nearest_neighbors=9",
        &["evolution.nearest_neighbors", "only 8"],
    );
    set(
        "evolution.variation_degree=[0, 4]",
        &["evolution.variation_degree", "0 (most change) to 3"],
    );
    set("evolution.num_samples=[4, 4]", &["entries where"]);
    set(
        "evolution.class_shares={cat = 1}",
        &["evolution.class_shares", "dog"],
    );
    set("model.timestep_respacing=x", &["model.timestep_respacing"]);
    set("model.class_labels={cat = [1]}", &["class_labels", "dog"]);
    set("model.type=dalle", &["unknown model type `dalle`"]);
    set("embedder.size=0", &["embedder.size"]);
    set("privacy.epsilon=1", &["privacy", "noise_multiplier"]);
    set("privacy.noise_multiplier=0", &["--non-private"]);
    set("privacy.delta=0.05", &["privacy.delta", "1/24"]);
    set("privacy.delta=nan", &["delta"]);
    for wrong in ["0s", "60", "2d"] {
        let key = format!("privacy.pad_release_to=\"{wrong}\"");
        set(&key, &["pad_release_to", "such as \"60s\"", wrong]);
    }
    set("data.image_size=0", &["data.image_size"]);
    set("data.classes=[]", &["data.classes", "is empty"]);
    set(
        "data.classes=['cat', 'cat']",
        &["data.classes", "`cat` twice"],
    );
    set(
        "data.class_conditional=false",
        &["data.classes", "class_conditional is false"],
    );
    set("data.declared_size=0", &["data.declared_size", "1 or more"]);
    set(
        "data.num_samples=20",
        &["data.num_samples", "\"replace-one\"", "a folder with"],
    );
    refused(&fixture, USAGE, &["--non-private"], &["--non-private"]);
    std::fs::write(
        fixture.path("run.toml"),
        "[data]\npath = 'data'\nimage_sise = 8\n",
    )
    .unwrap();
    refused(&fixture, USAGE, &[], &["run.toml"]);
}

#[test]
fn number_types_that_the_cpu_lacks() {
    let fixture = RunFixture::new();
    refused(
        &fixture,
        USAGE,
        &["--set", "model.dtype=f16"],
        &["dtype: f16"],
    );
    for path in ["scalar", "avx2"] {
        let mut command = fixture.command(&["--set", "model.dtype=bf16"]);
        let output = command.env("DPSYN_CPU", path).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        // On a CPU without AVX2, the missing instruction set is reported first.
        assert!(
            text.contains("AVX512_BF16") && text.contains("dtype") || text.contains("`avx2`"),
            "{text}"
        );
        assert!(!fixture.path("out").exists(), "something was left: {text}");
    }
}

#[test]
fn a_mistyped_key_is_shown_with_its_line() {
    let fixture = RunFixture::new();
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let line = 1 + text.lines().position(|l| l.starts_with("delta")).unwrap();
    let text = text.replace("delta", "dleta");
    std::fs::write(fixture.path("run.toml"), text).unwrap();
    let expected = [
        &format!("run.toml:{line}:1"),
        "| dleta = 1e-3",
        "did you mean `delta`",
    ];
    refused(&fixture, USAGE, &[], &expected);
}

#[test]
fn private_images() {
    let fixture = RunFixture::new();
    refused(
        &fixture,
        DATA,
        &["--set", "data.path=nowhere"],
        &["nowhere"],
    );
    std::fs::write(fixture.path("data/nested/dog_99.jpg"), "no image").unwrap();
    refused(
        &fixture,
        DATA,
        &[],
        &["[private, not for release] ", "dog_99.jpg"],
    );
    let text = fixture.succeed(&["--set", "data.on_bad_image=skip"]);
    let skipped = text.lines().find(|line| line.contains("skipped"));
    let skipped = skipped.unwrap_or_else(|| panic!("{text}"));
    assert!(
        skipped.starts_with("[private, not for release] skipped") && skipped.contains("dog_99.jpg"),
        "{text}"
    );
    std::fs::write(fixture.path("data/noclass.png"), "").unwrap();
    let text = fixture.fail(DATA, &["--out", "other"]);
    assert!(
        text.contains("noclass.png") && text.contains("<class>_"),
        "{text}"
    );
}

#[test]
fn weights() {
    let fixture = RunFixture::new();
    refused(
        &fixture,
        WEIGHTS,
        &["--set", "model.checkpoint=none.pt"],
        &["none.pt"],
    );
    refused(
        &fixture,
        WEIGHTS,
        &["--set", "model.num_res_blocks=2"],
        &["model.safetensors", "input_blocks.2."],
    );
    let set = "model.num_classes=6";
    refused(
        &fixture,
        WEIGHTS,
        &["--set", set],
        &["label_emb.weight", "[6, 128]", "[5, 128]"],
    );
    refused(
        &fixture,
        WEIGHTS,
        &["--set", "model.class_cond=false"],
        &["label_emb.weight"],
    );
    std::fs::write(fixture.path("junk.pt"), "junk").unwrap();
    refused(
        &fixture,
        WEIGHTS,
        &["--set", "model.checkpoint=junk.pt"],
        &["junk.pt"],
    );
}

#[test]
fn folders_and_devices() {
    let fixture = RunFixture::new();
    std::fs::create_dir(fixture.path("full")).unwrap();
    std::fs::write(fixture.path("full/thesis.txt"), "mine").unwrap();
    for flag in ["--resume", "--fresh"] {
        refused(
            &fixture,
            OUTPUT,
            &["--out", "full", flag],
            &["full", "holds no run"],
        );
    }
    assert_eq!(std::fs::read_dir(fixture.path("full")).unwrap().count(), 1);
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    for device in ["cuda:1", "cuda:0,1", "all", "metal"] {
        let text = String::from_utf8(
            std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
                .current_dir(fixture.root.path())
                .args(["run", "run.toml", "--device", device])
                .output()
                .map(|output| {
                    assert_eq!(output.status.code(), Some(DEVICE));
                    output.stderr
                })
                .unwrap(),
        );
        assert!(text.unwrap().contains("built without"));
    }
}

#[test]
fn a_run_goes_on_only_under_its_own_terms() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let refuse = |arguments: &[&str], expected: &str| {
        let text = fixture.fail(PRIVACY, &[arguments, &["--resume"]].concat());
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    };
    refuse(&["--set", "privacy.noise_multiplier=3"], "noise_multiplier");
    refuse(&["--set", "evolution.seed=4"], "config_sha256");
    refuse(&["--set", "evolution.threshold=2"], "config_sha256");
    // What no result depends on may change.
    fixture.succeed(&["--set", "model.batch_size=3", "--resume"]);
    fixture.succeed(&["--set", "privacy.pad_release_to=1s", "--resume"]);
    // A released histogram is the one that was released.
    let votes = fixture.path("out/2/votes.npz");
    let other = std::fs::read(fixture.path("out/1/votes.npz")).unwrap();
    let kept = std::fs::read(&votes).unwrap();
    std::fs::write(&votes, other).unwrap();
    refuse(&[], "not the one that was released");
    // A lost one comes back with the same noise.
    std::fs::remove_file(&votes).unwrap();
    fixture.succeed(&["--resume"]);
    assert!(std::fs::read(&votes).unwrap() == kept);
    // Another image is other data.
    let image = std::fs::read(fixture.path("data/nested/cat_00.png")).unwrap();
    std::fs::write(fixture.path("data/nested/cat_01.png"), image).unwrap();
    refuse(&[], "private images differ from those");
    std::fs::remove_file(fixture.path("out/ledger.jsonl")).unwrap();
    refuse(&[], "its copy");
    std::fs::remove_file(fixture.path("out/private/ledger.jsonl")).unwrap();
    refuse(&[], "is missing although");
}

#[test]
fn samples_made_without_privacy_do_not_become_private() {
    let fixture = RunFixture::new();
    fixture.succeed(&[&NOISELESS[..], &["--out", "first"]].concat());
    let start = "evolution.initial_samples=first/3/samples.npz";
    refused(
        &fixture,
        USAGE,
        &["--set", start],
        &["first/3/samples.npz", "--non-private"],
    );
    fixture.succeed(&[&NOISELESS[..], &["--set", start]].concat());
    // Which samples a run started from belongs to its terms.
    let text = fixture.fail(PRIVACY, &[&NOISELESS[..], &["--resume"]].concat());
    assert!(text.contains("config_sha256"), "{text}");
}

#[test]
fn a_label_that_the_model_does_not_know_is_found_before_anything_is_spent() {
    let fixture = RunFixture::new();
    fixture.succeed(&["--out", "first"]);
    let mut reader = SamplesReader::open(&fixture.path("first/3/samples.npz")).unwrap();
    let images = reader.read(0..16).unwrap();
    let file = std::fs::File::create(fixture.path("given.npz")).unwrap();
    let mut writer = SamplesWriter::create(file, 16, SIZE, SIZE).unwrap();
    writer.push(&images).unwrap();
    writer.i64s("conditions", &[900; 16]).unwrap();
    writer.finish().unwrap();
    let set = "evolution.initial_samples=given.npz";
    refused(
        &fixture,
        USAGE,
        &["--set", set],
        &["given.npz", "`conditions`"],
    );
}

#[test]
fn usage_of_privacy() {
    for arguments in [
        &["--epsilon=-1", "--iterations", "3", "--delta", "1e-5"][..],
        &["--epsilon=1", "--iterations", "3", "--delta", "2"],
        &[
            "--epsilon=1",
            "--iterations",
            "4000000000",
            "--delta",
            "1e-5",
        ],
        &[],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_dpsyn"))
            .arg("privacy")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(USAGE),
            "{arguments:?} {output:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_terminal_that_has_gone_away_does_not_end_a_run() {
    use std::os::unix::process::ExitStatusExt;
    let fixture = RunFixture::new();
    let mut child = fixture
        .command(&[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert!(status.success(), "{status:?} {:?}", status.signal());
    assert!(fixture.path("out/3/grid.png").exists());
}

#[test]
fn a_decoder_s_words_about_a_private_file_are_not_passed_on() {
    let fixture = RunFixture::new();
    let path = fixture.path("data/nested/cat_03.png");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
    let text = fixture.fail(DATA, &[]);
    assert!(
        text.contains("cat_03.png: a damaged or truncated PNG"),
        "{text}"
    );
    assert!(!text.contains("0x") && !text.contains("CRC"), "{text}");
}

#[test]
fn two_processes_never_share_a_folder() {
    let fixture = RunFixture::new();
    let mut first = fixture
        .command(&["--set", "evolution.lookahead_degree=200"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&fixture.path("out/0/grid.png"), &mut first);
    let text = fixture.fail(
        PRIVACY,
        &["--set", "evolution.lookahead_degree=200", "--resume"],
    );
    assert!(text.contains("in use by another process"), "{text}");
    // Before any private image is read: these have a damaged one.
    std::fs::create_dir(fixture.path("damaged")).unwrap();
    std::fs::write(fixture.path("damaged/cat_00.png"), "damaged").unwrap();
    for (flag, code) in [("--resume", PRIVACY), ("--fresh", 6)] {
        let text = fixture.fail(code, &["--set", "data.path=damaged", flag]);
        assert!(text.contains("in use by another process"), "{text}");
    }
    assert!(fixture.path("out").exists() && !fixture.path("out.old-1").exists());
    first.kill().unwrap();
    first.wait().unwrap();
}
