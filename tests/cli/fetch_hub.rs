//! Models of the hub, against a server that speaks its endpoints.

use crate::support::fetch_fixture::{COMMIT, FetchFixture, expect, noise};
use crate::support::file_server::{FileServer, Reply, Served, sha256};
use crate::support::released;
use crate::support::stable_diffusion::run_fixture;

const FETCH: i32 = 10;

/// The name that git gives to a content.
fn git_blob(bytes: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file as the hub serves it: large ones elsewhere, under their SHA-256.
fn of_hub(bytes: &[u8], large: bool) -> Served {
    let digest = if large {
        sha256(bytes)
    } else {
        git_blob(bytes)
    };
    Served {
        bytes: bytes.to_vec(),
        etag: Some(format!("\"{digest}\"")),
        large,
        ..Served::new([])
    }
}

fn address(name: &str) -> String {
    format!("/owner/model/resolve/{COMMIT}/{name}")
}

fn fixture(server: FileServer) -> FetchFixture {
    let fixture = FetchFixture::new(server);
    fixture.catalogue(&[format!(
        "[[item]]\nname = 'm'\nkind = 'hub'\nwhat = 'w'\nlicense = 'l'\nrepo = 'owner/model'\n\
         revision = '{COMMIT}'\nfiles = [['config.json'], ['unet/a.safetensors', 'unet/a.bin']]\n"
    )]);
    fixture
        .server
        .serve(&address("config.json"), of_hub(b"{\"small\": 1}", false));
    fixture
}

fn snapshot(name: &str) -> String {
    format!("hub/models--owner--model/snapshots/{COMMIT}/{name}")
}

#[test]
fn files_go_into_the_hub_s_cache_and_are_checked() {
    let fixture = fixture(FileServer::good());
    let weights = noise(20_000, 1);
    fixture
        .server
        .serve(&address("unet/a.bin"), of_hub(&weights, true));
    let output = fixture
        .command(&["fetch", "--catalogue", "catalogue.toml", "m"])
        .env("HF_TOKEN", "hf_secret")
        .output()
        .unwrap();
    let text = expect(&output, 0);
    assert!(!text.contains("hf_secret"), "{text}");
    assert_eq!(fixture.read(&snapshot("config.json")), b"{\"small\": 1}");
    assert_eq!(fixture.read(&snapshot("unet/a.bin")), weights);
    for request in fixture.server.requests() {
        let token = request.token.as_deref();
        assert_eq!(token, Some("Bearer hf_secret"), "{}", request.path);
    }
    let before = fixture.server.requests().len();
    fixture.succeed(&["m"]);
    fixture.succeed(&["m", "--offline"]);
    let text = fixture.succeed(&["--verify", "m"]);
    assert_eq!(text.matches("intact").count(), 2, "{text}");
    assert_eq!(fixture.server.requests().len(), before);

    // Damage to either kind is found.
    for (name, bytes) in [
        ("config.json", b"{\"small\": 2}".to_vec()),
        ("unet/a.bin", noise(20_000, 2)),
    ] {
        let blob = fixture.path(&snapshot(name)).canonicalize().unwrap();
        let good = std::fs::read(&blob).unwrap();
        std::fs::write(&blob, bytes).unwrap();
        fixture.fail(FETCH, &["--verify"], &[name, "DAMAGED"]);
        std::fs::write(&blob, good).unwrap();
    }
    std::fs::remove_file(fixture.path(&snapshot("config.json"))).unwrap();
    fixture.fail(FETCH, &["--verify", "m"], &["config.json: missing"]);
}

#[test]
fn a_broken_download_goes_on_and_a_wrong_one_is_thrown_away() {
    let weights = noise(40_000, 3);
    // Requests of a large file: two for what it is, as the hub redirects, and two for its bytes.
    let broken = FileServer::start(|request| {
        let bytes = request.path.starts_with("/cdn") && request.path.ends_with("a.bin");
        match (bytes, request.from) {
            (true, None) => Reply::DropAfter(30_000),
            _ => Reply::Good,
        }
    });
    let fixture = fixture(broken);
    fixture
        .server
        .serve(&address("unet/a.bin"), of_hub(&weights, true));
    fixture.succeed(&["m"]);
    assert_eq!(fixture.read(&snapshot("unet/a.bin")), weights);
    let resumed =
        |request: &crate::support::file_server::ReceivedRequest| request.from == Some(30_000);
    assert!(fixture.server.requests().iter().any(resumed));

    // Bytes that are not those which the hub names never stay in the cache.
    let wrong = self::fixture(FileServer::good());
    let served = Served {
        etag: Some(format!("\"{}\"", sha256(&weights))),
        ..of_hub(&noise(40_000, 4), true)
    };
    wrong.server.serve(&address("unet/a.bin"), served);
    let text = wrong.fail(FETCH, &["m"], &["unet/a.bin of owner/model"]);
    assert!(text.contains(&sha256(&weights)), "{text}");
    assert!(!wrong.exists(&snapshot("unet/a.bin")));
    let cache = released(&wrong.path("hub"));
    assert!(cache.iter().all(|(_, bytes)| bytes.len() < 30_000));
    // What an earlier process left is found out by the digest, and costs one more try.
    wrong
        .server
        .serve(&address("unet/a.bin"), of_hub(&weights, true));
    let part = format!("hub/models--owner--model/blobs/{}.part", sha256(&weights));
    wrong.write(&part, noise(10_000, 9));
    let text = wrong.succeed(&["m"]);
    assert!(text.contains("restarting"), "{text}");
    assert_eq!(wrong.read(&snapshot("unet/a.bin")), weights);
}

/// The hub keeps large files with others: they are not told who asks.
#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (fixture, other) = (fixture(FileServer::good()), FileServer::good());
    let weights = noise(20_000, 1);
    let served = Served {
        elsewhere: Some(other.url("")),
        ..of_hub(&weights, true)
    };
    fixture.server.serve(&address("unet/a.bin"), served.clone());
    other.serve(&address("unet/a.bin"), served);
    let fetch = ["fetch", "--catalogue", "catalogue.toml", "m"];
    let mut command = fixture.command(&fetch);
    let output = command.env("HF_TOKEN", "hf_secret").output().unwrap();
    expect(&output, 0);
    assert_eq!(fixture.read(&snapshot("unet/a.bin")), weights);
    for request in fixture.server.requests() {
        assert_eq!(request.token.as_deref(), Some("Bearer hf_secret"));
    }
    let request = other.requests();
    assert!(!request.is_empty());
    assert!(
        request.iter().all(|request| request.token.is_none()),
        "{request:?}"
    );
}

