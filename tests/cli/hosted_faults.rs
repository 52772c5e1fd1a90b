//! Faults of a hosted model: errors, broken connections, damaged images, expired addresses.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use dpsyn::internals::generators::openai_images::{Config, ServiceError};
use dpsyn::internals::generators::{
    Condition, Generated, Generator, GeneratorError, OpenAiImages, RunPaths, SampleRequest,
    Variation,
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
    let paths = RunPaths {
        root: folder.to_owned(),
        work: folder.join(".work"),
        lookahead_degrees: vec![0],
    };
    model.begin_run(&paths).unwrap();
    model
}

fn requests(phase: Phase, count: usize) -> Vec<SampleRequest> {
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

/// Requests three random images from a server with this script.
fn three(
    rules: Rules,
    extra: &str,
    script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Result<ImageBatch, GeneratorError>, ImageServer) {
    let server = ImageServer::start(rules, script);
    let folder = tempfile::tempdir().unwrap();
    let model = model(&server, folder.path(), extra);
    let result = model.random(&requests(Phase::Random, 3));
    let result = result.map(|generated| generated.images);
    server.assert_no_problems();
    (result, server)
}

/// Fails unless the images are three different correct images of the server.
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
fn temporary_faults_are_retried() {
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
fn permanent_faults_are_not_retried() {
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
        // Waiting does not refill an account.
        (
            Reply::Error(429, vec![], "pay", "insufficient_quota"),
            "insufficient_quota",
        ),
        // The access key is not sent to another address.
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
fn repeated_faults_end_the_run() {
    let (result, server) = three(Rules::small(SIDE), "max_attempts = 4", |_| error(503));
    let gave_up = service(result);
    assert!(
        matches!(gave_up, ServiceError::GaveUp { attempts: 4, .. }),
        "{gave_up}"
    );
    assert_eq!(server.seen().len(), 4);
    // Responses that may have been charged are repeated less often.
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
fn addresses_of_images_can_fail() {
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
    // A file that fails temporarily is downloaded again, without a second request for it.
    let (result, server) = three(rules(), url, |_| Reply::FlakyFile(3));
    assert_good(&result.unwrap(), &server);
    assert_eq!(server.seen().len(), 1);
}

/// The first request gets no response at all. The number of attempts is large, so that a machine on
/// which other responses take longer than the time limit passes the test, too.
#[test]
fn a_request_without_a_response_is_repeated() {
    let extra = "timeout = 1.5\nmax_attempts = 1000";
    let (result, server) = three(Rules::small(SIDE), extra, |seen| match seen.number {
        0 => Reply::Hold,
        _ => Reply::Good,
    });
    assert_good(&result.unwrap(), &server);
    assert!(server.seen().len() >= 2);
}

#[test]
fn the_wait_that_the_server_requires_is_kept() {
    let retry_after = |header: &'static str, value: &str| {
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
        let start = Instant::now();
        let (result, server) = three(Rules::small(SIDE), "", retry_after(header, value));
        assert_good(&result.unwrap(), &server);
        assert!(start.elapsed() >= Duration::from_millis(900), "{header}");
    }
    let long = retry_after("Retry-After", "86399");
    let (result, server) = three(Rules::small(SIDE), "", long);
    assert!(matches!(service(result), ServiceError::Wait { .. }));
    assert_eq!(server.seen().len(), 1);
}

/// Returns a pseudo-random number that depends on a parent and an attempt.
fn mixed(parent: u32, attempt: usize, salt: u64) -> u64 {
    let mut z = (u64::from(parent) << 20) + attempt as u64 + (salt << 50);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Chooses a fault that depends only on the parent and the attempt, not on the order of requests.
fn faulty(seen: &Seen) -> Reply {
    // Three consecutive responses without a usable image would end the run, so the third attempt
    // has faults of other kinds only.
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
fn a_fifth_of_a_thousand_requests_fails() {
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
    // Parents from another source, with numbers above those of the server.
    let parent = |index: usize| 500_000 + index as u32;
    let pixels = (0..COUNT).flat_map(|index| picture(SIDE, parent(index), 0, 0));
    let parents = ImageBatch::new(pixels.collect(), COUNT, SIDE, SIDE).unwrap();
    let (parents, variation) = (Generated::from(parents), Variation::new(0.5, 1));
    let images = model
        .vary(&parents, &requests(Phase::Vary, COUNT), variation)
        .unwrap()
        .images;
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
    // Each image is a correct one that was made from the parent in its place.
    for (index, image) in images.iter().enumerate() {
        let [number, from, _] = numbers(image);
        assert_eq!(from, parent(index));
        assert!(made.iter().any(|made| made.number == number && made.usable));
    }
    // No usable image was requested twice.
    let mut usable: HashMap<u32, usize> = HashMap::new();
    for made in made.iter().filter(|made| made.usable) {
        *usable.entry(made.parent).or_default() += 1;
    }
    assert_eq!(usable.len(), COUNT);
    assert!(usable.values().all(|times| *times == 1));
    // A repeated call reads all images from the cache.
    let before = server.seen().len();
    let again = model
        .vary(&parents, &requests(Phase::Vary, COUNT), variation)
        .unwrap()
        .images;
    assert!(again.data() == images.data());
    assert_eq!(server.seen().len(), before);
    let journal = std::fs::read_to_string(folder.path().join("requests.jsonl")).unwrap();
    let sent = journal
        .lines()
        .filter(|line| line.contains("\"endpoint\""))
        .count();
    assert_eq!(sent, before);
}
