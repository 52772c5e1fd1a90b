//! `dpsyn fetch` through the real binary: data sets, checks, locks, kills, and no network where it
//! is forbidden.

use std::path::Path;
use std::process::Stdio;

use dpsyn::internals::images::{DecodeOptions, decode};

use crate::support::fetch_fixture::{
    BATCH, FetchFixture, archive_item, cifar_archive, cifar_fixture, expect, file_item, noise,
    picture, tar_gz, unknown_item, zip,
};
use crate::support::file_server::{FileServer, Reply, Served, sha256};

const USAGE: i32 = 2;
const FETCH: i32 = 10;
const CLASSES: [&str; 10] = [
    "plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
];

/// Returns the names of the files in a folder without hidden ones.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Checks names and pixels of all images.
fn assert_cifar(fixture: &FetchFixture, split: &str, images: &[(u8, Vec<u8>)]) {
    let mut expected = Vec::new();
    for (index, (label, pixels)) in images.iter().enumerate() {
        let name = format!("{}_{index:05}.png", CLASSES[usize::from(*label)]);
        let image = decode(
            &fixture.read(&format!("data/cifar10_{split}/{name}")),
            &DecodeOptions::default(),
        )
        .unwrap()
        .image;
        assert_eq!((image.height, image.width), (32, 32));
        assert!(image.pixels == *pixels, "{name}");
        expected.push(name);
    }
    expected.sort();
    assert_eq!(
        names(&fixture.path(&format!("data/cifar10_{split}"))),
        expected
    );
}

#[test]
fn cifar10_becomes_folders_and_is_fetched_once() {
    let (fixture, train, _) = cifar_fixture(FileServer::good());
    fixture.succeed(&["cifar10"]);
    assert_cifar(&fixture, "train", &train);
    assert_eq!(names(&fixture.path("data/cifar10_test")).len(), BATCH);
    assert!(!fixture.exists("data/cifar-10-binary.tar.gz"));
    assert_eq!(fixture.server.requests().len(), 1);
    let text = fixture.succeed(&["cifar10"]);
    assert!(text.contains("data/cifar10_train is installed"), "{text}");
    assert_eq!(fixture.server.requests().len(), 1);

    let text = fixture.succeed(&["--verify", "cifar10"]);
    assert!(text.contains("cifar10_train: intact: 20 files"), "{text}");
    // One bit of one image.
    let name = format!(
        "data/cifar10_train/{}_00000.png",
        CLASSES[usize::from(train[0].0)]
    );
    let mut bytes = fixture.read(&name);
    bytes[60] ^= 1;
    fixture.write(&name, &bytes);
    fixture.fail(
        FETCH,
        &["--verify"],
        &["cifar10_train: DAMAGED", "cifar10_test: intact"],
    );
    std::fs::remove_file(fixture.path(&name)).unwrap();
    fixture.fail(
        FETCH,
        &["--verify"],
        &["DAMAGED: has 19 files, expected 20"],
    );
    // Only what is missing is made again.
    std::fs::remove_dir_all(fixture.path("data/cifar10_train")).unwrap();
    fixture.fail(FETCH, &["--verify", "cifar10"], &["cifar10_train: missing"]);
    fixture.succeed(&["cifar10", "--keep-archives"]);
    assert_cifar(&fixture, "train", &train);
    assert!(fixture.exists("data/cifar-10-binary.tar.gz"));
    let text = fixture.succeed(&["--verify"]);
    assert!(text.contains("published"), "{text}");
}

