//! A hosted model that fails in every way it can.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use dpsyn::internals::generators::openai_images::{Config, ServiceError};
use dpsyn::internals::generators::{
    Condition, Generator, GeneratorError, OpenAiImages, RunPaths, SampleRequest,
};
use dpsyn::internals::images::ImageBatch;
use dpsyn::internals::streams::{Phase, RngKey};

use crate::support::image_server::{ImageServer, Reply, Rules, Seen, numbers, picture};

const SIDE: usize = 8;

fn model(server: &ImageServer, folder: &Path, extra: &str) -> OpenAiImages {
    let text = format!(
        "model = \"house-model\"\nprompts = \"a cat\"\nsize = \"{SIDE}x{SIDE}\"\napi_key_env = \"\"\n\
         base_url = \"{}\"\nbackoff = 0.002\nmax_backoff = 0.01\n{extra}",
        server.base_url()
    );
    let config: Config = toml::from_str(&text).unwrap();
    let model = OpenAiImages::new(&config).unwrap();
    let workplace = RunPaths {
        root: folder.to_owned(),
        work: folder.join(".work"),
        lookahead_degree: 0,
    };
    model.begin_run(&workplace).unwrap();
    model
}

fn draws(phase: Phase, count: usize) -> Vec<SampleRequest> {
    (0..count as u64)
        .map(|sample| SampleRequest {
            condition: Condition(0),
            rng_key: RngKey {
                seed: 0,
                phase,
                iteration: 1,
                repeat: 0,
                sample,
            },
        })
        .collect()
}

/// Three random images from a server with this script.
fn three(
    rules: Rules,
    extra: &str,
    script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Result<ImageBatch, GeneratorError>, ImageServer) {
    let server = ImageServer::start(rules, script);
    let folder = tempfile::tempdir().unwrap();
    let model = model(&server, folder.path(), extra);
    let result = model.random(&draws(Phase::Random, 3));
    server.assert_no_problems();
    (result, server)
}

/// The images are usable ones of the server's, each once.
fn assert_good(images: &ImageBatch, server: &ImageServer) {
    let made = server.made();
    let mut found: Vec<u32> = images.iter().map(|pixels| numbers(pixels)[0]).collect();
    for number in &found {
        assert!(
            made.iter()
                .any(|made| made.number == *number && made.usable)
        );
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 3);
}

