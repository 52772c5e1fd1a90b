//! Downloads against a server with scripted faults.

use std::sync::Mutex;
use std::time::Duration;

use dpsyn::internals::fetch::{Catalogue, FetchError, Fetcher, Options, RetryPolicy};
use dpsyn::internals::net::Backoff;
use dpsyn::internals::progress::{Progress, Unit};

use crate::support::fetch_fixture::{
    FetchFixture, archive_item, cifar_fixture, file_item, noise, tar_gz, unknown_item,
};
use crate::support::file_server::{FileServer, ReceivedRequest, Reply, Served};

/// Collects messages.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn resume(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// No test waits this long: on a loaded machine, a server that answers late is not a silent one.
const NEVER: Duration = Duration::from_secs(300);

/// Fetches the only item with short delays between attempts, and returns the messages.
fn fetch(fixture: &FetchFixture) -> (Result<(), FetchError>, String) {
    fetch_with(fixture, NEVER, 3)
}

fn fetch_with(
    fixture: &FetchFixture,
    idle_timeout: Duration,
    attempts: u32,
) -> (Result<(), FetchError>, String) {
    let text = std::fs::read_to_string(fixture.path("catalogue.toml")).unwrap();
    let catalogue = Catalogue::parse("test", &text).unwrap();
    let options = Options {
        root: fixture.root.path().to_owned(),
        retry_policy: RetryPolicy {
            attempts,
            backoff: Backoff {
                initial: Duration::from_millis(1),
                max: Duration::from_millis(5),
            },
            idle_timeout,
            max_wait: Duration::from_millis(1500),
        },
        ..Options::default()
    };
    let lines = Lines::default();
    let result = Fetcher::new(&options, &lines).fetch(&catalogue.items()[0], None);
    let messages = lines.0.lock().unwrap().join("\n");
    (result, messages)
}

fn refused(fixture: &FetchFixture) -> String {
    fetch(fixture).0.unwrap_err().to_string()
}

/// Serves one file; `published` states if the catalogue has its checksum.
fn fixture(
    bytes: &[u8],
    published: bool,
    script: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static,
) -> FetchFixture {
    let fixture = FetchFixture::new(FileServer::start(script));
    let url = fixture.server.url("/f");
    let item = match published {
        true => file_item("f", &url, "weights/f.pt", bytes),
        false => unknown_item("f", &url, "weights/f.pt"),
    };
    fixture.catalogue(&[item]);
    fixture.server.serve("/f", Served::new(bytes));
    fixture
}

/// Returns the first requested byte of each request.
fn starts(fixture: &FetchFixture) -> Vec<Option<usize>> {
    fixture
        .server
        .requests()
        .iter()
        .map(|request| request.from)
        .collect()
}

#[test]
fn broken_connections_are_resumed() {
    let bytes = noise(100_000, 1);
    for published in [true, false] {
        let fixture = fixture(&bytes, published, |request| match request.number {
            0 => Reply::DropAfter(30_000),
            1 => Reply::Drop,
            2 => Reply::DropAfter(0),
            3 => Reply::DropAfter(20_000),
            // Attempts that receive bytes do not count toward the limit of three.
            4 | 5 => Reply::DropAfter(10_000),
            _ => Reply::Good,
        });
        fetch(&fixture).0.unwrap();
        assert_eq!(fixture.read("weights/f.pt"), bytes);
        let expected = [
            None,
            Some(30_000),
            Some(30_000),
            Some(30_000),
            Some(50_000),
            Some(60_000),
            Some(70_000),
        ];
        assert_eq!(starts(&fixture), expected);
        let sent: usize = fixture
            .server
            .requests()
            .iter()
            .map(|request| request.sent)
            .sum();
        assert_eq!(sent, bytes.len());
    }
}

#[test]
fn temporary_errors_are_retried() {
    let bytes = noise(1000, 2);
    let fixture = fixture(&bytes, true, |request| match request.number {
        0 => Reply::Error(503, vec![("retry-after", "0".to_owned())], "later"),
        1 => Reply::Error(429, vec![("retry-after", "0".to_owned())], "slowly"),
        _ => Reply::Good,
    });
    fetch(&fixture).0.unwrap();
    assert_eq!(starts(&fixture).len(), 3);
}

