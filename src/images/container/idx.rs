//! MNIST's IDX files: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, plain or gzipped.
//!
//! An IDX file is a big-endian header (two zero bytes, a type, a number of dimensions, a `u32` for
//! each) before the values in row-major order. The header's claims are compared with the length of
//! the file before memory is allocated; those of a gzipped file first with the most that gzip can
//! compress, and at the end of a pass with the stream itself.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::files::{fault, read_error, refuse_split};
use super::{Container, Stored};
use crate::images::decode::{MAX_PIXELS, Rgb};
use crate::images::error::ImagesError;
use crate::images::name::{shown, shown_text};

/// The type `uint8` in a header.
const UINT8: u8 = 0x08;
/// Bytes to which deflate expands one byte at most.
const MAX_EXPANSION: u64 = 1032;
/// Bytes of a buffered read.
const BUFFER: usize = 1 << 16;
/// Spellings of the end of the images' file name, and of the labels' beside it.
const ENDINGS: [(&str, &str); 4] = [
    ("images-idx3-ubyte", "labels-idx1-ubyte"),
    ("images.idx3-ubyte", "labels.idx1-ubyte"),
    ("images-idx4-ubyte", "labels-idx1-ubyte"),
    ("images.idx4-ubyte", "labels.idx1-ubyte"),
];
/// Ending of a gzipped file's name.
const GZIP: &str = ".gz";

/// Images of an IDX file, with labels in another one.
pub(in crate::images) struct IdxImages {
    path: PathBuf,
    images: Idx,
    height: usize,
    width: usize,
    /// 1 or 3.
    channels: usize,
}

impl IdxImages {
    /// Opens a file of images `uint8 [count, height, width]`, or with 1 or 3 channels as a fourth
    /// dimension, and reads its header. In a folder, the file is that of `split`: `train` stands
    /// for `train-images-idx3-ubyte`, `test` for `t10k-images-idx3-ubyte`; each may end in `.gz`.
    /// Without a split, it is the only one.
    ///
    /// # Errors
    /// [`ImagesError`] if there is no such file, or it is not an IDX file of images, or has another
    /// length than its header states.
    pub(in crate::images) fn open(path: &Path, split: Option<&str>) -> Result<Self, ImagesError> {
        let metadata = std::fs::metadata(path).map_err(read_error(path))?;
        let path = match split {
            Some(split) if metadata.is_dir() => of_split(path, split)?,
            None if metadata.is_dir() => only_one(path)?,
            split => {
                refuse_split(path, split)?;
                path.to_owned()
            }
        };
        let images = Idx::open(&path)?;
        let (height, width, channels) = match images.dimensions.as_slice() {
            [_, height, width] => (*height, *width, 1),
            [_, height, width, channels @ (1 | 3)] => (*height, *width, *channels),
            other => {
                return Err(fault(
                    &path,
                    format!(
                        "an array of shape {other:?}: expected images, `[count, height, width]` \
                         or `[count, height, width, 3]`"
                    ),
                ));
            }
        };
        let area = u64::from(height) * u64::from(width);
        if area == 0 || area > MAX_PIXELS {
            return Err(fault(
                &path,
                format!("images of {height}x{width} pixels: expected 1 to {MAX_PIXELS} pixels"),
            ));
        }
        Ok(Self {
            path,
            images,
            height: height as usize,
            width: width as usize,
            channels: channels as usize,
        })
    }
}

impl Container for IdxImages {
    fn len(&self) -> usize {
        self.images.count()
    }

    fn name(&self, index: usize) -> String {
        format!("{}: image {index}", shown(&self.path))
    }

    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        let path = labels_beside(&self.path)?;
        let mut labels = Idx::open(&path)?;
        let (images, found) = (self.images.count(), labels.dimensions.as_slice());
        if found.len() != 1 || labels.count() != images {
            return Err(fault(
                &path,
                format!(
                    "an array of shape {found:?}: expected {images} labels, one for each image"
                ),
            ));
        }
        let mut values = Vec::new();
        labels.rewind()?;
        labels.read_to(&mut values, images as u64)?;
        labels.end()?;
        values
            .iter()
            .for_each(|value| take(Some(&value.to_string())));
        Ok(())
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        Err(fault(
            &self.path,
            "IDX files name no clients: expected images in a folder, Parquet files, tar shards or \
             an .npz file, or no data.clients"
                .to_owned(),
        ))
    }

    fn stored_len(&self, _index: usize) -> u64 {
        3 * self.height as u64 * self.width as u64
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        let len = (self.height * self.width * self.channels) as u64;
        let mut images = Vec::with_capacity(indices.len());
        for index in indices {
            self.images.go_to(*index as u64 * len)?;
            let mut pixels = Vec::new();
            self.images.read_to(&mut pixels, len)?;
            if self.channels == 1 {
                let mut rgb = Vec::with_capacity(3 * pixels.len());
                for value in pixels {
                    rgb.extend_from_slice(&[value; 3]);
                }
                pixels = rgb;
            }
            images.push(Stored::Pixels(Rgb {
                pixels,
                height: self.height,
                width: self.width,
            }));
        }
        Ok(images)
    }

    fn end(&mut self) -> Result<(), ImagesError> {
        self.images.end()
    }
}

