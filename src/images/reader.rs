//! Reads, decodes and resizes the images of a container, in parallel and within a bound of memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::batch::ImageBatch;
use super::container::{Container, Stored};
use super::crop::{center_crop, resize_to_cover};
use super::data_config::DataConfig;
use super::decode::{
    DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, MAX_PIXELS, Rgb, SixteenBit, decode,
    decoding_memory,
};
use super::error::ImagesError;
use super::filter::Filter;
use super::resize::ResizeError;
use super::size::ImageSize;

/// Most bytes of images in a container that are read at a time, unless one image has more.
const MAX_STORED: u64 = 1 << 26;
/// Most bytes of images that are decoded at the same time, shared by the threads. An image that
/// takes more than the share of a thread is decoded while no other one is.
const MAX_DECODING: u64 = 1 << 30;
/// Most bytes that reading private images takes, unless one image alone takes more.
pub const READING_MEMORY: u64 = MAX_STORED + MAX_DECODING;
/// Most bytes that reading one image takes: what its decoder may allocate, and the pixels as RGB.
pub const LARGEST_IMAGE_MEMORY: u64 = MAX_ALLOCATION + 3 * MAX_PIXELS;
/// Images of 16 bits whose largest value is below this, an eighth of the range, are nearly black.
const SIXTEEN_BIT_WARNING: u16 = 1 << 13;
/// Largest accepted file in bytes; an image within the pixel limit is smaller.
const MAX_FILE: u64 = 1 << 31;

/// One image, decoded and fitted.
struct Fitted {
    /// `uint8 [size, size, 3]`.
    pixels: Vec<u8>,
    /// Largest stored sample of a file with samples of 16 bits.
    sixteen_bit_max: Option<u16>,
}

/// The result of reading one image.
type Attempt = Result<Fitted, Fault>;

/// Reason for which an image cannot be used, before it is known which one it is.
enum Fault {
    Read(PathBuf, io::Error),
    Decode(DecodeError),
    Resize(ResizeError),
}

impl Fault {
    fn of(self, image: String) -> ImagesError {
        match self {
            Self::Read(path, cause) => ImagesError::Read { path, cause },
            Self::Decode(cause) => ImagesError::Decode { image, cause },
            Self::Resize(cause) => ImagesError::Resize { image, cause },
        }
    }
}

/// Reads the images of a container in one or several passes.
pub(super) struct Reader<'a> {
    size: ImageSize,
    options: DecodeOptions,
    container: &'a mut dyn Container,
    /// Largest stored sample of all files with samples of 16 bits.
    sixteen_bit_max: Option<u16>,
}

impl<'a> Reader<'a> {
    /// Creates a reader with the options of a configuration.
    pub(super) fn new(config: &DataConfig, container: &'a mut dyn Container) -> Self {
        Self {
            size: config.image_size,
            options: config.decode_options(),
            container,
            sixteen_bit_max: None,
        }
    }

    /// Reads the images at `places` of the container, in order, in batches of `batch_size` images.
    /// `fail` gets the error of one image with its index in `places`, and either returns an error,
    /// or the image is left out of its batch.
    pub(super) fn pass<E: From<ImagesError>>(
        &mut self,
        places: &[usize],
        batch_size: usize,
        mut visit: impl FnMut(ImageBatch) -> Result<(), E>,
        mut fail: impl FnMut(usize, ImagesError) -> Result<(), ImagesError>,
    ) -> Result<(), E> {
        let batch_size = batch_size.max(1);
        for (batch, places) in places.chunks(batch_size).enumerate() {
            let mut pixels = Vec::with_capacity(places.len() * self.image_len());
            let mut index = batch * batch_size;
            let mut left = places;
            while !left.is_empty() {
                let (now, later) = left.split_at(fitting(self.container, left));
                for (image, place) in self.read(now)?.into_iter().zip(now) {
                    match image {
                        Ok(image) => {
                            pixels.extend_from_slice(&image.pixels);
                            self.sixteen_bit_max = self.sixteen_bit_max.max(image.sixteen_bit_max);
                        }
                        Err(fault) => fail(index, fault.of(self.container.name(*place)))?,
                    }
                    index += 1;
                }
                left = later;
            }
            visit(self.batch(pixels)?)?;
        }
        if places.len() == self.container.len() {
            self.container.end()?;
        }
        Ok(())
    }

