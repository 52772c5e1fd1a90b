//! TIFF: gray, palette, RGB and CMYK samples of up to 16 bits, in strips, tiles or planes.
//!
//! The crate `tiff` finds the pages and unpacks the samples; this module interprets them. The crate
//! has an interpretation of its own, which refuses palettes and drops additional samples before it
//! undoes the predictor. It is therefore shown a header that says "gray, with these samples"
//! ([`Relabeled`]), for which it gives every sample as it is stored.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use tiff::decoder::{Decoder, Limits};
use tiff::tags::{ByteOrder, Tag};
use tiff::{TiffError, TiffFormatError};

use super::composer::{Composer, Layout};
use super::orientation::orient_tag;
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels, product};

const FORMAT: &str = "TIFF";

/// Largest value of a tag in bytes, such as the list of all strips.
const MAX_TAG: usize = 16 << 20;

/// Largest number of pages whose memory is looked up.
const MAX_PAGES: usize = 1024;

/// Interpretation "gray, 0 is black", by which the crate gives samples as they are stored.
const BLACK_IS_ZERO: u16 = 1;

/// Decodes the page `options.page` of a TIFF.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind, or has no such
/// page.
pub(super) fn decode_tiff(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let mut decoder = open(Cursor::new(bytes), options.page)?;
    let header = Header::read(&mut decoder)?;
    check_pixels(header.width, header.height)?;
    let colors = header.colors()?;
    let reversed = match header.reversed {
        true => Some(with_reversed_bits(bytes, &mut decoder)?),
        false => None,
    };
    let relabeled = Relabeled::new(reversed.as_deref().unwrap_or(bytes), &mut decoder)?;
    drop(decoder);
    let mut decoder = open(relabeled, options.page)?;
    let layout = decoder.image_buffer_layout().map_err(refusal)?;
    let (stride, plane) = (layout.row_stride, layout.plane_stride);
    let (Some(stride), Some(plane)) = (stride, plane) else {
        return Err(DecodeError::Damaged(FORMAT));
    };
    if layout.complete_len as u64 > MAX_ALLOCATION {
        return Err(DecodeError::Memory(FORMAT));
    }
    let mut stored = vec![0; layout.complete_len];
    decoder.read_image_bytes(&mut stored).map_err(refusal)?;
    drop(decoder);
    let mut image = Composer::new(colors.layout, header.height, header.width, options)
        .premultiplied(colors.premultiplied);
    let planes: Vec<&[u8]> = stored.chunks_exact(plane.get()).collect();
    let expected = if header.planar { header.samples } else { 1 };
    if planes.len() != expected {
        return Err(DecodeError::Damaged(FORMAT));
    }
    let mut row = Vec::new();
    for y in 0..header.height as usize {
        let rows = planes
            .iter()
            .map(|plane| plane.get(y * stride.get()..(y + 1) * stride.get()));
        let rows: Option<Vec<&[u8]>> = rows.collect();
        header.unpack(&rows.ok_or(DecodeError::Damaged(FORMAT))?, &mut row);
        colors.append(&row, &header, &mut image);
    }
    let decoded = image.finish().ok_or(DecodeError::Damaged(FORMAT))?;
    Ok(orient_tag(decoded, header.orientation, options))
}

/// Returns the bytes of memory that decoding the largest page takes at most.
pub(super) fn memory(bytes: &[u8]) -> Option<u64> {
    let mut decoder = open(Cursor::new(bytes), 0).ok()?;
    let mut largest = None;
    for _ in 0..MAX_PAGES {
        if let Ok(header) = Header::read(&mut decoder) {
            let pixels = product(&[header.width.into(), header.height.into()]);
            let stored = u64::from(header.bits).div_ceil(8) * header.samples as u64 + 3;
            let memory = product(&[pixels, stored]) + (MAX_TAG as u64) + (1 << 20);
            largest = largest.max(Some(memory));
        }
        if !decoder.more_images() || decoder.next_image().is_err() {
            break;
        }
    }
    largest
}

fn open<R: Read + Seek>(reader: R, page: usize) -> Result<Decoder<R>, DecodeError> {
    let mut limits = Limits::default();
    let most = usize::try_from(MAX_ALLOCATION).unwrap_or(usize::MAX);
    limits.decoding_buffer_size = most;
    limits.intermediate_buffer_size = most;
    limits.ifd_value_size = MAX_TAG;
    let mut decoder = Decoder::new(reader).map_err(refusal)?.with_limits(limits);
    if page > 0 {
        decoder.seek_to_image(page).map_err(|error| match error {
            TiffError::FormatError(TiffFormatError::ImageFileDirectoryNotFound) => {
                DecodeError::Page {
                    format: FORMAT,
                    page,
                }
            }
            error => refusal(error),
        })?;
    }
    Ok(decoder)
}