/// An IDX file of `uint8` that is read once from the beginning to the end.
struct Idx {
    path: PathBuf,
    /// At least one.
    dimensions: Vec<u32>,
    /// Bytes before the values.
    header_len: u64,
    /// Bytes of the values; the header's claim.
    data_len: u64,
    stream: Stream,
    /// Values that were read since the header.
    position: u64,
}

enum Stream {
    Plain(BufReader<File>),
    /// Boxed because the state of the decoder is large.
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

impl Idx {
    /// Opens a file, detects gzip by its first bytes, and reads the header.
    fn open(path: &Path) -> Result<Self, ImagesError> {
        let failed = read_error(path);
        let mut file = File::open(path).map_err(&failed)?;
        let file_len = file.metadata().map_err(&failed)?.len();
        let mut magic = Vec::new();
        (&mut file)
            .take(2)
            .read_to_end(&mut magic)
            .and_then(|_| file.seek(SeekFrom::Start(0)))
            .map_err(&failed)?;
        let gzip = magic == [0x1f, 0x8b];
        let file = BufReader::with_capacity(BUFFER, file);
        let mut stream = if gzip {
            Stream::Gzip(Box::new(MultiGzDecoder::new(file)))
        } else {
            Stream::Plain(file)
        };
        let not_idx = || {
            fault(
                path,
                "not an IDX file of bytes: expected the header `00 00 08` and the number of \
                 dimensions, as in train-images-idx3-ubyte"
                    .to_owned(),
            )
        };
        let mut magic = [0; 4];
        let mut header = |buffer: &mut [u8]| match stream.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(not_idx()),
            Err(error) => Err(stream_error(path, error)),
        };
        header(&mut magic)?;
        let [0, 0, UINT8, rank @ 1..=4] = magic else {
            return Err(not_idx());
        };
        let mut dimensions = Vec::new();
        for _ in 0..rank {
            let mut dimension = [0; 4];
            header(&mut dimension)?;
            dimensions.push(u32::from_be_bytes(dimension));
        }
        let header_len = 4 + 4 * u64::from(rank);
        let claimed = dimensions
            .iter()
            .try_fold(1u64, |product, side| product.checked_mul(u64::from(*side)));
        let (least, most) = if gzip {
            (0, file_len.saturating_mul(MAX_EXPANSION))
        } else {
            let len = file_len.saturating_sub(header_len);
            (len, len)
        };
        let data_len = claimed
            .filter(|claimed| (least..=most).contains(claimed))
            .ok_or_else(|| {
                fault(
                    path,
                    format!(
                        "its header states an array of shape {dimensions:?}, which a file of \
                         {file_len} bytes cannot be: expected a whole file"
                    ),
                )
            })?;
        Ok(Self {
            path: path.to_owned(),
            dimensions,
            header_len,
            data_len,
            stream,
            position: 0,
        })
    }

    fn count(&self) -> usize {
        self.dimensions.first().map_or(0, |count| *count as usize)
    }

    /// Goes back to the first value.
    fn rewind(&mut self) -> Result<(), ImagesError> {
        if self.position > 0 {
            let fresh = Self::open(&self.path)?;
            if fresh.dimensions != self.dimensions {
                return Err(fault(
                    &self.path,
                    "it was changed while it was read: expected the same images".to_owned(),
                ));
            }
            *self = fresh;
        }
        Ok(())
    }

    /// Goes to the value `position`: forward by skipping, backward by beginning anew.
    fn go_to(&mut self, position: u64) -> Result<(), ImagesError> {
        if position < self.position {
            self.rewind()?;
        }
        let skipped = position.saturating_sub(self.position);
        if skipped > 0 {
            let moved = match &mut self.stream {
                Stream::Plain(file) => match i64::try_from(skipped) {
                    Ok(offset) => file.seek_relative(offset).map(|()| skipped),
                    Err(_) => Ok(0),
                },
                Stream::Gzip(stream) => io::copy(&mut stream.take(skipped), &mut io::sink()),
            };
            let moved = moved.map_err(|error| stream_error(&self.path, error))?;
            self.position += moved;
            if moved < skipped {
                return Err(self.truncated());
            }
        }
        Ok(())
    }

