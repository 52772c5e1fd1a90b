//! Image files in a folder, or in a CSV file that lists them.
//!
//! The order of a folder is that of `dpsda/dataset.py`: the entries of each folder, files and
//! folders alike, are sorted by the bytes of their names, and a folder stands for its contents.
//! Files of a CSV file are sorted by their paths.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{read_error, refuse_duplicates};
use super::{Container, Stored};
use crate::images::EXTENSIONS;
use crate::images::clients::{ClientsConfig, relative};
use crate::images::error::ImagesError;
use crate::images::layout::Labels;
use crate::images::name::{normal, shown, shown_text};
use crate::images::table::{CLIENT_COLUMN, FILE_COLUMNS, read_rows, wrong};

/// Names of the CSV file in a folder whose labels are in one, in this order of precedence.
const TABLES: [&str; 2] = ["labels.csv", "metadata.csv"];
/// Name of the column with the labels, unless `data.label_column` names another one.
const LABEL_COLUMN: &str = "label";
/// Folders that systems and tools write beside images; nothing in them is an image of the set.
const NOT_IMAGES: [&str; 2] = ["@eaDir", "__MACOSX"];
/// Most endings that a description of passed-over files names.
const MAX_ENDINGS: usize = 8;

/// The image files of a folder, or those of a CSV file.
pub(in crate::images) struct FolderImages {
    root: PathBuf,
    files: Vec<PathBuf>,
    /// Number of entries that are no images, by ending.
    passed_over: BTreeMap<String, usize>,
    labels: Labels,
    /// The label and, if requested, the client of each file, if a CSV file lists them.
    rows: Option<Vec<(String, Option<String>)>>,
}

impl FolderImages {
    /// Lists the images below `root`. Links are followed, but each folder is read once, so that
    /// links cannot form a loop.
    ///
    /// # Errors
    /// [`ImagesError::Read`] if a folder cannot be read, or the target of a link with the name of
    /// an image; [`ImagesError::Duplicate`] if links lead to one file twice: one image would vote
    /// twice, which the sensitivity does not allow.
    pub(in crate::images) fn open(root: &Path, labels: Labels) -> Result<Self, ImagesError> {
        let mut scan = DirScan::default();
        scan.folder(root)?;
        if scan.links {
            refuse_duplicates(&scan.files)?;
        }
        Ok(Self {
            root: root.to_owned(),
            files: scan.files,
            passed_over: scan.passed_over,
            labels,
            rows: None,
        })
    }

    /// Lists the images of a CSV file, which is `path` or in the folder `path`; the paths in it are
    /// relative to its folder.
    ///
    /// # Errors
    /// [`ImagesError::Table`] with the line of a missing file, of one that is listed twice, or of
    /// an empty field; [`ImagesError::Read`].
    pub(in crate::images) fn of_table(
        path: &Path,
        label_column: Option<&str>,
        clients: Option<&ClientsConfig>,
    ) -> Result<Self, ImagesError> {
        let table = find_table(path)?;
        let root = table.parent().unwrap_or(Path::new("")).to_owned();
        let label_column = [label_column.unwrap_or(LABEL_COLUMN)];
        let client_column = clients.filter(|clients| clients.csv.is_none());
        let client_column = client_column.filter(|clients| clients.pattern.is_none());
        let client_column =
            client_column.map(|clients| [clients.column.as_deref().unwrap_or(CLIENT_COLUMN)]);
        let mut columns: Vec<&[&str]> = vec![&FILE_COLUMNS, &label_column];
        columns.extend(client_column.as_ref().map(|column| &column[..]));
        let mut rows = read_rows(&table, &columns)?;
        rows.sort_by(|a, b| a.field(0).cmp(b.field(0)));
        let mut files = Vec::with_capacity(rows.len());
        for row in &rows {
            let file = root.join(row.field(0));
            if !file.is_file() {
                let message = format!(
                    "there is no file `{}`: expected a path relative to the folder of the CSV file",
                    shown_text(row.field(0))
                );
                return Err(wrong(&table, row.line, message));
            }
            files.push(file);
        }
        refuse_duplicates(&files)?;
        let field = |row: &crate::images::table::Row, place| {
            let field = row.fields.get(place);
            field.map(|text: &String| normal(text).into_owned())
        };
        let rows = rows
            .iter()
            .map(|row| (field(row, 1).unwrap_or_default(), field(row, 2)));
        Ok(Self {
            root,
            rows: Some(rows.collect()),
            files,
            passed_over: BTreeMap::new(),
            labels: Labels::Csv,
        })
    }

    /// Returns the folder that paths are relative to.
    pub(in crate::images) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the paths of the images.
    pub(in crate::images) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns true if the CSV file that lists the images names their clients.
    pub(in crate::images) fn has_clients(&self) -> bool {
        let rows = self.rows.as_ref();
        rows.is_some_and(|rows| rows.iter().all(|(_, client)| client.is_some()))
    }

