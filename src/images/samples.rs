//! Images in `.npz` files, streamed: memory grows with one batch, not with the number of images.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::batch::{BatchError, ImageBatch};
use super::clients::CLIENTS;
use super::npy::{Header, Kind};
use super::npz::{EntryPlace, NpzError, NpzReader, NpzWriter, invalid, unexpected};

/// Accepted names of the images, in order of precedence: those of this program and the reference
/// implementation, of MedMNIST, and of a result folder.
pub const IMAGE_KEYS: [&str; 3] = ["images", "train_images", "samples"];
/// Accepted names of the labels, in order of precedence.
pub const LABEL_KEYS: [&str; 2] = ["labels", "train_labels"];
/// Name of written images.
pub const SAMPLES_KEY: &str = "samples";

/// An array of images: its shape, and the length of its header.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageArray {
    /// Number of images.
    pub(super) count: usize,
    /// Rows of each image.
    pub(super) height: usize,
    /// Columns of each image.
    pub(super) width: usize,
    /// Channels in the file: 1 or 3.
    channels: usize,
    /// Bytes of the header.
    pub(super) header_len: usize,
}

impl ImageArray {
    /// Returns the size of one image in the file in bytes.
    pub(super) fn stored_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Converts the bytes of images in the file to RGB.
    pub(super) fn to_rgb(self, bytes: Vec<u8>) -> Vec<u8> {
        match self.channels {
            3 => bytes,
            _ => bytes.iter().flat_map(|gray| [*gray; 3]).collect(),
        }
    }

    fn batch(self, bytes: Vec<u8>, count: usize) -> Result<ImageBatch, NpzError> {
        Ok(ImageBatch::new(
            self.to_rgb(bytes),
            count,
            self.height,
            self.width,
        )?)
    }
}

/// Reads images from an `.npz`: `uint8 [N, H, W, 3]`, or grayscale `[N, H, W, 1]` or `[N, H, W]`,
/// which become RGB.
pub struct SamplesReader<R> {
    npz: NpzReader<R>,
    /// Names of the images, and accepted names of the labels.
    key: String,
    label_keys: Vec<String>,
    array: ImageArray,
}

impl SamplesReader<BufReader<File>> {
    /// Opens a file and reads the header of its images.
    ///
    /// # Errors
    /// [`NpzError`] if there are no images, or they are not `uint8` in C order.
    pub fn open(path: &Path) -> Result<Self, NpzError> {
        Self::new(NpzReader::open(path)?)
    }

    /// Opens a file with the images of several splits, such as `train_images` and `test_images`;
    /// without a split, like [`SamplesReader::open`].
    ///
    /// # Errors
    /// As [`SamplesReader::open`].
    pub(super) fn open_split(path: &Path, split: Option<&str>) -> Result<Self, NpzError> {
        let npz = NpzReader::open(path)?;
        match split {
            None => Self::new(npz),
            Some(split) => {
                let keys = ["images", "labels"].map(|name| vec![format!("{split}_{name}")]);
                Self::with_keys(npz, keys)
            }
        }
    }
}

impl<R: Read + Seek> SamplesReader<R> {
    /// Reads the header of the images in an open archive.
    ///
    /// # Errors
    /// As [`SamplesReader::open`].
    pub fn new(npz: NpzReader<R>) -> Result<Self, NpzError> {
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        Self::with_keys(npz, [owned(&IMAGE_KEYS), owned(&LABEL_KEYS)])
    }

    /// Reads the header of the first of the images; the keys are those of images and of labels.
    fn with_keys(
        mut npz: NpzReader<R>,
        [images, labels]: [Vec<String>; 2],
    ) -> Result<Self, NpzError> {
        let names: Vec<&str> = images.iter().map(String::as_str).collect();
        let key = npz.first_of(&names)?.to_owned();
        let (header, _) = npz.entry(&key)?;
        let (count, height, width, channels) = match header.shape[..] {
            // One color image, or three images of no columns.
            [height, width, 3] => return Err(ambiguous(&key, &header, height, width)),
            [count, height, width] => (count, height, width, 1),
            [count, height, width, channels @ (1 | 3)] => (count, height, width, channels),
            _ => return Err(wrong_shape(&key, &header)),
        };
        let fits = header.dtype.kind == Kind::Unsigned
            && header.dtype.bytes == 1
            && !header.fortran_order
            && height > 0
            && width > 0;
        if !fits {
            return Err(wrong_shape(&key, &header));
        }
        Ok(Self {
            array: ImageArray {
                count,
                height,
                width,
                channels,
                header_len: header.bytes().len(),
            },
            npz,
            key,
            label_keys: labels,
        })
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.array.count
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.array.count == 0
    }

