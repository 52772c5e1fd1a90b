//! A folder to fetch into, with a catalogue of small things that a local server has.

use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::process::{Command, Output};

use dpsyn::internals::images::{ImageBatch, png};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::file_server::{FileServer, Served, sha256};

/// The hub's commit in all tests.
#[cfg(feature = "hub")]
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Images of each training batch, and of the test batch.
pub const BATCH: usize = 4;

/// A folder to fetch into.
pub struct FetchFixture {
    pub root: tempfile::TempDir,
    pub server: FileServer,
}

impl FetchFixture {
    pub fn new(server: FileServer) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, server }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The catalogue.
    pub fn catalogue(&self, items: &[String]) {
        self.write("catalogue.toml", items.concat());
    }

    /// `dpsyn …` in the folder, with a hub's cache of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpsyn"));
        command
            .current_dir(self.root.path())
            .args(arguments)
            .env("HF_HUB_CACHE", self.path("hub"))
            .env("HF_ENDPOINT", self.server.url(""))
            // No token of whoever runs the tests.
            .env("HF_HOME", self.path("hf"))
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("DPSYN_MIRROR");
        command
    }

    /// `dpsyn fetch --catalogue catalogue.toml …`.
    pub fn fetch(&self, arguments: &[&str]) -> Output {
        let arguments = [&["fetch", "--catalogue", "catalogue.toml"], arguments].concat();
        self.command(&arguments).output().unwrap()
    }

    /// Fetches and expects success; returns both streams.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        expect(&self.fetch(arguments), 0)
    }

    /// Fetches and expects this exit code.
    pub fn fail(&self, code: i32, arguments: &[&str], expected: &[&str]) -> String {
        let text = expect(&self.fetch(arguments), code);
        for part in expected {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        text
    }
}

/// Both streams of a process that ended with this code.
pub fn expect(output: &Output, code: i32) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// An item of one file.
pub fn file_item(name: &str, url: &str, to: &str, bytes: &[u8]) -> String {
    format!(
        "[[item]]\nname = '{name}'\nkind = 'file'\nwhat = 'w'\nlicense = 'l'\nurl = '{url}'\nto = '{to}'\n\
         size = {}\nsha256 = '{}'\n",
        bytes.len(),
        sha256(bytes)
    )
}

/// An item of one file of which nobody publishes anything.
pub fn unknown_item(name: &str, url: &str, to: &str) -> String {
    format!(
        "[[item]]\nname = '{name}'\nkind = 'file'\nwhat = 'w'\nlicense = 'l'\nurl = '{url}'\nto = '{to}'\nabout = 1000000\n"
    )
}

/// An item of an archive. `makes` are splits and images.
pub fn archive_item(
    kind: &str,
    url: &str,
    archive: &str,
    known: Option<&[u8]>,
    makes: &[(&str, usize)],
) -> String {
    let known = match known {
        Some(bytes) => format!("size = {}\nsha256 = '{}'", bytes.len(), sha256(bytes)),
        None => "about = 1000000".to_owned(),
    };
    let known = if kind == "cats" { String::new() } else { known };
    let makes: Vec<String> = makes
        .iter()
        .map(|(split, images)| {
            let path = match kind {
                "cats" => (*split).to_owned(),
                _ => format!("{kind}_{split}"),
            };
            format!("{{ path = 'data/{path}', split = '{split}', images = {images} }}")
        })
        .collect();
    format!(
        "[[item]]\nname = '{kind}'\nkind = '{kind}'\nwhat = 'w'\nlicense = 'l'\nurl = '{url}'\n\
         to = 'data/{archive}'\n{known}\nunpacked = 200000000\nmakes = [{}]\n",
        makes.join(", ")
    )
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .collect()
}

/// A `.tar.gz` with these files.
pub fn tar_gz(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// A `.zip` with these files.
pub fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer
            .start_file(name.as_str(), zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A record of CIFAR-10: the label, then the red, green and blue values of `[32, 32, 3]` pixels.
pub fn cifar_record(label: u8, pixels: &[u8]) -> Vec<u8> {
    assert_eq!(pixels.len(), 32 * 32 * 3);
    let mut record = vec![label];
    for channel in 0..3 {
        record.extend(pixels.iter().skip(channel).step_by(3));
    }
    record
}

/// The archive of CIFAR-10's binary version with these training and test images: labels and `[32,
/// 32, 3]` pixels.
pub fn cifar_archive(train: &[(u8, Vec<u8>)], test: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let folder = "cifar-10-batches-bin";
    let records = |images: &[(u8, Vec<u8>)]| -> Vec<u8> {
        let records = images
            .iter()
            .map(|(label, pixels)| cifar_record(*label, pixels));
        records.collect::<Vec<_>>().concat()
    };
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let mut files = vec![(
        format!("{folder}/batches.meta.txt"),
        names.as_bytes().to_vec(),
    )];
    for (batch, images) in train.chunks(train.len().div_ceil(5)).enumerate() {
        files.push((
            format!("{folder}/data_batch_{}.bin", batch + 1),
            records(images),
        ));
    }
    files.push((format!("{folder}/readme.html"), b"<meta>".to_vec()));
    files.push((format!("{folder}/test_batch.bin"), records(test)));
    tar_gz(&files)
}

/// Made-up images for [`cifar_archive`].
pub fn cifar_images(count: usize, seed: u32) -> Images {
    (0..count)
        .map(|index| {
            let label = (index * 7 + seed as usize) % 10;
            (
                label as u8,
                noise(32 * 32 * 3, seed * 1000 + index as u32 + 1),
            )
        })
        .collect()
}

/// Labels and pixels.
pub type Images = Vec<(u8, Vec<u8>)>;

/// Serves an archive of CIFAR-10 and puts it into the catalogue: the fixture, the training images,
/// the archive.
pub fn cifar_fixture(server: FileServer) -> (FetchFixture, Images, Vec<u8>) {
    let fixture = FetchFixture::new(server);
    let (train, test) = (cifar_images(5 * BATCH, 1), cifar_images(BATCH, 2));
    let archive = cifar_archive(&train, &test);
    let makes = [("train", 5 * BATCH), ("test", BATCH)];
    let url = fixture.server.url("/c/cifar-10-binary.tar.gz");
    let item = archive_item(
        "cifar10",
        &url,
        "cifar-10-binary.tar.gz",
        Some(&archive),
        &makes,
    );
    fixture.catalogue(&[item]);
    fixture
        .server
        .serve("/c/cifar-10-binary.tar.gz", Served::new(archive.clone()));
    (fixture, train, archive)
}

/// A small picture.
pub fn picture(value: u8) -> Vec<u8> {
    let pixels = (0..8 * 8 * 3).map(|at| value ^ at as u8).collect();
    png(&ImageBatch::new(pixels, 1, 8, 8).unwrap()).unwrap()
}
