//! Family `loader`: folders of private images.

use std::path::{Path, PathBuf};

use dpsyn::internals::images::{
    DataConfig, DecodeOptions, Filter, ImageBatch, ImageSource, ImagesError, Rgb, center_crop,
    decode, resize_to_cover,
};
use serde_json::Value;

use super::case::fail;
use super::compare::check_bytes;
use super::{Case, Outcome};

pub fn check(case: &Case) -> Outcome {
    let size = usize::try_from(case.value("/image_size")?.as_u64().ok_or("no image_size")?)?;
    check_folder(case, size)?;
    for entry in entries(case, "/special")? {
        check_special(case, entry, size)?;
    }
    Ok(())
}

/// The whole folder, then each file's steps.
fn check_folder(case: &Case, size: usize) -> Outcome {
    let entries = entries(case, "/order_and_labels")?;
    let first = file(case, entries.first().ok_or("no files are listed")?)?;
    // The original takes the sorted names of the classes that occur.
    let mut classes = Vec::new();
    for entry in &entries {
        let file = file(case, entry)?;
        let class = name(&file)?.split('_').next().unwrap_or_default();
        classes.push(class.to_owned());
    }
    classes.sort();
    classes.dedup();
    let config = DataConfig {
        class_conditional: true,
        classes: Some(classes),
        ..DataConfig::new(first.parent().ok_or("a file without a folder")?, size)
    };
    let mut source = ImageSource::open(&config)?;
    let mut images = ImageBatch::empty(size, size);
    source.for_each_batch(2, |batch| Ok::<_, ImagesError>(images.extend(&batch)?))?;
    let labels: Vec<i64> = source
        .labels()
        .iter()
        .map(|label| label.map_or(-1, i64::from))
        .collect();
    let expected: Vec<i64> = case.tensor("labels")?.to_vec1()?;
    if labels != expected {
        return fail(format!("labels are {labels:?}, expected {expected:?}"));
    }
    for entry in &entries {
        check_steps(case, &file(case, entry)?, size)?;
    }
    check_bytes("images", images.data(), &case.u8s("images")?.0, 0.0)
}

fn check_steps(case: &Case, path: &Path, size: usize) -> Outcome {
    let name = name(path)?;
    let image = decode(&std::fs::read(path)?, &DecodeOptions::default())?.image;
    let decoded = format!("{name}.decoded");
    if case.has(&decoded) {
        check_bytes(&decoded, &image.pixels, &case.u8s(&decoded)?.0, 0.0)?;
    }
    let resized = format!("{name}.resized");
    if case.has(&resized) {
        let (expected, shape) = case.u8s(&resized)?;
        let found = resize_to_cover(image, size.into(), Filter::Bilinear)?;
        if shape != [found.height, found.width, 3] {
            return fail(format!(
                "{resized}: {}x{} where {shape:?} was expected",
                found.height, found.width
            ));
        }
        check_bytes(&resized, &found.pixels, &expected, 0.0)?;
    }
    Ok(())
}

/// Modes other than RGB become RGB first.
fn check_special(case: &Case, entry: &Value, size: usize) -> Outcome {
    let path = file(case, entry)?;
    let name = name(&path)?;
    let fitted = |image: Rgb| {
        let image = resize_to_cover(image, size.into(), Filter::Bilinear)?;
        center_crop(&image, size.into())
    };
    let found = fitted(decode(&std::fs::read(&path)?, &DecodeOptions::default())?.image)?;
    let (expected, _) = case.u8s(&format!("special.{name}.if_converted_to_rgb_first"))?;
    match entry["mode"].as_str() {
        // Pillow drops alpha; ours is composited over black. The same follows from the original's
        // own result, four channels resized together, up to the rounding of its unpremultiplying.
        Some("RGBA" | "LA") => check_over_black(case, name, &found),
        // Pillow clips 16-bit gray at 255; ours keeps the high byte, so only grayness is
        // comparable.
        Some("I;16") => {
            let gray = found.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
            if !gray || found.iter().all(|v| *v == found[0]) {
                return fail(format!("{name}: not a gray picture"));
            }
            Ok(())
        }
        _ => check_bytes(name, &found, &expected, 0.0),
    }
}

fn check_over_black(case: &Case, name: &str, found: &[u8]) -> Outcome {
    let (pixels, shape) = case.u8s(&format!("special.{name}"))?;
    let channels = *shape.last().ok_or("no channels")?;
    let expected = pixels.chunks_exact(channels).flat_map(|pixel| {
        let alpha = f64::from(pixel[channels - 1]) / 255.0;
        let color = |c: usize| f64::from(pixel[c.min(channels - 2)]) * alpha;
        [color(0), color(1), color(2)]
    });
    if found.len() != pixels.len() / channels * 3 {
        return fail(format!("{name}: {} bytes", found.len()));
    }
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        if (f64::from(*found) - expected).abs() > 2.0 {
            return fail(format!(
                "{name}: byte {index} is {found} where {expected} was expected over black"
            ));
        }
    }
    Ok(())
}

fn entries<'a>(
    case: &'a Case,
    pointer: &str,
) -> Result<Vec<&'a Value>, Box<dyn std::error::Error>> {
    let entries = case.value(pointer)?.as_array();
    Ok(entries
        .ok_or_else(|| format!("`{pointer}` is no list"))?
        .iter()
        .collect())
}

fn file(case: &Case, entry: &Value) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let name = entry["file"].as_str().ok_or("an entry names no file")?;
    Ok(case.directory.join(name))
}

fn name(path: &Path) -> Result<&str, Box<dyn std::error::Error>> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.ok_or("a file has no name")?)
}
