//! Whole runs of the real binary on a hosted model, against a strict server on this machine.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};

use dpsyn::internals::images::SamplesReader;

use crate::support::image_server::{ImageServer, Made, Proxy, Reply, Rules, numbers, prompt_code};
use crate::support::{SIZE, World};

const KEY: &str = "sk-test-0123456789abcdef";
const SERVICE: i32 = 9;
const USAGE: i32 = 2;

/// A world whose model is a hosted one. 3 populations of 8 samples: 8 random images, then twice 8·3 for the
/// lookahead and 8 variations: 72 images.
fn hosted(base_url: &str, model: &str) -> World {
    let world = World::new();
    let config = std::fs::read_to_string(world.path("run.toml")).unwrap();
    let (before, rest) = config.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[embedder]").unwrap();
    let rest = rest
        .replace("num_samples = 16", "num_samples = 8")
        .replace("[0, 0, 1, 2]", "[1, 0.98, 0.96]")
        .replace("lookahead_degree = 2", "lookahead_degree = 3");
    let model = format!(
        "[model]\ntype = \"openai-images\"\nbase_url = \"{base_url}\"\nbackoff = 0.002\nmax_backoff = 0.01\n{model}\n\n"
    );
    std::fs::write(
        world.path("run.toml"),
        format!("{before}{model}[embedder]{rest}"),
    )
    .unwrap();
    world
}

/// The model of most tests here.
fn house() -> String {
    format!(
        "model = \"house-model\"\nsize = \"{SIZE}x{SIZE}\"\nconcurrency = 3\n\
         prompts = {{ cat = [\"a cat\", \"two cats\"], dog = \"a dog\" }}"
    )
}

fn rules() -> Rules {
    Rules {
        key: Some(KEY),
        ..Rules::small(SIZE)
    }
}

/// The command with the key and without this machine's own network settings.
fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    for name in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "ssl_cert_file",
    ] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("OPENAI_API_KEY", KEY);
    command
}

/// Runs, expects this exit code, and returns both outputs; the key is in neither.
fn run(world: &World, code: i32, arguments: &[&str]) -> (String, String) {
    finish(command(world, arguments), code)
}

fn finish(mut command: Command, code: i32) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(
        !out.contains(KEY) && !err.contains(KEY),
        "the key was printed"
    );
    (out, err)
}

/// The pixels and conditions of a population.
fn population(world: &World, iteration: usize) -> Vec<(Vec<u8>, i64)> {
    let path = world.path(&format!("out/{iteration}/samples.npz"));
    let mut reader = SamplesReader::open(&path).unwrap();
    let images = reader.read(0..reader.len()).unwrap();
    let (_, conditions) = reader.arrays().i64s("conditions").unwrap();
    let images = images.iter().map(<[u8]>::to_vec);
    images.zip(conditions).collect()
}

/// Every image of every population was made by the server, once, from a parent in the population before, under
/// the prompt of its line.
fn assert_lineage(world: &World, made: &[Made], prompts: &[&str]) {
    let mut used = HashSet::new();
    let mut before: HashSet<(u32, i64)> = HashSet::new();
    for iteration in 0..3 {
        let mut now = HashSet::new();
        for (pixels, condition) in population(world, iteration) {
            let [number, parent, prompt] = numbers(&pixels);
            let origin = made.iter().find(|made| made.number == number);
            let origin = origin.expect("an image that the server never made");
            assert!(origin.usable && (origin.parent, origin.prompt) == (parent, prompt));
            assert!(used.insert(number), "image {number} was used twice");
            if iteration == 0 {
                assert_eq!(parent, 0);
                assert_eq!(prompt, prompt_code(prompts[condition as usize]));
            } else {
                assert!(
                    before.contains(&(parent, condition)),
                    "{number} of {parent}"
                );
            }
            now.insert((number, condition));
        }
        before = now;
    }
}