fn service(result: Result<ImageBatch, GeneratorError>) -> ServiceError {
    match result.err() {
        Some(GeneratorError::Service(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn error(status: u16) -> Reply {
    Reply::Error(status, vec![], "no", "some_code")
}

#[test]
fn what_passes_is_waited_out() {
    for fault in [
        error(408),
        error(409),
        error(429),
        error(500),
        error(502),
        error(503),
        error(504),
        Reply::Drop,
        Reply::DropMidBody,
        Reply::Partial(0),
        Reply::Partial(1),
        Reply::WrongSize,
        Reply::Corrupt,
        Reply::Garbage,
        Reply::Huge,
    ] {
        let failing = fault.clone();
        let (result, server) = three(Rules::small(SIDE), "", move |seen| match seen.number {
            0 => failing.clone(),
            _ => Reply::Good,
        });
        assert_good(
            &result.unwrap_or_else(|error| panic!("{fault:?}: {error}")),
            &server,
        );
        let second = server.seen()[1].clone();
        let missing = if fault == Reply::Partial(1) { 2 } else { 3 };
        assert_eq!((server.seen().len(), second.n), (2, missing), "{fault:?}");
    }
}

#[test]
fn what_does_not_pass_is_not_asked_again() {
    for (fault, expected) in [
        (
            Reply::Error(400, vec![], "your prompt …", "content_policy_violation"),
            "content_policy_violation",
        ),
        (
            Reply::Error(401, vec![], "who?", "invalid_api_key"),
            "401, who?",
        ),
        (error(403), "403"),
        (error(404), "404"),
        (error(413), "413"),
        // No money does not come back by waiting.
        (
            Reply::Error(429, vec![], "pay", "insufficient_quota"),
            "insufficient_quota",
        ),
        // The key goes nowhere else.
        (
            Reply::Moved("http://elsewhere.invalid/v1".to_owned()),
            "elsewhere.invalid",
        ),
    ] {
        let failing = fault.clone();
        let (result, server) = three(Rules::small(SIDE), "", move |_| failing.clone());
        let error = service(result);
        assert!(matches!(error, ServiceError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(server.seen().len(), 1, "{fault:?}");
    }
}

#[test]
fn what_never_passes_ends_the_run() {
    let (result, server) = three(Rules::small(SIDE), "max_attempts = 4", |_| error(503));
    let gave_up = service(result);
    assert!(
        matches!(gave_up, ServiceError::GaveUp { attempts: 4, .. }),
        "{gave_up}"
    );
    assert_eq!(server.seen().len(), 4);
    // Answers that cost money and hold nothing are fewer.
    for fault in [
        Reply::Corrupt,
        Reply::WrongSize,
        Reply::Partial(0),
        Reply::Huge,
        Reply::Garbage,
    ] {
        let failing = fault.clone();
        let (result, server) = three(Rules::small(SIDE), "", move |_| failing.clone());
        let unusable = service(result);
        assert!(
            matches!(unusable, ServiceError::Unusable { .. }),
            "{unusable}"
        );
        assert_eq!(server.seen().len(), 3, "{fault:?}");
    }
}

#[test]
fn addresses_expire_loop_and_fail() {
    let rules = || Rules {
        format: Some("url"),
        ..Rules::small(SIDE)
    };
    let url = "response_format = \"url\"";
    for fault in [
        Reply::Expired,
        Reply::RedirectLoop,
        Reply::WrongSize,
        Reply::Corrupt,
    ] {
        let failing = fault.clone();
        let (result, server) = three(rules(), url, move |seen| match seen.number {
            0 => failing.clone(),
            _ => Reply::Good,
        });
        assert_good(
            &result.unwrap_or_else(|error| panic!("{fault:?}: {error}")),
            &server,
        );
        assert_eq!(server.seen().len(), 2, "{fault:?}");
        let failing = fault.clone();
        let (result, _server) = three(rules(), url, move |_| failing.clone());
        let error = service(result);
        assert!(matches!(error, ServiceError::Unusable { .. }), "{error}");
    }
    // A file that fails for a while is fetched again, not bought again.
    let (result, server) = three(rules(), url, |_| Reply::FlakyFile(3));
    assert_good(&result.unwrap(), &server);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_slow_server_is_left_and_asked_again() {
    let (result, server) = three(Rules::small(SIDE), "timeout = 1.5", |seen| {
        match seen.number {
            0 => Reply::Slow(Duration::from_secs(30)),
            _ => Reply::Good,
        }
    });
    assert_good(&result.unwrap(), &server);
    // More where this machine is slow itself.
    assert!(server.seen().len() >= 2);
}

#[test]
fn the_server_says_how_long_to_wait() {
    let asks = |header: &'static str, value: &str| {
        let value = value.to_owned();
        move |seen: &Seen| match seen.number {
            0 => Reply::Error(
                429,
                vec![(header, value.clone())],
                "slow down",
                "rate_limit",
            ),
            _ => Reply::Good,
        }
    };
    for (header, value) in [("Retry-After", "1"), ("retry-after-ms", "900")] {
        let begun = Instant::now();
        let (result, server) = three(Rules::small(SIDE), "", asks(header, value));
        assert_good(&result.unwrap(), &server);
        assert!(begun.elapsed() >= Duration::from_millis(900), "{header}");
    }
    let long = asks("Retry-After", "86399");
    let (result, server) = three(Rules::small(SIDE), "", long);
    assert!(matches!(service(result), ServiceError::Wait { .. }));
    assert_eq!(server.seen().len(), 1);
}

/// A number that looks random, of a parent and an attempt.
fn mixed(parent: u32, attempt: usize, salt: u64) -> u64 {
    let mut z = (u64::from(parent) << 20) + attempt as u64 + (salt << 50);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What this attempt for this parent meets: whatever the order of requests, the same.
fn faulty(seen: &Seen) -> Reply {
    // The third attempt may fail, but not for the third time without a usable image.
    if mixed(seen.parent, seen.attempt, 1) % 100 >= 24 {
        return Reply::Good;
    }
    let soon = || vec![("retry-after-ms", "15".to_owned())];
    let kinds = if seen.attempt < 2 { 10 } else { 5 };
    match mixed(seen.parent, seen.attempt, 2) % kinds {
        0 => Reply::Error(429, soon(), "slow down", "rate_limit_exceeded"),
        1 => error(500),
        2 => error(503),
        3 => Reply::Drop,
        4 => Reply::DropMidBody,
        5 => Reply::Partial(0),
        6 => Reply::WrongSize,
        7 => Reply::Corrupt,
        8 => Reply::Expired,
        _ => Reply::Garbage,
    }
}

#[test]
fn a_thousand_requests_with_a_fifth_of_them_failing() {
    const COUNT: usize = 1000;
    let rules = Rules {
        format: Some("url"),
        ..Rules::small(SIDE)
    };
    let server = ImageServer::start(rules, faulty);
    let folder = tempfile::tempdir().unwrap();
    let model = model(
        &server,
        folder.path(),
        "response_format = \"url\"\nconcurrency = 8",
    );
    // Parents that the server did not make, told apart by numbers above all of its own.
    let parent = |index: usize| 500_000 + index as u32;
    let pixels = (0..COUNT).flat_map(|index| picture(SIDE, parent(index), 0, 0));
    let parents = ImageBatch::new(pixels.collect(), COUNT, SIDE, SIDE).unwrap();
    let images = model
        .vary(&parents, &draws(Phase::Vary, COUNT), 0.5)
        .unwrap();
    server.assert_no_problems();
    let (seen, made) = (server.seen(), server.made());
    let faults = seen
        .iter()
        .filter(|seen| faulty(seen) != Reply::Good)
        .count();
    assert!(
        faults * 5 >= seen.len(),
        "{faults} of {} failed",
        seen.len()
    );
    // The right images: each a usable one, made from the parent in its place.
    for (index, image) in images.iter().enumerate() {
        let [number, from, _] = numbers(image);
        assert_eq!(from, parent(index));
        assert!(made.iter().any(|made| made.number == number && made.usable));
    }
    // No usable image was bought twice.
    let mut usable: HashMap<u32, usize> = HashMap::new();
    for made in made.iter().filter(|made| made.usable) {
        *usable.entry(made.parent).or_default() += 1;
    }
    assert_eq!(usable.len(), COUNT);
    assert!(usable.values().all(|times| *times == 1));
    // And none of what was bought is forgotten: asked again, everything is there.
    let before = server.seen().len();
    let again = model
        .vary(&parents, &draws(Phase::Vary, COUNT), 0.5)
        .unwrap();
    assert!(again.data() == images.data());
    assert_eq!(server.seen().len(), before);
    let journal = std::fs::read_to_string(folder.path().join("requests.jsonl")).unwrap();
    let sent = journal
        .lines()
        .filter(|line| line.contains("\"endpoint\""))
        .count();
    assert_eq!(sent, before);
}
