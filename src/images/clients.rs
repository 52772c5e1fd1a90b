//! The table `[data.clients]`: to whom each private image belongs, if the unit of privacy is a
//! client.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::error::ImagesError;
use crate::sections::InvalidKey;

/// Column of a CSV file with the paths of the images.
const FILE_COLUMN: &str = "file";
/// Column of a CSV file with the clients, unless `data.clients.column` names another one.
const CLIENT_COLUMN: &str = "client";
/// Array of an `.npz` file with the clients.
pub const CLIENTS: &str = "clients";

/// Table `[data.clients]`: the client of each image of a folder by a CSV file or by a pattern, and
/// of each image of an `.npz` file by its array `clients`.
///
/// The identities of clients are private. They are compared with each other only, and never shown
/// except in an error on the owner's terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientsConfig {
    /// A CSV file with a header and the columns `file`, a path relative to `data.path`, and
    /// `client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<PathBuf>,
    /// Name of the column of the client in the CSV file; `client` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// A regular expression on the path of an image relative to `data.path`, with `/` between
    /// folders. Its first group matches the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The largest number of images of one client that vote, chosen by the hash of their pixels,
    /// which is as good as at random; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<usize>,
    /// Declared (public) number of clients; never counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_size: Option<usize>,
}

impl ClientsConfig {
    /// Checks the keys; `is_npz` tells if the images are in an `.npz` file.
    ///
    /// # Errors
    /// The first key that is invalid, relative to `[data]`.
    pub fn validate(&self, is_npz: bool) -> Result<(), InvalidKey> {
        let refuse = |key: &str, message: String| {
            let key = match key {
                "" => "clients".to_owned(),
                key => format!("clients.{key}"),
            };
            Err(InvalidKey::new(key, message))
        };
        for (key, number) in [
            ("max_images", self.max_images),
            ("declared_size", self.declared_size),
        ] {
            if number == Some(0) {
                let message = "is 0: expected 1 or more, or no such key".to_owned();
                return refuse(key, message);
            }
        }
        if self.column.is_some() && self.csv.is_none() {
            let message = "is given without csv: expected clients.csv, or no column".to_owned();
            return refuse("column", message);
        }
        if is_npz {
            let unused = [
                ("csv", self.csv.is_some()),
                ("pattern", self.pattern.is_some()),
            ];
            return match unused.iter().find(|(_, given)| *given) {
                Some((key, _)) => refuse(
                    key,
                    format!(
                        "is for folders of images: an .npz file names the client of each image in \
                         its array `{CLIENTS}`"
                    ),
                ),
                None => Ok(()),
            };
        }
        match (&self.csv, &self.pattern) {
            (Some(_), None) => Ok(()),
            (None, Some(pattern)) => pattern_of(pattern).map(drop),
            (Some(_), Some(_)) => refuse(
                "pattern",
                "conflicts with clients.csv: expected one of the two".to_owned(),
            ),
            (None, None) => refuse(
                "",
                "names no clients: expected csv, a CSV file with the columns file and client, or \
                 pattern, such as pattern = '^([0-9]+)_'"
                    .to_owned(),
            ),
        }
    }