/// Requests, and images that count as paid, by the run's own journal.
fn journal(world: &World) -> (usize, u64) {
    let text = std::fs::read_to_string(world.path("out/requests.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (requests, outcomes): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.get("endpoint").is_some());
    let mut paid = 0;
    for request in &requests {
        let asked = request["images"].as_u64().unwrap();
        let outcome = outcomes.iter().find(|o| o["request"] == request["request"]);
        paid += match outcome.map(|outcome| &outcome["outcome"]) {
            Some(outcome) if outcome.get("images").is_some() => {
                outcome["images"].as_u64().unwrap().min(asked)
            }
            Some(outcome) if outcome.get("refused").is_some() => 0,
            _ => asked,
        };
    }
    (requests.len(), paid)
}

fn files_with(folder: &Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = crate::support::released(folder);
    found.retain(|(_, bytes)| bytes.windows(needle.len()).any(|window| window == needle));
    found.into_iter().map(|(path, _)| path).collect()
}

const PROMPTS: [&str; 3] = ["a cat", "two cats", "a dog"];

#[test]
fn a_complete_run_buys_every_image_once() {
    let server = ImageServer::start(rules(), |_| Reply::Good);
    let world = hosted(&server.base_url(), &house());
    let (_, text) = run(&world, 0, &[]);
    server.assert_no_problems();
    assert!(text.contains("variation_degree is ignored"), "{text}");
    let made = server.made();
    assert_eq!(made.len(), 72);
    assert_lineage(&world, &made, &PROMPTS);
    let seen = server.seen();
    // Three prompts' random images; then a request for all three lookaheads of an image; parents that were
    // drawn twice share a request.
    let of = |endpoint: &str| seen.iter().filter(|s| s.endpoint == endpoint).count();
    assert_eq!(of("generations"), 3);
    // Three of a kind among the parents make requests of three, too.
    let threes = seen.iter().filter(|s| s.n == 3 && s.parent > 0);
    assert!(threes.count() >= 16, "{seen:?}");
    assert!(of("variations") <= 32, "{seen:?}");
    assert!(server.busiest() <= 3, "{}", server.busiest());
    assert_eq!(journal(&world), (seen.len(), 72));
    // Of four cats half are the first prompt's.
    let conditions: Vec<i64> = population(&world, 0).into_iter().map(|(_, c)| c).collect();
    assert_eq!(conditions, [0, 0, 1, 1, 2, 2, 2, 2]);
    let text = std::fs::read_to_string(world.path("out/privacy.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_str(&text).unwrap();
    let declared = &statement["declared_public"];
    assert_eq!(declared["prompts"], serde_json::json!(PROMPTS));
    assert!(declared["model_weights_sha256"].is_null());
    assert!(!world.path("out/.work").exists());
    assert!(files_with(&world.path("out"), KEY.as_bytes()).is_empty());
    // A finished run asks for nothing more.
    run(&world, 0, &["--resume"]);
    assert_eq!(server.seen().len(), seen.len());
}

#[test]
fn addresses_edits_and_a_smaller_size() {
    let rules = Rules {
        model: "house-model",
        format: Some("url"),
        sides: vec![2 * SIZE],
        ..rules()
    };
    let server = ImageServer::start(rules, |seen| match seen.number % 4 {
        1 => Reply::RedirectOnce,
        2 => Reply::FlakyFile(2),
        _ => Reply::Good,
    });
    let model = format!(
        "model = \"house-model\"\nsize = \"{0}x{0}\"\nimage_size = {SIZE}\nvariation = \"edits\"\n\
         edit_prompt = \"like this: {{prompt}}!\"\nresponse_format = \"url\"\nprompts = \"a cat\"",
        2 * SIZE
    );
    let world = hosted(&server.base_url(), &model);
    run(&world, 0, &[]);
    server.assert_no_problems();
    assert_eq!(server.made().len(), 72);
    let edits: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|s| s.endpoint == "edits")
        .collect();
    assert!(!edits.is_empty() && edits.iter().all(|s| s.prompt == "like this: a cat!"));
    assert_eq!(population(&world, 2)[0].0.len(), SIZE * SIZE * 3);
}

#[test]
fn the_vendor_s_models_get_the_words_that_they_know() {
    let dall_e_2 = Rules {
        key: Some(KEY),
        model: "dall-e-2",
        sides: vec![256, 512, 1024],
        format: Some("b64_json"),
        newer: false,
    };
    let gpt_image = Rules {
        model: "gpt-image-1",
        sides: vec![1024],
        format: None,
        newer: true,
        ..dall_e_2.clone()
    };
    let small = [
        "--set",
        "evolution.num_samples=2",
        "--set",
        "evolution.variation_degree=[0, 0]",
        "--set",
        "evolution.lookahead_degree=1",
    ];
    for (rules, model) in [
        (dall_e_2, "model = \"dall-e-2\"\nsize = \"256x256\""),
        (
            gpt_image,
            "model = \"gpt-image-1\"\nvariation = \"edits\"\nquality = \"low\"",
        ),
    ] {
        let server = ImageServer::start(rules, |_| Reply::Good);
        let model = format!("{model}\nimage_size = {SIZE}\nprompts = \"a cat\"");
        let world = hosted(&server.base_url(), &model);
        run(&world, 0, &small);
        server.assert_no_problems();
        assert_eq!(server.made().len(), 6);
    }
}

#[test]
fn a_dry_run_says_what_it_costs_and_calls_nobody() {
    let server = ImageServer::start(rules(), |_| Reply::Good);
    let world = hosted(&server.base_url(), &house());
    let mut dry = command(
        &world,
        &["--dry-run", "--set", "model.price_per_image=0.02"],
    );
    // A price is to be had without a key.
    dry.env_remove("OPENAI_API_KEY");
    let (text, _) = finish(dry, 0);
    // 1 or 2 + 2 requests at most for random images, 8 of 3, 8, twice.
    assert!(text.contains("72 images by at most 35 requests"), "{text}");
    assert!(text.contains("price: 1.44 at 0.02 an image"), "{text}");
    assert!(text.contains("network evaluations: 72 "), "{text}");
    for (set, key) in [
        ("model.max_requests=34", "max_requests"),
        ("model.max_cost=1.43", "max_cost"),
    ] {
        for dry in [&["--dry-run"][..], &[]] {
            let price = ["--set", "model.price_per_image=0.02", "--set", set];
            let (_, text) = run(&world, USAGE, &[&price[..], dry].concat());
            assert!(text.contains(&format!("model.{key}: ")), "{text}");
        }
    }
    assert!(server.seen().is_empty() && !world.path("out").exists());
}

#[test]
fn keys_stay_where_they_belong() {
    let server = ImageServer::start(rules(), |_| {
        let message = "incorrect key: sk-test-0123456789abcdef\u{1b}[2J";
        Reply::Error(401, vec![], message, "invalid_api_key")
    });
    let world = hosted(&server.base_url(), &house());
    let (_, text) = run(&world, SERVICE, &["--set", "model.concurrency=1"]);
    assert!(
        text.contains("401") && text.contains("incorrect key: [key]"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    // Asking again does not help, so it was asked once.
    assert_eq!(server.seen().len(), 1);
    server.assert_no_problems();
    assert_eq!(journal(&world), (1, 0));
    let mut without = command(&world, &["--fresh"]);
    without.env_remove("OPENAI_API_KEY");
    let (_, text) = finish(without, SERVICE);
    assert!(text.contains("OPENAI_API_KEY is not set"), "{text}");
    let mut other = command(&world, &["--fresh", "--set", "model.api_key_env=MY_KEY"]);
    other.env("MY_KEY", "two words");
    let (_, text) = finish(other, SERVICE);
    assert!(
        text.contains("MY_KEY") && !text.contains("two words"),
        "{text}"
    );
    for set in [
        "model.api_key=sk-test-0123456789abcdef",
        "model.api_key_env=sk-test-0123456789abcdef",
    ] {
        let (_, text) = run(&world, USAGE, &["--fresh", "--set", set]);
        assert!(
            text.contains("does not belong into a configuration"),
            "{text}"
        );
    }
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_killed_run_never_pays_twice() {
    // Held at these requests, then killed: what came before is on disk, what is held never costs anything.
    let holds: HashSet<usize> = [0, 2, 5, 9, 16, 24].into();
    let server = {
        let holds = holds.clone();
        ImageServer::start(rules(), move |seen| {
            if holds.contains(&seen.number) {
                Reply::Hold
            } else {
                Reply::Good
            }
        })
    };
    let world = hosted(&server.base_url(), &house());
    let arguments = ["--resume", "--set", "model.concurrency=1"];
    for kill in 0..holds.len() {
        let mut child = command(&world, &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.wait_for_hold();
        assert_eq!(child.try_wait().unwrap(), None, "kill {kill}");
        child.kill().unwrap();
        child.wait().unwrap();
        server.release();
    }
    run(&world, 0, &arguments);
    server.assert_no_problems();
    // Every image was bought once, and the journal counts each killed request as if it had been paid.
    let (made, seen) = (server.made(), server.seen());
    assert_eq!(made.len(), 72);
    assert_lineage(&world, &made, &PROMPTS);
    let held = seen.iter().filter(|seen| holds.contains(&seen.number));
    let held: u64 = held.map(|seen| seen.n as u64).sum();
    assert_eq!(journal(&world), (seen.len(), 72 + held));
}

#[test]
fn a_killed_run_fetches_what_it_was_promised() {
    // The answer with addresses is on disk; the images are not: their address fails until the run is resumed.
    let rules = Rules {
        format: Some("url"),
        ..rules()
    };
    let server = ImageServer::start(rules, |seen| match seen.number {
        0 => Reply::FlakyFile(2),
        _ => Reply::Good,
    });
    let model = format!("{}\nresponse_format = \"url\"", house());
    let world = hosted(&server.base_url(), &model);
    let once = [
        "--resume",
        "--set",
        "model.concurrency=1",
        "--set",
        "model.max_attempts=1",
    ];
    for _ in 0..2 {
        let (_, text) = run(&world, SERVICE, &once);
        assert!(text.contains("an image's address"), "{text}");
        assert_eq!(server.seen().len(), 1);
    }
    run(&world, 0, &["--resume"]);
    server.assert_no_problems();
    assert_eq!(server.made().len(), 72);
    assert_lineage(&world, &server.made(), &PROMPTS);
}

#[test]
fn caps_hold_while_running_and_over_restarts() {
    // Every second request fails in a way that may cost.
    let server = ImageServer::start(rules(), |seen| match seen.number % 2 {
        0 => Reply::Error(500, vec![], "oops", "server_error"),
        _ => Reply::Good,
    });
    let world = hosted(&server.base_url(), &house());
    let price = [
        "--resume",
        "--set",
        "model.price_per_image=0.5",
        "--set",
        "model.concurrency=1",
    ];
    let (_, text) = run(
        &world,
        SERVICE,
        &[&price[..], &["--set", "model.max_cost=36"]].concat(),
    );
    assert!(text.contains("max_cost = 36 is reached"), "{text}");
    let (requests, paid) = journal(&world);
    assert!((70..=72).contains(&paid), "{paid}");
    assert_eq!(requests, server.seen().len());
    // Still: nothing more is asked for.
    run(
        &world,
        SERVICE,
        &[&price[..], &["--set", "model.max_cost=36"]].concat(),
    );
    assert_eq!(requests, server.seen().len());
    let most = format!("model.max_requests={}", requests.max(35) + 1);
    let (_, text) = run(
        &world,
        SERVICE,
        &["--resume", "--set", "model.concurrency=1", "--set", &most],
    );
    assert!(text.contains("max_requests"), "{text}");
    assert_eq!(server.seen().len(), requests.max(35) + 1);
    run(&world, 0, &["--resume"]);
    assert_eq!(server.made().len(), 72);
    assert_lineage(&world, &server.made(), &PROMPTS);
}

#[test]
fn proxies_come_from_the_environment() {
    let server = ImageServer::start(rules(), |_| Reply::Good);
    let proxy = Proxy::start(server.port());
    // A name that only the proxy can know.
    let world = hosted("http://images.invalid:8000/v1", &house());
    let mut proxied = command(&world, &[]);
    proxied.env("HTTP_PROXY", format!("http://{}", proxy.address));
    finish(proxied, 0);
    server.assert_no_problems();
    let hosts = proxy.hosts();
    assert!(
        !hosts.is_empty() && hosts.iter().all(|host| host == "images.invalid:8000"),
        "{hosts:?}"
    );
    assert_eq!(server.made().len(), 72);
    // The other kind's proxy is not used, nor any for a host of NO_PROXY.
    for (name, value) in [("HTTPS_PROXY", ""), ("HTTP_PROXY", "images.invalid")] {
        let mut direct = command(&world, &["--fresh", "--set", "model.max_attempts=1"]);
        direct.env(name, format!("http://{}", proxy.address));
        direct.env("NO_PROXY", value);
        finish(direct, SERVICE);
    }
    assert_eq!(proxy.hosts().len(), hosts.len());
    let mut broken = command(&world, &["--fresh"]);
    broken.env("HTTP_PROXY", "smtp://user:hush@proxy");
    let (_, text) = finish(broken, SERVICE);
    assert!(
        text.contains("HTTP_PROXY") && !text.contains("hush"),
        "{text}"
    );
}

#[test]
fn tls_trusts_the_authorities_that_it_is_told_to() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let chain = vec![CertificateDer::from_pem_file(folder.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key.pem")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let rules = Rules {
        format: Some("url"),
        ..rules()
    };
    let server = ImageServer::start_tls(rules, tls);
    let model = format!("{}\nresponse_format = \"url\"", house());
    let world = hosted(&format!("https://localhost:{}/v1", server.port()), &model);
    // An unknown authority is not waited out.
    let (_, text) = run(&world, SERVICE, &[]);
    assert!(text.to_lowercase().contains("certificate"), "{text}");
    assert!(server.seen().is_empty());
    let mut trusting = command(&world, &["--resume"]);
    trusting.env("SSL_CERT_FILE", folder.join("authority.pem"));
    finish(trusting, 0);
    server.assert_no_problems();
    assert_eq!(server.made().len(), 72);
    let mut wrong = command(&world, &["--fresh"]);
    wrong.env("SSL_CERT_FILE", folder.join("nowhere.pem"));
    let (_, text) = finish(wrong, SERVICE);
    assert!(text.contains("SSL_CERT_FILE"), "{text}");
}
