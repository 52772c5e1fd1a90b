//! Offline mode, missing files and the catalogue: `dpsyn fetch` and the commands that refer to it.

use std::path::Path;

use super::fetch::names;
use crate::support::fetch_fixture::{FetchFixture, cifar_fixture, expect, picture};
use crate::support::file_server::FileServer;

const USAGE: i32 = 2;
const DATA: i32 = 3;
const WEIGHTS: i32 = 4;
const FETCH: i32 = 10;

#[test]
fn offline_mode_sends_no_request() {
    let (fixture, _, archive) = cifar_fixture(FileServer::good());
    let run = |arguments: &[&str], variable: bool| {
        let mut command = fixture.command(arguments);
        if variable {
            command.env("HF_HUB_OFFLINE", "1");
        }
        command.output().unwrap()
    };
    let fetch = ["fetch", "--catalogue", "catalogue.toml", "cifar10"];
    let text = expect(&run(&[&fetch[..], &["--offline"]].concat(), false), FETCH);
    assert!(text.contains("cifar-10-binary.tar.gz is missing"), "{text}");
    assert!(text.contains("--offline"), "{text}");
    let text = expect(&run(&fetch, true), FETCH);
    assert!(text.contains("HF_HUB_OFFLINE"), "{text}");
    let hub = ["fetch", "stable-diffusion-v1-4", "--offline"];
    let text = expect(&run(&hub, false), FETCH);
    assert!(text.contains("CompVis/stable-diffusion-v1-4"), "{text}");
    expect(&run(&["fetch", "--list", "--offline"], false), 0);
    expect(&run(&["fetch", "--verify", "--offline"], false), 0);
    // What needs no network goes on without it.
    fixture.write("data/cifar-10-binary.tar.gz", &archive);
    expect(&run(&[&fetch[..], &["--offline"]].concat(), false), 0);
    assert!(fixture.exists("data/cifar10_train"));
    assert!(fixture.server.requests().is_empty());
}

/// A run sends no request either, and names the command that fetches missing files.
#[test]
fn an_offline_run_names_the_command() {
    let fixture = FetchFixture::new(FileServer::good());
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let cookie = configs.join("cookie.toml");
    fixture.write("data/cookie/cookie_1.png", picture(1));
    fixture.write("weights/pt_inception-2015-12-05-6726825d.pth", "no weights");
    let run = |flag: &[&str], variable: &str, set: &[&str]| {
        let arguments = [&["run", cookie.to_str().unwrap()], flag, set].concat();
        let mut command = fixture.command(&arguments);
        let output = command.env("HF_HUB_OFFLINE", variable).output().unwrap();
        expect(&output, WEIGHTS)
    };
    for (flag, variable) in [(&["--offline"][..], "0"), (&[], "1")] {
        let text = run(flag, variable, &[]);
        assert!(
            text.contains("`dpsyn fetch stable-diffusion-v1-4`"),
            "{text}"
        );
        let other = [
            "--set",
            "model.checkpoint=owner/name",
            "--set",
            "model.revision=abc",
        ];
        let text = run(flag, variable, &other);
        assert!(
            text.contains("`dpsyn fetch --for ") && text.contains("cookie.toml"),
            "{text}"
        );
    }
    let hosted = configs.join("cookie_openai.toml");
    let url = format!("model.base_url={}", fixture.server.url("/v1"));
    let output = fixture
        .command(&["run", hosted.to_str().unwrap(), "--set", &url, "--offline"])
        .output()
        .unwrap();
    let text = expect(&output, USAGE);
    assert!(
        text.contains("hosted model") && text.contains("--offline"),
        "{text}"
    );
    assert!(!fixture.exists("results"));
    assert!(fixture.server.requests().is_empty());
}

/// Every shipped configuration leads to the command that fetches its missing files.
#[test]
fn every_shipped_configuration_names_the_command() {
    let fixture = FetchFixture::new(FileServer::good());
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let model = "improved-diffusion-imagenet64";
    for (name, expected) in [
        (
            "cifar10",
            format!("`dpsyn fetch cifar10 {model} inception`"),
        ),
        (
            "cifar10_unconditional",
            format!("`dpsyn fetch cifar10 {model} inception`"),
        ),
        (
            "camelyon17",
            format!("`dpsyn fetch camelyon17 {model} inception`"),
        ),
        ("cookie", "`dpsyn fetch cats inception`".to_owned()),
        ("doudou", "`dpsyn fetch cats inception`".to_owned()),
        ("cookie_openai", "`dpsyn fetch cats inception`".to_owned()),
    ] {
        let config = configs.join(format!("{name}.toml"));
        for extra in [&[][..], &["--dry-run"]] {
            let arguments = [&["run", config.to_str().unwrap()], extra].concat();
            let text = expect(&fixture.command(&arguments).output().unwrap(), DATA);
            assert!(text.contains(&expected), "{name}: {text}");
        }
    }
    fixture.write("data/cifar10_train/car_0.png", picture(1));
    let config = configs.join("cifar10.toml");
    let output = fixture.command(&["run", config.to_str().unwrap()]).output();
    let text = expect(&output.unwrap(), WEIGHTS);
    assert!(
        text.contains(&format!("`dpsyn fetch {model} inception`")),
        "{text}"
    );
    fixture.write("s.npz", "no samples");
    let against = [
        "eval",
        "s.npz",
        "--against",
        "data/cifar10_test",
        "--weights",
    ];
    let weights = "weights/pt_inception-2015-12-05-6726825d.pth";
    let output = fixture
        .command(&[&against[..], &[weights]].concat())
        .output();
    let text = expect(&output.unwrap(), DATA);
    assert!(text.contains("`dpsyn fetch cifar10 inception`"), "{text}");
    assert!(fixture.server.requests().is_empty());
}

#[test]
fn the_list_and_wrong_names() {
    let fixture = FetchFixture::new(FileServer::good());
    let output = fixture.command(&["fetch", "--list"]).output().unwrap();
    let text = expect(&output, 0);
    for part in ["cifar10", "170 MB", "manual", "CreativeML OpenRAIL-M", "no"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = fixture.command(&["fetch", "cifar100"]).output().unwrap();
    let text = expect(&output, USAGE);
    assert!(
        text.contains("`cifar100`") && text.contains("camelyon17"),
        "{text}"
    );
    fixture.catalogue(&["[[item]]\nname = 'x'\n".to_owned()]);
    fixture.fail(USAGE, &["x"], &["catalogue.toml"]);
    fixture.fail(USAGE, &["--set", "a=1", "x"], &["--for"]);
}

/// The files of a folder without a record are counted.
#[test]
fn an_existing_folder_is_kept() {
    let (fixture, _, _) = cifar_fixture(FileServer::good());
    fixture.write("data/cifar10_train/car_1.png", picture(1));
    fixture.fail(
        FETCH,
        &["cifar10"],
        &["cifar10_train has 1 files, expected 20", "move it away"],
    );
    for index in 2..=20 {
        fixture.write(&format!("data/cifar10_train/car_{index}.png"), picture(1));
    }
    fixture.succeed(&["cifar10"]);
    assert_eq!(names(&fixture.path("data/cifar10_train")).len(), 20);
    let text = fixture.succeed(&["--verify"]);
    assert!(text.contains("cifar10_train: unknown: 20 files"), "{text}");
}