    /// Returns the rows of each image.
    #[must_use]
    pub fn height(&self) -> usize {
        self.array.height
    }

    /// Returns the columns of each image.
    #[must_use]
    pub fn width(&self) -> usize {
        self.array.width
    }

    /// Reads the images in `range`, clamped to the file. In an uncompressed file, as written by
    /// this program, only these images are read; otherwise everything before them is decompressed.
    /// The checksum is not verified: see [`SamplesReader::verify`].
    ///
    /// # Errors
    /// [`NpzError`] if the file is damaged or cannot be read.
    pub fn read(&mut self, range: Range<usize>) -> Result<ImageBatch, NpzError> {
        let end = range.end.min(self.array.count);
        let start = range.start.min(end);
        let stored = self.array.stored_len();
        // In `u64`, which the header's length was checked to fit.
        let skip = start as u64 * stored as u64;
        let mut bytes = Vec::new();
        let wanted = (end - start) as u64 * stored as u64;
        if let Some(mut file) = self.npz.seekable(&self.key)? {
            Header::read(&mut file).map_err(invalid(&self.key))?;
            file.seek(SeekFrom::Current(i64::try_from(skip).map_err(too_far)?))?;
            file.take(wanted).read_to_end(&mut bytes)?;
        } else {
            let (_, mut file) = self.npz.entry(&self.key)?;
            io::copy(&mut file.by_ref().take(skip), &mut io::sink())?;
            file.take(wanted).read_to_end(&mut bytes)?;
        }
        self.array.batch(bytes, end - start)
    }

    /// Reads all images and verifies the checksum.
    ///
    /// # Errors
    /// [`NpzError`] if the file is damaged or cannot be read.
    pub fn verify(&mut self) -> Result<(), NpzError> {
        let (_, mut file) = self.npz.entry(&self.key)?;
        io::copy(&mut file, &mut io::sink())?;
        Ok(())
    }

    /// Passes the first `limit` images to `take`, `batch_size` at a time. If these are all images,
    /// the checksum is verified at the end.
    ///
    /// # Errors
    /// `fail` of an [`NpzError`] when the file is damaged or cannot be read; whatever `take`
    /// returns.
    pub fn for_each_batch<E>(
        &mut self,
        limit: usize,
        batch_size: usize,
        fail: impl Fn(NpzError) -> E,
        mut take: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let stored = self.array.stored_len();
        let array = self.array;
        let count = array.count;
        let (_, mut file) = self.npz.entry(&self.key).map_err(&fail)?;
        let mut left = limit.min(count);
        while left > 0 {
            let now = batch_size.clamp(1, left);
            let mut bytes = Vec::new();
            file.by_ref()
                .take(now as u64 * stored as u64)
                .read_to_end(&mut bytes)
                .map_err(|error| fail(error.into()))?;
            take(array.batch(bytes, now).map_err(&fail)?)?;
            left -= now;
        }
        if limit >= count {
            // Nothing is left to read but the end, where the checksum is compared.
            io::copy(&mut file, &mut io::sink()).map_err(|error| fail(error.into()))?;
        }
        Ok(())
    }

    /// Returns the reader of the other arrays.
    pub fn arrays(&mut self) -> &mut NpzReader<R> {
        &mut self.npz
    }

    /// Reads the labels, `[N]` or `[N, 1]`, under one of [`LABEL_KEYS`].
    ///
    /// # Errors
    /// [`NpzError`] if there are none, or not one per image.
    pub fn labels(&mut self) -> Result<Vec<i64>, NpzError> {
        let names: Vec<&str> = self.label_keys.iter().map(String::as_str).collect();
        let key = self.npz.first_of(&names)?.to_owned();
        self.numbers(&key, "label")
    }

    /// Reads the client of each image, `[N]` or `[N, 1]`, under [`CLIENTS`].
    ///
    /// # Errors
    /// [`NpzError`] if there are none, or not one per image.
    pub fn clients(&mut self) -> Result<Vec<i64>, NpzError> {
        self.numbers(CLIENTS, "client")
    }

    /// Reads one number for each image.
    fn numbers(&mut self, key: &str, meaning: &str) -> Result<Vec<i64>, NpzError> {
        let (shape, numbers) = self.npz.i64s(key)?;
        let fits = matches!(shape[..], [_] | [_, 1]) && numbers.len() == self.array.count;
        if !fits {
            let several = matches!(shape[..], [count, _] if count == self.array.count);
            return Err(NpzError::Array {
                key: key.to_owned(),
                found: format!("{shape:?}"),
                expected: match several {
                    true => format!(
                        "one {meaning} for each image, [{0}] or [{0}, 1]: these are several for \
                         each image, of which one must be chosen and written, because an image \
                         votes in one class",
                        self.array.count
                    ),
                    false => format!(
                        "[{0}] or [{0}, 1], one {meaning} for each image",
                        self.array.count
                    ),
                },
            });
        }
        Ok(numbers)
    }