#[test]
fn a_server_with_permanent_faults_is_given_up() {
    let bytes = noise(1000, 3);
    let broken = fixture(&bytes, true, |_| {
        Reply::Error(500, vec![], "out of\u{1b}[2J order")
    });
    let text = refused(&broken);
    assert!(
        text.contains("3 attempts failed") && text.contains("500, out of [2J order"),
        "{text}"
    );
    assert_eq!(starts(&broken).len(), 3);
    let patient = fixture(&bytes, true, |_| {
        Reply::Error(503, vec![("retry-after", "3600".to_owned())], "in an hour")
    });
    let text = refused(&patient);
    assert!(text.contains("in an hour"), "{text}");
    assert_eq!(starts(&patient).len(), 1);
    for status in [401, 403, 404, 410] {
        let gone = fixture(&bytes, true, move |_| {
            Reply::Error(status, vec![], "<html>no</html>")
        });
        let text = refused(&gone);
        assert!(text.ends_with(&status.to_string()), "{text}");
        assert_eq!(starts(&gone).len(), 1);
    }
    let loops = fixture(&bytes, true, |_| Reply::Moved("/f".to_owned()));
    let text = refused(&loops);
    assert!(text.contains("redirect"), "{text}");
}

/// Only the first request is answered with silence. How many follow depends on how fast the machine
/// is, so their number is not asserted.
#[test]
fn a_silent_server_is_given_up() {
    let bytes = noise(1000, 4);
    let fixture = fixture(&bytes, true, |request| match request.number {
        0 => Reply::HoldAfter(400),
        _ => Reply::Good,
    });
    let (result, messages) = fetch_with(&fixture, Duration::from_millis(400), 100);
    result.unwrap();
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    let starts = starts(&fixture);
    assert!(starts.len() >= 2, "{messages}");
    assert!(
        starts.iter().all(|start| matches!(start, None | Some(400))),
        "{starts:?} {messages}"
    );
}

#[test]
fn servers_without_ranges_send_the_whole_file() {
    let bytes = noise(50_000, 5);
    for published in [true, false] {
        let fixture = fixture(&bytes, published, |request| match request.number {
            0 => Reply::DropAfter(10_000),
            _ => Reply::IgnoreRange,
        });
        let (result, messages) = fetch(&fixture);
        result.unwrap();
        assert!(messages.contains("cannot resume; restarting"), "{messages}");
        assert_eq!(fixture.read("weights/f.pt"), bytes);
        assert_eq!(starts(&fixture), [None, Some(10_000)]);
    }
}

#[test]
fn a_range_that_was_not_requested_is_rejected() {
    let bytes = noise(50_000, 6);
    for published in [true, false] {
        let fixture = fixture(&bytes, published, |request| match request.number {
            0 => Reply::DropAfter(10_000),
            1 => Reply::WrongStart(5),
            _ => Reply::Good,
        });
        fetch(&fixture).0.unwrap();
        assert_eq!(fixture.read("weights/f.pt"), bytes);
        assert_eq!(starts(&fixture), [None, Some(10_000), None]);
    }
}

/// The file changes between two attempts: none of its old bytes remain.
#[test]
fn a_changed_file_is_restarted() {
    let (old, new) = (noise(50_000, 7), noise(60_000, 8));
    let fixture = fixture(&old, false, |request| match request.number {
        0 | 1 => Reply::DropAfter(10_000),
        _ => Reply::Good,
    });
    // The partial file has the beginning of the old file; the call downloads all of the new one.
    let text = std::fs::read_to_string(fixture.path("catalogue.toml")).unwrap();
    assert!(!text.contains("sha256"));
    fixture.write("weights/f.pt.part", &old[..10_000]);
    fixture.write(
        "weights/f.pt.part.json",
        format!(
            "{{\"url\": \"{}\", \"validator\": \"\\\"old\\\"\"}}",
            fixture.server.url("/f")
        ),
    );
    fixture.server.serve("/f", Served::new(new.clone()));
    fetch(&fixture).0.unwrap();
    assert_eq!(fixture.read("weights/f.pt"), new);
    let requests = fixture.server.requests();
    assert_eq!(requests[0].from, Some(10_000));
    assert_eq!(requests[0].if_range.as_deref(), Some("\"old\""));
    // A partial file without an origin is not resumed without a checksum.
    let fixture = self::fixture(&new, false, |_| Reply::Good);
    fixture.write("weights/f.pt.part", &old[..10_000]);
    fetch(&fixture).0.unwrap();
    assert_eq!(fixture.read("weights/f.pt"), new);
    assert_eq!(starts(&fixture), [None]);
}

