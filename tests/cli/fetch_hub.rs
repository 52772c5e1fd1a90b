//! Models of the hub, against a server that speaks its endpoints.

use crate::support::file_server::{FileServer, Reply, Served, sha256};
use crate::support::released;
use crate::support::shop::{COMMIT, Shop, expect, noise};
use crate::support::stable_diffusion::world;

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

fn shop(server: FileServer) -> Shop {
    let shop = Shop::new(server);
    shop.catalogue(&[format!(
        "[[item]]\nname = 'm'\nkind = 'hub'\nwhat = 'w'\nlicence = 'l'\nrepo = 'owner/model'\n\
         revision = '{COMMIT}'\nfiles = [['config.json'], ['unet/a.safetensors', 'unet/a.bin']]\n"
    )]);
    shop.server
        .serve(&address("config.json"), of_hub(b"{\"small\": 1}", false));
    shop
}

fn snapshot(name: &str) -> String {
    format!("hub/models--owner--model/snapshots/{COMMIT}/{name}")
}

#[test]
fn files_go_into_the_hub_s_cache_and_are_checked() {
    let shop = shop(FileServer::good());
    let weights = noise(20_000, 1);
    shop.server
        .serve(&address("unet/a.bin"), of_hub(&weights, true));
    let output = shop
        .command(&["fetch", "--catalogue", "catalogue.toml", "m"])
        .env("HF_TOKEN", "hf_secret")
        .output()
        .unwrap();
    let text = expect(&output, 0);
    assert!(!text.contains("hf_secret"), "{text}");
    assert_eq!(shop.read(&snapshot("config.json")), b"{\"small\": 1}");
    assert_eq!(shop.read(&snapshot("unet/a.bin")), weights);
    for asked in shop.server.asked() {
        let token = asked.token.as_deref();
        assert_eq!(token, Some("Bearer hf_secret"), "{}", asked.path);
    }
    let before = shop.server.asked().len();
    shop.succeed(&["m"]);
    shop.succeed(&["m", "--offline"]);
    let text = shop.succeed(&["--verify", "m"]);
    assert_eq!(text.matches("sound").count(), 2, "{text}");
    assert_eq!(shop.server.asked().len(), before);

    // Damage to either kind is found.
    for (name, bytes) in [
        ("config.json", b"{\"small\": 2}".to_vec()),
        ("unet/a.bin", noise(20_000, 2)),
    ] {
        let blob = shop.path(&snapshot(name)).canonicalize().unwrap();
        let good = std::fs::read(&blob).unwrap();
        std::fs::write(&blob, bytes).unwrap();
        shop.fail(FETCH, &["--verify"], &[name, "DAMAGED"]);
        std::fs::write(&blob, good).unwrap();
    }
    std::fs::remove_file(shop.path(&snapshot("config.json"))).unwrap();
    shop.fail(FETCH, &["--verify", "m"], &["config.json: missing"]);
}

#[test]
fn a_broken_download_goes_on_and_a_wrong_one_is_thrown_away() {
    let weights = noise(40_000, 3);
    // Requests of a large file: two for what it is, as the hub redirects, and two for its bytes.
    let broken = FileServer::start(|asked| {
        let bytes = asked.path.starts_with("/cdn") && asked.path.ends_with("a.bin");
        match (bytes, asked.from) {
            (true, None) => Reply::DropAfter(30_000),
            _ => Reply::Good,
        }
    });
    let shop = shop(broken);
    shop.server
        .serve(&address("unet/a.bin"), of_hub(&weights, true));
    shop.succeed(&["m"]);
    assert_eq!(shop.read(&snapshot("unet/a.bin")), weights);
    let resumed = |asked: &crate::support::file_server::Asked| asked.from == Some(30_000);
    assert!(shop.server.asked().iter().any(resumed));

    // Bytes that are not those which the hub names never stay in the cache.
    let wrong = self::shop(FileServer::good());
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
    assert!(text.contains("beginning anew"), "{text}");
    assert_eq!(wrong.read(&snapshot("unet/a.bin")), weights);
}

/// The hub keeps large files with others: they are not told who asks.
#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (shop, other) = (shop(FileServer::good()), FileServer::good());
    let weights = noise(20_000, 1);
    let served = Served {
        elsewhere: Some(other.url("")),
        ..of_hub(&weights, true)
    };
    shop.server.serve(&address("unet/a.bin"), served.clone());
    other.serve(&address("unet/a.bin"), served);
    let fetch = ["fetch", "--catalogue", "catalogue.toml", "m"];
    let mut command = shop.command(&fetch);
    let output = command.env("HF_TOKEN", "hf_secret").output().unwrap();
    expect(&output, 0);
    assert_eq!(shop.read(&snapshot("unet/a.bin")), weights);
    for asked in shop.server.asked() {
        assert_eq!(asked.token.as_deref(), Some("Bearer hf_secret"));
    }
    let asked = other.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| asked.token.is_none()), "{asked:?}");
}