    /// Returns the shape of the images.
    pub(super) fn array(&self) -> ImageArray {
        self.array
    }

    /// Returns the place of the images in the file.
    ///
    /// # Errors
    /// [`NpzError`] if the file cannot be read.
    pub(super) fn place(&mut self) -> Result<EntryPlace, NpzError> {
        self.npz.place(&self.key)
    }
}

fn ambiguous(key: &str, header: &Header, height: usize, width: usize) -> NpzError {
    unexpected(
        key,
        header,
        &format!(
            "[N, H, W, 3]; this is one color image, or {height} grayscale images of {width}x3 \
             pixels: write it as [1, {height}, {width}, 3] or [{height}, {width}, 3, 1]"
        ),
    )
}

fn wrong_shape(key: &str, header: &Header) -> NpzError {
    unexpected(
        key,
        header,
        "uint8 [N, H, W, 3], [N, H, W, 1] or [N, H, W] in C order",
    )
}

fn too_far(_: std::num::TryFromIntError) -> NpzError {
    NpzError::Sequence("the file is too long".to_owned())
}

/// Writer of an `.npz` file that streams the images and then writes other arrays.
pub struct SamplesWriter<W: Write + Seek> {
    npz: NpzWriter<W>,
    height: usize,
    width: usize,
    /// Number of images that are not written yet.
    left: usize,
}

impl<W: Write + Seek> SamplesWriter<W> {
    /// Starts an archive with the key [`SAMPLES_KEY`], `uint8 [count, height, width, 3]`.
    ///
    /// # Errors
    /// [`NpzError`] if the shape is too large or writing fails.
    pub fn create(writer: W, count: usize, height: usize, width: usize) -> Result<Self, NpzError> {
        let mut npz = NpzWriter::new(writer);
        npz.start::<u8>(SAMPLES_KEY, &[count, height, width, 3])?;
        Ok(Self {
            npz,
            height,
            width,
            left: count,
        })
    }

    /// Appends images.
    ///
    /// # Errors
    /// [`NpzError::Sequence`] when they are more than announced, [`NpzError::Batch`] when they have
    /// another size; [`NpzError::Io`].
    pub fn push(&mut self, images: &ImageBatch) -> Result<(), NpzError> {
        if (images.height(), images.width()) != (self.height, self.width) {
            return Err(NpzError::Batch(BatchError::Size {
                expected_height: self.height,
                expected_width: self.width,
                found_height: images.height(),
                found_width: images.width(),
            }));
        }
        self.left = self.left.checked_sub(images.len()).ok_or_else(|| {
            NpzError::Sequence(format!(
                "{} images, expected at most {} more",
                images.len(),
                self.left
            ))
        })?;
        self.npz.write(images.data())
    }

    /// Writes `int64[N]` beside the images, once they are complete.
    ///
    /// # Errors
    /// [`NpzError::Sequence`] when images are still to come; [`NpzError`] when writing fails.
    pub fn i64s(&mut self, key: &str, values: &[i64]) -> Result<(), NpzError> {
        self.check_complete()?;
        self.npz.i64s(key, &[values.len()], values)
    }

    /// Writes `float64[shape]` beside the images, once they are complete.
    ///
    /// # Errors
    /// [`NpzError::Sequence`] when images are still to come; [`NpzError`] when `values` do not fill
    /// `shape` or writing fails.
    pub fn f64s(&mut self, key: &str, shape: &[usize], values: &[f64]) -> Result<(), NpzError> {
        self.check_complete()?;
        self.npz.f64s(key, shape, values)
    }

    /// Writes a text for each image beside the images, once they are complete.
    ///
    /// # Errors
    /// [`NpzError::Sequence`] when images are still to come; [`NpzError`] when writing fails.
    pub fn texts(&mut self, key: &str, texts: &[&str]) -> Result<(), NpzError> {
        self.check_complete()?;
        self.npz.texts(key, texts)
    }

    /// Ends the archive and gives back what it was written to, not yet flushed.
    ///
    /// # Errors
    /// [`NpzError::Sequence`] when images are still to come; [`NpzError`] when writing fails.
    pub fn finish(self) -> Result<W, NpzError> {
        self.check_complete()?;
        self.npz.finish()
    }

