//! Family `formats`: small files of every format but JPEG, with options of `[data]`.

use dpsyn::internals::images::{DataConfig, decode, decoding_memory};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::case::{check_files, fail, refused};
use super::compare::check_bytes;
use super::{Case, Outcome};

/// Checks every file; the message names all files that diverge.
pub fn check(case: &Case) -> Outcome {
    check_files(case, check_entry)
}

/// An entry has the expected `shape` `[height, width, 3]` and a `tensor` of that shape or the
/// `sha256` of the pixels; or `refused`: words of the message.
fn check_entry(case: &Case, entry: &Value, file: &str) -> Outcome {
    let bytes = std::fs::read(case.directory.join("formats").join(file))?;
    let mut section = json!({"path": "x", "image_size": 8});
    for (key, value) in entry["options"].as_object().ok_or("no options")? {
        section[key] = value.clone();
    }
    let config: DataConfig = serde_json::from_value(section)?;
    config.validate()?;
    let found = decode(&bytes, &config.decode_options());
    if let Some(feature) = missing_feature(file) {
        return refused(found, &format!("build dpsyn with the feature `{feature}`"));
    }
    if let Some(words) = entry["refused"].as_str() {
        return refused(found, words);
    }
    let found = found?.image;
    let shape: [usize; 3] = serde_json::from_value(entry["shape"].clone())?;
    if shape != [found.height, found.width, 3] {
        return fail(format!(
            "{}x{} where {shape:?} was expected",
            found.height, found.width
        ));
    }
    let memory = decoding_memory(&bytes).ok_or("its memory is not known")?;
    if memory < found.pixels.len() as u64 {
        return fail(format!(
            "{memory} bytes of memory are fewer than the pixels"
        ));
    }
    if let Some(digest) = entry["sha256"].as_str() {
        let hex: String = Sha256::digest(&found.pixels)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        return if hex == digest {
            Ok(())
        } else {
            fail("other pixels")
        };
    }
    let tensor = entry["tensor"]
        .as_str()
        .ok_or("neither tensor nor digest")?;
    check_bytes("pixels", &found.pixels, &case.u8s(tensor)?.0, 0.0)
}

/// Returns the feature that reads a file, if this build lacks it.
fn missing_feature(file: &str) -> Option<&'static str> {
    let (_, ending) = file.rsplit_once('.')?;
    let (feature, present) = match ending {
        "webp" => ("webp", cfg!(feature = "webp")),
        "bmp" => ("bmp", cfg!(feature = "bmp")),
        "tif" => ("tiff", cfg!(feature = "tiff")),
        "dcm" => ("dicom", cfg!(feature = "dicom")),
        _ => return None,
    };
    (!present).then_some(feature)
}
