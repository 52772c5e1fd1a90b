//! Decodes image files to 8-bit RGB.
//!
//! Colors are those of Pillow. JPEGs are decoded byte for byte as by libjpeg-turbo, by a decoder of
//! our own (`docs/images.md` has the reason). CMYK follows Adobe's inverted convention. Three cases
//! differ from the loader of the reference implementation, which returns wrong planes for them
//! (palette indices, a fourth channel, wrapped integers):
//!
//! * palette, grayscale and bilevel images become RGB;
//! * alpha is composited over one color, by default black ([`DecodeOptions::alpha`]), whereas
//!   Pillow's `convert("RGB")` would reveal the color of transparent pixels;
//! * 16-bit samples keep their high byte, as in Pillow for 16-bit color, or are mapped by a window
//!   ([`SixteenBit`]); for 16-bit grayscale Pillow clips at 255.
//!
//! Exif orientation is ignored, as by Pillow's `open`, unless [`Orientation::Exif`] is chosen. Of
//! an animation, the first frame is used, on a canvas of the color of [`DecodeOptions::alpha`]: a
//! GIF's background color is not used, as in browsers. Of a TIFF with several pages and a DICOM
//! file with several frames, [`DecodeOptions::page`] is used.

mod composer;
#[cfg(feature = "dicom")]
mod dicom;
mod image_crate;
mod jpeg;
mod memory;
mod orientation;
mod png;
mod sixteen_bit;
#[cfg(feature = "tiff")]
mod tiff;

use std::panic::catch_unwind;

use thiserror::Error;

pub use memory::decoding_memory;
pub use orientation::Orientation;
pub use sixteen_bit::{SixteenBit, sixteen_bit_to_eight};

/// Largest accepted number of pixels, about 179 million: Pillow's limit against decompression
/// bombs.
pub const MAX_PIXELS: u64 = 2 * 89_478_485;
/// Largest allocation of a decoder in bytes: 16-bit RGBA of [`MAX_PIXELS`].
pub const MAX_ALLOCATION: u64 = 8 * MAX_PIXELS;

/// Endings of the names of image files, compared without case: those of the formats that this build
/// reads. DICOM files often have no ending; a folder's are used only with one.
pub const EXTENSIONS: &[&str] = &[
    "jpg",
    "jpeg",
    "png",
    "gif",
    #[cfg(feature = "webp")]
    "webp",
    #[cfg(feature = "bmp")]
    "bmp",
    #[cfg(feature = "tiff")]
    "tif",
    #[cfg(feature = "tiff")]
    "tiff",
    #[cfg(feature = "dicom")]
    "dcm",
    #[cfg(feature = "dicom")]
    "dicom",
];

/// Bytes are not a usable image. Messages never include pixel values.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The first bytes are those of no known format.
    #[error("not a JPEG, PNG, GIF, WebP, BMP, TIFF or DICOM file")]
    Format,
    /// The image is damaged or truncated. The decoder's message is dropped, because it may include
    /// bytes of the private file.
    #[error("a damaged or truncated {0}")]
    Damaged(&'static str),
    /// The image is of a kind that is not supported.
    #[error("an unsupported {format}: {what}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// The property that is not supported, and what to do.
        what: String,
    },
    /// The image has more than [`MAX_PIXELS`] pixels.
    #[error("has more pixels than the limit of {MAX_PIXELS}")]
    TooLarge,
    /// Decoding would take more memory than [`MAX_ALLOCATION`].
    #[error(
        "a {0} that takes more than {limit} MiB of memory to decode",
        limit = MAX_ALLOCATION >> 20
    )]
    Memory(&'static str),
    /// The file has no such page or frame.
    #[error("a {format} without the page {page} that data.page names: pages are counted from 0")]
    Page {
        /// The format.
        format: &'static str,
        /// The page.
        page: usize,
    },
    /// The format is not part of this build.
    #[error(
        "a {format}, which this build cannot read: build dpsyn with the feature `{feature}`, or \
         convert the images to PNG"
    )]
    Feature {
        /// The format.
        format: &'static str,
        /// The feature that reads it.
        feature: &'static str,
    },
}

/// Options of decoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Rule by which samples of 16 bits become bytes.
    pub sixteen_bit: SixteenBit,
    /// Color behind transparent pixels: red, green and blue.
    pub alpha: [u8; 3],
    /// Orientation in which an image is used.
    pub orientation: Orientation,
    /// Page of a TIFF or frame of a DICOM file, from 0. Formats without pages ignore it.
    pub page: usize,
}

