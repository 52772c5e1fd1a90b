//! Family `image_cases`: image files of kinds that decoders often get wrong, one at a time.

use dpsyn::internals::images::{DecodeOptions, decode};
use serde_json::Value;

use super::case::{check_files, fail, refused};
use super::compare::check_bytes;
use super::{Case, Outcome};

/// Checks every file; the message names all files that diverge.
pub fn check(case: &Case) -> Outcome {
    check_files(case, check_entry)
}

/// An entry has the expected pixels as a tensor `[height, width, 3]` of the file's name, or
/// `refused`: words of the message.
fn check_entry(case: &Case, entry: &Value, file: &str) -> Outcome {
    let bytes = std::fs::read(case.directory.join("image_cases").join(file))?;
    let found = decode(&bytes, &DecodeOptions::default());
    if let Some(words) = entry["refused"].as_str() {
        return refused(found, words);
    }
    let found = found?.image;
    let (expected, shape) = case.u8s(file)?;
    if shape != [found.height, found.width, 3] {
        return fail(format!(
            "{}x{} where {shape:?} was expected",
            found.height, found.width
        ));
    }
    check_bytes("pixels", &found.pixels, &expected, 0.0)
}
