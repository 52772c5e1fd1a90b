//! Parquet files in the layout of the hub's image data sets.
//!
//! The image files are in the column `image`, a structure with `bytes`, or binary itself. Pages are
//! read one after the other, and of a page one image at a time, so that memory holds one page
//! however large a row group is: at most [`MAX_PAGE`] bytes, and the same again for its compressed
//! bytes.
//!
//! The crate checks less than untrusted files need. Sizes are compared with the file before it
//! allocates them (`pages`), statistics are not parsed, and where it panics, the file is said to be
//! damaged.

mod columns;
mod page_header;
mod pages;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::reader::{
    ColumnReader, ColumnReaderImpl, get_column_reader, get_typed_column_reader,
};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetStatisticsPolicy};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};

use super::files::{fault, list, read_error};
use super::{Container, Stored};
use crate::images::error::ImagesError;
use crate::images::name::{shown, shown_text};
use pages::{CheckedPages, MAX_PAGE};

/// First and last bytes of a file.
const MAGIC: &[u8; 4] = b"PAR1";
/// Bytes after the footer: its length and the magic bytes.
const TAIL: u64 = 8;
/// Largest accepted footer in bytes.
const MAX_FOOTER: u64 = 1 << 26;
/// Longest accepted name of a class or a client in bytes.
const MAX_NAME: usize = 4096;
/// Characters of a message of the crate that are repeated.
const MAX_MESSAGE: usize = 200;
/// Labels that are read at once.
const BATCH: usize = 1024;

/// Images in Parquet files.
pub(in crate::images) struct ParquetImages {
    root: PathBuf,
    parts: Vec<Part>,
    len: usize,
    cursor: Option<Cursor>,
}

/// A file.
struct Part {
    path: PathBuf,
    /// Number of its first image among all.
    first: usize,
    groups: Vec<Group>,
}

/// A row group of a file.
struct Group {
    /// Number of its first image among all.
    first: usize,
    rows: usize,
    /// Bytes of an image, on average and decompressed.
    row_len: u64,
}

impl ParquetImages {
    /// Opens a `.parquet` file, or those of a folder, sorted by path, and reads their footers. With
    /// a `split`, the files of a folder are `<split>.parquet`, those whose names begin with
    /// `<split>-`, and those in a subfolder of that name.
    ///
    /// # Errors
    /// [`ImagesError`] if there is no such file, or one is damaged or of another layout.
    pub(in crate::images) fn open(path: &Path, split: Option<&str>) -> Result<Self, ImagesError> {
        let files = list(
            path,
            split,
            |character| matches!(character, '-' | '.'),
            |name| name.to_lowercase().ends_with(".parquet"),
            "files named *.parquet",
        )?;
        let mut images = Self {
            root: path.to_owned(),
            parts: Vec::new(),
            len: 0,
            cursor: None,
        };
        for path in files {
            let file = OpenFile::open(&path)?;
            let leaf = columns::images(&path, file.metadata.file_metadata().schema_descr())?;
            let first = images.len;
            let mut groups = Vec::new();
            for group in file.metadata.row_groups() {
                let rows = file.rows(group.num_rows(), group.column(leaf).compressed_size())?;
                let bytes = u64::try_from(group.column(leaf).uncompressed_size()).unwrap_or(0);
                groups.push(Group {
                    first: images.len,
                    rows,
                    row_len: bytes.div_ceil(rows.max(1) as u64).min(MAX_PAGE),
                });
                images.len += rows;
            }
            images.parts.push(Part {
                path,
                first,
                groups,
            });
        }
        Ok(images)
    }

