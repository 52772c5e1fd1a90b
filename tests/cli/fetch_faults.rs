//! Downloads against a server that fails in every way that it can.

use std::sync::Mutex;
use std::time::Duration;

use dpsyn::fetch::{Catalogue, FetchError, Fetcher, Options, Patience};
use dpsyn::net::Backoff;
use dpsyn::progress::{Progress, Unit};

use crate::support::file_server::{Asked, FileServer, Reply, Served};
use crate::support::shop::{
    Shop, archive_item, cifar_shop, file_item, noise, tar_gz, unknown_item,
};

/// Remembers every line.
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

/// Fetches the only item without losing time, and returns what was said.
fn fetch(shop: &Shop) -> (Result<(), FetchError>, String) {
    let text = std::fs::read_to_string(shop.path("catalogue.toml")).unwrap();
    let catalogue = Catalogue::parse("test", &text).unwrap();
    let options = Options {
        root: shop.root.path().to_owned(),
        patience: Patience {
            attempts: 3,
            backoff: Backoff {
                first: Duration::from_millis(1),
                most: Duration::from_millis(5),
            },
            silence: Duration::from_millis(400),
            longest_wait: Duration::from_millis(1500),
        },
        ..Options::default()
    };
    let lines = Lines::default();
    let result = Fetcher::new(&options, &lines).fetch(&catalogue.items()[0], None);
    let said = lines.0.lock().unwrap().join("\n");
    (result, said)
}

fn refused(shop: &Shop) -> String {
    fetch(shop).0.unwrap_err().to_string()
}

