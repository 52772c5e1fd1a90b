//! One tar file: the places of the files in it, and their contents.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::super::files::{fault, read_error};
use crate::images::error::ImagesError;
use crate::images::name::shown_text;

/// Bytes of a tar block.
const BLOCK: u64 = 512;
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

/// Place of a file in its shard. A header comes before each file, so that 0 stands for no file.
#[derive(Clone, Copy, Default)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Span {
    pub(super) fn is_missing(self) -> bool {
        self.offset == 0
    }
}

/// Visits the files of samples in a shard, in order: key, ending and place. Their contents are
/// passed over.
///
/// # Errors
/// [`ImagesError`] if the shard is compressed, damaged or truncated, or has links or sparse files;
/// or the error of `visit`.
pub(super) fn for_each_file(
    shard: &Path,
    mut visit: impl FnMut(&str, &str, Span) -> Result<(), ImagesError>,
) -> Result<(), ImagesError> {
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
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let name = entry.path_bytes().into_owned();
        let name = str::from_utf8(&name).map_err(|_| {
            let name = shown_text(&String::from_utf8_lossy(&name));
            fault(
                shard,
                format!("the name `{name}` is not UTF-8: rename the file"),
            )
        })?;
        if let Some((key, ending)) = split_name(name) {
            refuse_kind(shard, &mut entry, name, kind)?;
            visit(key, ending, span)?;
        }
    }
    verify_end(
        shard,
        archive.into_inner(),
        end.next_multiple_of(BLOCK),
        len,
    )
}

/// An open shard, in which files are read.
pub(super) struct ShardReader {
    path: PathBuf,
    file: BufReader<File>,
    position: u64,
}

impl ShardReader {
    pub(super) fn open(path: &Path) -> Result<Self, ImagesError> {
        let file = File::open(path).map_err(read_error(path))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(BUFFER, file),
            position: 0,
        })
    }

    /// Reads the bytes at a place.
    ///
    /// # Errors
    /// [`ImagesError`] if the file cannot be read, or is shorter than it was.
    pub(super) fn read(&mut self, span: Span) -> Result<Vec<u8>, ImagesError> {
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

/// Compares the end of a name without case.
pub(super) fn ends_with(name: &str, ending: &str) -> bool {
    let tail = name.len().checked_sub(ending.len());
    let tail = tail.and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(ending))
}

/// Returns true for the name of a compressed shard.
pub(super) fn is_compressed(name: &str) -> bool {
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
