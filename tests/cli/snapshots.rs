//! Snapshots of the texts that users read, so that a review sees every change of wording: help,
//! plans, error messages and `privacy.json`.
//!
//! After an intended change, `cargo insta review` rewrites the files in `tests/cli/snapshots`, as
//! does `INSTA_UPDATE=always cargo test --test cli snapshots`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::RunFixture;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Compares `text` with the snapshot `name`, after replacing what differs between two machines.
fn check(name: &str, text: &str) {
    let filters = [
        // Temporary folders and the repository are the only absolute paths.
        (
            r"(/private)?/(tmp|var/folders)/[^\s:,;`'\x22]*/\.tmp\w+",
            "[tmp]",
        ),
        (r"\b[0-9a-f]{64}\b", "[sha256]"),
        (r"\b[0-9a-f]{32}\b", "[run id]"),
        (r"dpsyn \d+\.\d+\.\d+", "dpsyn [version]"),
        // The noise decides which classes have no votes above the threshold.
        (
            r#"(?s)"uniform_fallbacks": \[.*?\]"#,
            r#""uniform_fallbacks": [fallbacks]"#,
        ),
    ];
    insta::with_settings!({
        filters => filters,
        snapshot_path => "snapshots",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text.replace(REPOSITORY, "[repository]"));
    });
}

fn dpsyn(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dpsyn"))
        .current_dir(folder)
        .args(arguments)
        .env_remove("DPSYN_TEST_NOISE_SEED")
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn help() {
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_run", &["run", "--help"]),
        ("help_extend", &["extend", "--help"]),
        ("help_eval", &["eval", "--help"]),
        ("help_fetch", &["fetch", "--help"]),
        ("help_privacy", &["privacy", "--help"]),
        ("help_budget", &["budget", "--help"]),
        ("help_audit", &["audit", "--help"]),
    ] {
        let output = dpsyn(Path::new(REPOSITORY), arguments);
        assert!(output.status.success());
        check(name, &text(output.stdout));
    }
}

#[test]
fn plans() {
    let world = RunFixture::new();
    let output = dpsyn(
        world.root.path(),
        &["run", "run.toml", "--dry-run", "--device", "cpu"],
    );
    check("plan", &text(output.stdout));
    let out = world.path("quickstart");
    let quickstart = [
        "run",
        "configs/quickstart.toml",
        "--dry-run",
        "--device",
        "cpu",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = dpsyn(Path::new(REPOSITORY), &quickstart);
    check("plan_quickstart", &text(output.stdout));
    // The others' weights are not in the repository; their privacy cost needs none.
    let mut all = String::new();
    let mut names: Vec<String> = std::fs::read_dir(Path::new(REPOSITORY).join("configs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    for name in names {
        let output = dpsyn(
            Path::new(REPOSITORY),
            &["privacy", &format!("configs/{name}")],
        );
        let _ = writeln!(
            all,
            "$ dpsyn privacy configs/{name}\n{}",
            text(output.stdout)
        );
    }
    check("privacy_of_shipped_configurations", &all);
}

/// Collects refused commands with their exit codes and messages.
struct Catalogue<'a> {
    folder: &'a Path,
    text: String,
}

impl Catalogue<'_> {
    fn add(&mut self, arguments: &[&str]) {
        let output = dpsyn(self.folder, arguments);
        let code = output.status.code().unwrap();
        assert_ne!(code, 0, "{arguments:?} was not refused");
        // Progress is not part of the message.
        let message = text(output.stderr);
        let begin = message.find("error: ").unwrap_or(0);
        let message = message.get(begin..).unwrap_or_default().trim_end();
        let line = arguments.join(" ");
        let _ = writeln!(self.text, "$ dpsyn {line}\n[exit code {code}]\n{message}\n");
    }

    fn run(&mut self, arguments: &[&str]) {
        let fixed = ["run", "run.toml", "--device", "cpu"];
        self.add(&[&fixed, arguments].concat());
    }

    fn set(&mut self, setting: &str) {
        self.run(&["--set", setting]);
    }
}

