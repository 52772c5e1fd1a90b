//! WebDataset: shards in tar format, in which the files of a sample share a key.
//!
//! The key of a file is its path up to the first dot of the name: `a/0001.jpg` and `a/0001.cls` are
//! one sample. The headers are read when the container is opened; they give the place of each image
//! in its shard, so that images are then read in any order. No memory is allocated by a header's
//! claim: a place that is not within the shard is an error.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::{Entry as Slot, RandomState};
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
use tar::{Archive, Entry, EntryType};

use super::files::{fault, list, read_error};
use super::{Container, EXTENSIONS, Stored};
use crate::images::error::ImagesError;
use crate::images::name::{shown, shown_text};

/// Bytes of a tar block.
const BLOCK: u64 = 512;
/// Largest accepted image file in bytes.
const MAX_IMAGE: u64 = 1 << 31;
/// Largest accepted `.cls` or `.json` file in bytes.
const MAX_TEXT: u64 = 1 << 24;
/// Largest accepted headers of one file, with its long name and its pax records, in bytes.
const MAX_HEADERS: u64 = 1 << 20;
/// Bytes of a buffered read.
const BUFFER: usize = 1 << 16;
/// First bytes of compressed files, which are not read.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
/// Endings of the names of compressed shards.
const COMPRESSED_ENDINGS: [&str; 6] = [
    ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tar.xz",
];
/// Files that operating systems leave in folders.
const FOREIGN: [&str; 2] = ["thumbs.db", "desktop.ini"];

/// Images of tar shards in the layout of WebDataset.
pub(in crate::images) struct WebDataset {
    /// The path that was opened.
    root: PathBuf,
    shards: Vec<PathBuf>,
    samples: Vec<Sample>,
    /// The keys of all samples, one after the other.
    keys: String,
    reader: Option<ShardReader>,
}

/// The files of a sample.
struct Sample {
    shard: u32,
    /// End of the key in [`WebDataset::keys`]; it begins at the end of the previous one.
    key_end: usize,
    image: Span,
    class: Span,
    json: Span,
}

/// Place of a file in its shard. A header comes before each file, so that 0 stands for no file.
#[derive(Clone, Copy, Default)]
struct Span {
    offset: u64,
    len: u64,
}

impl Span {
    fn is_missing(self) -> bool {
        self.offset == 0
    }
}

/// A value in a JSON file that names a class or a client.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Integer(i64),
    Text(String),
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        match name {
            Name::Integer(number) => number.to_string(),
            Name::Text(text) => text,
        }
    }
}

/// The used fields of a JSON file.
#[derive(Default, Deserialize)]
struct Fields {
    label: Option<Name>,
    cls: Option<Name>,
    client: Option<Name>,
}

impl WebDataset {
    /// Opens a `.tar` file, or the `.tar` files of a folder, sorted by path, and reads the headers
    /// in them. With a `split`, the files of a folder are those whose names begin with it and a
    /// character that is neither letter nor digit, and those in a subfolder of that name.
    ///
    /// # Errors
    /// [`ImagesError`] if there is no such file; if a shard is compressed, damaged or truncated, or
    /// has links; or if a sample has not exactly one image, or two files of one kind.
    pub(in crate::images) fn open(path: &Path, split: Option<&str>) -> Result<Self, ImagesError> {
        let shards = list(
            path,
            split,
            |character| !character.is_alphanumeric(),
            |name| ends_with(name, ".tar") || is_compressed(name),
            "shards in files named *.tar",
        )?;
        let mut dataset = Self {
            root: path.to_owned(),
            shards: Vec::new(),
            samples: Vec::new(),
            keys: String::new(),
            reader: None,
        };
        for shard in shards {
            dataset.index(&shard)?;
            dataset.shards.push(shard);
        }
        Ok(dataset)
    }