    /// Returns the client of each file, as numbers from 0 in the order of their first images.
    ///
    /// # Errors
    /// [`ImagesError::Client`] for a file whose client is unknown, [`ImagesError::ClientTable`] for
    /// an unusable CSV file, and [`ImagesError::Config`] for an invalid pattern.
    pub(super) fn of_files(&self, root: &Path, files: &[PathBuf]) -> Result<Vec<u32>, ImagesError> {
        let mut numbers = Numbers::default();
        if let Some(path) = &self.csv {
            let table = read_table(path, self.column.as_deref().unwrap_or(CLIENT_COLUMN))?;
            let client = |file: &PathBuf| {
                let name = relative(root, file);
                let client = name.as_deref().and_then(|name| table.get(name));
                let client = client.ok_or_else(|| {
                    unknown(
                        file,
                        format!("expected one row with its path in {}", path.display()),
                    )
                })?;
                Ok(numbers.of(client))
            };
            return files.iter().map(client).collect();
        }
        let pattern = pattern_of(self.pattern.as_deref().unwrap_or_default())?;
        let client = |file: &PathBuf| {
            let name = relative(root, file);
            let groups = name.as_deref().and_then(|name| pattern.captures(name));
            let client = groups.and_then(|groups| Some(groups.get(1)?.as_str().to_owned()));
            let client = client.filter(|client| !client.is_empty()).ok_or_else(|| {
                let pattern = pattern.as_str();
                unknown(
                    file,
                    format!("expected a path that matches data.clients.pattern `{pattern}`"),
                )
            })?;
            Ok(numbers.of(&client))
        };
        files.iter().map(client).collect()
    }
}

/// Returns the numbers of the clients that the array of an `.npz` file names.
pub(super) fn of_array(clients: &[i64]) -> Vec<u32> {
    let mut numbers = Numbers::default();
    clients.iter().map(|client| numbers.of(client)).collect()
}

/// Numbers for names, from 0 in the order of their first use.
struct Numbers<K>(HashMap<K, u32>);

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Numbers<K> {
    fn of<Q>(&mut self, name: &Q) -> u32
    where
        K: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        // There are fewer clients than images, whose labels are `u32` as well.
        let next = self.0.len() as u32;
        self.0.insert(name.to_owned(), next);
        next
    }
}

fn pattern_of(pattern: &str) -> Result<Regex, InvalidKey> {
    const KEY: &str = "clients.pattern";
    let compiled = Regex::new(pattern)
        .map_err(|error| InvalidKey::new(KEY, format!("is no regular expression: {error}")))?;
    if compiled.captures_len() < 2 {
        let message = format!(
            "`{pattern}` has no group: expected parentheses around the client, such as '^([0-9]+)_'"
        );
        return Err(InvalidKey::new(KEY, message));
    }
    Ok(compiled)
}

/// Returns the path of an image below the folder with `/` between folders; `None` if it is not
/// UTF-8.
fn relative(root: &Path, file: &Path) -> Option<String> {
    let path = file.strip_prefix(root).unwrap_or(file);
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

fn unknown(file: &Path, expected: String) -> ImagesError {
    ImagesError::Client {
        path: file.to_owned(),
        expected,
    }
}

/// Reads the client of each file from a CSV file.
fn read_table(path: &Path, column: &str) -> Result<HashMap<String, String>, ImagesError> {
    let wrong = |line: u64, message: String| ImagesError::ClientTable {
        path: path.to_owned(),
        line,
        message,
    };
    let file = File::open(path).map_err(|cause| ImagesError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(file);
    let line_of = |error: &csv::Error| error.position().map_or(1, csv::Position::line);
    let headers = reader
        .headers()
        .map_err(|error| wrong(line_of(&error), error.to_string()))?;
    let place = |name: &str| {
        let mut places = headers.iter().enumerate().filter(|(_, head)| *head == name);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            _ => Err(wrong(
                1,
                format!("expected one column `{name}` in the first line"),
            )),
        }
    };
    let (file_place, client_place) = (place(FILE_COLUMN)?, place(column)?);
    let mut table = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| wrong(line_of(&error), error.to_string()))?;
        let line = record.position().map_or(1, csv::Position::line);
        let field = |place: usize| record.get(place).unwrap_or_default();
        let (file, client) = (field(file_place), field(client_place));
        if file.is_empty() || client.is_empty() {
            return Err(wrong(
                line,
                format!("expected a file and a {column}, both not empty"),
            ));
        }
        // A file on two lines would have two clients, or hide an error of the table.
        if table.insert(file.to_owned(), client.to_owned()).is_some() {
            return Err(wrong(line, format!("`{file}` is on an earlier line too")));
        }
    }
    Ok(table)
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