    /// Returns the file and the row group of an image, as indices.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        // An empty file or row group begins where the next one does, and is never the last.
        let part = self.parts.partition_point(|part| part.first <= index);
        let part = part.checked_sub(1)?;
        let groups = &self.parts.get(part)?.groups;
        let group = groups.partition_point(|group| group.first <= index);
        let group = group.checked_sub(1)?;
        let found = groups.get(group)?;
        (index - found.first < found.rows).then_some((part, group))
    }

    /// Reads one image.
    fn image(&mut self, index: usize) -> Result<Vec<u8>, ImagesError> {
        let missing = || fault(&self.root, format!("no image {index}"));
        let (part_at, group_at) = self.place(index).ok_or_else(missing)?;
        let part = self.parts.get(part_at).ok_or_else(missing)?;
        let group = part.groups.get(group_at).ok_or_else(missing)?;
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.place == (part_at, group_at) && cursor.next <= index => cursor,
            // The file may be open already.
            other => {
                let file = match other {
                    Some(cursor) if cursor.place.0 == part_at => cursor.file,
                    _ => OpenFile::open(&part.path)?,
                };
                Cursor::open(file, (part_at, group_at), group)?
            }
        };
        let row = index - part.first;
        let image = cursor.read(index)?.ok_or_else(|| {
            fault(
                &part.path,
                format!(
                    "row {row} has no image: expected the image file itself in the column, not \
                     only its path"
                ),
            )
        })?;
        self.cursor = Some(cursor);
        Ok(image)
    }

    /// Reads the names in the column that has one of `names`, and returns the name of the column in
    /// each file with them.
    fn names(
        &self,
        names: &[&'static str],
        what: &str,
        mut visit: impl FnMut(&OpenFile, &'static str, Vec<Option<Value>>) -> Result<(), ImagesError>,
    ) -> Result<(), ImagesError> {
        for part in &self.parts {
            let file = OpenFile::open(&part.path)?;
            let schema = file.metadata.file_metadata().schema_descr();
            let (leaf, name) = columns::named(&part.path, schema, names, what)?;
            let mut values = Vec::new();
            for (at, group) in part.groups.iter().enumerate() {
                file.values(at, leaf, group.rows, &mut values)?;
            }
            visit(&file, name, values)?;
        }
        Ok(())
    }
}

impl Container for ParquetImages {
    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let part = self.place(index).and_then(|(part, _)| self.parts.get(part));
        match part {
            Some(part) => format!("{}: row {}", shown(&part.path), index - part.first),
            None => format!("{}: image {index}", shown(&self.root)),
        }
    }

    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        let mut all_classes: Option<Option<Vec<String>>> = None;
        self.names(&columns::LABELS, "labels", |file, column, values| {
            let metadata = file.metadata.file_metadata();
            let classes = columns::class_names(&file.path, metadata, column)?;
            for (row, value) in values.into_iter().enumerate() {
                let label = value.map(|value| value.class(classes.as_deref()));
                let label = label.transpose().map_err(|number| {
                    let classes = classes.as_ref().map_or(0, Vec::len);
                    fault(
                        &file.path,
                        format!(
                            "row {row} has the label {number}: expected one of the {classes} \
                             classes that the file names"
                        ),
                    )
                })?;
                take(label.flatten().as_deref());
            }
            // An integer would stand for two classes.
            if all_classes.as_ref().is_some_and(|all| *all != classes) {
                return Err(fault(
                    &file.path,
                    "names other classes than the files before it: expected files of one data set",
                ));
            }
            all_classes = Some(classes);
            Ok(())
        })
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        let mut clients = Vec::with_capacity(self.len);
        self.names(&columns::CLIENTS, "clients", |file, column, values| {
            for (row, value) in values.into_iter().enumerate() {
                let client = value.map(String::from).filter(|client| !client.is_empty());
                clients.push(client.ok_or_else(|| {
                    fault(
                        &file.path,
                        format!("row {row} has no client: expected a value in `{column}`"),
                    )
                })?);
            }
            Ok(())
        })?;
        Ok(clients)
    }

    fn stored_len(&self, index: usize) -> u64 {
        let group = self.place(index);
        let group = group.and_then(|(part, group)| self.parts.get(part)?.groups.get(group));
        group.map_or(0, |group| group.row_len)
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        let images = indices.iter().map(|index| self.image(*index));
        images.map(|image| Ok(Stored::Encoded(image?))).collect()
    }
}

/// A name in a column.
enum Value {
    Number(i64),
    Text(String),
}