    /// Adds the samples of a shard.
    fn index(&mut self, shard: &Path) -> Result<(), ImagesError> {
        let name = shard.file_name().and_then(|name| name.to_str());
        let mut file = File::open(shard).map_err(read_error(shard))?;
        let len = file.metadata().map_err(read_error(shard))?.len();
        if is_compressed(name.unwrap_or_default()) || begins_compressed(shard, &mut file)? {
            return Err(fault(
                shard,
                "a compressed shard, in which images cannot be found without reading all of it: \
                 decompress it first, for example with gunzip or unzstd",
            ));
        }
        let budget = Rc::new(Cell::new(MAX_HEADERS));
        let mut archive = Archive::new(HeaderReader {
            file: BufReader::with_capacity(BUFFER, file),
            position: 0,
            budget: Rc::clone(&budget),
        });
        let mut places = Places::default();
        let first = self.samples.len();
        let damaged = |error: io::Error| {
            let error = shown_text(&error.to_string());
            fault(shard, format!("not a readable tar file: {error}"))
        };
        let mut end = 0;
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            budget.set(MAX_HEADERS);
            let span = Span {
                offset: entry.raw_file_position(),
                len: entry.size(),
            };
            end = span
                .offset
                .checked_add(span.len)
                .filter(|end| *end <= len)
                .ok_or_else(|| {
                    let name = shown_text(&String::from_utf8_lossy(&entry.path_bytes()));
                    fault(
                        shard,
                        format!("truncated within `{name}`: expected a whole tar file"),
                    )
                })?;
            self.add(shard, &mut entry, span, &mut places)?;
        }
        self.verify_images(shard, first)?;
        verify_end(
            shard,
            archive.into_inner(),
            end.next_multiple_of(BLOCK),
            len,
        )
    }

    /// Adds the file of an entry to the sample with its key, if it is one of a sample.
    fn add(
        &mut self,
        shard: &Path,
        entry: &mut Entry<'_, HeaderReader>,
        span: Span,
        places: &mut Places,
    ) -> Result<(), ImagesError> {
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            return Ok(());
        }
        let name = entry.path_bytes().into_owned();
        let name = str::from_utf8(&name).map_err(|_| {
            let name = shown_text(&String::from_utf8_lossy(&name));
            fault(
                shard,
                format!("the name `{name}` is not UTF-8: rename the file"),
            )
        })?;
        let Some((key, ending)) = split_name(name) else {
            return Ok(());
        };
        refuse_kind(shard, entry, name, kind)?;
        let index = self.sample(key, places);
        let sample = self.samples.get_mut(index).map(|sample| {
            let place = if is_image(ending) {
                Some(&mut sample.image)
            } else if ending.eq_ignore_ascii_case("cls") {
                Some(&mut sample.class)
            } else if ending.eq_ignore_ascii_case("json") {
                Some(&mut sample.json)
            } else {
                None
            };
            let repeated = place.as_ref().is_some_and(|place| !place.is_missing());
            if let Some(place) = place {
                *place = span;
            }
            (repeated, sample.image)
        });
        match sample {
            Some((true, _)) => {
                let what = if is_image(ending) {
                    "two images".to_owned()
                } else {
                    format!("two files `{}`", shown_text(ending))
                };
                let key = shown_text(key);
                Err(fault(
                    shard,
                    format!(
                        "the sample `{key}` has {what}: expected one of each kind under each key, \
                         and keys that occur once"
                    ),
                ))
            }
            Some((false, image)) if image.len > MAX_IMAGE => {
                let key = shown_text(key);
                Err(fault(
                    shard,
                    format!("the image of the sample `{key}` has more than {MAX_IMAGE} bytes"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Returns the index of the sample with this key in the current shard, a new one if need be.
    fn sample(&mut self, key: &str, places: &mut Places) -> usize {
        // The files of a sample usually follow each other.
        if let Some(last) = self.samples.len().checked_sub(1)
            && last >= places.first(last)
            && self.key_of(last) == key
        {
            return last;
        }
        let mut hash = places.state.hash_one(key);
        loop {
            match places.indices.entry(hash) {
                Slot::Occupied(slot) => {
                    let index = *slot.get() as usize;
                    if self.key_of(index) == key {
                        return index;
                    }
                    // Another key with the same hash.
                    hash = hash.wrapping_add(1);
                }
                Slot::Vacant(slot) => {
                    let index = self.samples.len();
                    slot.insert(index as u32);
                    self.keys.push_str(key);
                    self.samples.push(Sample {
                        shard: self.shards.len() as u32,
                        key_end: self.keys.len(),
                        image: Span::default(),
                        class: Span::default(),
                        json: Span::default(),
                    });
                    return index;
                }
            }
        }
    }

    fn key_of(&self, index: usize) -> &str {
        let end = |index: usize| self.samples.get(index).map(|sample| sample.key_end);
        let start = index.checked_sub(1).and_then(end).unwrap_or(0);
        self.keys
            .get(start..end(index).unwrap_or(start))
            .unwrap_or_default()
    }

    /// Refuses samples without an image among those from `first` on.
    fn verify_images(&self, shard: &Path, first: usize) -> Result<(), ImagesError> {
        for (index, sample) in self.samples.iter().enumerate().skip(first) {
            if sample.image.is_missing() {
                let key = shown_text(self.key_of(index));
                let endings = EXTENSIONS.join(", ");
                return Err(fault(
                    shard,
                    format!(
                        "the sample `{key}` has no image: expected a file with this key and one \
                         of the endings {endings}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reads a file of the sample `index`.
    fn bytes(&mut self, index: usize, span: fn(&Sample) -> Span) -> Result<Vec<u8>, ImagesError> {
        let sample = self.samples.get(index);
        let sample = sample.ok_or_else(|| fault(&self.root, format!("no image {index}")))?;
        let (shard, span) = (sample.shard as usize, span(sample));
        if self.reader.as_ref().is_none_or(|open| open.shard != shard) {
            let path = self.shards.get(shard).unwrap_or(&self.root);
            let file = File::open(path).map_err(read_error(path))?;
            self.reader = Some(ShardReader {
                shard,
                path: path.clone(),
                file: BufReader::with_capacity(BUFFER, file),
                position: 0,
            });
        }
        match &mut self.reader {
            Some(reader) => reader.read(span),
            None => Ok(Vec::new()),
        }
    }

    /// Reads the JSON file of the sample `index`; the fields are empty if there is none.
    fn fields(&mut self, index: usize) -> Result<Fields, ImagesError> {
        if self
            .samples
            .get(index)
            .is_none_or(|sample| sample.json.is_missing())
        {
            return Ok(Fields::default());
        }
        self.refuse_long_text(index, |sample| sample.json)?;
        let bytes = self.bytes(index, |sample| sample.json)?;
        // The message of the parser may repeat values of the file.
        serde_json::from_slice(&bytes).map_err(|error| {
            self.sample_fault(
                index,
                &format!(
                    "its .json is not usable (line {}, column {}): expected an object, and a text \
                     or an integer in `label`, `cls` and `client`",
                    error.line(),
                    error.column()
                ),
            )
        })
    }

    /// Reads the `.cls` file of the sample `index`, if there is one.
    fn class(&mut self, index: usize) -> Result<Option<String>, ImagesError> {
        if self
            .samples
            .get(index)
            .is_none_or(|sample| sample.class.is_missing())
        {
            return Ok(None);
        }
        self.refuse_long_text(index, |sample| sample.class)?;
        let bytes = self.bytes(index, |sample| sample.class)?;
        let text = str::from_utf8(&bytes).unwrap_or_default().trim();
        if text.is_empty() {
            return Err(self.sample_fault(
                index,
                "its .cls is empty or not UTF-8: expected the name or the number of its class",
            ));
        }
        Ok(Some(text.to_owned()))
    }

    fn refuse_long_text(&self, index: usize, span: fn(&Sample) -> Span) -> Result<(), ImagesError> {
        match self.samples.get(index).map(span) {
            Some(span) if span.len > MAX_TEXT => Err(self.sample_fault(
                index,
                &format!("its .cls or .json has more than {MAX_TEXT} bytes"),
            )),
            _ => Ok(()),
        }
    }

    fn sample_fault(&self, index: usize, message: &str) -> ImagesError {
        let shard = self.samples.get(index).map_or(0, |sample| sample.shard);
        let path = self.shards.get(shard as usize).unwrap_or(&self.root);
        let key = shown_text(self.key_of(index));
        fault(path, format!("the sample `{key}`: {message}"))
    }
}

impl Container for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn name(&self, index: usize) -> String {
        let shard = self.samples.get(index).map_or(0, |sample| sample.shard);
        let path = self.shards.get(shard as usize).unwrap_or(&self.root);
        format!("{}: {}", shown(path), shown_text(self.key_of(index)))
    }

    /// The path of the shard within the folder, and the key: keys alone may repeat in other shards.
    fn key(&self, index: usize) -> Option<String> {
        let shard = self.shards.get(self.samples.get(index)?.shard as usize)?;
        let relative = shard.strip_prefix(&self.root).unwrap_or(shard);
        // A shard that was opened as a file is the only one.
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let parts = if *shard == self.root {
            Vec::new()
        } else {
            parts
        };
        Some(format!("{}:{}", parts.join("/"), self.key_of(index)))
    }

    fn labels(&mut self) -> Result<Vec<Option<String>>, ImagesError> {
        let mut labels = Vec::with_capacity(self.samples.len());
        for index in 0..self.samples.len() {
            let label = match self.class(index)? {
                Some(label) => Some(label),
                None => {
                    let fields = self.fields(index)?;
                    fields.label.or(fields.cls).map(String::from)
                }
            };
            labels.push(label);
        }
        if labels.iter().all(Option::is_none) {
            return Err(fault(
                &self.root,
                "no sample has a label: expected a .cls file, or a .json file with `label` or \
                 `cls`, under the key of each image",
            ));
        }
        Ok(labels)
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        let mut clients = Vec::with_capacity(self.samples.len());
        for index in 0..self.samples.len() {
            let client = self.fields(index)?.client.map(String::from);
            let client = client.filter(|client| !client.is_empty()).ok_or_else(|| {
                self.sample_fault(
                    index,
                    "its client is unknown: expected a .json file with `client` under its key",
                )
            })?;
            clients.push(client);
        }
        Ok(clients)
    }

    fn stored_len(&self, index: usize) -> u64 {
        self.samples.get(index).map_or(0, |sample| sample.image.len)
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        indices
            .iter()
            .map(|index| Ok(Stored::Encoded(self.bytes(*index, |sample| sample.image)?)))
            .collect()
    }
}

/// Samples of the shard that is being read, by hashes of their keys: the keys themselves are in
/// memory already.
#[derive(Default)]
struct Places {
    state: RandomState,
    indices: HashMap<u64, u32>,
}

impl Places {
    /// Returns the first index of the shard's samples, of which `last` is the last; a larger index
    /// if it has none yet.
    fn first(&self, last: usize) -> usize {
        (last + 1).saturating_sub(self.indices.len())
    }
}

/// An open shard.
struct ShardReader {
    shard: usize,
    path: PathBuf,
    file: BufReader<File>,
    position: u64,
}

impl ShardReader {
    fn read(&mut self, span: Span) -> Result<Vec<u8>, ImagesError> {
        let failed = read_error(&self.path);
        // Keeps what is buffered, as the next file is near.
        let moved = span.offset as i64 - self.position as i64;
        self.file.seek_relative(moved).map_err(&failed)?;
        self.position = span.offset;
        let mut bytes = Vec::new();
        // The length was within the shard when it was opened.
        bytes.reserve_exact(usize::try_from(span.len).unwrap_or(0));
        let read = (&mut self.file).take(span.len).read_to_end(&mut bytes);
        let read = read.map_err(&failed)? as u64;
        self.position += read;
        if read < span.len {
            return Err(fault(
                &self.path,
                "it was shortened while it was read: expected a whole tar file",
            ));
        }
        Ok(bytes)
    }
}

/// A file whose headers are read and whose contents are passed over.
struct HeaderReader {
    file: BufReader<File>,
    position: u64,
    /// Bytes that may be read until the next entry: a header may claim a name of any length.
    budget: Rc<Cell<u64>>,
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position += read as u64;
        let left = self.budget.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "the headers of a file have over {MAX_HEADERS} bytes"
            ))
        })?;
        self.budget.set(left);
        Ok(read)
    }
}

impl Seek for HeaderReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            // Unlike `seek`, it keeps what is buffered.
            SeekFrom::Current(moved) => {
                let position = self.position.checked_add_signed(moved);
                let position = position.ok_or(io::ErrorKind::InvalidInput)?;
                self.file.seek_relative(moved)?;
                self.position = position;
            }
            other => self.position = self.file.seek(other)?,
        }
        Ok(self.position)
    }
}

/// Verifies that only zeros follow the last entry, at least one block of them.
fn verify_end(
    shard: &Path,
    mut reader: HeaderReader,
    end: u64,
    len: u64,
) -> Result<(), ImagesError> {
    let failed = read_error(shard);
    if end + BLOCK > len {
        return Err(fault(
            shard,
            "truncated: expected blocks of zeros at the end of a tar file",
        ));
    }
    reader.file.seek(SeekFrom::Start(end)).map_err(&failed)?;
    let mut buffer = [0; 1 << 12];
    loop {
        match reader.file.read(&mut buffer).map_err(&failed)? {
            0 => return Ok(()),
            read if buffer.iter().take(read).all(|byte| *byte == 0) => {}
            _ => {
                return Err(fault(
                    shard,
                    "data follow the end of the archive: expected one tar file; separate files \
                     that were joined",
                ));
            }
        }
    }
}

/// Returns the key and the ending of a file's name: the path up to the first dot of its last part,
/// and what follows. `None` if the file is none of a sample's: hidden, without a dot, or left by an
/// operating system.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let name = name.trim_start_matches("./");
    let base_at = name.rfind('/').map_or(0, |slash| slash + 1);
    let base = name.get(base_at..)?;
    let (stem, ending) = base.split_once('.')?;
    let reserved = stem.starts_with("__") && stem.ends_with("__");
    let foreign = FOREIGN.iter().any(|known| base.eq_ignore_ascii_case(known));
    let hidden = stem.is_empty() || name.split('/').any(|part| part == "__MACOSX");
    if reserved || foreign || hidden {
        return None;
    }
    Some((name.get(..base_at + stem.len())?, ending))
}