/// By the lock that the hub crate takes, too: whoever comes second waits or is told.
#[test]
fn two_processes_do_not_download_one_file() {
    let shop = shop(FileServer::good());
    shop.server
        .serve(&address("unet/a.bin"), of_hub(b"weights", true));
    let blob = git_blob(b"{\"small\": 1}");
    let lock = format!("hub/models--owner--model/blobs/{blob}.lock");
    shop.write(&lock, "");
    let held = std::fs::File::open(shop.path(&lock)).unwrap();
    held.try_lock().unwrap();
    shop.fail(
        FETCH,
        &["m"],
        &["another process", "config.json of owner/model"],
    );
    assert!(!shop.exists(&snapshot("config.json")));
    drop(held);
    shop.succeed(&["m"]);
    // A link into nothing, as a cache has it that was tidied up by hand, is no file.
    std::fs::remove_file(shop.path(&format!("hub/models--owner--model/blobs/{blob}"))).unwrap();
    shop.succeed(&["m"]);
    assert_eq!(shop.read(&snapshot("config.json")), b"{\"small\": 1}");
}

/// What a hub says of itself names files on this disk.
#[test]
fn a_hub_that_lies_writes_nothing_outside() {
    let outside = |shop: &Shop| {
        let all = released(shop.root.path());
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
            "cannot be a name",
        ),
        (
            Served {
                commit: Some(evil.to_owned()),
                ..honest.clone()
            },
            "a commit that is none",
        ),
        (
            Served {
                commit: Some("f".repeat(40)),
                ..honest.clone()
            },
            "another commit than was asked for",
        ),
        (
            Served {
                etag: None,
                ..honest
            },
            "no ETag",
        ),
    ] {
        let shop = shop(FileServer::good());
        shop.server.serve(&address("config.json"), served);
        shop.fail(FETCH, &["m"], &[expected, "config.json of owner/model"]);
        outside(&shop);
    }
}

#[test]
fn a_repository_that_is_closed_or_empty_is_named() {
    let closed = shop(FileServer::start(|_| Reply::Error(401, vec![], "")));
    closed.fail(FETCH, &["m"], &["config.json of owner/model", "HF_TOKEN"]);
    assert_eq!(closed.server.asked().len(), 1);
    let empty = shop(FileServer::good());
    empty.fail(
        FETCH,
        &["m"],
        &["owner/model has no unet/a.safetensors or unet/a.bin"],
    );
}

/// From nothing to a run without a network in two commands.
#[test]
fn a_configuration_s_model_is_fetched_and_then_runs_offline() {
    let world = world();
    let shop = Shop::new(FileServer::good());
    for (path, bytes) in released(&world.path("sd")) {
        let name = path.strip_prefix(world.path("sd")).unwrap();
        let name = name.to_str().unwrap();
        let large = name.ends_with(".safetensors");
        shop.server.serve(&address(name), of_hub(&bytes, large));
    }
    std::fs::rename(world.path("sd"), world.path("elsewhere")).unwrap();
    let set = ["--set", "model.checkpoint=owner/model", "--set"];
    let revision = format!("model.revision={COMMIT}");
    let set = [&set[..], &[&revision]].concat();
    let run = |flag: &[&str]| {
        let mut command = world.command(&[&set[..], flag].concat());
        command
            .env("HF_HUB_CACHE", shop.path("hub"))
            .env("HF_ENDPOINT", shop.server.url(""))
            .output()
            .unwrap()
    };
    let output = run(&["--offline"]);
    let text = expect(&output, 4);
    assert!(text.contains("`dpsyn fetch --for run.toml`"), "{text}");
    assert!(shop.server.asked().is_empty());
    // Without the flag the run gets it, and says what it is getting.
    let log = run(&["--dry-run"]);
    let text = expect(&log, 0);
    assert!(text.contains("downloading unet/"), "{text}");
    std::fs::remove_dir_all(shop.path("hub")).unwrap();
    let fetch = [&["fetch", "--for", "run.toml"], &set[..]].concat();
    let mut command = shop.command(&fetch);
    let output = command.current_dir(world.root.path()).output().unwrap();
    expect(&output, 0);
    let before = shop.server.asked().len();
    expect(&run(&["--offline"]), 0);
    assert!(world.path("out/3/samples.npz").exists());
    assert_eq!(shop.server.asked().len(), before);
}
