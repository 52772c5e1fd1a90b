//! One golden case: its configuration and its tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::Outcome;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A case as it lies on disk.
pub struct Case {
    pub name: String,
    /// The directory it came from: checkpoint files lie beside it.
    pub directory: PathBuf,
    pub json: Value,
    tensors: HashMap<String, Tensor>,
}

#[allow(dead_code)]
impl Case {
    pub fn open(directory: &Path, name: &str) -> Result<Self> {
        let json = std::fs::read_to_string(directory.join(format!("{name}.json")))?;
        let tensors = directory.join(format!("{name}.safetensors"));
        Ok(Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            json: serde_json::from_str(&json)?,
            tensors: if tensors.exists() {
                candle_core::safetensors::load(tensors, &Device::Cpu)?
            } else {
                HashMap::new()
            },
        })
    }

    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    pub fn tensor(&self, tensor: &str) -> Result<&Tensor> {
        self.tensors
            .get(tensor)
            .ok_or_else(|| format!("the case has no tensor `{tensor}`").into())
    }

    /// The tensor's numbers as f64, row-major, and its shape.
    pub fn f64s(&self, tensor: &str) -> Result<(Vec<f64>, Vec<usize>)> {
        let tensor = self.tensor(tensor)?;
        let shape = tensor.dims().to_vec();
        let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Ok((values, shape))
    }

    pub fn u8s(&self, tensor: &str) -> Result<(Vec<u8>, Vec<usize>)> {
        let tensor = self.tensor(tensor)?;
        Ok((tensor.flatten_all()?.to_vec1()?, tensor.dims().to_vec()))
    }

    /// A value of the json by JSON pointer (`/config/image_size`).
    pub fn value(&self, pointer: &str) -> Result<&Value> {
        self.json
            .pointer(pointer)
            .ok_or_else(|| format!("the json has no `{pointer}`").into())
    }

    /// The tolerance for a network's result: what the case suggests, but at least 1e-5, scaled with
    /// the largest expected value where that exceeds 1 (another memory layout alone moves results
    /// by 4e-6).
    pub fn network_tolerance(&self, tensor: &str, expected: &[f64]) -> f64 {
        let largest = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        self.suggested_tolerance(tensor, 0.0).max(1e-5 * largest)
    }

    /// `suggest_abs_tol` of a tensor under `float32_vs_float64`, or `fallback`.
    pub fn suggested_tolerance(&self, tensor: &str, fallback: f64) -> f64 {
        self.json["float32_vs_float64"][tensor]["suggest_abs_tol"]
            .as_f64()
            .unwrap_or(fallback)
    }
}

#[allow(dead_code)]
pub fn fail(message: impl Into<String>) -> Outcome {
    Err(message.into().into())
}

/// Checks each of the `entries` of a case, which have a `file` and maybe `options`; the message
/// names all files that diverge.
pub fn check_files(case: &Case, check: fn(&Case, &Value, &str) -> Outcome) -> Outcome {
    let entries = case.value("/entries")?.as_array().ok_or("no entries")?;
    let mut diverged = Vec::new();
    for entry in entries {
        let file = entry["file"].as_str().ok_or("an entry names no file")?;
        if let Err(error) = check(case, entry, file) {
            let options = entry.get("options").map(Value::to_string);
            let options = options.unwrap_or_default();
            diverged.push(format!("{file} {options}: {error}"));
        }
    }
    if diverged.is_empty() {
        Ok(())
    } else {
        fail(diverged.join("; "))
    }
}

/// Checks that a file was refused with these words.
pub fn refused<T, E: std::fmt::Display>(found: std::result::Result<T, E>, words: &str) -> Outcome {
    match found {
        Ok(_) => fail("read, and a refusal was expected"),
        Err(error) if error.to_string().contains(words) => Ok(()),
        Err(error) => fail(format!("the message is `{error}`, expected `{words}`")),
    }
}
