//! The table `[data.clients]`: to whom each private image belongs, if the unit of privacy is a
//! client.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::error::ImagesError;
use super::name::{normal, shown};
use super::table::{CLIENT_COLUMN, FILE_COLUMNS, read_rows};
use crate::sections::InvalidKey;

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
    /// A CSV file with a header and the columns `file` (or `file_name`), a path relative to
    /// `data.path`, and `client`.
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
    /// Checks the keys; `place` tells where the client of each image may be.
    ///
    /// # Errors
    /// The first key that is invalid, relative to `[data]`.
    pub(super) fn validate(&self, place: ClientPlace) -> Result<(), InvalidKey> {
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
        if self.column.is_some() && self.csv.is_none() && place != ClientPlace::Table {
            let message = "is given without csv: expected clients.csv, or no column".to_owned();
            return refuse("column", message);
        }
        if place == ClientPlace::Container {
            let unused = [
                ("csv", self.csv.is_some()),
                ("pattern", self.pattern.is_some()),
            ];
            return match unused.iter().find(|(_, given)| *given) {
                Some((key, _)) => refuse(
                    key,
                    format!(
                        "is for folders of images: a file of many images names their clients \
                         itself, an .npz file in its array `{CLIENTS}`"
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
            (None, None) if place == ClientPlace::Table => Ok(()),
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
    /// [`ImagesError::Client`] for a file whose client is unknown, [`ImagesError::Table`] for
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
                        shown(file),
                        format!("expected one row with its path in {}", shown(path)),
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
                    shown(file),
                    format!("expected a path that matches data.clients.pattern `{pattern}`"),
                )
            })?;
            Ok(numbers.of(&client))
        };
        files.iter().map(client).collect()
    }
}

/// Place of the client of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientPlace {
    /// In its path, or in a CSV file that names the path.
    Path,
    /// In the CSV file that names the images (`data.labels = "csv"`), if no other one is given.
    Table,
    /// In the file with the images, such as an `.npz` file.
    Container,
}

/// Returns numbers for names of clients, from 0 in the order of their first images.
pub(super) fn numbered(clients: &[String]) -> Vec<u32> {
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
pub(super) fn relative(root: &Path, file: &Path) -> Option<String> {
    let path = file.strip_prefix(root).unwrap_or(file);
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    Some(normal(&parts?.join("/")).into_owned())
}

fn unknown(image: String, expected: String) -> ImagesError {
    ImagesError::Client { image, expected }
}

/// Reads the client of each file from a CSV file.
fn read_table(path: &Path, column: &str) -> Result<HashMap<String, String>, ImagesError> {
    let rows = read_rows(path, &[&FILE_COLUMNS, &[column]])?;
    let clients = rows
        .iter()
        .map(|row| (row.field(0).to_owned(), row.field(1).to_owned()));
    Ok(clients.collect())
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