#[test]
fn a_configuration_gets_what_it_names() {
    let (fixture, train, archive) = cifar_fixture(FileServer::good());
    let weights = noise(5000, 3);
    let url = fixture.server.url("/w/model.pt");
    fixture
        .server
        .serve("/w/model.pt", Served::new(weights.clone()));
    let makes = [("train", 5 * BATCH), ("test", BATCH)];
    let cifar = fixture.server.url("/c/cifar-10-binary.tar.gz");
    fixture.catalogue(&[
        archive_item(
            "cifar10",
            &cifar,
            "cifar-10-binary.tar.gz",
            Some(&archive),
            &makes,
        ),
        file_item(
            "model",
            &url,
            "weights/imagenet64_cond_270M_250K.pt",
            &weights,
        ),
        file_item("other", &url, "weights/other.pt", &weights),
    ]);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/cifar10.toml");
    let config = config.to_str().unwrap();
    let inception = "weights/pt_inception-2015-12-05-6726825d.pth";
    // One thing is in no catalogue; the others come all the same.
    fixture.fail(FETCH, &["--for", config], &[inception, "--list"]);
    fixture.write(inception, "mine");
    fixture.succeed(&["--for", config]);
    assert_cifar(&fixture, "train", &train);
    // The archive, which goes, is not wanted again for the folder that is not named.
    assert_eq!(names(&fixture.path("data/cifar10_test")).len(), BATCH);
    assert!(!fixture.exists("weights/other.pt"));
    assert_eq!(
        fixture.read("weights/imagenet64_cond_270M_250K.pt"),
        weights
    );
    fixture.succeed(&["--for", config, "--verify"]);
    // A folder that is not named need not be there.
    std::fs::remove_dir_all(fixture.path("data/cifar10_test")).unwrap();
    let before = fixture.server.requests().len();
    fixture.succeed(&["--for", config]);
    fixture.succeed(&["--for", config, "--verify"]);
    assert_eq!(fixture.server.requests().len(), before);
    fixture.fail(
        FETCH,
        &["--for", config, "--set", "data.path=elsewhere/images"],
        &["elsewhere/images", "is missing"],
    );
    // Where the configuration looks for it.
    let text = fixture.succeed(&[
        "--for",
        config,
        "--set",
        "data.path=deep/er/data/cifar10_test",
    ]);
    assert_eq!(
        names(&fixture.path("deep/er/data/cifar10_test")).len(),
        BATCH,
        "{text}"
    );
}

#[test]
fn camelyon17_is_split_as_the_wilds_package_does_it() {
    let row = |index: usize, patient: &str, center: usize, split: usize, tumor: usize| {
        let name = format!(
            "patches/patient_{patient}_node_0/patch_patient_{patient}_node_0_x_{index}_y_7.png"
        );
        let row = format!("{index},{patient},0,{index},7,{tumor},0,{center},{split}\n");
        (row, (name, picture(index as u8)))
    };
    let rows = [
        row(0, "004", 0, 0, 1),
        row(1, "020", 1, 0, 0),
        row(2, "040", 2, 1, 1),
        row(3, "060", 3, 1, 0),
        row(4, "080", 4, 0, 0),
        row(5, "021", 1, 1, 1),
    ];
    let mut table = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n".to_owned();
    // The table comes last, the patches in another order than its.
    let mut files = vec![("./RELEASE_v1.0.txt".to_owned(), Vec::new())];
    for (row, (name, bytes)) in rows.iter().rev() {
        table.insert_str(table.find('\n').unwrap() + 1, row);
        files.push((format!("./{name}"), bytes.clone()));
    }
    files.push(("./metadata.csv".to_owned(), table.into_bytes()));
    let archive = tar_gz(&files);
    let fixture = FetchFixture::new(FileServer::good());
    let url = fixture.server.url("/bundles/contents/blob/");
    let makes = [("train", 2), ("val", 2), ("test", 1)];
    let item = archive_item("camelyon17", &url, "camelyon17_v1.0.tar.gz", None, &makes);
    fixture.catalogue(&[item]);
    fixture
        .server
        .serve("/bundles/contents/blob/", Served::new(archive));
    fixture.succeed(&["camelyon17"]);
    for (split, expected) in [
        ("train", vec![("0_1.png", 4), ("1_0.png", 0)]),
        ("val", vec![("0_0.png", 1), ("1_1.png", 5)]),
        ("test", vec![("1_0.png", 2)]),
    ] {
        let folder = format!("data/camelyon17_{split}");
        let mut files: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        files.push("metadata.csv");
        assert_eq!(names(&fixture.path(&folder)), files);
        let metadata = String::from_utf8(fixture.read(&format!("{folder}/metadata.csv"))).unwrap();
        assert!(metadata.starts_with("file,patient,center\n"), "{metadata}");
        assert_eq!(metadata.lines().count(), files.len());
        for (name, index) in expected {
            let pixels = |bytes: &[u8]| {
                decode(bytes, &DecodeOptions::default())
                    .unwrap()
                    .image
                    .pixels
            };
            let found = pixels(&fixture.read(&format!("{folder}/{name}")));
            assert_eq!(found, pixels(&picture(index)), "{folder}/{name}");
        }
    }
    fixture.succeed(&["--verify", "camelyon17"]);
}