fn refusal(error: TiffError) -> DecodeError {
    match error {
        TiffError::LimitsExceeded => DecodeError::Memory(FORMAT),
        TiffError::UnsupportedError(error) => unsupported(error.to_string()),
        TiffError::IntSizeError => unsupported("a side or strip that is too long for its kind"),
        _ => DecodeError::Damaged(FORMAT),
    }
}

fn unsupported(what: impl Into<String>) -> DecodeError {
    DecodeError::Unsupported {
        format: FORMAT,
        what: what.into(),
    }
}

/// Tags that say how samples are stored and meant.
struct Header {
    width: u32,
    height: u32,
    photometric: u16,
    bits: u16,
    samples: usize,
    /// Kind of each additional sample.
    extra: Vec<u16>,
    planar: bool,
    /// True if the first bit of a byte is its lowest.
    reversed: bool,
    /// Red, green and blue of a palette, one after the other.
    palette: Vec<u16>,
    orientation: u16,
}

impl Header {
    /// Reads the tags, and refuses by name what is not supported.
    fn read<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Self, DecodeError> {
        let (width, height) = decoder.dimensions().map_err(refusal)?;
        let mut list = |tag| {
            let values = decoder.find_tag_unsigned_vec::<u16>(tag).map_err(refusal)?;
            Ok::<_, DecodeError>(values.unwrap_or_default())
        };
        let first = |values: Vec<u16>, default: u16| values.first().copied().unwrap_or(default);
        let compression = first(list(Tag::Compression)?, 1);
        if !matches!(compression, 1 | 4 | 5 | 8 | 32_946 | 32_773) {
            return Err(unsupported(format!(
                "{}: convert the images to PNG, or to TIFF with LZW",
                compression_name(compression)
            )));
        }
        let format = list(Tag::SampleFormat)?;
        if let Some(other) = format.iter().find(|format| !matches!(format, 1 | 4)) {
            let kind = match other {
                2 => "signed samples",
                3 => "floating-point samples",
                _ => "complex samples",
            };
            return Err(unsupported(format!(
                "{kind}: convert them to 8 or 16 bits without sign"
            )));
        }
        let samples = usize::from(first(list(Tag::SamplesPerPixel)?, 1));
        let planar = first(list(Tag::PlanarConfiguration)?, 1) == 2 && samples > 1;
        // The crate does not find the end of the last tiles of the second plane.
        if planar && !list(Tag::TileWidth)?.is_empty() {
            return Err(unsupported("tiles in planes: convert the images to PNG"));
        }
        Ok(Self {
            width,
            height,
            photometric: first(list(Tag::PhotometricInterpretation)?, u16::MAX),
            bits: first(list(Tag::BitsPerSample)?, 1),
            samples,
            extra: list(Tag::ExtraSamples)?,
            planar,
            reversed: first(list(Tag::FillOrder)?, 1) == 2,
            palette: list(Tag::ColorMap)?,
            orientation: first(list(Tag::Orientation)?, 1),
        })
    }

    /// Returns the meaning of the samples.
    fn colors(&self) -> Result<Colors, DecodeError> {
        if !matches!(self.bits, 1 | 2 | 4 | 8 | 16) {
            return Err(unsupported(format!(
                "{} bits a sample: convert the images to 8 or 16 bits",
                self.bits
            )));
        }
        let (meaning, used) = match self.photometric {
            0 => (Meaning::InvertedGray, 1),
            1 => (Meaning::Gray, 1),
            2 => (Meaning::Rgb, 3),
            3 if self.bits > 8 => return Err(unsupported("a palette of more than 256 colors")),
            3 => (Meaning::Palette, 1),
            5 if self.bits >= 8 => (Meaning::Cmyk, 4),
            other => {
                return Err(unsupported(format!(
                    "{}: convert the images to RGB",
                    photometric_name(other)
                )));
            }
        };
        let full = self.palette.len() == 3 << self.bits;
        if self.samples < used || (meaning == Meaning::Palette && !full) {
            return Err(DecodeError::Damaged(FORMAT));
        }
        // RGB with a fourth sample of unstated kind has alpha, as some writers omit the tag.
        let kind = match self.extra.first() {
            None if meaning == Meaning::Rgb && self.samples == 4 => Some(2),
            kind => kind.copied(),
        };
        let alpha = matches!(kind, Some(1 | 2)) && self.samples > used;
        let layout = match (meaning, alpha) {
            (Meaning::Gray | Meaning::InvertedGray, false) => Layout::Gray,
            (Meaning::Gray | Meaning::InvertedGray, true) => Layout::GrayAlpha,
            (Meaning::Rgb, true) => Layout::Rgba,
            (Meaning::Rgb, false) => Layout::Rgb,
            // Pillow ignores their alpha, too.
            (Meaning::Palette | Meaning::Cmyk, _) => Layout::Rgb,
        };
        Ok(Colors {
            meaning,
            layout,
            premultiplied: kind == Some(1),
        })
    }

