//! Reads untrusted archives.
//!
//! No path on disk is derived from a name in an archive. The reader passes each entry to a
//! callback, with a validated name and a bounded number of bytes, and the callback decides what it
//! writes. An archive with a link, a device, a name outside of its root or more bytes than allowed
//! is refused as a whole. Written here because the extraction of the `tar` and `zip` crates follows
//! the archive.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::error::FetchError;
use crate::progress::{Progress, Unit};

/// Longest name of an entry in bytes, and largest header that may hold one: the limit of Linux
/// paths.
const MAX_NAME: u64 = 4096;

/// A regular file of an archive.
pub(super) struct ArchiveEntry<'r> {
    /// Name: components separated by `/`, none of them `.` or `..`.
    pub(super) name: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// Stream of its bytes.
    bytes: &'r mut dyn Read,
}

impl ArchiveEntry<'_> {
    /// Reads all bytes, at most `limit`.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) fn read(&mut self, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.size > limit {
            let (name, size) = (&self.name, self.size);
            return Err(ArchiveError::Invalid(format!(
                "{name} has {size} bytes, expected at most {limit}"
            )));
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        (&mut *self.bytes)
            .take(self.size)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::of)?;
        if bytes.len() as u64 != self.size {
            return Err(ArchiveError::Truncated);
        }
        Ok(bytes)
    }
}

/// Error of reading an archive.
pub(super) enum ArchiveError {
    /// The archive ends too early.
    Truncated,
    /// The archive is damaged or has unexpected content.
    Invalid(String),
    /// The error is unrelated to the content of the archive.
    Ours(FetchError),
}

impl From<FetchError> for ArchiveError {
    fn from(error: FetchError) -> Self {
        Self::Ours(error)
    }
}

impl ArchiveError {
    /// Classifies an error of the reader.
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                Self::Invalid(format!("is damaged: {error}"))
            }
            _ => Self::Invalid(format!("cannot be read: {error}")),
        }
    }

    /// Adds the path of the archive.
    pub(super) fn about(self, path: &Path) -> FetchError {
        match self {
            Self::Truncated => FetchError::Truncated {
                path: path.to_owned(),
            },
            Self::Invalid(message) => FetchError::archive(path, message),
            Self::Ours(error) => error,
        }
    }
}

/// Passes every regular file of a `.tar.gz` to `take`, in the order of the archive, until `take`
/// returns `Break`. `limit` bounds the unpacked size of the archive in bytes.
///
/// # Errors
/// [`ArchiveError`], from the archive or from `take`.
pub(super) fn for_each_file(
    path: &Path,
    limit: u64,
    progress: &dyn Progress,
    take: &mut dyn FnMut(&mut ArchiveEntry<'_>) -> Result<ControlFlow<()>, ArchiveError>,
) -> Result<(), ArchiveError> {
    let failed = FetchError::io(path);
    let file = File::open(path).map_err(&failed)?;
    let size = file.metadata().map_err(&failed)?.len();
    let done = AtomicU64::new(0);
    let counted = Counted { file, done: &done };
    let unpacked = Bounded {
        inner: MultiGzDecoder::new(BufReader::with_capacity(1 << 17, counted)),
        left: limit,
        limit,
    };
    progress.begin(
        &format!("unpacking {}", super::download::file_name(path)),
        Some(size),
        Unit::Bytes,
    );
    let result = for_each_entry(
        unpacked,
        &|| progress.advance(done.load(Ordering::Relaxed)),
        take,
    );
    progress.end();
    result
}

pub(super) fn for_each_entry(
    unpacked: impl Read,
    advance: &dyn Fn(),
    take: &mut dyn FnMut(&mut ArchiveEntry<'_>) -> Result<ControlFlow<()>, ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(unpacked);
    // Raw: long names are handed out as entries of their own, whose length we bound, and sparse
    // files, which could be of any size, are not put together.
    let entries = archive.entries().map_err(ArchiveError::of)?.raw(true);
    let mut long_name = None;
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::of)?;
        advance();
        let size = entry.header().entry_size().map_err(ArchiveError::of)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                long_name = None;
            }
            EntryType::XGlobalHeader => {}
            EntryType::GNULongName => {
                let mut name = header(&mut entry, size)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                long_name = Some(name);
            }
            EntryType::XHeader => {
                let records = header(&mut entry, size)?;
                if let Some(name) = pax_name(&records)? {
                    long_name = Some(name);
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let name = match long_name.take() {
                    Some(name) => name,
                    None => entry.path_bytes().into_owned(),
                };
                let name = plain_name(&name)?;
                let mut found = ArchiveEntry {
                    name,
                    size,
                    bytes: &mut entry,
                };
                if take(&mut found)?.is_break() {
                    return Ok(());
                }
            }
            other => {
                let name = long_name
                    .take()
                    .unwrap_or_else(|| entry.path_bytes().into_owned());
                return Err(ArchiveError::Invalid(format!(
                    "{} is {}: only files and folders are expected",
                    shown(&name),
                    kind(other)
                )));
            }
        }
    }
    // To the end, so that the compression's own checksum is looked at.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ArchiveError::of)?;
    Ok(())
}

