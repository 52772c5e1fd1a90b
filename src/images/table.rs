//! CSV files about images: one row for each file, with a header.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use super::error::ImagesError;
use super::name::{normal, shown_text};

/// Accepted names of the column with the paths: ours, and that of the hub's image folders.
pub(super) const FILE_COLUMNS: [&str; 2] = ["file", "file_name"];
/// Name of the column with the clients, unless `data.clients.column` names another one.
pub(super) const CLIENT_COLUMN: &str = "client";

/// A row: its line in the file, and the fields of the requested columns, none of them empty.
pub(super) struct Row {
    /// Line, from 1.
    pub line: u64,
    /// One field for each requested column; the first one is the path of a file, with `/` between
    /// folders, in Unicode's normal form C.
    pub fields: Vec<String>,
}

impl Row {
    /// Returns a field, by the place of its column among the requested ones.
    pub(super) fn field(&self, place: usize) -> &str {
        self.fields.get(place).map_or("", String::as_str)
    }
}

/// Reads the columns of a CSV file. `columns` has the accepted names of each column, of which the
/// header must have exactly one; the first column is that of the files, and no file is named twice.
///
/// # Errors
/// [`ImagesError::Read`], and [`ImagesError::Table`] with the line of the fault.
pub(super) fn read_rows(path: &Path, columns: &[&[&str]]) -> Result<Vec<Row>, ImagesError> {
    let wrong = |line, message| wrong(path, line, message);
    let file = File::open(path).map_err(|cause| ImagesError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(file);
    let unreadable = |error: &csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        wrong(line, shown_text(&error.to_string()))
    };
    let headers = reader.headers().map_err(|error| unreadable(&error))?;
    // Spreadsheets begin their files with a byte order mark.
    let headers: Vec<&str> = headers
        .iter()
        .map(|head| head.trim_start_matches('\u{feff}'))
        .collect();
    let places = columns.iter().map(|names| {
        let mut places = headers.iter().enumerate();
        let mut places = places.by_ref().filter(|(_, head)| names.contains(head));
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            _ => {
                let names = names.join("` or `");
                Err(wrong(
                    1,
                    format!("expected one column `{names}` in the first line"),
                ))
            }
        }
    });
    let places = places.collect::<Result<Vec<usize>, _>>()?;
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| unreadable(&error))?;
        let line = record.position().map_or(1, csv::Position::line);
        let mut fields = Vec::with_capacity(places.len());
        for (place, names) in places.iter().zip(columns) {
            match record.get(*place) {
                Some(field) if !field.is_empty() => fields.push(field.to_owned()),
                _ => {
                    let name = names.first().copied().unwrap_or_default();
                    return Err(wrong(line, format!("has no {name}: expected one")));
                }
            }
        }
        if let Some(file) = fields.first_mut() {
            *file = normal(file).into_owned();
            // A file on two lines would count twice, or hide an error of the table.
            if !seen.insert(file.clone()) {
                let file = shown_text(file);
                return Err(wrong(line, format!("`{file}` is on an earlier line too")));
            }
        }
        rows.push(Row { line, fields });
    }
    Ok(rows)
}

/// Returns the error of a line.
pub(super) fn wrong(path: &Path, line: u64, message: String) -> ImagesError {
    ImagesError::Table {
        path: path.to_owned(),
        line,
        message,
    }
}