    /// Unpacks one row, given for each plane, to samples of one pixel after the other.
    fn unpack(&self, planes: &[&[u8]], row: &mut Vec<u16>) {
        let (width, bits) = (self.width as usize, usize::from(self.bits));
        let in_plane = if self.planar { 1 } else { self.samples };
        row.clear();
        row.resize(width * self.samples, 0);
        for (index, plane) in planes.iter().enumerate() {
            let targets = row.iter_mut().skip(index);
            // Samples of all pixels, or every so many of one plane.
            let targets = targets.step_by(if self.planar { self.samples } else { 1 });
            let targets = targets.take(width * in_plane);
            match bits {
                8 => targets
                    .zip(*plane)
                    .for_each(|(to, from)| *to = u16::from(*from)),
                16 => {
                    let words = plane.as_chunks::<2>().0;
                    let pairs = targets.zip(words);
                    pairs.for_each(|(to, from)| *to = u16::from_ne_bytes(*from));
                }
                _ => {
                    let mask = (1u8 << bits) - 1;
                    for (at, to) in targets.enumerate() {
                        let byte = plane.get(at * bits / 8).copied().unwrap_or_default();
                        *to = u16::from(byte >> (8 - bits - at * bits % 8) & mask);
                    }
                }
            }
        }
    }
}

/// Returns the file with the bits of all strips or tiles of the current page reversed in each byte.
fn with_reversed_bits<R: Read + Seek>(
    bytes: &[u8],
    decoder: &mut Decoder<R>,
) -> Result<Vec<u8>, DecodeError> {
    let mut list = |strips, tiles| {
        let strips = decoder
            .find_tag_unsigned_vec::<usize>(strips)
            .map_err(refusal)?;
        let tiles = decoder
            .find_tag_unsigned_vec::<usize>(tiles)
            .map_err(refusal)?;
        Ok::<_, DecodeError>(strips.or(tiles).unwrap_or_default())
    };
    let offsets = list(Tag::StripOffsets, Tag::TileOffsets)?;
    let lengths = list(Tag::StripByteCounts, Tag::TileByteCounts)?;
    let mut reversed = bytes.to_vec();
    for (offset, len) in offsets.into_iter().zip(lengths) {
        let end = offset.saturating_add(len).min(bytes.len());
        let damaged = || DecodeError::Damaged(FORMAT);
        let stored = bytes.get(offset..end).ok_or_else(damaged)?;
        let target = reversed.get_mut(offset..end).ok_or_else(damaged)?;
        for (to, from) in target.iter_mut().zip(stored) {
            *to = from.reverse_bits();
        }
    }
    Ok(reversed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Gray,
    InvertedGray,
    Rgb,
    Palette,
    Cmyk,
}

/// Meaning of the samples of a page.
struct Colors {
    meaning: Meaning,
    layout: Layout,
    premultiplied: bool,
}

impl Colors {
    /// Appends one row of samples.
    fn append(&self, row: &[u16], header: &Header, image: &mut Composer) {
        let largest = ((1u32 << header.bits) - 1) as u16;
        let pixels = row.chunks_exact(header.samples);
        match self.meaning {
            Meaning::Palette => {
                let size = 1 << header.bits;
                let color = |index: usize| {
                    let value = |channel: usize| header.palette.get(channel * size + index);
                    [0, 1, 2]
                        .map(|channel| (value(channel).copied().unwrap_or_default() >> 8) as u8)
                };
                let colors = pixels.flat_map(|pixel| color(usize::from(pixel[0])));
                image.bytes(&colors.collect::<Vec<_>>());
            }
            Meaning::Cmyk => {
                let byte = |value: u16| u32::from(if largest > 255 { value >> 8 } else { value });
                let colors = pixels.flat_map(|pixel| {
                    let key = 255 - byte(pixel[3]);
                    // Pillow's product of two bytes, rounded to the nearest.
                    let ink = |value: u16| (byte(value) * key + 127) / 255;
                    [0, 1, 2].map(|channel| key.saturating_sub(ink(pixel[channel])) as u8)
                });
                image.bytes(&colors.collect::<Vec<_>>());
            }
            Meaning::Gray | Meaning::InvertedGray | Meaning::Rgb => {
                let invert = self.meaning == Meaning::InvertedGray;
                let used = self.layout.samples();
                let samples = pixels.flat_map(|pixel| {
                    let samples = pixel.iter().take(used).enumerate();
                    samples.map(|(at, value)| match invert && at == 0 {
                        true => largest - value,
                        false => *value,
                    })
                });
                if header.bits == 16 {
                    image.words(&samples.collect::<Vec<_>>());
                } else {
                    // 1, 3, 15 and 255 divide 255.
                    let scale = 255 / largest;
                    image.bytes(&samples.map(|v| (v * scale) as u8).collect::<Vec<_>>());
                }
            }
        }
    }
}

/// A TIFF whose current page says that its samples are gray.
struct Relabeled<'a> {
    bytes: Cursor<&'a [u8]>,
    /// Place and content of the bytes that are replaced.
    patch: (u64, [u8; 2]),
}