    /// Returns a line for the owner if the images that were read use little of the range of 16
    /// bits.
    pub(super) fn remark(&self) -> Option<String> {
        let largest = self.sixteen_bit_max?;
        let is_dark = largest < SIXTEEN_BIT_WARNING;
        (is_dark && self.options.sixteen_bit == SixteenBit::HighByte).then(|| {
            format!(
                "warning: the largest value of the 16-bit images is {largest} of 65535, so that \
                 they are nearly black: declare the range of their values, as in data.sixteen_bit \
                 = [0, 4095] for 12 bits"
            )
        })
    }

    fn read(&mut self, places: &[usize]) -> Result<Vec<Attempt>, ImagesError> {
        let stored = self.container.read(places)?;
        let (size, options) = (self.size, &self.options);
        let share = MAX_DECODING / rayon::current_num_threads().max(1) as u64;
        let attempts: Vec<Result<Attempt, Stored>> = stored
            .into_par_iter()
            .map(|stored| fitted(stored, size, options, share))
            .collect();
        let images = attempts.into_iter().map(|attempt| match attempt {
            Ok(image) => image,
            Err(large) => match fitted(large, size, options, u64::MAX) {
                Ok(image) => image,
                Err(_) => Err(Fault::Decode(DecodeError::TooLarge)),
            },
        });
        Ok(images.collect())
    }

    /// Returns the number of bytes of an image.
    fn image_len(&self) -> usize {
        self.size.height * self.size.width * 3
    }

    fn batch(&self, pixels: Vec<u8>) -> Result<ImageBatch, ImagesError> {
        let count = pixels.len() / self.image_len().max(1);
        let (height, width) = self.size.pair();
        Ok(ImageBatch::new(pixels, count, height, width)?)
    }
}

/// Returns how many of the next images of a container may be in memory together: at least one, if
/// there is one.
pub(super) fn fitting(container: &dyn Container, places: &[usize]) -> usize {
    let mut bytes = 0_u64;
    let fitting = places.iter().take_while(|place| {
        bytes = bytes.saturating_add(container.stored_len(**place));
        bytes <= MAX_STORED
    });
    fitting.count().max(1).min(places.len())
}

/// Decodes and fits an image. Gives it back (`Err`) if that takes more than `memory` bytes.
fn fitted(
    stored: Stored,
    size: ImageSize,
    options: &DecodeOptions,
    memory: u64,
) -> Result<Attempt, Stored> {
    let needed = |bytes: &[u8]| bytes.len() as u64 + decoding_memory(bytes).unwrap_or(0);
    let decoded = match stored {
        Stored::Pixels(image) => Decoded {
            image,
            sixteen_bit_max: None,
        },
        Stored::Encoded(bytes) => {
            if needed(&bytes) > memory {
                return Err(Stored::Encoded(bytes));
            }
            match decode(&bytes, options) {
                Ok(decoded) => decoded,
                Err(error) => return Ok(Err(Fault::Decode(error))),
            }
        }
        Stored::Path(path) => match read_file(&path, memory) {
            Ok(None) => return Err(Stored::Path(path)),
            Ok(Some(bytes)) if needed(&bytes) > memory => return Err(Stored::Path(path)),
            Ok(Some(bytes)) => match decode(&bytes, options) {
                Ok(decoded) => decoded,
                Err(error) => return Ok(Err(Fault::Decode(error))),
            },
            Err(fault) => return Ok(Err(fault)),
        },
    };
    let pixels = fit(decoded.image, size).map_err(Fault::Resize);
    Ok(pixels.map(|pixels| Fitted {
        pixels,
        sixteen_bit_max: decoded.sixteen_bit_max,
    }))
}

/// Reads a file; returns `None` if it has more than `memory` bytes.
fn read_file(path: &Path, memory: u64) -> Result<Option<Vec<u8>>, Fault> {
    let failed = |cause| Fault::Read(path.to_owned(), cause);
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_FILE {
        return Err(Fault::Decode(DecodeError::Unsupported {
            format: "file",
            what: format!("it has more than {MAX_FILE} bytes"),
        }));
    }
    if len > memory {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    // A file that grows meanwhile is read no further.
    Read::by_ref(&mut file)
        .take(len)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Scales and crops an image; for squares, this is `T.Resize(size)` and `T.CenterCrop(size)`.
fn fit(image: Rgb, size: ImageSize) -> Result<Vec<u8>, ResizeError> {
    let image = resize_to_cover(image, size, Filter::Bilinear)?;
    center_crop(&image, size)
}