    /// Appends the next `len` values.
    fn read_to(&mut self, values: &mut Vec<u8>, len: u64) -> Result<(), ImagesError> {
        let read = (&mut self.stream)
            .take(len)
            .read_to_end(values)
            .map_err(|error| stream_error(&self.path, error))? as u64;
        self.position += read;
        if read < len {
            return Err(self.truncated());
        }
        Ok(())
    }

    /// Reads what is left, and verifies that nothing follows; the checksum of gzip with it.
    fn end(&mut self) -> Result<(), ImagesError> {
        self.go_to(self.data_len)?;
        let mut next = [0];
        match self.stream.read(&mut next) {
            Ok(0) => Ok(()),
            Ok(_) => Err(fault(
                &self.path,
                format!(
                    "longer than its header states: expected {} bytes before compression",
                    self.header_len + self.data_len
                ),
            )),
            Err(error) => Err(stream_error(&self.path, error)),
        }
    }

    fn truncated(&self) -> ImagesError {
        fault(
            &self.path,
            format!(
                "truncated: it ends after {} bytes, expected {} (before compression)",
                self.header_len + self.position,
                self.header_len + self.data_len
            ),
        )
    }
}

/// Finds the images of a split in a folder. The plain file goes before the gzipped one.
fn of_split(folder: &Path, split: &str) -> Result<PathBuf, ImagesError> {
    // MNIST's 10,000 test images are called `t10k`.
    let prefix = if split == "test" { "t10k" } else { split };
    for (ending, _) in ENDINGS {
        for gzip in ["", GZIP] {
            let path = folder.join(format!("{prefix}-{ending}{gzip}"));
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    Err(fault(
        folder,
        format!(
            "no images of the split `{split}`: expected {prefix}-images-idx3-ubyte or \
             {prefix}-images-idx3-ubyte.gz"
        ),
    ))
}

/// Finds the only file of images in a folder; it may be there both plain and gzipped.
fn only_one(folder: &Path) -> Result<PathBuf, ImagesError> {
    let failed = read_error(folder);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let stem = name.strip_suffix(GZIP).unwrap_or(name);
        if ENDINGS.iter().any(|(ending, _)| stem.ends_with(ending)) && path.is_file() {
            found.push((stem.to_owned(), path));
        }
    }
    found.sort();
    let first = found.first().cloned();
    match first {
        Some((stem, path)) if found.iter().all(|(other, _)| *other == stem) => Ok(path),
        Some(_) => {
            let names: Vec<String> = found.iter().map(|(name, _)| shown_text(name)).collect();
            Err(fault(
                folder,
                format!(
                    "images of several splits ({}): expected data.split, such as \"train\"",
                    names.join(", ")
                ),
            ))
        }
        None => Err(fault(
            folder,
            "no images: expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
        )),
    }
}

/// Finds the labels that belong to a file of images: the same name with `labels-idx1`, gzipped or
/// not.
fn labels_beside(path: &Path) -> Result<PathBuf, ImagesError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let (stem, first, second) = match name.strip_suffix(GZIP) {
        Some(stem) => (stem, GZIP, ""),
        None => (name, "", GZIP),
    };
    let labels = ENDINGS.iter().find_map(|(images, labels)| {
        let prefix = stem.strip_suffix(images)?;
        Some(format!("{prefix}{labels}"))
    });
    let Some(labels) = labels else {
        return Err(fault(
            path,
            "the file of its labels cannot be named: expected images in a file named as \
             train-images-idx3-ubyte, with labels in train-labels-idx1-ubyte beside it"
                .to_owned(),
        ));
    };
    for gzip in [first, second] {
        let path = path.with_file_name(format!("{labels}{gzip}"));
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(fault(
        path,
        format!("its labels are missing: expected {labels}{first} beside it"),
    ))
}

/// Tells a damaged gzip stream from a failure to read.
fn stream_error(path: &Path, error: io::Error) -> ImagesError {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof => fault(
            path,
            "a damaged or truncated gzip file: expected a whole file with a right checksum"
                .to_owned(),
        ),
        _ => read_error(path)(error),
    }
}

#[cfg(test)]
#[path = "idx_tests.rs"]
mod tests;