impl<'a> Relabeled<'a> {
    /// Finds the interpretation among the tags of the decoder's current page.
    fn new<R: Read + Seek>(bytes: &'a [u8], decoder: &mut Decoder<R>) -> Result<Self, DecodeError> {
        let little = decoder.byte_order() == ByteOrder::LittleEndian;
        let big_tiff = bytes.get(if little { 2 } else { 3 }) == Some(&43);
        let damaged = || DecodeError::Damaged(FORMAT);
        let number = |at: u64, len: u64| {
            let at = usize::try_from(at).ok()?;
            let bytes = bytes.get(at..at.checked_add(len as usize)?)?;
            let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
            Some(match little {
                true => bytes.iter().rev().fold(0, join),
                false => bytes.iter().fold(0, join),
            })
        };
        let (count_len, entry_len, value_at) = if big_tiff { (8, 20, 12) } else { (2, 12, 8) };
        let page = decoder.ifd_pointer().ok_or_else(damaged)?.0;
        let count = number(page, count_len).ok_or_else(damaged)?;
        let tag = u64::from(Tag::PhotometricInterpretation.to_u16());
        let mut entries = (0..count.min(u64::from(u16::MAX)))
            .filter_map(|index| page.checked_add(count_len + index * entry_len))
            .filter(|at| number(*at, 2) == Some(tag));
        let entry = entries.next().ok_or_else(damaged)?;
        // A value of two bytes, or of four, whose other two are 0 for every known interpretation.
        let at = match (number(entry + 2, 2), little) {
            (Some(3), _) | (Some(4), true) => entry + value_at,
            (Some(4), false) => entry + value_at + 2,
            _ => return Err(damaged()),
        };
        let value = match little {
            true => BLACK_IS_ZERO.to_le_bytes(),
            false => BLACK_IS_ZERO.to_be_bytes(),
        };
        Ok(Self {
            bytes: Cursor::new(bytes),
            patch: (at, value),
        })
    }
}

impl Read for Relabeled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from = self.bytes.position();
        let read = self.bytes.read(buffer)?;
        for (at, byte) in (self.patch.0..).zip(self.patch.1) {
            let target = at.checked_sub(from).and_then(|at| usize::try_from(at).ok());
            let target = target
                .filter(|at| *at < read)
                .and_then(|at| buffer.get_mut(at));
            if let Some(target) = target {
                *target = byte;
            }
        }
        Ok(read)
    }
}

impl Seek for Relabeled<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

fn compression_name(number: u16) -> String {
    let name = match number {
        2 => "CCITT run-length compression",
        3 => "CCITT group 3 fax compression",
        6 | 7 => "JPEG compression",
        34_676 | 34_677 => "SGI LogLuv compression",
        34_712 | 33_003 | 33_005 => "JPEG 2000 compression",
        34_887 => "LERC compression",
        34_925 => "LZMA compression",
        50_000 => "Zstandard compression",
        50_001 => "WebP compression",
        50_002 | 52_546 => "JPEG XL compression",
        other => return format!("compression number {other}"),
    };
    name.to_owned()
}

fn photometric_name(number: u16) -> String {
    let name = match number {
        4 => "a transparency mask",
        5 => "CMYK colors of fewer than 8 bits",
        6 => "YCbCr colors",
        8..=10 => "L*a*b* colors",
        other => return format!("colors of the interpretation {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