#[test]
fn cats_are_requested_then_checked_and_unpacked() {
    let fixture = FetchFixture::new(FileServer::good());
    let page = fixture.server.url("/datasets/cats");
    let makes = [("cookie", 2), ("doudou", 1)];
    fixture.catalogue(&[archive_item("cats", &page, "cats.zip", None, &makes)]);
    fixture.fail(
        FETCH,
        &["cats"],
        &["login", &page, "data/cats.zip", "dpsyn fetch cats"],
    );
    let photo = |name: &str, value: u8| (name.to_owned(), picture(value));
    let whole = zip(&[
        photo("cookie/a.png", 1),
        photo("cookie/b.PNG", 2),
        photo("doudou/IMG 1.png", 3),
    ]);
    fixture.write("data/cats.zip", &whole[..whole.len() - 10]);
    fixture.fail(FETCH, &["cats"], &["data/cats.zip", "truncated"]);
    assert!(!fixture.exists("data/cookie"));
    fixture.write("data/cats.zip", &whole);
    fixture.succeed(&["cats"]);
    assert_eq!(names(&fixture.path("data/cookie")), ["a.png", "b.PNG"]);
    assert_eq!(fixture.read("data/doudou/IMG 1.png"), picture(3));
    fixture.succeed(&["cats", "--verify"]);
    assert!(fixture.server.requests().is_empty());
}

