//! The `[model]` section of a program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment;
use super::process::Launch;
use super::protocol::Frame;
use crate::images::ImageSize;
use crate::sections::InvalidKey;

/// A program of the user's, which draws images that it is asked for (`docs/program-protocol.md`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The program and its arguments. A program without a separator in its name is found by `PATH`;
    /// arguments are passed as they are. It runs in the current folder of dpsyn.
    pub command: Vec<String>,
    /// A text that is changed with the program, so that a run is not resumed with another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Files of the program, whose digest is part of the identity of a run; defaults to the
    /// elements of `command` that are files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<PathBuf>>,
    /// Height and width of the images in pixels: a number, or `[height, width]`.
    pub image_size: ImageSize,
    /// The program varies the pixels of a parent; if false, it varies its parameters.
    #[serde(default)]
    pub pixels: bool,
    /// Number of processes. Results do not depend on it.
    #[serde(default = "defaults::processes")]
    pub processes: usize,
    /// Requests that a process receives at once. Results do not depend on it.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Longest time to an answer since the answer before it, in seconds.
    #[serde(default = "defaults::timeout_seconds")]
    pub timeout_seconds: f64,
    /// Number of times that a process is started again in succession without a new answer.
    #[serde(default = "defaults::restarts")]
    pub restarts: u32,
    /// Environment variables of the program besides a few that every program receives: names of
    /// those to pass on, or `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// The value that the program receives for each private class, by the name of the class.
    /// Without it, the program receives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<BTreeMap<String, Value>>,
}

mod defaults {
    pub(super) fn processes() -> usize {
        1
    }
    pub(super) fn batch_size() -> usize {
        32
    }
    pub(super) fn timeout_seconds() -> f64 {
        300.0
    }
    pub(super) fn restarts() -> u32 {
        3
    }
}

/// Largest side of an image in pixels, which bounds the memory for one answer.
const MAX_SIDE: usize = 8192;
/// Most processes.
const MAX_PROCESSES: usize = 1024;
/// Most requests at once.
const MAX_BATCH: usize = 65_536;
/// Longest timeout in seconds, a week.
const MAX_TIMEOUT: f64 = 604_800.0;

impl Config {
    /// Checks every key as far as this is possible without the program.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub(super) fn check(&self) -> Result<(), InvalidKey> {
        if self.command.first().is_none_or(String::is_empty) {
            let message = "is empty: expected the program and its arguments, such as [\"python3\", \
                           \"generator.py\"]";
            return Err(InvalidKey::new("command", message));
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            let message = "has a NUL character: expected the program and its arguments";
            return Err(InvalidKey::new("command", message));
        }
        if !self.image_size.all(|side| (1..=MAX_SIDE).contains(&side)) {
            let message = format!(
                "is {}: expected sides from 1 to {MAX_SIDE}",
                self.image_size
            );
            return Err(InvalidKey::new("image_size", message));
        }
        for (key, value, most) in [
            ("processes", self.processes, MAX_PROCESSES),
            ("batch_size", self.batch_size, MAX_BATCH),
        ] {
            if !(1..=most).contains(&value) {
                let message = format!("is {value}: expected 1 to {most}");
                return Err(InvalidKey::new(key, message));
            }
        }
        // The comparison is false for NaN.
        if !(self.timeout_seconds >= 0.001 && self.timeout_seconds <= MAX_TIMEOUT) {
            let message = format!(
                "is {}: expected seconds from 0.001 to {MAX_TIMEOUT}",
                self.timeout_seconds
            );
            return Err(InvalidKey::new("timeout_seconds", message));
        }
        if self.classes.as_ref().is_some_and(BTreeMap::is_empty) {
            let message = "is empty: expected a value for each private class";
            return Err(InvalidKey::new("classes", message));
        }
        environment::check(&self.environment)
    }

    /// Returns the size of the images for the protocol.
    pub(super) fn frame(&self) -> Frame {
        let (height, width) = self.image_size.pair();
        Frame { height, width }
    }

    /// Returns the files whose digest is part of the identity of a run.
    pub(super) fn identity_files(&self) -> Vec<PathBuf> {
        match &self.files {
            Some(files) => files.clone(),
            None => {
                let parts = self.command.iter().map(PathBuf::from);
                parts.filter(|part| part.is_file()).collect()
            }
        }
    }

    /// Returns the values of the classes, by condition; of a program without classes, one `null`.
    pub(super) fn class_values(&self) -> Vec<Value> {
        match &self.classes {
            Some(classes) => classes.values().cloned().collect(),
            None => vec![Value::Null],
        }
    }

    /// Describes how a process is started.
    ///
    /// # Errors
    /// [`InvalidKey`] if the program of `command` is a path to no file.
    pub(super) fn launch(&self) -> Result<Launch, InvalidKey> {
        let mut command = self.command.clone();
        if let Some(program) = command.first_mut()
            && Path::new(program).components().count() > 1
        {
            // A relative path would be looked up differently on different systems.
            let found = std::path::absolute(&*program)
                .ok()
                .filter(|path| path.is_file());
            let text = found.and_then(|path| path.into_os_string().into_string().ok());
            *program = text.ok_or_else(|| {
                InvalidKey::new(
                    "command",
                    format!("names the program {program:?}, which is no file: expected a path"),
                )
            })?;
        }
        Ok(Launch {
            command,
            environment: environment::variables(&self.environment),
            frame: self.frame(),
            pixels: self.pixels,
            timeout: Duration::from_secs_f64(self.timeout_seconds),
        })
    }
}