/// A shop with one file; published says whether its checksum is.
fn shop(
    bytes: &[u8],
    published: bool,
    script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> Shop {
    let shop = Shop::new(FileServer::start(script));
    let url = shop.server.url("/f");
    let item = match published {
        true => file_item("f", &url, "weights/f.pt", bytes),
        false => unknown_item("f", &url, "weights/f.pt"),
    };
    shop.catalogue(&[item]);
    shop.server.serve("/f", Served::new(bytes));
    shop
}

/// The first bytes that were asked for, request by request.
fn starts(shop: &Shop) -> Vec<Option<usize>> {
    shop.server.asked().iter().map(|asked| asked.from).collect()
}

#[test]
fn broken_connections_go_on_where_they_broke() {
    let bytes = noise(100_000, 1);
    for published in [true, false] {
        let shop = shop(&bytes, published, |asked| match asked.number {
            0 => Reply::DropAfter(30_000),
            1 => Reply::Drop,
            2 => Reply::DropAfter(0),
            3 => Reply::DropAfter(20_000),
            // Brings something each time: it is listened to for longer than three tries.
            4 | 5 => Reply::DropAfter(10_000),
            _ => Reply::Good,
        });
        fetch(&shop).0.unwrap();
        assert_eq!(shop.read("weights/f.pt"), bytes);
        let expected = [
            None,
            Some(30_000),
            Some(30_000),
            Some(30_000),
            Some(50_000),
            Some(60_000),
            Some(70_000),
        ];
        assert_eq!(starts(&shop), expected);
        let sent: usize = shop.server.asked().iter().map(|asked| asked.sent).sum();
        assert_eq!(sent, bytes.len());
    }
}

#[test]
fn errors_are_tried_again_a_few_times() {
    let bytes = noise(1000, 2);
    let shop = shop(&bytes, true, |asked| match asked.number {
        0 => Reply::Error(503, vec![("retry-after", "0".to_owned())], "later"),
        1 => Reply::Error(429, vec![("retry-after", "1".to_owned())], "slowly"),
        _ => Reply::Good,
    });
    let begun = std::time::Instant::now();
    fetch(&shop).0.unwrap();
    // The server asked for a second.
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(starts(&shop).len(), 3);
}

#[test]
fn a_server_that_only_fails_is_given_up() {
    let bytes = noise(1000, 3);
    let broken = shop(&bytes, true, |_| {
        Reply::Error(500, vec![], "out of\u{1b}[2J order")
    });
    let text = refused(&broken);
    assert!(
        text.contains("failed 3 times") && text.contains("500, out of [2J order"),
        "{text}"
    );
    assert_eq!(starts(&broken).len(), 3);
    let patient = shop(&bytes, true, |_| {
        Reply::Error(503, vec![("retry-after", "3600".to_owned())], "in an hour")
    });
    let text = refused(&patient);
    assert!(text.contains("in an hour"), "{text}");
    assert_eq!(starts(&patient).len(), 1);
    for status in [401, 403, 404, 410] {
        let gone = shop(&bytes, true, move |_| {
            Reply::Error(status, vec![], "<html>no</html>")
        });
        let text = refused(&gone);
        assert!(text.ends_with(&status.to_string()), "{text}");
        assert_eq!(starts(&gone).len(), 1);
    }
    let loops = shop(&bytes, true, |_| Reply::Moved("/f".to_owned()));
    let text = refused(&loops);
    assert!(text.contains("redirect"), "{text}");
}

#[test]
fn a_silent_server_is_left() {
    let bytes = noise(1000, 4);
    let shop = shop(&bytes, true, |asked| match asked.number {
        0 => Reply::HoldAfter(400),
        _ => Reply::Good,
    });
    let (result, said) = fetch(&shop);
    result.unwrap();
    assert_eq!(starts(&shop), [None, Some(400)], "{said}");
}

#[test]
fn servers_without_ranges_begin_anew() {
    let bytes = noise(50_000, 5);
    for published in [true, false] {
        let shop = shop(&bytes, published, |asked| match asked.number {
            0 => Reply::DropAfter(10_000),
            _ => Reply::IgnoreRange,
        });
        let (result, said) = fetch(&shop);
        result.unwrap();
        assert!(said.contains("begins anew"), "{said}");
        assert_eq!(shop.read("weights/f.pt"), bytes);
        assert_eq!(starts(&shop), [None, Some(10_000)]);
    }
}

#[test]
fn a_part_that_was_not_asked_for_is_not_taken() {
    let bytes = noise(50_000, 6);
    for published in [true, false] {
        let shop = shop(&bytes, published, |asked| match asked.number {
            0 => Reply::DropAfter(10_000),
            1 => Reply::WrongStart(5),
            _ => Reply::Good,
        });
        fetch(&shop).0.unwrap();
        assert_eq!(shop.read("weights/f.pt"), bytes);
        assert_eq!(starts(&shop), [None, Some(10_000), None]);
    }
}

/// The file changes between two tries: nothing of the old one stays.
#[test]
fn a_changed_file_begins_anew() {
    let (old, new) = (noise(50_000, 7), noise(60_000, 8));
    let shop = shop(&old, false, |asked| match asked.number {
        0 | 1 => Reply::DropAfter(10_000),
        _ => Reply::Good,
    });
    // The first call gets the beginning of the old one, and the second all of the new one.
    let text = std::fs::read_to_string(shop.path("catalogue.toml")).unwrap();
    assert!(!text.contains("sha256"));
    shop.write("weights/f.pt.part", &old[..10_000]);
    shop.write(
        "weights/f.pt.part.json",
        format!(
            "{{\"url\": \"{}\", \"validator\": \"\\\"old\\\"\"}}",
            shop.server.url("/f")
        ),
    );
    shop.server.serve("/f", Served::new(new.clone()));
    fetch(&shop).0.unwrap();
    assert_eq!(shop.read("weights/f.pt"), new);
    let asked = shop.server.asked();
    assert_eq!(asked[0].from, Some(10_000));
    assert_eq!(asked[0].if_range.as_deref(), Some("\"old\""));
    // A part from nobody knows where is not continued without a checksum.
    let shop = self::shop(&new, false, |_| Reply::Good);
    shop.write("weights/f.pt.part", &old[..10_000]);
    fetch(&shop).0.unwrap();
    assert_eq!(shop.read("weights/f.pt"), new);
    assert_eq!(starts(&shop), [None]);
}

#[test]
fn a_server_without_etags_is_resumed_only_under_a_checksum() {
    let bytes = noise(50_000, 9);
    for (published, expected) in [(true, Some(10_000)), (false, None)] {
        let shop = shop(&bytes, published, |asked| match asked.number {
            0 => Reply::DropAfter(10_000),
            _ => Reply::Good,
        });
        let served = Served {
            etag: None,
            ..Served::new(bytes.clone())
        };
        shop.server.serve("/f", served);
        fetch(&shop).0.unwrap();
        assert_eq!(shop.read("weights/f.pt"), bytes);
        assert_eq!(starts(&shop), [None, expected]);
    }
}

/// The beginning of another file, from whoever: the checksum tells, and nobody has to call twice.
#[test]
fn what_was_here_may_not_fit_the_rest() {
    let bytes = noise(50_000, 20);
    let shop = shop(&bytes, true, |_| Reply::Good);
    shop.write("weights/f.pt.part", noise(10_000, 21));
    let (result, said) = fetch(&shop);
    result.unwrap();
    assert!(said.contains("does not fit the rest"), "{said}");
    assert_eq!(shop.read("weights/f.pt"), bytes);
    assert_eq!(starts(&shop), [Some(10_000), None]);
}

/// As Camelyon17's server is: it packs the archive while it sends it, so it knows no length, no version and no
/// ranges, and says 400 to whoever asks for one.
#[test]
fn a_server_that_makes_the_file_as_it_sends_it() {
    let bytes = noise(50_000, 23);
    for published in [false, true] {
        let shop = shop(&bytes, published, |asked| {
            match (asked.number, asked.from) {
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
        shop.server.serve("/f", served);
        let (result, said) = fetch(&shop);
        result.unwrap();
        assert_eq!(shop.read("weights/f.pt"), bytes, "{said}");
        let asked: &[Option<usize>] = match published {
            // Only a checksum would tell that two parts do not fit together.
            true => &[None, Some(10_000), None],
            false => &[None, None],
        };
        assert_eq!(starts(&shop), asked, "{said}");
    }
}

/// Such a part may be the last one or not: a whole file is waited for.
#[test]
fn a_part_of_nobody_knows_how_much_is_not_taken_for_the_rest() {
    let bytes = noise(50_000, 22);
    let shop = shop(&bytes, false, |asked| match asked.number {
        0 => Reply::DropAfter(10_000),
        1 => Reply::UnknownTotal,
        _ => Reply::Good,
    });
    fetch(&shop).0.unwrap();
    assert_eq!(shop.read("weights/f.pt"), bytes);
    assert_eq!(starts(&shop), [None, Some(10_000), None]);
}

#[test]
fn all_bytes_were_there_already() {
    let bytes = noise(5000, 10);
    // With a known length nobody is asked; without, the server says that there are no more.
    for (published, asked) in [(true, 0), (false, 1)] {
        let shop = shop(&bytes, published, |_| Reply::Good);
        shop.write("weights/f.pt.part", &bytes);
        let etag = Served::new(bytes.clone()).etag.unwrap();
        let origin = serde_json::json!({ "url": shop.server.url("/f"), "validator": etag });
        shop.write("weights/f.pt.part.json", origin.to_string());
        fetch(&shop).0.unwrap();
        assert_eq!(shop.read("weights/f.pt"), bytes);
        assert_eq!(starts(&shop), vec![Some(5000); asked]);
    }
    // More than there can be is thrown away.
    let long = shop(&bytes, true, |_| Reply::Good);
    long.write("weights/f.pt.part", noise(6000, 1));
    fetch(&long).0.unwrap();
    assert_eq!(starts(&long), [None]);
    let long = shop(&bytes, false, |_| Reply::Good);
    long.write("weights/f.pt.part", noise(6000, 1));
    let origin = serde_json::json!({ "url": long.server.url("/f"), "validator": "\"x\"" });
    long.write("weights/f.pt.part.json", origin.to_string());
    fetch(&long).0.unwrap();
    assert_eq!(long.read("weights/f.pt"), bytes);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let bytes = noise(5000, 11);
    let long = shop(&bytes, true, |_| Reply::Good);
    long.server.serve("/f", Served::new(noise(5001, 11)));
    let text = refused(&long);
    assert!(text.contains("5001 bytes where 5000"), "{text}");
    // Without a word on the length: more than there can be, or less.
    let chunked = shop(&bytes, true, |_| Reply::Chunked);
    fetch(&chunked).0.unwrap();
    assert_eq!(chunked.read("weights/f.pt"), bytes);
    let endless = shop(&bytes, true, |_| Reply::Chunked);
    endless.server.serve("/f", Served::new(noise(9000, 11)));
    let text = refused(&endless);
    assert!(text.contains("more than 5000 bytes"), "{text}");
    assert!(endless.read("weights/f.pt.part").is_empty());
    let short = shop(&bytes, true, |asked| match asked.number {
        0 => Reply::EndAfter(3000),
        _ => Reply::Good,
    });
    fetch(&short).0.unwrap();
    assert_eq!(starts(&short), [None, Some(3000)]);
}

#[test]
fn a_web_page_is_no_file() {
    let page = shop(&noise(100, 12), false, |_| Reply::Page);
    let text = refused(&page);
    assert!(text.contains("web page"), "{text}");
    assert!(!page.exists("weights/f.pt"));
}

/// A connection that ends too early without anybody's knowing: the archive tells, and its rest is asked for.
#[test]
fn a_truncated_archive_says_so_and_is_completed() {
    let table = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n0,004,0,1,2,1,0,0,0\n";
    let name = "patches/patient_004_node_0/patch_patient_004_node_0_x_1_y_2.png";
    let archive = tar_gz(&[
        ("noise".to_owned(), noise(20_000, 1)),
        ("metadata.csv".to_owned(), table.as_bytes().to_vec()),
        (name.to_owned(), crate::support::shop::picture(1)),
    ]);
    let shop = Shop::new(FileServer::start(|asked| match asked.number {
        0 => Reply::EndAfter(15_000),
        _ => Reply::Good,
    }));
    let url = shop.server.url("/f");
    let makes = [("train", 1)];
    shop.catalogue(&[archive_item("camelyon17", &url, "c.tar.gz", None, &makes)]);
    shop.server.serve("/f", Served::new(archive.clone()));
    let text = refused(&shop);
    assert!(
        text.contains("c.tar.gz ends too early") && text.contains("truncated"),
        "{text}"
    );
    assert!(!shop.exists("data/camelyon17_train"));
    fetch(&shop).0.unwrap();
    assert!(shop.exists("data/camelyon17_train/1_0.png"));
    let asked = shop.server.asked();
    assert_eq!(asked[1].from, Some(15_000));
    assert!(asked[1].if_range.is_some());
    assert_eq!(asked[1].sent, archive.len() - 15_000);
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
        let shop = Shop::new(FileServer::good());
        let url = shop.server.url("/f");
        let makes = [("train", 1)];
        shop.catalogue(&[archive_item("camelyon17", &url, "c.tar.gz", None, &makes)]);
        shop.server.serve("/f", Served::new(archive));
        let text = refused(&shop);
        assert!(
            text.contains(expected) && text.contains("c.tar.gz"),
            "{text}"
        );
        let left = std::fs::read_dir(shop.path("data")).unwrap();
        let left: Vec<String> = left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("camelyon17_train"))
            .collect();
        assert_eq!(left, [""; 0]);
    }
}

/// A disk that is full, or a place that cannot be written, is named.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let (shop, _, _) = cifar_shop(FileServer::good());
    // A device on which every write fails for want of space stands where the download is to go.
    std::fs::create_dir_all(shop.path("data")).unwrap();
    std::os::unix::fs::symlink("/dev/full", shop.path("data/cifar-10-binary.tar.gz.part")).unwrap();
    let text = refused(&shop);
    assert!(
        text.contains("cifar-10-binary.tar.gz.part") && text.contains("space"),
        "{text}"
    );
    assert!(!shop.exists("data/cifar10_train"));
    std::fs::remove_file(shop.path("data/cifar-10-binary.tar.gz.part")).unwrap();
    fetch(&shop).0.unwrap();
    assert!(shop.exists("data/cifar10_train"));
}