/// Reads an entry that describes the next entry.
fn header(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    let wrong = || ArchiveError::Invalid(format!("a name or header of {size} bytes"));
    if size > MAX_NAME {
        return Err(wrong());
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ArchiveError::of)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(ArchiveError::Truncated),
    }
}

/// Returns the `path` of pax records; a record is `<length> <key>=<value>\n`.
fn pax_name(mut records: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
    let wrong = || ArchiveError::Invalid("an extended header that is none".to_owned());
    let mut name = None;
    while !records.is_empty() {
        let space = records.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
        let digits = records.get(..space).unwrap_or_default();
        let length: usize = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(wrong)?;
        let record = records.get(space + 1..length).ok_or_else(wrong)?;
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
        let (key, value) = record.split_at_checked(equals).ok_or_else(wrong)?;
        match key {
            b"path" => name = value.get(1..).map(<[u8]>::to_vec),
            // They would contradict the plain header, by which we go.
            b"size" | b"linkpath" => {
                return Err(ArchiveError::Invalid(format!(
                    "an extended header with {}",
                    shown(key)
                )));
            }
            key if key.starts_with(b"GNU.sparse") => {
                return Err(ArchiveError::Invalid("a sparse file".to_owned()));
            }
            _ => {}
        }
        records = records.get(length..).unwrap_or_default();
    }
    Ok(name)
}

/// Validates a name: removes `.` components, and refuses names outside of the archive's root.
fn plain_name(name: &[u8]) -> Result<String, ArchiveError> {
    let refused = || ArchiveError::Invalid(format!("the name {} leads out of it", shown(name)));
    let text = std::str::from_utf8(name).map_err(|_| refused())?;
    let sly = |c: char| c == '\\' || c == ':' || c.is_control();
    if text.starts_with('/') || text.contains(sly) || name.len() as u64 > MAX_NAME {
        return Err(refused());
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(refused());
    }
    Ok(parts.join("/"))
}

/// Formats a name for a terminal.
fn shown(name: &[u8]) -> String {
    let text = crate::net::single_line(&String::from_utf8_lossy(name));
    crate::net::truncate(format!("`{text}`"))
}

fn kind(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => "a link",
        EntryType::Char | EntryType::Block | EntryType::Fifo => "a device",
        EntryType::GNUSparse => "a sparse file",
        _ => "of an unknown kind",
    }
}