fn is_image(ending: &str) -> bool {
    let last = ending.rsplit('.').next().unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| last.eq_ignore_ascii_case(known))
}

/// Refuses an entry whose bytes are not those of a file.
fn refuse_kind(
    shard: &Path,
    entry: &mut Entry<'_, HeaderReader>,
    name: &str,
    kind: EntryType,
) -> Result<(), ImagesError> {
    let mut sparse = kind.is_gnu_sparse();
    if let Ok(Some(records)) = entry.pax_extensions() {
        for record in records {
            let record = record.map_err(|_| {
                let name = shown_text(name);
                fault(
                    shard,
                    format!("`{name}` has malformed pax records: write the file anew"),
                )
            })?;
            sparse |= record.key_bytes().starts_with(b"GNU.sparse.");
        }
    }
    let what = match kind {
        _ if sparse => "a sparse file",
        EntryType::Regular | EntryType::Continuous => return Ok(()),
        EntryType::Link | EntryType::Symlink => "a link",
        _ => "neither a file nor a folder",
    };
    let name = shown_text(name);
    Err(fault(
        shard,
        format!("`{name}` is {what}: expected files with their contents"),
    ))
}

fn ends_with(name: &str, ending: &str) -> bool {
    let tail = name.len().checked_sub(ending.len());
    let tail = tail.and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(ending))
}

fn is_compressed(name: &str) -> bool {
    COMPRESSED_ENDINGS
        .iter()
        .any(|ending| ends_with(name, ending))
}

/// Returns true if a file begins as a compressed one does; it is at its beginning again afterwards.
fn begins_compressed(path: &Path, file: &mut File) -> Result<bool, ImagesError> {
    let mut first = Vec::new();
    (&mut *file)
        .take(8)
        .read_to_end(&mut first)
        .and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(read_error(path))?;
    Ok(COMPRESSED.iter().any(|magic| first.starts_with(magic)))
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