    fn check_complete(&self) -> Result<(), NpzError> {
        if self.left > 0 {
            let message = format!("{} images are missing", self.left);
            return Err(NpzError::Sequence(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ndarray_npy::WritableElement;
    use zip::CompressionMethod;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn images(count: usize) -> ImageBatch {
        let data = (0..count * 2 * 3 * 3)
            .map(|i| (i * 7 % 256) as u8)
            .collect();
        ImageBatch::new(data, count, 2, 3).unwrap()
    }

    fn written(count: usize) -> Vec<u8> {
        let all = images(count);
        let mut writer = SamplesWriter::create(Cursor::new(Vec::new()), count, 2, 3).unwrap();
        for start in (0..count).step_by(4) {
            writer.push(&all.slice(start..start + 4)).unwrap();
        }
        let labels: Vec<i64> = (0..count as i64).collect();
        writer.i64s("labels", &labels).unwrap();
        writer.f64s("votes", &[1, 2], &[0.25, -3.0]).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn open(bytes: Vec<u8>) -> Result<SamplesReader<Cursor<Vec<u8>>>, NpzError> {
        SamplesReader::new(NpzReader::new(Cursor::new(bytes))?)
    }

    /// An archive of one deflated array of `T`.
    fn deflated<T: WritableElement>(key: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let header = Header::of::<T>(shape).unwrap();
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(format!("{key}.npy"), options).unwrap();
        zip.write_all(header.bytes()).unwrap();
        zip.write_all(data).unwrap();
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn images_and_arrays_come_back() {
        let mut reader = open(written(10)).unwrap();
        assert_eq!((reader.len(), reader.height(), reader.width()), (10, 2, 3));
        assert!(reader.read(0..10).unwrap() == images(10));
        assert!(reader.read(8..99).unwrap() == images(10).slice(8..10));
        assert_eq!(reader.labels().unwrap(), (0..10).collect::<Vec<i64>>());
        let votes = reader.arrays().f64s("votes").unwrap();
        assert_eq!(votes, (vec![1, 2], vec![0.25, -3.0]));
        let mut all = ImageBatch::empty(2, 3);
        reader
            .for_each_batch(99, 3, |e| e, |batch| Ok(all.extend(&batch)?))
            .unwrap();
        assert!(all == images(10));
    }

    #[test]
    fn grey_and_deflated_images_become_rgb() {
        let gray: Vec<u8> = (0..24).collect();
        for shape in [vec![6, 2, 2], vec![6, 2, 2, 1]] {
            let mut reader = open(deflated::<u8>("train_images", &shape, &gray)).unwrap();
            let batch = reader.read(1..3).unwrap();
            assert_eq!(batch.data()[..6], [4, 4, 4, 5, 5, 5]);
            assert_eq!(batch.len(), 2);
        }
    }

    #[test]
    fn wrong_arrays_are_named() {
        for archive in [
            deflated::<f64>("images", &[1, 1, 1, 3], &[0; 24]),
            deflated::<u8>("images", &[1, 2, 2, 4], &[0; 16]),
            deflated::<u8>("images", &[12], &[0; 12]),
            deflated::<u8>("images", &[2, 2, 3], &[0; 12]),
            deflated::<u8>("pictures", &[1, 2, 2, 3], &[0; 12]),
        ] {
            let error = open(archive).err().unwrap();
            assert!(error.to_string().contains("images"), "{error}");
        }
    }

    #[test]
    fn a_header_that_claims_more_than_there_is_takes_no_memory() {
        let bytes = deflated::<u8>("images", &[1 << 40, 32, 32, 3], &[0; 100]);
        assert!(open(bytes).is_err());
    }

    #[test]
    fn as_many_images_as_announced() {
        let mut writer = SamplesWriter::create(Cursor::new(Vec::new()), 3, 2, 3).unwrap();
        assert!(writer.push(&images(4)).is_err());
        writer.push(&images(2)).unwrap();
        assert!(writer.i64s("labels", &[0]).is_err());
        assert!(writer.push(&ImageBatch::empty(3, 3)).is_err());
        assert!(writer.finish().is_err());
    }

    #[test]
    fn damage_is_noticed_at_the_end() {
        let mut bytes = written(10);
        // Local header (30 bytes and the name), then the array's header of 128 bytes.
        bytes[30 + "samples.npy".len() + 128 + 5] ^= 1;
        let mut reader = open(bytes).unwrap();
        let result = reader.for_each_batch(10, 4, |e| e, |_| Ok(()));
        assert!(result.is_err());
    }
}
