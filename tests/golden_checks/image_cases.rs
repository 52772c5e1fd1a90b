//! Family `image_cases`: image files of kinds that decoders often get wrong, one at a time.

use dpsyn::internals::images::{DecodeOptions, decode};
use serde_json::Value;

use super::case::fail;
use super::compare::check_bytes;
use super::{Case, Outcome};

/// Checks every file; the message names all files that diverge.
pub fn check(case: &Case) -> Outcome {
    let entries = case.value("/entries")?.as_array().ok_or("no entries")?;
    let mut diverged = Vec::new();
    for entry in entries {
        let file = entry["file"].as_str().ok_or("an entry names no file")?;
        if let Err(error) = check_entry(case, entry, file) {
            diverged.push(format!("{file}: {error}"));
        }
    }
    if diverged.is_empty() {
        Ok(())
    } else {
        fail(diverged.join("; "))
    }
}

/// An entry has the expected pixels as a tensor `[height, width, 3]` of the file's name, or
/// `refused`: words of the message.
fn check_entry(case: &Case, entry: &Value, file: &str) -> Outcome {
    let bytes = std::fs::read(case.directory.join("image_cases").join(file))?;
    let found = decode(&bytes, &DecodeOptions::default());
    if let Some(words) = entry["refused"].as_str() {
        return match found {
            Ok(_) => fail("read, and a refusal was expected"),
            Err(error) if error.to_string().contains(words) => Ok(()),
            Err(error) => fail(format!("the message is `{error}`, expected `{words}`")),
        };
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
