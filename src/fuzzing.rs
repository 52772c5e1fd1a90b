//! Entry points of the fuzz targets in `fuzz/`: one function per reader of untrusted bytes.
//!
//! Each function gives its input to a reader and ignores the result. A reader may refuse any
//! input, but it must neither panic nor allocate more than its documented bounds. The functions
//! stand here, outside `fuzz/`, so that every build compiles them and so that the tests of this
//! module run the inputs in `fuzz/regressions/` without a nightly toolchain.

use std::error::Error;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::config::{ConfigSources, Settings};
use crate::diffusion::{Scheduler, SchedulerConfig};
use crate::fetch::fuzzing as fetch;
use crate::generators::openai_images::answer;
use crate::hub::Checkpoint;
use crate::images::fuzzing as containers;
use crate::images::{
    DecodeOptions, FileFormat as Format, NpzReader, Orientation, SamplesReader, SixteenBit,
    decode_as, decoding_memory,
};
use crate::metrics::features::Features;
use crate::models::stable_diffusion::{AutoencoderKlConfig, UNet2DConditionConfig};
use crate::net::{ContentRange, retry_after};
use crate::privacy::{
    Adjacency, Fingerprint, Ledger, PrivacyConfig, PrivacyError, PrivateFolder, ResolvedPrivacy,
    Sensitive, Unit, sha256_hex,
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

/// Decodes `data` as an image of the format that its first bytes name.
pub fn image(data: &[u8]) {
    if let Some(format) = Format::of(data) {
        picture(format, data);
    }
}

/// Decodes `data` as a WebP.
pub fn webp(data: &[u8]) {
    picture(Format::WebP, data);
}

/// Decodes `data` as a BMP.
pub fn bmp(data: &[u8]) {
    picture(Format::Bmp, data);
}

/// Decodes `data` as a TIFF.
pub fn tiff(data: &[u8]) {
    picture(Format::Tiff, data);
}

/// Decodes `data` as a DICOM file.
pub fn dicom(data: &[u8]) {
    picture(Format::Dicom, data);
}

/// Decodes `data` as an image of a format, by the default options and by others.
fn picture(format: Format, data: &[u8]) {
    let _ = decoding_memory(data);
    let others = DecodeOptions {
        sixteen_bit: SixteenBit::Window(-100, 1000),
        alpha: [255, 0, 127],
        orientation: Orientation::Exif,
        page: 1,
    };
    for options in [DecodeOptions::default(), others] {
        if let Ok(decoded) = decode_as(format, data, &options) {
            let image = decoded.image;
            assert_eq!(image.pixels.len(), 3 * image.height * image.width);
        }
    }
}

/// Reads `data` as a `.tar.gz`, as a `.tar` and as a `.zip` archive of a data set.
pub fn archive(data: &[u8]) {
    fetch::archive(data, ARCHIVE_LIMIT);
}

/// Opens `data` as the records after the header of a run's ledger, and as a whole ledger, and,
/// where it is accepted, charges the next release.
pub fn ledger(data: &[u8]) {
    // Without a place for temporary files there is nothing to test.
    let Ok(run) = LedgerRun::begin() else { return };
    let Ok(header) = std::fs::read(run.path()) else {
        return;
    };
    open_ledger(&run, data);
    open_ledger(&run, &[&header, data].concat());
}

fn open_ledger(run: &LedgerRun, text: &[u8]) {
    if std::fs::write(run.path(), text).is_err() {
        return;
    }
    if let Ok(mut ledger) = run.open() {
        let charged = ledger.charged();
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let complete = lines
            .filter(|line| line.starts_with(b"{\"record\":\"charge\"") && line.ends_with(b"\n"));
        assert_eq!(
            complete.count() as u32,
            charged,
            "a charge was lost or invented"
        );
        let _ = ledger.charge(charged + 1, &sha256_hex(b"population"));
    }
}

/// Reads `data` as each of the small files that come with weights and data sets (configurations of
/// networks and schedulers, catalogues, tables, stored features), as an answer of a hosted model
/// and as a header of an HTTP answer.
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
    answer::parse_any(data);
    let text = String::from_utf8_lossy(data);
    let _ = ContentRange::parse(&text);
    if let Ok(value) = HeaderValue::from_bytes(data) {
        for name in ["retry-after", "retry-after-ms"] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]);
            let _ = retry_after(&headers, SystemTime::UNIX_EPOCH);
        }
    }
}

/// Reads `data` as an IDX file of images or labels, plain and gzipped.
pub fn idx(data: &[u8]) {
    containers::idx(data);
}

/// Reads `data` as a WebDataset shard.
pub fn webdataset(data: &[u8]) {
    containers::webdataset(data);
}

/// Reads `data` as a Parquet file of images.
pub fn parquet(data: &[u8]) {
    containers::parquet(data);
}

/// A temporary result folder in which a run was begun, so that a ledger is read beside the
/// fingerprint of private images that belongs to it.
struct LedgerRun {
    folder: TempDir,
    private: PrivateFolder,
    terms: ResolvedPrivacy,
}

impl LedgerRun {
    fn begin() -> Result<Self, Box<dyn Error>> {
        let config = PrivacyConfig {
            noise_multiplier: Some(5.0.into()),
            epsilon: None,
            delta: 1e-5,
            adjacency: Adjacency::AddRemove,
            unit: Unit::Image,
            budget: None,
            pad_release_to: None,
        };
        let folder = tempfile::tempdir()?;
        let run = Self {
            private: PrivateFolder::create(folder.path().join("private"))?,
            terms: config.resolve(3, 1, None, None)?,
            folder,
        };
        run.open()?;
        Ok(run)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.jsonl")
    }