/// Killed during a download: the next process requests only the rest.
#[test]
fn kill_9_in_the_middle_of_a_download_loses_nothing() {
    let bytes = noise(300_000, 9);
    let server = FileServer::start(|request| match request.number {
        0 => Reply::HoldAfter(100_000),
        1 => Reply::HoldAfter(50_000),
        _ => Reply::Good,
    });
    let fixture = FetchFixture::new(server);
    let url = fixture.server.url("/f");
    fixture.catalogue(&[file_item("f", &url, "weights/f.pt", &bytes)]);
    fixture.server.serve("/f", Served::new(bytes.clone()));
    let part = fixture.path("weights/f.pt.part");
    let arrived = || std::fs::metadata(&part).map_or(0, |part| part.len());
    for (number, expected) in [(0, 100_000), (1, 150_000)] {
        let mut child = fixture
            .command(&["fetch", "--catalogue", "catalogue.toml", "f"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        fixture.server.wait_for(number, 50_000);
        while arrived() < expected {
            assert!(child.try_wait().unwrap().is_none());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // Nobody else gets in between.
        fixture.fail(FETCH, &["f"], &["another process", "weights/f.pt"]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!fixture.exists("weights/f.pt"));
    }
    fixture.succeed(&["f"]);
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    let asked = fixture.server.requests();
    let from: Vec<Option<usize>> = asked.iter().map(|request| request.from).collect();
    assert_eq!(from, [None, Some(100_000), Some(150_000)]);
    assert!(asked[1].if_range.is_some());
    assert_eq!(asked[2].sent, 150_000);
    assert!(!part.exists() && !fixture.exists("weights/f.pt.part.json"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_at_once_and_names_the_command() {
    let bytes = noise(50_000, 4);
    let fixture = FetchFixture::new(FileServer::start(|request| match request.number {
        0 => Reply::HoldAfter(20_000),
        _ => Reply::Good,
    }));
    fixture.catalogue(&[file_item(
        "f",
        &fixture.server.url("/f"),
        "weights/f.pt",
        &bytes,
    )]);
    fixture.server.serve("/f", Served::new(bytes.clone()));
    let child = fixture
        .command(&["fetch", "--catalogue", "catalogue.toml", "f"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    fixture.server.wait_for(0, 20_000);
    let sent = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let text = expect(&child.wait_with_output().unwrap(), 130);
    assert!(text.contains("run the same command to resume"), "{text}");
    fixture.succeed(&["f"]);
    assert_eq!(fixture.read("weights/f.pt"), bytes);
}

#[test]
fn kill_9_while_unpacking_leaves_no_half_folder() {
    let (fixture, train, archive) = cifar_fixture(FileServer::good());
    // What a killed process leaves: the archive, and a folder in the making.
    fixture.write("data/cifar-10-binary.tar.gz", &archive);
    fixture.write("data/.cifar10_train.partial/frog_00099.png", "half");
    fixture.succeed(&["cifar10"]);
    assert_cifar(&fixture, "train", &train);
    assert!(!fixture.exists("data/.cifar10_train.partial"));
    assert!(fixture.server.requests().is_empty());
    // Nobody downloaded the archive: whoever put it there may want it.
    fixture.succeed(&["cifar10"]);
    assert_eq!(fixture.read("data/cifar-10-binary.tar.gz"), archive);
}

#[test]
fn wrong_bytes_never_get_the_final_name() {
    let (good, bad) = (noise(3000, 1), noise(3000, 2));
    let fixture = FetchFixture::new(FileServer::good());
    fixture.catalogue(&[file_item(
        "f",
        &fixture.server.url("/f"),
        "weights/f.pt",
        &good,
    )]);
    fixture.server.serve("/f", Served::new(bad.clone()));
    fixture.fail(FETCH, &["f"], &[&sha256(&good), &sha256(&bad), "removed"]);
    assert_eq!(names(&fixture.path("weights")), [""; 0]);
    fixture.server.serve("/f", Served::new(noise(2999, 1)));
    fixture.fail(FETCH, &["f"], &["2999 bytes, expected 3000"]);
    // Somebody else's file is not overwritten.
    fixture.write("weights/f.pt", &bad);
    fixture.fail(
        FETCH,
        &["f"],
        &["weights/f.pt", &sha256(&good), "move it away"],
    );
    assert_eq!(fixture.read("weights/f.pt"), bad);
    // The right one is taken, from whoever.
    fixture.write("weights/f.pt", &good);
    let before = fixture.server.requests().len();
    fixture.succeed(&["f"]);
    // The beginning of the right one is completed.
    fixture.write("weights/f.pt", &good[..1000]);
    fixture.server.serve("/f", Served::new(good.clone()));
    fixture.succeed(&["f"]);
    assert_eq!(fixture.read("weights/f.pt"), good);
    let asked = fixture.server.requests();
    assert_eq!(asked.len(), before + 1);
    assert_eq!(asked[before].from, Some(1000));
}

/// Without a published checksum, the one of the first download is recorded.
#[test]
fn unpublished_checksums_are_recorded() {
    let bytes = noise(4000, 5);
    let fixture = FetchFixture::new(FileServer::good());
    fixture.catalogue(&[unknown_item("f", &fixture.server.url("/f"), "weights/f.pt")]);
    fixture.server.serve("/f", Served::new(bytes.clone()));
    let text = fixture.succeed(&["f"]);
    assert!(
        text.contains(&sha256(&bytes)) && text.contains("none is published"),
        "{text}"
    );
    let text = fixture.succeed(&["--verify"]);
    assert!(
        text.contains("intact") && text.contains("first download"),
        "{text}"
    );
    let mut changed = bytes.clone();
    changed[7] ^= 1;
    fixture.write("weights/f.pt", &changed);
    fixture.fail(
        FETCH,
        &["--verify"],
        &["DAMAGED", &sha256(&bytes), &sha256(&changed)],
    );
    std::fs::remove_file(fixture.path("weights/f.pt")).unwrap();
    fixture.succeed(&["--verify"]);
    fixture.fail(FETCH, &["--verify", "f"], &["weights/f.pt: missing"]);
}

#[test]
fn mirrors_are_tried_first() {
    let bytes = noise(2000, 6);
    let (source, lab) = (FileServer::good(), FileServer::good());
    source.serve("/a/b/f", Served::new(bytes.clone()));
    let fixture = FetchFixture::new(lab);
    fixture.catalogue(&[file_item(
        "f",
        &source.url("/a/b/f"),
        "weights/f.pt",
        &bytes,
    )]);
    let fetch = |mirror: &str, arguments: &[&str]| {
        let all = [&["fetch", "--catalogue", "catalogue.toml"], arguments].concat();
        let output = fixture.command(&all).env("DPSYN_MIRROR", mirror).output();
        output.unwrap()
    };
    // The mirror lacks it: the source is asked.
    expect(&fetch(&fixture.server.url("/lab"), &["f"]), 0);
    assert_eq!(
        (fixture.server.requests().len(), source.requests().len()),
        (1, 1)
    );
    std::fs::remove_dir_all(fixture.path("weights")).unwrap();
    fixture
        .server
        .serve("/lab/f.pt", Served::new(bytes.clone()));
    expect(&fetch(&fixture.server.url("/lab/"), &["f"]), 0);
    assert_eq!(
        (fixture.server.requests().len(), source.requests().len()),
        (2, 1)
    );
    // A mirror with another file is passed over.
    std::fs::remove_dir_all(fixture.path("weights")).unwrap();
    fixture
        .server
        .serve("/old/f.pt", Served::new(noise(2000, 7)));
    let text = expect(&fetch(&fixture.server.url("/old"), &["f"]), 0);
    assert!(text.contains("trying the next address"), "{text}");
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    assert_eq!(source.requests().len(), 2);
    let text = expect(&fetch("me:secret@lab", &["f"]), FETCH);
    assert!(
        text.contains("DPSYN_MIRROR") && !text.contains("secret"),
        "{text}"
    );
    // A table in a configuration replaces beginnings of addresses.
    std::fs::remove_dir_all(fixture.path("weights")).unwrap();
    fixture
        .server
        .serve("/copy/b/f", Served::new(bytes.clone()));
    let config = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml"),
    )
    .unwrap();
    let table = format!(
        "{config}\n[mirrors]\n'{}' = '{}'\n",
        source.url("/a/"),
        fixture.server.url("/copy/")
    );
    fixture.write("run.toml", table);
    fixture.write("data/digits.npz", "mine");
    fixture.succeed(&[
        "--for",
        "run.toml",
        "--set",
        "model.checkpoint=weights/f.pt",
    ]);
    assert_eq!(fixture.read("weights/f.pt"), bytes);
    assert_eq!(source.requests().len(), 2);
    fixture.fail(
        USAGE,
        &["--for", "run.toml", "--set", "mirrors.x=y"],
        &["mirrors", "x"],
    );
}

/// CIFAR-10 itself, where it is at hand: folders of JPEG files become the official archive's
/// layout, and every pixel must come back. `DPSYN_SHARED_DATA` names the folder with
/// `cifar10_{train,test}.tar.gz`, `../shared/data` by default.
#[test]
fn cifar10_comes_back_pixel_by_pixel() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let chosen = std::env::var_os("DPSYN_SHARED_DATA").map(std::path::PathBuf::from);
    let folder = match chosen {
        Some(folder) => folder,
        None if default.is_dir() => default,
        None => {
            // The same with made-up images is tested above.
            eprintln!(
                "no {}: CIFAR-10 itself was not looked at",
                default.display()
            );
            return;
        }
    };
    let read = |split: &str| -> Vec<(u8, Vec<u8>)> {
        let path = folder.join(format!("cifar10_{split}.tar.gz"));
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut images = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some((class, _)) = name.split_once('_').filter(|_| name.ends_with(".jpg")) else {
                continue;
            };
            let official = ["airplane", "automobile"];
            let label = official
                .iter()
                .position(|c| *c == class)
                .or_else(|| CLASSES.iter().position(|c| *c == class))
                .unwrap_or_else(|| panic!("{name}"));
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            images.push((
                label as u8,
                decode(&bytes, &DecodeOptions::default())
                    .unwrap()
                    .image
                    .pixels,
            ));
        }
        // Batches hold classes in no order.
        let mut order: Vec<usize> = (0..images.len()).collect();
        order.sort_by_key(|index| (*index as u32).wrapping_mul(2_654_435_761));
        order.iter().map(|index| images[*index].clone()).collect()
    };
    let (train, test) = (read("train"), read("test"));
    assert!(
        train.len() % 5 == 0 && test.len() > 100,
        "{} {}",
        train.len(),
        test.len()
    );
    let archive = cifar_archive(&train, &test);
    let fixture = FetchFixture::new(FileServer::good());
    let makes = [("train", train.len()), ("test", test.len())];
    let url = fixture.server.url("/c.tar.gz");
    let item = archive_item("cifar10", &url, "c.tar.gz", Some(&archive), &makes);
    fixture.catalogue(&[item]);
    fixture.server.serve("/c.tar.gz", Served::new(archive));
    fixture.succeed(&["cifar10"]);
    assert_cifar(&fixture, "train", &train);
    assert_cifar(&fixture, "test", &test);
    fixture.succeed(&["--verify", "cifar10"]);
}
