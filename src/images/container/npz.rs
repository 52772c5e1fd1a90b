//! Images in an `.npz` file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::{Container, Stored};
use crate::images::decode::Rgb;
use crate::images::error::ImagesError;
use crate::images::name::shown;
use crate::images::npz::{EntryPlace, NpzError};
use crate::images::samples::{ImageArray, SamplesReader};

/// The images of an `.npz` file, in the order of the array.
pub(in crate::images) struct NpzImages {
    path: PathBuf,
    reader: SamplesReader<BufReader<File>>,
    array: ImageArray,
    place: EntryPlace,
    stream: Option<Stream>,
}

/// The array as it is read from the beginning to the end.
struct Stream {
    bytes: Box<dyn Read + Send>,
    crc: Crc,
    /// Index of the next image.
    next: usize,
}

impl NpzImages {
    /// Opens a file and reads the header of its images: those of `split`, if there is one.
    ///
    /// # Errors
    /// [`ImagesError::Npz`].
    pub(in crate::images) fn open(path: &Path, split: Option<&str>) -> Result<Self, ImagesError> {
        let failed = |cause| npz_error(path, cause);
        let mut reader = SamplesReader::open_split(path, split).map_err(failed)?;
        let place = reader.place().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            array: reader.array(),
            place,
            reader,
            stream: None,
        })
    }

    fn begin(&self) -> io::Result<Stream> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.place.start))?;
        let file = BufReader::with_capacity(1 << 16, file.take(self.place.stored_len));
        let bytes: Box<dyn Read + Send> = match self.place.deflated {
            true => Box::new(DeflateDecoder::new(file)),
            false => Box::new(file),
        };
        let mut stream = Stream {
            bytes,
            crc: Crc::new(),
            next: 0,
        };
        stream.skip(self.array.header_len as u64)?;
        Ok(stream)
    }

    fn read_at(&self, stream: &mut Stream, index: usize) -> io::Result<Rgb> {
        let array = &self.array;
        let skipped = index.saturating_sub(stream.next) as u64;
        stream.skip(skipped * array.stored_len() as u64)?;
        let mut bytes = vec![0; array.stored_len()];
        stream.bytes.read_exact(&mut bytes)?;
        stream.crc.update(&bytes);
        stream.next = index + 1;
        Ok(Rgb {
            pixels: array.to_rgb(bytes),
            height: array.height,
            width: array.width,
        })
    }
}

impl Stream {
    /// Reads bytes for the checksum only.
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 1 << 13];
        while count > 0 {
            let now = usize::try_from(count).map_or(buffer.len(), |n| n.min(buffer.len()));
            let part = buffer.get_mut(..now).unwrap_or_default();
            self.bytes.read_exact(part)?;
            self.crc.update(part);
            count -= now as u64;
        }
        Ok(())
    }
}

impl Container for NpzImages {
    fn len(&self) -> usize {
        self.array.count
    }

    fn name(&self, index: usize) -> String {
        format!("{}: image {index}", shown(&self.path))
    }

    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError> {
        let labels = self.reader.labels();
        let labels = labels.map_err(|cause| npz_error(&self.path, cause))?;
        labels
            .iter()
            .for_each(|label| take(Some(&label.to_string())));
        Ok(())
    }

    fn clients(&mut self) -> Result<Vec<String>, ImagesError> {
        let clients = self.reader.clients();
        let clients = clients.map_err(|cause| npz_error(&self.path, cause))?;
        Ok(clients.iter().map(i64::to_string).collect())
    }

    fn stored_len(&self, _: usize) -> u64 {
        (self.array.height * self.array.width * 3) as u64
    }

    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError> {
        let failed = |error: io::Error| npz_error(&self.path, error.into());
        let first = indices.first().copied().unwrap_or_default();
        let mut stream = match self.stream.take() {
            Some(stream) if stream.next <= first => stream,
            _ => self.begin().map_err(failed)?,
        };
        let read = indices.iter().map(|index| {
            let image = self.read_at(&mut stream, *index);
            image.map(Stored::Pixels).map_err(failed)
        });
        let images = read.collect::<Result<_, _>>()?;
        self.stream = Some(stream);
        Ok(images)
    }

    fn end(&mut self) -> Result<(), ImagesError> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        let left = self.array.count.saturating_sub(stream.next) as u64;
        let rest = stream.skip(left * self.array.stored_len() as u64);
        rest.map_err(|error| npz_error(&self.path, error.into()))?;
        match stream.crc.sum() == self.place.crc32 {
            true => Ok(()),
            false => Err(npz_error(&self.path, NpzError::Checksum)),
        }
    }
}

fn npz_error(path: &Path, cause: NpzError) -> ImagesError {
    ImagesError::Npz {
        path: path.to_owned(),
        cause,
    }
}