#[test]
fn errors_of_configurations() {
    let world = RunFixture::new();
    let mut catalogue = Catalogue {
        folder: world.root.path(),
        text: String::new(),
    };
    for setting in [
        "nonsense",
        "evolutoin.threshold=1",
        "evolution.thresold=1",
        "evolution.threshold=many",
        "evolution.threshold=-1",
        "evolution.threshold=1000",
        "evolution.num_samples=15",
        "evolution.num_samples=9000000000000000000",
        "evolution.num_samples=[4, 4]",
        "evolution.nearest_neighbors=9",
        "evolution.variation_degree=[0, 4]",
        "evolution.class_shares={cat = 1}",
        "evolution.class_shares={cat = 1e308, dog = 1e308}",
        "evolution.initial_samples=none.npz",
        "data.image_size=0",
        "data.image_size=16",
        "model.type=dalle",
        "model.timestep_respacing=x",
        "model.class_labels={cat = [1]}",
        "model.dtype=f16",
        "model.api_key=sk-0123456789abcdef0123",
        "embedder.size=0",
        "privacy.epsilon=1",
        "privacy.noise_multiplier=0",
        "privacy.noise_multiplier=0.01",
        "privacy.delta=0.05",
        "privacy.delta=nan",
        "privacy.adjacency=remove",
        "evaluation.metrics=[\"downstream\"]",
        "evaluation.metrics=[\"fd\"]",
        "evaluation.every=2",
    ] {
        catalogue.set(setting);
    }
    catalogue.run(&["--non-private"]);
    catalogue.add(&["run", "none.toml"]);
    std::fs::write(world.path("broken.toml"), "[data]\npath = = 'data'\n").unwrap();
    catalogue.add(&["run", "broken.toml"]);
    std::fs::write(world.path("short.toml"), "[data]\npath = 'data'\n").unwrap();
    catalogue.add(&["run", "short.toml"]);
    check("errors_of_configurations", &catalogue.text);
}

#[test]
fn errors_of_inputs() {
    let world = RunFixture::new();
    let mut catalogue = Catalogue {
        folder: world.root.path(),
        text: String::new(),
    };
    std::fs::create_dir(world.path("empty")).unwrap();
    catalogue.set("data.path=nowhere");
    catalogue.set("data.path=empty");
    catalogue.set("data.path=run.toml");
    std::fs::write(world.path("data/noclass.png"), "").unwrap();
    catalogue.run(&[]);
    std::fs::remove_file(world.path("data/noclass.png")).unwrap();
    std::fs::write(world.path("data/nested/dog_99.jpg"), "no image").unwrap();
    catalogue.run(&[]);
    std::fs::remove_file(world.path("data/nested/dog_99.jpg")).unwrap();
    catalogue.set("model.checkpoint=none.pt");
    std::fs::write(world.path("junk.pt"), "junk").unwrap();
    catalogue.set("model.checkpoint=junk.pt");
    catalogue.set("model.num_res_blocks=2");
    catalogue.set("model.num_classes=6");
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    catalogue.add(&["run", "run.toml", "--device", "cuda"]);
    catalogue.add(&["run", "run.toml", "--device", "gpu"]);
    let samples = ["eval", "data", "--against", "data"];
    catalogue.add(&samples);
    catalogue.add(&[&samples[..], &["--embedder", "pixels"]].concat());
    catalogue.add(&["fetch", "cifar"]);
    catalogue.add(&["fetch", "cifar10", "--offline"]);
    catalogue.add(&[
        "privacy",
        "--epsilon=-1",
        "--iterations",
        "3",
        "--delta",
        "1e-5",
    ]);
    catalogue.add(&[
        "privacy",
        "--epsilon=1",
        "--iterations",
        "3",
        "--delta",
        "2",
    ]);
    check("errors_of_inputs", &catalogue.text);
}

#[test]
fn errors_of_result_folders_and_the_statement() {
    let world = RunFixture::new();
    let mut catalogue = Catalogue {
        folder: world.root.path(),
        text: String::new(),
    };
    std::fs::create_dir(world.path("full")).unwrap();
    std::fs::write(world.path("full/thesis.txt"), "mine").unwrap();
    catalogue.run(&["--out", "full"]);
    catalogue.run(&["--out", "full", "--resume"]);
    world.succeed(&[]);
    let statement = std::fs::read_to_string(world.path("out/privacy.json")).unwrap();
    check("privacy_json", &statement);

    catalogue.run(&[]);
    catalogue.run(&["--resume", "--set", "privacy.noise_multiplier=3"]);
    catalogue.run(&["--resume", "--set", "evolution.seed=4"]);
    let votes = world.path("out/2/votes.npz");
    let released = std::fs::read(&votes).unwrap();
    std::fs::copy(world.path("out/1/votes.npz"), &votes).unwrap();
    catalogue.run(&["--resume"]);
    std::fs::write(&votes, released).unwrap();
    let ledger = world.path("out/ledger.jsonl");
    let lines = std::fs::read_to_string(&ledger).unwrap();
    let edited = lines.replace("\"releases_so_far\":2", "\"releases_so_far\":1");
    std::fs::write(&ledger, edited).unwrap();
    catalogue.run(&["--resume"]);
    std::fs::write(&ledger, &lines).unwrap();
    let image = std::fs::read(world.path("data/nested/cat_00.png")).unwrap();
    std::fs::write(world.path("data/nested/cat_01.png"), image).unwrap();
    catalogue.run(&["--resume"]);
    std::fs::remove_file(&ledger).unwrap();
    catalogue.run(&["--resume"]);
    check("errors_of_result_folders", &catalogue.text);
}