    fn open(&self) -> Result<Ledger, PrivacyError> {
        let images = Sensitive::new(Fingerprint::of([&b"images"[..]]));
        let digest = sha256_hex(b"config");
        Ledger::open(
            self.folder.path(),
            &self.terms,
            &digest,
            &self.private,
            &images,
        )
    }
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
    use std::io::Cursor;
    use std::path::{Path, PathBuf};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::images::{ImageBatch, SamplesWriter};

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 15] = [
        ("pickle", super::pickle),
        ("safetensors", super::safetensors),
        ("npz", super::npz),
        ("config", super::config),
        ("image", super::image),
        ("webp", super::webp),
        ("bmp", super::bmp),
        ("tiff", super::tiff),
        ("dicom", super::dicom),
        ("archive", super::archive),
        ("ledger", super::ledger),
        ("text", super::text),
        ("idx", super::idx),
        ("webdataset", super::webdataset),
        ("parquet", super::parquet),
    ];

    fn repository() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    /// Valid files for a target.
    fn fixtures(target: &str) -> Vec<Vec<u8>> {
        let files: &[&str] = match target {
            "pickle" => &[
                "tests/goldens/pt_layouts.pt",
                "tests/goldens/pt_layouts_legacy.pt",
            ],
            "safetensors" => &["tests/goldens/pt_layouts.safetensors"],
            "config" => &["configs/quickstart.toml"],
            "image" => &[
                "tests/goldens/loader/Ant_photo.jpg",
                "tests/goldens/loader_special/x_cmyk.jpg",
                "tests/goldens/loader_special/x_palette.gif",
                "tests/goldens/loader_special/x_gray16.png",
                "tests/goldens/formats/rgb_one_transparent_color.png",
            ],
            "webp" => &[
                "tests/goldens/formats/lossy_alpha.webp",
                "tests/goldens/formats/animated.webp",
            ],
            "bmp" => &["tests/goldens/formats/palette.bmp"],
            "tiff" => &[
                "tests/goldens/formats/planes.tif",
                "tests/goldens/formats/fax.tif",
            ],
            "dicom" => &[
                "tests/goldens/formats/rle.dcm",
                "tests/goldens/formats/frames.dcm",
            ],
            "text" => &["src/fetch/catalogue.toml"],
            "idx" => &["tests/goldens/containers/idx/t10k-images-idx3-ubyte"],
            "webdataset" => &[
                "tests/goldens/containers/webdataset/train-000000.tar",
                "tests/goldens/containers/webdataset/train-000001.tar",
            ],
            "parquet" => &[
                "tests/goldens/containers/hub/data/train-00000-of-00002.parquet",
                "tests/goldens/containers/zstd.parquet",
                "tests/goldens/containers/plain.parquet",
            ],
            _ => &[],
        };
        match target {
            "npz" => vec![samples_file()],
            "archive" => archives(),
            "ledger" => vec![ledger_file()],
            _ => files
                .iter()
                .map(|name| fs::read(repository().join(name)).unwrap())
                .collect(),
        }
    }

    fn samples_file() -> Vec<u8> {
        let mut writer = SamplesWriter::create(Cursor::new(Vec::new()), 2, 3, 3).unwrap();
        writer
            .push(&ImageBatch::new(vec![7; 54], 2, 3, 3).unwrap())
            .unwrap();
        writer.i64s("labels", &[0, 1]).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn archives() -> Vec<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        // A name of more than 100 bytes takes an entry of its own.
        for name in ["cookie/a.png", &"long/".repeat(30)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_cksum();
            let name = format!("{name}file");
            builder
                .append_data(&mut header, name, &b"bytes"[..])
                .unwrap();
        }
        let plain = builder.into_inner().unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        vec![plain, packed, zip_of(&[("cats/cookie/a.png", b"image")])]
    }

    /// The records of a run with one charge.
    fn ledger_file() -> Vec<u8> {
        let run = LedgerRun::begin().unwrap();
        let header = fs::read(run.path()).unwrap();
        let candidates = sha256_hex(b"population");
        let _charge = run.open().unwrap().charge(1, &candidates).unwrap();
        fs::read(run.path()).unwrap().split_off(header.len())
    }

    #[test]
    fn fixtures_are_accepted() {
        let run = LedgerRun::begin().unwrap();
        let header = fs::read(run.path()).unwrap();
        fs::write(run.path(), [header, ledger_file()].concat()).unwrap();
        assert_eq!(run.open().unwrap().charged(), 1);
        let samples = NpzReader::new(Cursor::new(samples_file())).and_then(SamplesReader::new);
        assert_eq!(samples.unwrap().len(), 2);
    }

    /// Inputs on which a reader once failed, found by fuzzing.
    #[test]
    fn regressions_are_survived() {
        for (target, run) in TARGETS {
            // A target without failures has no folder.
            let Ok(folder) = fs::read_dir(repository().join("fuzz/regressions").join(target))
            else {
                continue;
            };
            let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                println!("{}", path.display());
                run(&fs::read(&path).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// A short search without a fuzzer, so that every build has one.
        #[test]
        fn damaged_files_are_survived(
            target in prop::sample::select(TARGETS.to_vec()),
            fixture: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let fixtures = fixtures(target.0);
            let mut bytes = fixture.get(&fixtures).clone();
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            target.1(&bytes);
        }
    }
}
