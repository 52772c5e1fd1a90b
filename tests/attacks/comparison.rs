//! The comparison of two result folders finds a difference of each kind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::compare::assert_same_published;
use super::data_sets::{fixture, zeros};

/// A finished result folder and a copy of it, which a test changes.
struct Pair {
    out: PathBuf,
    copy: PathBuf,
}

impl Pair {
    /// Returns whether the comparison finds what `change` does to `name` in the copy, whose
    /// timestamps are those of a run if `timed`.
    fn finds(&self, name: &str, timed: bool, change: &dyn Fn(&Path)) -> bool {
        copy_tree(&self.out, &self.copy);
        if timed {
            change(&self.copy.join(name));
        }
        set_times(&self.copy);
        if !timed {
            change(&self.copy.join(name));
        }
        let (out, copy) = (self.out.clone(), self.copy.clone());
        let found = std::panic::catch_unwind(move || assert_same_published(&out, &copy));
        fs::remove_dir_all(&self.copy).unwrap();
        found.is_err()
    }

    #[track_caller]
    fn assert_finds(&self, name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>) {
        let rewrite = |path: &Path| fs::write(path, change(fs::read(path).unwrap())).unwrap();
        assert!(self.finds(name, true, &rewrite), "{name}");
    }
}

/// Replaces the first occurrence of `from`.
fn replace(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).into_bytes()
    }
}

fn longer(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    bytes
}

/// Flips a bit at `offset` after the `nth` occurrence of `pattern`.
fn flip(pattern: &'static [u8], nth: usize, offset: usize) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |mut bytes| {
        let windows = bytes.windows(pattern.len()).enumerate();
        let at = windows
            .filter(|(_, window)| *window == pattern)
            .map(|(at, _)| at)
            .nth(nth)
            .unwrap();
        bytes[at + offset] ^= 1;
        bytes
    }
}

#[test]
fn every_kind_of_difference_is_found() {
    let fixture = fixture(&zeros(20));
    fixture.succeed(&[]);
    let pair = Pair {
        out: fixture.path("out"),
        copy: fixture.path("changed"),
    };
    // An unchanged copy is the same, so what is found below is the change.
    assert!(!pair.finds("", true, &|_| {}));
    pair.assert_finds(
        "privacy.json",
        &replace("\"declared_size\": null", "\"declared_size\": 20"),
    );
    pair.assert_finds(
        "ledger.jsonl",
        &replace("\"iteration\":1", "\"iteration\":2"),
    );
    pair.assert_finds("log.txt", &replace("population 0: 16", "population 0: 17"));
    pair.assert_finds("config.toml", &replace("seed = 3", "seed = 4"));
    pair.assert_finds("0/samples.npz", &|mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    });
    for name in ["1/votes.npz", "3/samples.npz", "0/grid.png"] {
        pair.assert_finds(name, &longer);
    }
    // The time of an archive's first member, in the central directory.
    pair.assert_finds("1/votes.npz", &flip(b"PK\x01\x02", 0, 12));
    pair.assert_finds("2/samples.npz", &flip(b"PK\x01\x02", 0, 12));
    // The width of a picture.
    pair.assert_finds("2/grid.png", &flip(b"IHDR", 0, 7));
}

#[test]
fn metadata_are_compared() {
    let fixture = fixture(&zeros(20));
    fixture.succeed(&[]);
    let pair = Pair {
        out: fixture.path("out"),
        copy: fixture.path("changed"),
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    assert!(pair.finds("3/grid.png", true, &remove));
    let empty = |path: &Path| fs::create_dir(path).unwrap();
    assert!(pair.finds("4", true, &empty));
    for name in ["2/grid.png", "2", "private"] {
        let later = |path: &Path| set_time(path, SystemTime::now());
        assert!(pair.finds(name, false, &later), "{name}");
        let closed = |path: &Path| {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(path).unwrap().permissions().mode();
            fs::set_permissions(path, fs::Permissions::from_mode(mode ^ 0o040)).unwrap();
        };
        assert!(pair.finds(name, true, &closed), "{name}");
    }
}

fn set_time(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Sets the times of a tree as a run does.
fn set_times(path: &Path) {
    let constant = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            set_times(&entry.unwrap().path());
        }
    }
    set_time(path, constant);
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if from.is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}
