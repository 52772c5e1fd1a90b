//! Runs that succeed, and their result folders.

use std::path::Path;

use dpsyn::internals::images::{NpzReader, SamplesReader};

use crate::support::{
    CLASSES, NOISELESS, RunFixture, SIZE, sample_bytes, write_clip, write_dinov2,
};

fn statement(fixture: &RunFixture, folder: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(fixture.path(folder).join("privacy.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_run_leaves_the_documented_folder() {
    let fixture = RunFixture::new();
    let output = fixture.run(&[]);
    assert!(output.status.success());
    let last = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        Path::new(last.trim()),
        Path::new("out").join("3").join("samples.npz")
    );
    let out = fixture.path("out");
    for name in [
        "config.toml",
        "privacy.json",
        "ledger.jsonl",
        "log.txt",
        "private",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
    assert!(!out.join(".work").exists());
    for iteration in 0..=3 {
        let folder = out.join(iteration.to_string());
        let mut reader = SamplesReader::open(&folder.join("samples.npz")).unwrap();
        assert_eq!(
            (reader.len(), reader.height(), reader.width()),
            (16, SIZE, SIZE)
        );
        assert_eq!(reader.labels().unwrap(), [[0i64; 8], [1; 8]].concat());
        let (_, conditions) = reader.arrays().i64s("conditions").unwrap();
        assert!(conditions.iter().all(|c| (0..5).contains(c)));
        assert!(folder.join("grid.png").exists());
        for name in ["votes.npz", "top.png", "bottom.png"] {
            assert_eq!(folder.join(name).exists(), iteration > 0, "{name}");
        }
        if iteration > 0 {
            let mut votes = NpzReader::open(&folder.join("votes.npz")).unwrap();
            let (_, noisy) = votes.f64s("noisy").unwrap();
            let (_, kept) = votes.f64s("votes").unwrap();
            for (noisy, kept) in noisy.iter().zip(&kept) {
                assert_eq!(*kept, noisy.max(0.5) - 0.5);
            }
        }
    }
    let statement = statement(&fixture, "out");
    assert_eq!(statement["releases_executed"], 3);
    assert_eq!(statement["declared_public"]["declared_size"], 24);
    assert_eq!(statement["declared_public"]["class_names"][1], CLASSES[1]);
    assert!(statement["non_private"].is_null());
    assert_eq!(
        statement["declared_public"]["selection"],
        "all images of the source"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(out.join("private"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    // Resuming a finished run changes nothing.
    let before = std::fs::read(out.join("ledger.jsonl")).unwrap();
    fixture.succeed(&["--resume"]);
    assert_eq!(std::fs::read(out.join("ledger.jsonl")).unwrap(), before);
}

/// Another implementation reads the same values from the files.
#[test]
fn samples_and_votes_are_plain_npz() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let open = |name: &str| {
        let file = std::fs::File::open(fixture.path(name)).unwrap();
        ndarray_npy::NpzReader::new(file).unwrap()
    };
    let mut npz = open("out/3/samples.npz");
    let images: ndarray::Array4<u8> = npz.by_name("samples").unwrap();
    let labels: ndarray::Array1<i64> = npz.by_name("labels").unwrap();
    assert_eq!(images.shape(), [16, SIZE, SIZE, 3]);
    assert_eq!(labels.len(), 16);
    assert!(images.into_raw_vec_and_offset().0 == sample_bytes(&fixture.path("out/3/samples.npz")));
    let noisy: ndarray::Array1<f64> = open("out/3/votes.npz").by_name("noisy").unwrap();
    let lattice: ndarray::Array1<i64> = open("out/3/votes.npz").by_name("lattice").unwrap();
    for (noisy, lattice) in noisy.iter().zip(&lattice) {
        assert_eq!(*noisy, *lattice as f64 / f64::from(1 << 20));
    }
}

#[test]
fn images_depend_on_the_seed_but_not_on_the_batch_size() {
    let fixture = RunFixture::new();
    let run = |folder: &str, set: &str| {
        let mut arguments = vec!["--out", folder, "--set", set];
        arguments.extend(NOISELESS);
        fixture.succeed(&arguments);
        sample_bytes(&fixture.path(folder).join("3/samples.npz"))
    };
    let five = run("five", "model.batch_size=5");
    assert!(five == run("one", "model.batch_size=1"));
    assert!(five == run("many", "model.batch_size=100"));
    assert!(five != run("seed", "evolution.seed=4"));
}

#[test]
fn another_sampler_generates_other_images_and_cannot_resume_the_run() {
    let fixture = RunFixture::new();
    let few = [
        "--set",
        "model.sampler=dpm-solver++",
        "--set",
        "model.timestep_respacing=quad4",
    ];
    let run = |folder: &str, more: &[&str]| {
        fixture.succeed(&[&["--out", folder], &NOISELESS[..], more].concat());
        sample_bytes(&fixture.path(folder).join("3/samples.npz"))
    };
    let first = run("first", &few);
    assert!(
        first
            == run(
                "again",
                &[&few[..], &["--set", "model.batch_size=16"]].concat()
            )
    );
    assert!(first != run("ddim", &[]));
    let text = fixture.fail(
        5,
        &[&["--out", "ddim", "--resume"], &NOISELESS[..], &few].concat(),
    );
    assert!(text.contains("config_sha256"), "{text}");
}

#[test]
fn without_privacy_every_output_is_marked() {
    let fixture = RunFixture::new();
    fixture.succeed(&["--non-private", "--set", "privacy.noise_multiplier=0"]);
    let out = fixture.path("out");
    assert!(statement(&fixture, "out")["non_private"].is_string());
    for name in ["config.toml", "log.txt"] {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(text.contains("NOT PRIVATE"), "{name}");
    }
    for name in ["0/samples.npz", "3/samples.npz", "1/votes.npz"] {
        assert!(
            NpzReader::open(&out.join(name)).unwrap().has("non_private"),
            "{name}"
        );
    }
}

#[test]
fn a_threshold_above_all_votes_falls_back_to_uniform_and_records_it() {
    let fixture = RunFixture::new();
    let text = fixture.succeed(&["--set", "evolution.threshold=32"]);
    assert!(text.contains("parents are drawn uniformly"), "{text}");
    let fallbacks = statement(&fixture, "out")["uniform_fallbacks"].clone();
    assert_eq!(fallbacks.as_array().unwrap().len(), 6, "{fallbacks}");
    assert_eq!(fallbacks[0]["class"], "cat");
}

#[test]
fn an_unconditional_run_has_one_class_and_may_have_any_number_of_samples() {
    let fixture = RunFixture::new();
    fixture.make_unconditional();
    fixture.succeed(&[
        "--set",
        "evolution.num_samples=[7, 5, 9, 3]",
        "--set",
        "evolution.lookahead_degree=0",
        "--set",
        "output.plot_images=true",
    ]);
    let out = fixture.path("out");
    for (iteration, count) in [7, 5, 9, 3].into_iter().enumerate() {
        let folder = out.join(iteration.to_string());
        let reader = SamplesReader::open(&folder.join("samples.npz")).unwrap();
        assert_eq!(reader.len(), count);
        assert!(folder.join(format!("{}.png", count - 1)).exists());
        assert!(!folder.join(format!("{count}.png")).exists());
    }
    let statement = statement(&fixture, "out");
    assert_eq!(
        statement["declared_public"]["class_names"],
        serde_json::json!([])
    );
}

#[test]
fn elite_parents_rank_selection_and_class_shares() {
    let fixture = RunFixture::new();
    fixture.succeed(&[
        "--set",
        "evolution.num_samples=24",
        "--set",
        "evolution.initial_variations=2",
        "--set",
        "evolution.next_variations=3",
        "--set",
        "evolution.keep_selected=true",
        "--set",
        "evolution.selection=rank",
        "--set",
        "evolution.class_shares={cat = 1, dog = 2}",
    ]);
    let out = fixture.path("out");
    let mut reader = SamplesReader::open(&out.join("1/samples.npz")).unwrap();
    assert_eq!(
        reader.labels().unwrap(),
        [vec![0i64; 8], vec![1; 16]].concat()
    );
    // Kept parents are images of the population before, those with the most votes of their class
    // first.
    let mut votes = NpzReader::open(&out.join("1/votes.npz")).unwrap();
    let (_, votes) = votes.f64s("votes").unwrap();
    // 24 images are 8 random ones with 2 variations each; the share of cats is 3 of the 8.
    let mut order: Vec<usize> = (0..9).collect();
    order.sort_by(|a, b| votes[*b].total_cmp(&votes[*a]).then(a.cmp(b)));
    let mut before = SamplesReader::open(&out.join("0/samples.npz")).unwrap();
    if votes[..9].iter().sum::<f64>() > 0.0 {
        for (place, parent) in (6..8).zip(order) {
            let kept = reader.read(place..place + 1).unwrap();
            assert!(
                kept == before.read(parent..parent + 1).unwrap(),
                "{place} {parent}"
            );
        }
    }
}

#[test]
fn samples_of_a_file_can_be_the_initial_population() {
    let fixture = RunFixture::new();
    fixture.succeed(&["--out", "first"]);
    fixture.succeed(&["--set", "evolution.initial_samples=first/3/samples.npz"]);
    let declared = statement(&fixture, "out")["declared_public"].clone();
    assert!(declared["initial_samples_sha256"].is_string(), "{declared}");
    // They were made from the same images, so their charges are part of the claim.
    assert_eq!(claimed(&fixture, "out"), epsilon_of(6));
    let given = sample_bytes(&fixture.path("first/3/samples.npz"));
    assert!(sample_bytes(&fixture.path("out/0/samples.npz")) == given);
    let text = fixture.fail(
        2,
        &[
            "--fresh",
            "--set",
            "evolution.initial_samples=first/3/samples.npz",
            "--set",
            "evolution.num_samples=8",
        ],
    );
    assert!(
        text.contains("first/3/samples.npz") && text.contains("8 of 8x8"),
        "{text}"
    );
    // The run was refused before anything was moved.
    assert!(fixture.path("out/3/samples.npz").exists());
}

/// The last ε of the claimed adjacency.
fn claimed(fixture: &RunFixture, folder: &str) -> f64 {
    let statement = statement(fixture, folder);
    let guarantees = statement["guarantees"].as_array().unwrap();
    let mut declared = guarantees.iter().rev().filter(|g| g["declared"] == true);
    declared.next().unwrap()["epsilon"].as_f64().unwrap()
}

/// The ε of so many releases of the fixture, as the statement shows it.
fn epsilon_of(releases: u32) -> f64 {
    let epsilon = dpsyn::epsilon(1.5, releases, 1e-3, dpsyn::Adjacency::AddRemove).unwrap();
    (epsilon * 1e6).ceil() / 1e6
}

#[test]
fn fresh_keeps_the_earlier_run_beside() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let text = fixture.fail(6, &[]);
    assert!(
        text.contains("--resume") && text.contains("--fresh"),
        "{text}"
    );
    let text = fixture.succeed(&["--fresh"]);
    assert!(text.contains("includes its charges"), "{text}");
    assert!(fixture.path("out.old-1/3/samples.npz").exists());
    assert!(fixture.path("out/3/samples.npz").exists());
    assert_eq!(claimed(&fixture, "out"), epsilon_of(6));
    // A third run carries both, and so does a resumed one.
    fixture.succeed(&["--fresh"]);
    fixture.succeed(&["--resume"]);
    assert_eq!(claimed(&fixture, "out"), epsilon_of(9));
    let earlier = statement(&fixture, "out")["earlier_runs"].clone();
    assert_eq!(earlier.as_array().unwrap().len(), 2, "{earlier}");
    // Charges under another unit or without noise do not add up to a claim.
    fixture.succeed(&[&NOISELESS[..], &["--out", "plain"]].concat());
    fixture.succeed(&["--out", "plain", "--fresh"]);
    assert_eq!(claimed(&fixture, "plain"), epsilon_of(3));
}

#[test]
fn a_resumed_run_finishes_what_was_left_unfinished() {
    let fixture = RunFixture::new();
    let above = ["--set", "evolution.threshold=32"];
    fixture.succeed(&above);
    let before = statement(&fixture, "out")["uniform_fallbacks"].clone();
    for name in ["0/grid.png", "2/grid.png", "3/top.png", "3/bottom.png"] {
        std::fs::remove_file(fixture.path("out").join(name)).unwrap();
    }
    fixture.succeed(
        &[
            &above[..],
            &["--resume", "--set", "output.plot_images=true"],
        ]
        .concat(),
    );
    for name in [
        "0/grid.png",
        "2/grid.png",
        "3/top.png",
        "3/bottom.png",
        "0/15.png",
        "3/15.png",
    ] {
        assert!(fixture.path("out").join(name).exists(), "{name}");
    }
    assert_eq!(statement(&fixture, "out")["uniform_fallbacks"], before);
}

#[test]
fn a_resumed_run_refuses_damaged_samples() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let samples = fixture.path("out/3/samples.npz");
    let mut bytes = std::fs::read(&samples).unwrap();
    // The images are most of the file, so its middle belongs to them.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&samples, bytes).unwrap();
    let text = fixture.fail(6, &["--resume"]);
    assert!(text.contains("3/samples.npz"), "{text}");
}

#[test]
fn skipped_files_may_be_deleted_between_runs() {
    let fixture = RunFixture::new();
    let bad = fixture.path("data/nested/cat_50.gif");
    std::fs::write(&bad, "broken").unwrap();
    fixture.succeed(&["--set", "data.on_bad_image=skip"]);
    std::fs::remove_file(&bad).unwrap();
    fixture.succeed(&["--resume"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_nothing() {
    let fixture = RunFixture::new();
    let output = fixture.run(&["--dry-run"]);
    assert!(output.status.success());
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(
        plan.contains("private images: 24 (data.declared_size) in 2 classes"),
        "{plan}"
    );
    // 16 random images of 4 steps; 16 samples, 2 lookaheads and 1 variation, of 4, 3 and 2 steps.
    assert!(plan.contains("network evaluations: 496"), "{plan}");
    assert!(!fixture.path("out").exists());
}

#[test]
fn clip_is_an_embedder() {
    let fixture = RunFixture::new();
    write_clip(&fixture.path("clip.safetensors"));
    let set = |keys: &[&'static str]| -> Vec<&'static str> {
        let base = ["embedder.type=clip", "embedder.weights=clip.safetensors"];
        let keys = base.iter().chain(keys);
        keys.flat_map(|key| ["--set", *key]).collect()
    };
    fixture.succeed(&set(&["embedder.resolution=8"]));
    let digest = statement(&fixture, "out")["declared_public"]["embedder_weights_sha256"].clone();
    assert_eq!(digest.as_str().map(str::len), Some(64), "{digest}");
    assert!(fixture.path("out/3/samples.npz").exists());
    let text = fixture.fail(2, &set(&["output.folder=other"]));
    assert!(text.contains("resolution"), "{text}");
    std::fs::copy(
        fixture.path("model.safetensors"),
        fixture.path("clip.safetensors"),
    )
    .unwrap();
    let text = fixture.fail(4, &set(&["embedder.resolution=8", "output.folder=other"]));
    assert!(
        text.contains("vision_model.embeddings.patch_embedding"),
        "{text}"
    );
}

/// By a file, and by the folder of a hub repository, which is the same network.
#[test]
fn dinov2_is_an_embedder() {
    let fixture = RunFixture::new();
    std::fs::create_dir(fixture.path("dinov2")).unwrap();
    write_dinov2(&fixture.path("dinov2/model.safetensors"), 4);
    let set = |keys: &[&'static str]| -> Vec<&'static str> {
        let base = ["embedder.type=dinov2", "embedder.input_size=28"];
        let keys = base.iter().chain(keys);
        keys.flat_map(|key| ["--set", *key]).collect()
    };
    let file = "embedder.weights=dinov2/model.safetensors";
    fixture.succeed(&set(&[file, "embedder.resolution=8"]));
    let digest = statement(&fixture, "out")["declared_public"]["embedder_weights_sha256"].clone();
    assert_eq!(digest.as_str().map(str::len), Some(64), "{digest}");
    assert!(fixture.path("out/3/samples.npz").exists());
    let folder = "embedder.weights=dinov2";
    fixture.succeed(&[&set(&[folder, "embedder.resolution=8"])[..], &["--resume"]].concat());
    let text = fixture.fail(2, &set(&[folder, "output.folder=other"]));
    assert!(text.contains("resolution"), "{text}");
    let config = r#"{"model_type": "dinov2_with_registers", "num_attention_heads": 2}"#;
    std::fs::write(fixture.path("dinov2/config.json"), config).unwrap();
    let other = ["embedder.resolution=8", "output.folder=other"];
    let text = fixture.fail(4, &set(&[&[folder][..], &other].concat()));
    assert!(text.contains("num_attention_heads"), "{text}");
    let wrong = "embedder.weights=model.safetensors";
    let text = fixture.fail(4, &set(&[&[wrong][..], &other].concat()));
    assert!(text.contains("patch_embed.proj.weight"), "{text}");
    let missing = "embedder.weights=weights/dinov2-base.safetensors";
    let text = fixture.fail(4, &set(&[&[missing][..], &other].concat()));
    assert!(text.contains("dpsyn fetch dinov2-base"), "{text}");
}