/// One 8-bit RGB image of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels, `[height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A decoded image, and a property of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The image.
    pub image: Rgb,
    /// Largest color sample of a file of 16 bits; `None` for a file of 8 bits or fewer, and for a
    /// DICOM file, which declares the range of its values. It is private like the pixels.
    pub sixteen_bit_max: Option<u16>,
}

/// Format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG, APNG included.
    Png,
    /// GIF.
    Gif,
    /// WebP.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// TIFF or `BigTIFF`.
    Tiff,
    /// DICOM with its preamble.
    Dicom,
}

impl Format {
    /// Detects the format by the first bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        // The preamble of a DICOM file may be the header of another format, such as TIFF.
        if bytes.get(128..132) == Some(b"DICM") {
            Some(Self::Dicom)
        } else if starts(&[0xff, 0xd8]) {
            Some(Self::Jpeg)
        } else if starts(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if starts(b"GIF87a") || starts(b"GIF89a") {
            Some(Self::Gif)
        } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]
            .iter()
            .any(|magic| starts(*magic))
        {
            Some(Self::Tiff)
        } else if starts(b"BM") {
            Some(Self::Bmp)
        } else {
            None
        }
    }

    /// Returns the name of the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Dicom => "DICOM file",
        }
    }
}

/// Decodes an image file; the format is detected by the first bytes.
///
/// # Errors
/// [`DecodeError`] if it is of no known format, is damaged or truncated, too large, or of a kind
/// that is not supported.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let format = Format::of(bytes).ok_or(DecodeError::Format)?;
    decode_as(format, bytes, options)
}

/// Decodes an image file as of a given format, and reports a panic of the decoder as damage.
///
/// # Errors
/// [`DecodeError`] as [`decode`].
pub fn decode_as(
    format: Format,
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<Decoded, DecodeError> {
    // A decoder that panics has met a damaged file, and it is the file's name that the user needs.
    catch_unwind(|| decode_unguarded(format, bytes, options))
        .unwrap_or(Err(DecodeError::Damaged(format.name())))
}

/// Decodes an image file as of a given format; a panic of the decoder passes on.
///
/// # Errors
/// [`DecodeError`] as [`decode`].
fn decode_unguarded(
    format: Format,
    bytes: &[u8],
    options: &DecodeOptions,
) -> Result<Decoded, DecodeError> {
    match format {
        Format::Jpeg => jpeg(bytes, options),
        Format::Png => png::decode_png(bytes, options),
        Format::Gif => image_crate::decode_gif(bytes, options),
        #[cfg(feature = "webp")]
        Format::WebP => image_crate::decode_webp(bytes, options),
        #[cfg(feature = "bmp")]
        Format::Bmp => image_crate::decode_bmp(bytes, options),
        #[cfg(not(feature = "webp"))]
        Format::WebP => Err(missing(format, "webp")),
        #[cfg(not(feature = "bmp"))]
        Format::Bmp => Err(missing(format, "bmp")),
        #[cfg(feature = "tiff")]
        Format::Tiff => tiff::decode_tiff(bytes, options),
        #[cfg(not(feature = "tiff"))]
        Format::Tiff => Err(missing(format, "tiff")),
        #[cfg(feature = "dicom")]
        Format::Dicom => dicom::decode_dicom(bytes, options),
        #[cfg(not(feature = "dicom"))]
        Format::Dicom => Err(missing(format, "dicom")),
    }
}

fn jpeg(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let decoded = Decoded {
        image: jpeg::decode_jpeg(bytes)?,
        sixteen_bit_max: None,
    };
    Ok(match jpeg::exif(bytes) {
        Some(exif) => orientation::orient_exif(decoded, exif, options),
        None => decoded,
    })
}

#[cfg(not(all(feature = "webp", feature = "bmp", feature = "tiff", feature = "dicom")))]
fn missing(format: Format, feature: &'static str) -> DecodeError {
    DecodeError::Feature {
        format: format.name(),
        feature,
    }
}

/// Checks the number of pixels before memory is taken.
fn check_pixels(width: u32, height: u32) -> Result<(), DecodeError> {
    match u64::from(width) * u64::from(height) > MAX_PIXELS {
        true => Err(DecodeError::TooLarge),
        false => Ok(()),
    }
}

/// Returns a product, or the largest number if it is larger.
fn product(factors: &[u64]) -> u64 {
    factors
        .iter()
        .fold(1u64, |product, factor| product.saturating_mul(*factor))
        .min(u64::MAX >> 8)
}

#[cfg(test)]
mod tests;
