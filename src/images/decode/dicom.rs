//! DICOM files: gray, palette and color images, uncompressed, run-length coded or in a JPEG.
//!
//! Gray values become levels by the file's rescaling and by a window: that of
//! [`SixteenBit::Window`](super::SixteenBit), in rescaled units such as Hounsfield units, if the
//! configuration declares one (files of more than 8 bits), or else the file's first. A file without
//! either uses the range of its stored bits. `MONOCHROME1` is inverted, so that high values are
//! dark. Overlays and the padding value are not used.

mod display;
mod elements;
mod frames;

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use self::elements::{EXPLICIT_LITTLE, Elements, Encoding};
use self::frames::{Compression, Frame};
use super::composer::{Composer, Layout};
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels, product};

const FORMAT: &str = "DICOM file";

/// Bytes before the elements: the preamble and `DICM`.
const PREAMBLE: usize = 132;

/// Decodes the frame `options.page` of a DICOM file.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind, or has no such
/// frame.
pub(super) fn decode_dicom(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let (syntax, body) = split(bytes)?;
    let body = syntax.inflated(body)?;
    let elements = Elements::read(&body, syntax.encoding, u16::MAX);
    let (elements, _) = elements.ok_or_else(damaged)?;
    let attributes = Attributes::read(&elements, syntax.encoding.big_endian)?;
    let frame = Frame::read(&elements, &attributes, syntax.compression, options.page)?;
    let rule = (options.page, options.sixteen_bit);
    let (layout, samples) = match (attributes.photometric, attributes.samples) {
        ("MONOCHROME1" | "MONOCHROME2", 1) => (
            Layout::Gray,
            display::gray(&frame, &elements, &attributes, rule)?,
        ),
        ("PALETTE COLOR", 1) => (
            Layout::Rgb,
            display::palette(&frame, &elements, &attributes)?,
        ),
        ("RGB", 3) => (Layout::Rgb, display::color(&frame, &attributes)?),
        ("YBR_FULL" | "YBR_FULL_422", 3) if attributes.allocated == 8 => {
            (Layout::Rgb, display::color(&frame, &attributes)?)
        }
        (other, samples) => {
            let name: String = other
                .chars()
                .filter(|c| c.is_ascii_graphic())
                .take(16)
                .collect();
            return Err(unsupported(format!(
                "the photometric interpretation `{name}` with {samples} samples a pixel"
            )));
        }
    };
    let (height, width) = (attributes.rows as u32, attributes.columns as u32);
    let mut image = Composer::new(layout, height, width, options);
    image.bytes(&samples);
    image.finish().ok_or_else(damaged)
}

/// Returns the bytes of memory that decoding a frame takes at most.
pub(super) fn memory(bytes: &[u8]) -> Option<u64> {
    let (syntax, body) = split(bytes).ok()?;
    if syntax.deflated {
        // Deflate packs by a factor of at most 1032; the frame and its results are no larger.
        let most = product(&[bytes.len() as u64, 1032]).min(MAX_ALLOCATION);
        return Some(5 * most + (1 << 20));
    }
    let (elements, _) = Elements::read(body, syntax.encoding, u16::MAX)?;
    let attributes = Attributes::read(&elements, syntax.encoding.big_endian).ok()?;
    let pixels = attributes.pixels() as u64;
    let stored = attributes.samples as u64 * (attributes.allocated as u64).div_ceil(8);
    // Stored samples and those of a decoder, levels, and the result; fragments are joined.
    let memory = product(&[pixels, 3 * stored + 6]) + bytes.len() as u64;
    Some(memory + (1 << 20))
}

fn damaged() -> DecodeError {
    DecodeError::Damaged(FORMAT)
}

fn unsupported(what: impl Into<String>) -> DecodeError {
    DecodeError::Unsupported {
        format: FORMAT,
        what: what.into(),
    }
}

/// Encoding of a file's elements and pixels.
#[derive(Debug, Clone, Copy)]
struct Syntax {
    encoding: Encoding,
    deflated: bool,
    compression: Compression,
}

impl Syntax {
    fn of(uid: &str) -> Result<Self, DecodeError> {
        let jpeg = "1.2.840.10008.1.2.4.";
        let (explicit, big_endian) = (uid != "1.2.840.10008.1.2", uid == "1.2.840.10008.1.2.2");
        let number = uid
            .strip_prefix(jpeg)
            .and_then(|number| number.parse::<u32>().ok());
        let compression = match (uid, number) {
            (
                "1.2.840.10008.1.2"
                | "1.2.840.10008.1.2.1"
                | "1.2.840.10008.1.2.1.99"
                | "1.2.840.10008.1.2.2",
                _,
            ) => Compression::Native,
            ("1.2.840.10008.1.2.5", _) => Compression::RunLengths,
            (_, Some(50 | 51)) => Compression::Jpeg,
            (_, Some(57 | 70)) => Compression::LosslessJpeg,
            (_, number) => {
                let name = match number {
                    Some(80 | 81) => "JPEG-LS compression",
                    Some(90..=95 | 201..=205) => "JPEG 2000 compression",
                    Some(100..=108) => "a video",
                    Some(110..=112) => "JPEG XL compression",
                    _ => "an unknown transfer syntax",
                };
                return Err(unsupported(format!(
                    "{name}: convert the files to an uncompressed transfer syntax"
                )));
            }
        };
        Ok(Self {
            encoding: Encoding {
                explicit,
                big_endian,
            },
            deflated: uid == "1.2.840.10008.1.2.1.99",
            compression,
        })
    }