#[test]
fn a_server_without_etags_is_resumed_only_under_a_checksum() {
    let bytes = noise(50_000, 9);
    for (published, expected) in [(true, Some(10_000)), (false, None)] {
        let fixture = fixture(&bytes, published, |request| match request.number {
            0 => Reply::DropAfter(10_000),
            _ => Reply::Good,
        });
        let served = Served {
            etag: None,
            ..Served::new(bytes.clone())
        };
        fixture.server.serve("/f", served);
        fetch(&fixture).0.unwrap();
        assert_eq!(fixture.read("weights/f.pt"), bytes);
        assert_eq!(starts(&fixture), [None, expected]);
    }
}

/// The partial file has bytes of another file: the checksum reveals it, and the same call restarts.
#[test]
fn a_partial_file_of_another_file_is_replaced() {
    let bytes = noise(50_000, 20);
    let fixture = fixture(&bytes, true, |_| Reply::Good);
    fixture.write("weights/f.pt.part", noise(10_000, 21));
    let (result, messages) = fetch(&fixture);
    result.unwrap();
    assert!(messages.contains("do not match the rest"), "{messages}");
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    assert_eq!(starts(&fixture), [Some(10_000), None]);
}

/// Camelyon17's server packs the archive while it sends it: the response has no length and no
/// validator, and a range request fails with status 400.
#[test]
fn a_server_that_packs_the_file_while_it_sends_it() {
    let bytes = noise(50_000, 23);
    for published in [false, true] {
        let fixture = fixture(&bytes, published, |request| {
            match (request.number, request.from) {
                (_, Some(_)) => {
                    Reply::Error(400, vec![], "Range not supported for directory blobs.")
                }
                (0, None) => Reply::ChunkedUntil(10_000),
                _ => Reply::Chunked,
            }
        });
        let served = Served {
            etag: None,
            ..Served::new(bytes.clone())
        };
        fixture.server.serve("/f", served);
        let (result, messages) = fetch(&fixture);
        result.unwrap();
        assert_eq!(fixture.read("weights/f.pt"), bytes, "{messages}");
        let expected: &[Option<usize>] = match published {
            // Only with a checksum is a resume attempted without a validator.
            true => &[None, Some(10_000), None],
            false => &[None, None],
        };
        assert_eq!(starts(&fixture), expected, "{messages}");
    }
}

/// The end of a range of unknown length need not be the end of the file.
#[test]
fn a_range_of_unknown_length_is_rejected() {
    let bytes = noise(50_000, 22);
    let fixture = fixture(&bytes, false, |request| match request.number {
        0 => Reply::DropAfter(10_000),
        1 => Reply::UnknownTotal,
        _ => Reply::Good,
    });
    fetch(&fixture).0.unwrap();
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    assert_eq!(starts(&fixture), [None, Some(10_000), None]);
}

#[test]
fn a_complete_partial_file_is_accepted() {
    let bytes = noise(5000, 10);
    // With a known length no request is sent; otherwise the server answers with status 416.
    for (published, requests) in [(true, 0), (false, 1)] {
        let fixture = fixture(&bytes, published, |_| Reply::Good);
        fixture.write("weights/f.pt.part", &bytes);
        let etag = Served::new(bytes.clone()).etag.unwrap();
        let origin = serde_json::json!({ "url": fixture.server.url("/f"), "validator": etag });
        fixture.write("weights/f.pt.part.json", origin.to_string());
        fetch(&fixture).0.unwrap();
        assert_eq!(fixture.read("weights/f.pt"), bytes);
        assert_eq!(starts(&fixture), vec![Some(5000); requests]);
    }
    // A partial file that is longer than the file is discarded.
    let long = fixture(&bytes, true, |_| Reply::Good);
    long.write("weights/f.pt.part", noise(6000, 1));
    fetch(&long).0.unwrap();
    assert_eq!(starts(&long), [None]);
    let long = fixture(&bytes, false, |_| Reply::Good);
    long.write("weights/f.pt.part", noise(6000, 1));
    let origin = serde_json::json!({ "url": long.server.url("/f"), "validator": "\"x\"" });
    long.write("weights/f.pt.part.json", origin.to_string());
    fetch(&long).0.unwrap();
    assert_eq!(long.read("weights/f.pt"), bytes);
}