/// Reader that counts the compressed bytes.
struct Counted<'d> {
    file: File,
    done: &'d AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Reader that fails after a number of bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it unpacks to more than {} bytes", self.limit),
                ));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::progress::Silent;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;
    use tar::{Builder, Header};

    /// A `.tar.gz` with what `fill` puts into it.
    pub(in crate::fetch) fn packed(fill: impl FnOnce(&mut Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
        let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        fill(&mut builder);
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// Appends a file.
    pub(in crate::fetch) fn add<W: Write>(builder: &mut Builder<W>, name: &str, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }

    /// A header with whatever name and kind, which no decent tool would write.
    fn odd(builder: &mut Builder<GzEncoder<Vec<u8>>>, name: &[u8], kind: EntryType, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }

    fn read(bytes: &[u8], limit: u64) -> Result<Vec<(String, Vec<u8>)>, FetchError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut all = Vec::new();
        for_each_file(file.path(), limit, &Silent, &mut |found| {
            let bytes = found.read(1 << 20)?;
            all.push((found.name.clone(), bytes));
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|problem| problem.about(file.path()))?;
        Ok(all)
    }

    fn status_error(bytes: &[u8], limit: u64) -> String {
        read(bytes, limit).unwrap_err().to_string()
    }

    #[test]
    fn files_come_out_under_their_names() {
        let long = format!("{}/b.png", "a".repeat(150));
        let bytes = packed(|builder| {
            builder
                .append_pax_extensions([("comment", "x".as_bytes()), ("path", b"./c/d.png")])
                .unwrap();
            add(builder, "ignored", b"pax");
            add(builder, &long, b"long");
            add(builder, "./e", b"");
        });
        let expected = [("c/d.png", "pax"), (&*long, "long"), ("e", "")]
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        assert_eq!(read(&bytes, 1 << 20).unwrap(), expected);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in [
            "../a",
            "a/../../b",
            "/etc/a",
            "..",
            ".",
            "C:\\a",
            "a\\..\\b",
            "a\u{1b}[2J",
        ] {
            let bytes = packed(|builder| odd(builder, name.as_bytes(), EntryType::Regular, b"x"));
            let text = status_error(&bytes, 1 << 20);
            assert!(
                text.contains("leads out") && !text.contains('\u{1b}'),
                "{name}: {text}"
            );
            let long = packed(|builder| {
                odd(
                    builder,
                    b"././@LongLink",
                    EntryType::GNULongName,
                    name.as_bytes(),
                );
                odd(builder, b"harmless", EntryType::Regular, b"x");
            });
            assert!(status_error(&long, 1 << 20).contains("leads out"), "{name}");
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        for (kind, word) in [
            (EntryType::Symlink, "a link"),
            (EntryType::Link, "a link"),
            (EntryType::GNULongLink, "a link"),
            (EntryType::Char, "a device"),
            (EntryType::Block, "a device"),
            (EntryType::Fifo, "a device"),
            (EntryType::GNUSparse, "a sparse file"),
            (EntryType::new(b'Q'), "unknown kind"),
        ] {
            let bytes = packed(|builder| odd(builder, b"metadata.csv", kind, b""));
            let text = status_error(&bytes, 1 << 20);
            assert!(
                text.contains(word) && text.contains("metadata.csv"),
                "{text}"
            );
        }
        let sparse = packed(|builder| {
            let records = [("GNU.sparse.major", "1".as_bytes())];
            builder.append_pax_extensions(records).unwrap();
            add(builder, "a", b"x");
        });
        assert!(status_error(&sparse, 1 << 20).contains("sparse"));
    }

    #[test]
    fn bombs_are_refused() {
        // 64 MB of zeros are less than one.
        let bytes = packed(|builder| add(builder, "a", &vec![0; 1 << 26]));
        assert!(bytes.len() < 1 << 20);
        // What nobody takes is unpacked too, to be passed over.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let passed_over = for_each_file(file.path(), 1 << 20, &Silent, &mut |_| {
            Ok(ControlFlow::Continue(()))
        });
        let refusal_of_it = passed_over.map_err(|problem| problem.about(file.path()));
        assert!(refusal_of_it.unwrap_err().to_string().contains("more than"));
        // The length is in the header before a byte is read.
        assert!(status_error(&bytes, 1 << 30).contains("expected at most"));
        let skipped = packed(|builder| {
            odd(
                builder,
                b"././@LongLink",
                EntryType::GNULongName,
                &vec![b'a'; 1 << 20],
            );
        });
        assert!(status_error(&skipped, 1 << 30).contains("a name or header of"));
    }

    #[test]
    fn truncated_and_damaged_archives_say_so() {
        let noise: Vec<u8> = (0..100_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let bytes = packed(|builder| {
            add(builder, "a", &noise);
            add(builder, "b", b"more");
        });
        for cut in [11, 1000, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
            let text = status_error(&bytes[..cut], 1 << 20);
            assert!(text.contains("ends too early"), "{cut}: {text}");
        }
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        assert!(status_error(&flipped, 1 << 20).contains("damaged"));
        let mut wrong_sum = bytes.clone();
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        assert!(status_error(&wrong_sum, 1 << 20).contains("damaged"));
        assert!(status_error(b"no archive at all", 1 << 20).contains("damaged"));
        assert!(status_error(b"", 1 << 20).contains("ends too early"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_accepted_name_is_below(name in "[./a:\\\\]{0,12}") {
            if let Ok(name) = plain_name(name.as_bytes()) {
                let all = std::path::Path::new(&name).components();
                prop_assert!(all.clone().count() > 0);
                prop_assert!(all.into_iter().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