    /// Returns the elements, inflated where they are deflated.
    fn inflated(self, body: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
        if !self.deflated {
            return Ok(body.into());
        }
        let mut inflated = Vec::new();
        let decoder = DeflateDecoder::new(body)
            .take(MAX_ALLOCATION + 1)
            .read_to_end(&mut inflated);
        decoder.map_err(|_| damaged())?;
        if inflated.len() as u64 > MAX_ALLOCATION {
            return Err(DecodeError::Memory(FORMAT));
        }
        Ok(inflated.into())
    }
}

/// Splits a file into the transfer syntax and the elements after the file meta information.
fn split(bytes: &[u8]) -> Result<(Syntax, &[u8]), DecodeError> {
    let rest = bytes.get(PREAMBLE..).ok_or_else(damaged)?;
    let (meta, len) = Elements::read(rest, EXPLICIT_LITTLE, 2).ok_or_else(damaged)?;
    let uid = meta.text(0x0002_0010);
    let uid = uid.ok_or_else(|| unsupported("no transfer syntax is stated"))?;
    Ok((Syntax::of(uid)?, rest.get(len..).ok_or_else(damaged)?))
}

/// Shape and meaning of the pixels.
struct Attributes<'a> {
    rows: usize,
    columns: usize,
    samples: usize,
    frames: usize,
    photometric: &'a str,
    planar: bool,
    big_endian: bool,
    /// Bits that a sample takes: 1, 8 or 16.
    allocated: usize,
    /// Bits of a sample that are used.
    stored: u32,
    /// Bits below them.
    shift: u32,
    signed: bool,
}

impl<'a> Attributes<'a> {
    fn read(elements: &Elements<'a>, big_endian: bool) -> Result<Self, DecodeError> {
        let number = |tag| elements.first_word(tag);
        let (Some(rows), Some(columns)) = (number(0x0028_0010), number(0x0028_0011)) else {
            return Err(unsupported("no image: without rows and columns"));
        };
        check_pixels(columns.into(), rows.into())?;
        let allocated = number(0x0028_0100).unwrap_or(8);
        let stored = number(0x0028_0101).unwrap_or(allocated);
        let high_bit = number(0x0028_0102).unwrap_or(stored.wrapping_sub(1));
        if !matches!(allocated, 1 | 8 | 16) {
            return Err(unsupported(format!(
                "{allocated} bits allocated for a sample"
            )));
        }
        if stored == 0 || stored > allocated || high_bit >= allocated || high_bit + 1 < stored {
            return Err(damaged());
        }
        let samples = number(0x0028_0002).unwrap_or(1);
        if !matches!(samples, 1 | 3) {
            return Err(unsupported(format!("{samples} samples a pixel")));
        }
        let frames = elements.number(0x0028_0008).unwrap_or(1.0);
        Ok(Self {
            rows: rows.into(),
            columns: columns.into(),
            samples: samples.into(),
            frames: frames.clamp(1.0, f64::from(u32::MAX)) as usize,
            photometric: elements.text(0x0028_0004).unwrap_or_default(),
            planar: number(0x0028_0006) == Some(1) && samples > 1,
            big_endian,
            allocated: allocated.into(),
            stored: stored.into(),
            shift: u32::from(high_bit + 1 - stored),
            signed: number(0x0028_0103) == Some(1),
        })
    }

    fn pixels(&self) -> usize {
        self.rows * self.columns
    }
}

impl Frame<'_> {
    /// Returns the used bits of the samples, one pixel after the other.
    fn values(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = u16> {
        let (pixels, samples) = (attributes.pixels(), attributes.samples);
        let wide = attributes.allocated == 16;
        let (shift, mask) = (attributes.shift, ((1u32 << attributes.stored) - 1) as u16);
        (0..pixels * samples).map(move |at| {
            let at = match self.planar {
                true => at % samples * pixels + at / samples,
                false => at,
            };
            let byte = |at: usize| u16::from(self.bytes.get(at).copied().unwrap_or_default());
            let raw = match wide {
                true => byte(2 * at) | byte(2 * at + 1) << 8,
                false => byte(at),
            };
            raw >> shift & mask
        })
    }
}

#[cfg(test)]
mod tests;