impl Value {
    /// Returns the name of the class; `None` for -1, with which the hub marks images without a
    /// label.
    ///
    /// # Errors
    /// The number, if it is none of `classes`.
    fn class(self, classes: Option<&[String]>) -> Result<Option<String>, i64> {
        match (self, classes) {
            (Self::Number(-1), Some(_)) => Ok(None),
            (Self::Number(number), Some(classes)) => {
                let place = usize::try_from(number).ok();
                let class = place.and_then(|place| classes.get(place));
                class.map(|class| Some(class.clone())).ok_or(number)
            }
            (value, _) => Ok(Some(value.into())),
        }
    }
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        match value {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text,
        }
    }
}

/// An open file with its footer.
struct OpenFile {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    metadata: Arc<ParquetMetaData>,
}

impl OpenFile {
    fn open(path: &Path) -> Result<Self, ImagesError> {
        let failed = read_error(path);
        let mut file = File::open(path).map_err(&failed)?;
        let len = file.metadata().map_err(&failed)?.len();
        let mut tail = [0; TAIL as usize];
        if len >= 2 * TAIL {
            file.seek(SeekFrom::Start(len - TAIL))
                .and_then(|_| file.read_exact(&mut tail))
                .map_err(&failed)?;
        }
        let [a, b, c, d, magic @ ..] = tail;
        if magic != *MAGIC {
            let what = "not a whole Parquet file without encryption";
            return Err(fault(path, format!("{what}: expected `PAR1` at its end")));
        }
        let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
        if footer > MAX_FOOTER.min(len - TAIL) {
            return Err(fault(
                path,
                format!(
                    "a footer of {footer} bytes: expected less than the file has, and at most \
                     {MAX_FOOTER}"
                ),
            ));
        }
        let skip = ParquetStatisticsPolicy::SkipAll;
        let options = ReadOptionsBuilder::new()
            .with_column_stats_policy(skip.clone())
            .with_size_stats_policy(skip.clone())
            .with_encoding_stats_policy(skip)
            .build();
        let shared = Arc::new(file);
        let copy = shared.try_clone().map_err(&failed)?;
        let metadata = guarded(path, || {
            let reader = SerializedFileReader::new_with_options(copy, options)?;
            Ok(Arc::new(reader.metadata().clone()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: shared,
            len,
            metadata,
        })
    }

    /// Verifies the number of rows that a row group claims: a stored image has at least one byte.
    fn rows(&self, claimed: i64, bytes: i64) -> Result<usize, ImagesError> {
        let most = u64::try_from(bytes).unwrap_or(0).min(self.len);
        let rows = u64::try_from(claimed).ok().filter(|rows| *rows <= most);
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        rows.ok_or_else(|| {
            fault(
                &self.path,
                format!("a row group is said to have {claimed} images in {most} bytes"),
            )
        })
    }

    /// Opens a column of a row group.
    fn column(&self, group: usize, leaf: usize) -> ParquetResult<ColumnReader> {
        let missing = || ParquetError::General("a row group is missing".to_owned());
        let group = self.metadata.row_groups().get(group).ok_or_else(missing)?;
        let chunk = group.columns().get(leaf).ok_or_else(missing)?;
        let rows = usize::try_from(group.num_rows())?;
        let pages = CheckedPages::open(&self.file, self.len, chunk, rows)?;
        Ok(get_column_reader(chunk.column_descr_ptr(), Box::new(pages)))
    }

    /// Appends the values of a column of integers or texts.
    fn values(
        &self,
        group: usize,
        leaf: usize,
        rows: usize,
        values: &mut Vec<Option<Value>>,
    ) -> Result<(), ImagesError> {
        let read = guarded(&self.path, || match self.column(group, leaf)? {
            ColumnReader::Int32ColumnReader(mut reader) => {
                let number = |value: &i32| Some(Value::Number(i64::from(*value)));
                read_all(&mut reader, rows, number)
            }
            ColumnReader::Int64ColumnReader(mut reader) => {
                read_all(&mut reader, rows, |value| Some(Value::Number(*value)))
            }
            ColumnReader::ByteArrayColumnReader(mut reader) => {
                read_all(&mut reader, rows, |value: &ByteArray| {
                    let bytes = Some(value.data()).filter(|bytes| bytes.len() <= MAX_NAME);
                    let text = str::from_utf8(bytes?).ok()?;
                    Some(Value::Text(text.to_owned()))
                })
            }
            _ => Ok(None),
        })?;
        let unusable = || {
            fault(
                &self.path,
                format!("a name is not usable: expected UTF-8 of at most {MAX_NAME} bytes"),
            )
        };
        values.extend(read.ok_or_else(unusable)?);
        Ok(())
    }
}

/// Reads the values of a column, `None` where they are missing; returns `None` if `convert` does
/// for a value.
fn read_all<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    convert: impl Fn(&T::T) -> Option<Value>,
) -> ParquetResult<Option<Vec<Option<Value>>>> {
    let mut converted = Vec::new();
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    while converted.len() < rows {
        levels.clear();
        values.clear();
        let wanted = BATCH.min(rows - converted.len());
        let (read, defined, _) =
            reader.read_records(wanted, Some(&mut levels), None, &mut values)?;
        if read == 0 {
            return Err(too_few());
        }
        let mut values = values.iter();
        if defined == read {
            levels.clear();
        }
        for row in 0..read {
            // Columns of names are not nested: a level of 0 is a missing value.
            let missing = levels.get(row).is_some_and(|level| *level == 0);
            let value = if missing { None } else { values.next() };
            let value = value.map(&convert);
            match value {
                Some(None) => return Ok(None),
                value => converted.push(value.flatten()),
            }
        }
    }
    Ok(Some(converted))
}

fn too_few() -> ParquetError {
    ParquetError::General("a column has fewer values than the file has rows".to_owned())
}

/// A position in a row group.
struct Cursor {
    file: OpenFile,
    /// Indices of the file and the row group.
    place: (usize, usize),
    /// Number of the next image among all.
    next: usize,
    reader: ColumnReaderImpl<ByteArrayType>,
}

impl Cursor {
    fn open(file: OpenFile, place: (usize, usize), group: &Group) -> Result<Self, ImagesError> {
        let schema = file.metadata.file_metadata().schema_descr();
        let leaf = columns::images(&file.path, schema)?;
        let rows = file.metadata.row_groups().get(place.1);
        if rows.and_then(|rows| usize::try_from(rows.num_rows()).ok()) != Some(group.rows) {
            return Err(fault(
                &file.path,
                "it was changed while it was read: expected the same rows",
            ));
        }
        // The type of the column was verified with its place.
        let reader = guarded(&file.path, || {
            Ok(get_typed_column_reader(file.column(place.1, leaf)?))
        })?;
        Ok(Self {
            file,
            place,
            next: group.first,
            reader,
        })
    }

    /// Reads the image `index`, which is not before the next one; `None` if it is missing.
    fn read(&mut self, index: usize) -> Result<Option<Vec<u8>>, ImagesError> {
        let skipped = index - self.next;
        let reader = &mut self.reader;
        let image = guarded(&self.file.path, || {
            if skipped > 0 && reader.skip_records(skipped)? < skipped {
                return Err(too_few());
            }
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (read, _, _) = reader.read_records(1, Some(&mut levels), None, &mut values)?;
            if read != 1 {
                return Err(too_few());
            }
            Ok(values.pop().map(|image: ByteArray| image.data().to_vec()))
        })?;
        self.next = index + 1;
        Ok(image)
    }
}

/// Runs a call of the crate. A panic in it is met by damaged files only.
fn guarded<T>(path: &Path, call: impl FnOnce() -> ParquetResult<T>) -> Result<T, ImagesError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => {
            let message: String = error.to_string().chars().take(MAX_MESSAGE).collect();
            let message = shown_text(&message);
            Err(fault(path, format!("damaged or not supported: {message}")))
        }
        Err(_) => Err(fault(path, "a damaged Parquet file")),
    }
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
