//! Family `containers`: files of many images, written by the libraries that people use.

use dpsyn::ClientsConfig;
use dpsyn::internals::images::{DataConfig, ImageBatch, ImageSource, ImagesError};
use serde_json::Value;

use super::case::fail;
use super::compare::check_bytes;
use super::{Case, Outcome};

/// Checks every entry; the message names all that diverge.
pub fn check(case: &Case) -> Outcome {
    let size = usize::try_from(case.value("/image_size")?.as_u64().ok_or("no image_size")?)?;
    let entries = case.value("/entries")?.as_array().ok_or("no entries")?;
    let mut diverged = Vec::new();
    for entry in entries {
        let path = entry["path"].as_str().ok_or("an entry names no path")?;
        let is_parquet = path.ends_with(".parquet") || entry["format"] == "parquet";
        if is_parquet && !cfg!(feature = "parquet") {
            continue;
        }
        if let Err(error) = check_entry(case, entry, path, size) {
            diverged.push(format!("{path} {}: {error}", entry["split"]));
        }
    }
    if diverged.is_empty() {
        Ok(())
    } else {
        fail(diverged.join("; "))
    }
}

/// An entry has the name of the tensor with its images, a label for each, and perhaps clients.
fn check_entry(case: &Case, entry: &Value, path: &str, size: usize) -> Outcome {
    let labels = texts(&entry["labels"])?;
    let mut classes = labels.clone();
    classes.sort();
    classes.dedup();
    let config = DataConfig {
        format: serde_json::from_value(entry["format"].clone())?,
        split: entry["split"].as_str().map(str::to_owned),
        class_conditional: true,
        classes: Some(classes.clone()),
        clients: entry.get("clients").map(|_| ClientsConfig::default()),
        ..DataConfig::new(case.directory.join("containers").join(path), size)
    };
    let mut source = ImageSource::open(&config)?;
    let mut images = ImageBatch::empty(size, size);
    source.for_each_batch(4, |batch| Ok::<_, ImagesError>(images.extend(&batch)?))?;
    let found = source.labels().iter().map(|label| {
        let class = label.and_then(|label| classes.get(label as usize));
        class.cloned().unwrap_or_default()
    });
    let found: Vec<String> = found.collect();
    if found != labels {
        return fail(format!("classes are {found:?}, expected {labels:?}"));
    }
    if let Some(clients) = entry.get("clients") {
        let clients = texts(clients)?;
        // Clients are numbered in the order of their first image.
        let mut names: Vec<&String> = Vec::new();
        for client in &clients {
            if !names.contains(&client) {
                names.push(client);
            }
        }
        let found = source.clients().ok_or("no clients")?.iter();
        let found: Vec<Option<&&String>> =
            found.map(|client| names.get(*client as usize)).collect();
        if !found.iter().copied().flatten().copied().eq(&clients) {
            return fail(format!("clients are {found:?}, expected {clients:?}"));
        }
    }
    let tensor = entry["images"].as_str().ok_or("an entry names no images")?;
    let (expected, _) = case.u8s(tensor)?;
    let expected = expected.get(..labels.len() * size * size * 3);
    check_bytes(
        tensor,
        images.data(),
        expected.ok_or("too few images")?,
        0.0,
    )
}

fn texts(value: &Value) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    Ok(serde_json::from_value(value.clone())?)
}