#[test]
fn wrong_lengths_are_rejected() {
    let bytes = noise(5000, 11);
    let long = fixture(&bytes, true, |_| Reply::Good);
    long.server.serve("/f", Served::new(noise(5001, 11)));
    let text = refused(&long);
    assert!(text.contains("has 5001 bytes, expected 5000"), "{text}");
    // Responses without a length: complete, too long, too short.
    let chunked = fixture(&bytes, true, |_| Reply::Chunked);
    fetch(&chunked).0.unwrap();
    assert_eq!(chunked.read("weights/f.pt"), bytes);
    let endless = fixture(&bytes, true, |_| Reply::Chunked);
    endless.server.serve("/f", Served::new(noise(9000, 11)));
    let text = refused(&endless);
    assert!(text.contains("more than 5000 bytes"), "{text}");
    assert!(endless.read("weights/f.pt.part").is_empty());
    let short = fixture(&bytes, true, |request| match request.number {
        0 => Reply::EndAfter(3000),
        _ => Reply::Good,
    });
    fetch(&short).0.unwrap();
    assert_eq!(starts(&short), [None, Some(3000)]);
}

#[test]
fn a_web_page_is_rejected() {
    let page = fixture(&noise(100, 12), false, |_| Reply::Page);
    let text = refused(&page);
    assert!(text.contains("web page"), "{text}");
    assert!(!page.exists("weights/f.pt"));
}

/// A response without a length ends early: unpacking detects it, and the next call requests the
/// rest.
#[test]
fn a_truncated_archive_is_detected_and_completed() {
    let table = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n0,004,0,1,2,1,0,0,0\n";
    let name = "patches/patient_004_node_0/patch_patient_004_node_0_x_1_y_2.png";
    let archive = tar_gz(&[
        ("noise".to_owned(), noise(20_000, 1)),
        ("metadata.csv".to_owned(), table.as_bytes().to_vec()),
        (name.to_owned(), crate::support::fetch_fixture::picture(1)),
    ]);
    let fixture = FetchFixture::new(FileServer::start(|request| match request.number {
        0 => Reply::EndAfter(15_000),
        _ => Reply::Good,
    }));
    let url = fixture.server.url("/f");
    let makes = [("train", 1)];
    fixture.catalogue(&[archive_item("camelyon17", &url, "c.tar.gz", None, &makes)]);
    fixture.server.serve("/f", Served::new(archive.clone()));
    let text = refused(&fixture);
    assert!(
        text.contains("c.tar.gz ends too early") && text.contains("truncated"),
        "{text}"
    );
    assert!(!fixture.exists("data/camelyon17_train"));
    fetch(&fixture).0.unwrap();
    assert!(fixture.exists("data/camelyon17_train/1_0.png"));
    let requests = fixture.server.requests();
    assert_eq!(requests[1].from, Some(15_000));
    assert!(requests[1].if_range.is_some());
    assert_eq!(requests[1].sent, archive.len() - 15_000);
}

#[test]
fn hostile_archives_leave_nothing_behind() {
    let link = |kind: tar::EntryType| {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder
            .append_link(&mut header, "metadata.csv", "/etc/passwd")
            .unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    };
    for (archive, expected) in [
        (link(tar::EntryType::Symlink), "is a link"),
        (link(tar::EntryType::Link), "is a link"),
        (
            tar_gz(&[("zeros".to_owned(), vec![0; 201_000_000])]),
            "more than 200000000",
        ),
    ] {
        let fixture = FetchFixture::new(FileServer::good());
        let url = fixture.server.url("/f");
        let makes = [("train", 1)];
        fixture.catalogue(&[archive_item("camelyon17", &url, "c.tar.gz", None, &makes)]);
        fixture.server.serve("/f", Served::new(archive));
        let text = refused(&fixture);
        assert!(
            text.contains(expected) && text.contains("c.tar.gz"),
            "{text}"
        );
        let left = std::fs::read_dir(fixture.path("data")).unwrap();
        let left: Vec<String> = left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("camelyon17_train"))
            .collect();
        assert_eq!(left, [""; 0]);
    }
}

/// The error of a full disk names the file.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let (fixture, _, _) = cifar_fixture(FileServer::good());
    // Every write to this device fails with ENOSPC.
    std::fs::create_dir_all(fixture.path("data")).unwrap();
    std::os::unix::fs::symlink(
        "/dev/full",
        fixture.path("data/cifar-10-binary.tar.gz.part"),
    )
    .unwrap();
    let text = refused(&fixture);
    assert!(
        text.contains("cifar-10-binary.tar.gz.part") && text.contains("space"),
        "{text}"
    );
    assert!(!fixture.exists("data/cifar10_train"));
    std::fs::remove_file(fixture.path("data/cifar-10-binary.tar.gz.part")).unwrap();
    fetch(&fixture).0.unwrap();
    assert!(fixture.exists("data/cifar10_train"));
}