    /// Describes what was passed over, by ending and number, such as `997 .tif, 1 .txt`; `None` if
    /// nothing was.
    pub(in crate::images) fn passed_over(&self) -> Option<String> {
        let mut endings: Vec<(&String, &usize)> = self.passed_over.iter().collect();
        endings.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let named = endings.iter().take(MAX_ENDINGS);
        let mut parts: Vec<String> = named
            .map(|(ending, count)| format!("{count} {ending}"))
            .collect();
        let others: usize = endings.iter().skip(MAX_ENDINGS).map(|(_, n)| **n).sum();
        if others > 0 {
            parts.push(format!("{others} others"));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Returns the classes whose images lie in several folders, while each of these folders has
    /// images of that class only, under [`Labels::Prefix`]: then the folders may be the classes.
    pub(in crate::images) fn classes_over_folders(&self) -> Vec<(String, usize)> {
        if self.labels != Labels::Prefix {
            return Vec::new();
        }
        let mut classes_of: HashMap<&Path, HashSet<&str>> = HashMap::new();
        for file in &self.files {
            if let (Some(folder), Some(class)) = (file.parent(), prefix(file)) {
                classes_of.entry(folder).or_default().insert(class);
            }
        }
        let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
        for classes in classes_of.values().filter(|classes| classes.len() == 1) {
            classes
                .iter()
                .for_each(|class| *folders.entry(class).or_default() += 1);
        }
        let several = folders.into_iter().filter(|(_, count)| *count > 1);
        several
            .map(|(class, count)| (class.to_owned(), count))
            .collect()
    }

    /// Returns the names of the folders that an image lies in, from `root` on.
    pub(in crate::images) fn folders_of(&self, index: usize) -> Vec<&str> {
        let path = self.files.get(index).and_then(|file| file.parent());
        let path = path.and_then(|folder| folder.strip_prefix(&self.root).ok());
        path.map_or_else(Vec::new, |path| {
            path.iter().filter_map(|part| part.to_str()).collect()
        })
    }

    /// Returns true if the path of an image is UTF-8, as classes are.
    pub(in crate::images) fn is_utf8(&self, index: usize) -> bool {
        let file = self.files.get(index);
        file.is_some_and(|file| file.to_str().is_some())
    }

    fn label(&self, index: usize, file: &Path) -> Option<String> {
        let label = match self.labels {
            Labels::Prefix => prefix(file)?,
            Labels::Folder => *self.folders_of(index).first()?,
            Labels::LeafFolder => *self.folders_of(index).last()?,
            Labels::Csv => &self.rows.as_ref()?.get(index)?.0,
        };
        Some(normal(label).into_owned())
    }
}

impl Container for FolderImages {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, index: usize) -> String {
        self.files
            .get(index)
            .map_or_else(String::new, |file| shown(file))
    }

    fn key(&self, index: usize) -> Option<String> {
        let file = self.files.get(index)?;
        // A name that is not UTF-8 has no normal form, and its bytes serve as well.
        Some(relative(&self.root, file).unwrap_or_else(|| shown(file)))
    }

    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        for (index, file) in self.files.iter().enumerate() {
            take(self.label(index, file).as_deref());
        }
        Ok(())
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        let rows = self.rows.iter().flatten();
        Ok(rows.filter_map(|(_, client)| client.clone()).collect())
    }

    fn stored_len(&self, _: usize) -> u64 {
        0
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        let files = indices.iter().filter_map(|index| self.files.get(*index));
        Ok(files.cloned().map(Stored::Path).collect())
    }
}

/// Returns the part of a file's name before the first `_`, if there is one and it is not empty.
fn prefix(path: &Path) -> Option<&str> {
    let (class, _) = path.file_name()?.to_str()?.split_once('_')?;
    (!class.is_empty()).then_some(class)
}

/// Returns the CSV file that is `path`, or that the folder `path` has.
fn find_table(path: &Path) -> Result<PathBuf, ImagesError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let mut tables = TABLES.iter().map(|name| path.join(name));
    tables
        .find(|table| table.is_file())
        .ok_or_else(|| ImagesError::Kind {
            path: path.to_owned(),
            found: "a folder without labels.csv or metadata.csv",
            expected: "one of these files, or a CSV file as data.path, with data.labels = \"csv\"",
        })
}

#[derive(Default)]
struct DirScan {
    files: Vec<PathBuf>,
    passed_over: BTreeMap<String, usize>,
    /// Real paths of the folders that were read.
    visited: HashSet<PathBuf>,
    /// True if a link was followed.
    links: bool,
}

impl DirScan {
    fn folder(&mut self, folder: &Path) -> Result<(), ImagesError> {
        let failed = read_error(folder);
        if !self.visited.insert(folder.canonicalize().map_err(&failed)?) {
            self.pass_over("links to folders that were read".to_owned());
            return Ok(());
        }
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(failed)?;
        entries.sort_by_cached_key(|entry| entry.file_name().into_encoded_bytes());
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            // Also `._*`, which macOS writes beside each file.
            if name.as_encoded_bytes().starts_with(b".") {
                self.pass_over("hidden".to_owned());
                continue;
            }
            if NOT_IMAGES.iter().any(|other| name == *other) {
                self.pass_over("folders of other programs".to_owned());
                continue;
            }
            let failed = |cause| read_error(&path)(cause);
            let mut kind = entry.file_type().map_err(&failed)?;
            if kind.is_symlink() {
                self.links = true;
                kind = match fs::metadata(&path) {
                    Ok(metadata) => metadata.file_type(),
                    // A dead link that is no image would not have been read anyway.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !is_image(&path) => {
                        self.pass_over("dead links".to_owned());
                        continue;
                    }
                    Err(error) => return Err(failed(error)),
                };
            }
            if kind.is_dir() {
                self.folder(&path)?;
            } else if kind.is_file() && is_image(&path) {
                self.files.push(path);
            } else {
                self.pass_over(ending(&path));
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, what: String) {
        *self.passed_over.entry(what).or_default() += 1;
    }
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Returns the ending of a file that is no image, in small letters.
fn ending(path: &Path) -> String {
    let extension = path.extension().map(|extension| {
        let extension = shown(Path::new(extension)).to_lowercase();
        format!(".{extension}")
    });
    extension.unwrap_or_else(|| "without an ending".to_owned())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
