//! Entry points of the fuzz targets in `fuzz/`: one function per reader of untrusted bytes.
//!
//! Each function gives its input to a reader and ignores the result. A reader may refuse any
//! input, but it must neither panic nor allocate more than its documented bounds. The functions
//! stand here, outside `fuzz/`, so that every build compiles them and so that the tests of this
//! module run the inputs in `fuzz/regressions/` without a nightly toolchain.

use std::io::{Cursor, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::config::{ConfigSources, Settings};
use crate::diffusion::{Scheduler, SchedulerConfig};
use crate::fetch::fuzzing as fetch;
use crate::hub::Checkpoint;
use crate::images::{NpzReader, SamplesReader, decode};
use crate::metrics::features::Features;
use crate::models::stable_diffusion::{AutoencoderKlConfig, UNet2DConditionConfig};
use crate::privacy::{
    Adjacency, Fingerprint, Ledger, PrivacyConfig, PrivateFolder, Sensitive, Unit, sha256_hex,
};

/// Separates the parts of an input that has several.
const SEPARATOR: u8 = 0;

/// Largest unpacked size that an archive may have here, in bytes.
const ARCHIVE_LIMIT: u64 = 1 << 20;

/// Reads `data` as a whole `.pt` file and as the pickle inside one.
///
/// The members of a zip archive have checksums, which hide the pickle reader from a fuzzer; the
/// second form has valid ones around any pickle.
pub fn pickle(data: &[u8]) {
    checkpoint(data);
    let storage = [0; 32];
    checkpoint(&zip_of(&[
        ("model/data.pkl", data),
        ("model/byteorder", b"little"),
        ("model/data/7", &storage),
        ("model/data/9", &storage),
        ("model/version", b"3\n"),
    ]));
}

/// Reads `data` as a whole `.safetensors` file and as the JSON header of one.
pub fn safetensors(data: &[u8]) {
    checkpoint(data);
    let mut file = (data.len() as u64).to_le_bytes().to_vec();
    file.extend(data);
    file.extend([0; 64]);
    checkpoint(&file);
}

/// Reads `data` as a whole `.npz` file and as each array of one.
pub fn npz(data: &[u8]) {
    arrays(data.to_vec());
    let names = ["samples.npy", "labels.npy", "votes.npy"];
    arrays(zip_of(&names.map(|name| (name, data))));
}

/// Reads `data` as a configuration and, after each separator, a `--set` override.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split(char::from(SEPARATOR)).map(str::to_owned);
    let file = parts.next().unwrap_or_default();
    let overrides: Vec<String> = parts.collect();
    let loaded = ConfigSources::new("fuzz.toml".to_owned(), file, &overrides)
        .and_then(|texts| Settings::check(&texts));
    if let Ok(loaded) = loaded {
        let _ = loaded.settings.to_toml();
        let _ = loaded.settings.identity();
    }
}

/// Decodes `data` as a PNG, JPEG or GIF.
pub fn image(data: &[u8]) {
    if let Ok(image) = decode(data) {
        assert_eq!(image.pixels.len(), 3 * image.height * image.width);
    }
}

/// Reads `data` as a `.tar.gz`, as a `.tar` and as a `.zip` archive of a data set.
pub fn archive(data: &[u8]) {
    fetch::archive(data, ARCHIVE_LIMIT);
}

/// Opens `data` as the ledger of a run and, where it is accepted, charges the next release.
pub fn ledger(data: &[u8]) {
    let config = PrivacyConfig {
        noise_multiplier: Some(5.0),
        epsilon: None,
        delta: 1e-5,
        adjacency: Adjacency::AddRemove,
        unit: Unit::Image,
    };
    let (Ok(folder), Ok(terms)) = (tempfile::tempdir(), config.resolve(3, 1, None, None)) else {
        return;
    };
    let Ok(private) = PrivateFolder::create(folder.path().join("private")) else {
        return;
    };
    let digest = sha256_hex(b"config");
    let open = || {
        let images = Sensitive::new(Fingerprint::of([&b"images"[..]]));
        Ledger::open(folder.path(), &terms, &digest, &private, &images)
    };
    // A begun run, so that the ledger is read beside the fingerprint that belongs to it.
    if open().is_err() || std::fs::write(folder.path().join("ledger.jsonl"), data).is_err() {
        return;
    }
    if let Ok(mut ledger) = open() {
        let charged = ledger.charged();
        let lines = data.split_inclusive(|byte| *byte == b'\n');
        let complete = lines
            .filter(|line| line.starts_with(b"{\"record\":\"charge\"") && line.ends_with(b"\n"));
        assert_eq!(
            complete.count() as u32,
            charged,
            "a charge was lost or invented"
        );
        let _ = ledger.charge(charged + 1);
    }
}

/// Reads `data` as each of the small files that come with weights and data sets: configurations of
/// networks and schedulers, catalogues, tables, stored features.
pub fn text(data: &[u8]) {
    if let Ok(json) = serde_json::from_slice(data) {
        let _ = UNet2DConditionConfig::from_json(&json);
        let _ = AutoencoderKlConfig::from_json(&json);
        if let Ok(config) = SchedulerConfig::from_json(&json) {
            let _ = Scheduler::new(&config, config.kind, false).timesteps(20, 5);
        }
    }
    let _ = Features::decode(&mut &*data);
    fetch::text(data);
}

/// Opens a checkpoint and reads every tensor of it.
fn checkpoint(bytes: &[u8]) {
    with_file(bytes, |path| {
        if let Ok(checkpoint) = Checkpoint::open(path) {
            for tensor in checkpoint.tensors().collect::<Vec<_>>() {
                let _ = checkpoint.tensor(&tensor.name);
            }
        }
    });
}

/// Reads the arrays that this program looks for in an `.npz` file.
fn arrays(bytes: Vec<u8>) {
    if let Ok(mut reader) = NpzReader::new(Cursor::new(bytes.clone())) {
        let _ = reader.i64s("labels");
        let _ = reader.f64s("votes");
    }
    let samples = NpzReader::new(Cursor::new(bytes)).and_then(SamplesReader::new);
    if let Ok(mut samples) = samples {
        let _ = samples.read(0..samples.len().min(4));
        let _ = samples.labels();
        let _ = samples.verify();
    }
}

/// A zip archive with these members, stored without compression.
fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in members {
        // Writing to memory does not fail; a missing member is a valid input all the same.
        if writer.start_file(*name, options).is_ok() {
            let _ = writer.write_all(bytes);
        }
    }
    writer.finish().map(Cursor::into_inner).unwrap_or_default()
}

/// Runs `read` over a temporary file that holds `bytes`.
fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else {
        return;
    };
    if file.write_all(bytes).is_ok() {
        read(file.path());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs every input that once failed, and every seed that `fuzz/make_seeds.py` cannot make.
    #[test]
    fn inputs_that_once_failed_are_survived() {
        let targets: [(&str, fn(&[u8])); 8] = [
            ("pickle", super::pickle),
            ("safetensors", super::safetensors),
            ("npz", super::npz),
            ("config", super::config),
            ("image", super::image),
            ("archive", super::archive),
            ("ledger", super::ledger),
            ("text", super::text),
        ];
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
        for (target, run) in targets {
            // A target without failures has no folder.
            let Ok(folder) = fs::read_dir(root.join(target)) else {
                continue;
            };
            for entry in folder {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                run(&fs::read(&path).unwrap());
            }
        }
    }
}