/// By the lock that the hub crate takes, too: whoever comes second waits or is told.
#[test]
fn two_processes_do_not_download_one_file() {
    let fixture = fixture(FileServer::good());
    fixture
        .server
        .serve(&address("unet/a.bin"), of_hub(b"weights", true));
    let blob = git_blob(b"{\"small\": 1}");
    let lock = format!("hub/models--owner--model/blobs/{blob}.lock");
    fixture.write(&lock, "");
    let held = std::fs::File::open(fixture.path(&lock)).unwrap();
    held.try_lock().unwrap();
    fixture.fail(
        FETCH,
        &["m"],
        &["another process", "config.json of owner/model"],
    );
    assert!(!fixture.exists(&snapshot("config.json")));
    drop(held);
    fixture.succeed(&["m"]);
    // A link into nothing, as a cache has it that was tidied up by hand, is no file.
    std::fs::remove_file(fixture.path(&format!("hub/models--owner--model/blobs/{blob}"))).unwrap();
    fixture.succeed(&["m"]);
    assert_eq!(fixture.read(&snapshot("config.json")), b"{\"small\": 1}");
}

/// Values from the hub become names of files on this disk.
#[test]
fn a_hub_that_lies_writes_nothing_outside() {
    let outside = |fixture: &FetchFixture| {
        let all = released(fixture.root.path());
        assert!(all.iter().all(|(_, bytes)| bytes != b"bytes"));
    };
    let evil = "../../../evil";
    let honest = of_hub(b"bytes", false);
    for (served, expected) in [
        (
            Served {
                etag: Some(format!("\"{evil}\"")),
                ..honest.clone()
            },
            "not usable as a file name",
        ),
        (
            Served {
                commit: Some(evil.to_owned()),
                ..honest.clone()
            },
            "has an invalid commit",
        ),
        (
            Served {
                commit: Some("f".repeat(40)),
                ..honest.clone()
            },
            "not the requested one",
        ),
        (
            Served {
                etag: None,
                ..honest
            },
            "no ETag",
        ),
    ] {
        let fixture = fixture(FileServer::good());
        fixture.server.serve(&address("config.json"), served);
        fixture.fail(FETCH, &["m"], &[expected, "config.json of owner/model"]);
        outside(&fixture);
    }
}

#[test]
fn a_repository_that_is_closed_or_empty_is_named() {
    let closed = fixture(FileServer::start(|_| Reply::Error(401, vec![], "")));
    closed.fail(FETCH, &["m"], &["config.json of owner/model", "HF_TOKEN"]);
    assert_eq!(closed.server.requests().len(), 1);
    let empty = fixture(FileServer::good());
    empty.fail(
        FETCH,
        &["m"],
        &["owner/model has no unet/a.safetensors or unet/a.bin"],
    );
}

/// From nothing to a run without a network in two commands.
#[test]
fn a_configuration_s_model_is_fetched_and_then_runs_offline() {
    let run_dir = run_fixture();
    let fixture = FetchFixture::new(FileServer::good());
    for (path, bytes) in released(&run_dir.path("sd")) {
        let name = path.strip_prefix(run_dir.path("sd")).unwrap();
        let name = name.to_str().unwrap();
        let large = name.ends_with(".safetensors");
        fixture.server.serve(&address(name), of_hub(&bytes, large));
    }
    std::fs::rename(run_dir.path("sd"), run_dir.path("elsewhere")).unwrap();
    let set = ["--set", "model.checkpoint=owner/model", "--set"];
    let revision = format!("model.revision={COMMIT}");
    let set = [&set[..], &[&revision]].concat();
    let run = |flag: &[&str]| {
        let mut command = run_dir.command(&[&set[..], flag].concat());
        command
            .env("HF_HUB_CACHE", fixture.path("hub"))
            .env("HF_ENDPOINT", fixture.server.url(""))
            .output()
            .unwrap()
    };
    let output = run(&["--offline"]);
    let text = expect(&output, 4);
    assert!(text.contains("`dpsyn fetch --for run.toml`"), "{text}");
    assert!(fixture.server.requests().is_empty());
    // Without the flag the run gets it, and says what it is getting.
    let log = run(&["--dry-run"]);
    let text = expect(&log, 0);
    assert!(text.contains("downloading unet/"), "{text}");
    std::fs::remove_dir_all(fixture.path("hub")).unwrap();
    let fetch = [&["fetch", "--for", "run.toml"], &set[..]].concat();
    let mut command = fixture.command(&fetch);
    let output = command.current_dir(run_dir.root.path()).output().unwrap();
    expect(&output, 0);
    let before = fixture.server.requests().len();
    expect(&run(&["--offline"]), 0);
    assert!(run_dir.path("out/3/samples.npz").exists());
    assert_eq!(fixture.server.requests().len(), before);
}
