//! PNG, with all its checksums: those of the chunks and that of the compressed pixels.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Limits, Reader, Transformations};

use super::composer::{Composer, Layout};
use super::orientation::orient_exif;
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels};

const FORMAT: &str = "PNG";

/// Bytes of the signature.
const SIGNATURE: usize = 8;

/// Decodes a PNG; of an animation, its default image.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated or too large.
pub(super) fn decode_png(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let mut reader = open(bytes)?;
    check_chunks(bytes)?;
    let (width, height) = reader.info().size();
    let (color, depth) = reader.output_color_type();
    let packed = Packed::of(reader.info());
    let layout = match color {
        ColorType::Grayscale
            if packed
                .as_ref()
                .is_some_and(|packed| packed.transparent.is_some()) =>
        {
            Layout::GrayAlpha
        }
        ColorType::Grayscale => Layout::Gray,
        ColorType::GrayscaleAlpha => Layout::GrayAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        // Palettes are expanded.
        ColorType::Indexed => return Err(DecodeError::Damaged(FORMAT)),
    };
    let significant = significant(reader.info().sbit.as_deref());
    let mut image = Composer::new(layout, height, width, options).significant(significant);
    let mut words = Vec::new();
    let mut append = |image: &mut Composer, row: &[u8]| {
        if depth == BitDepth::Sixteen {
            words.clear();
            words.extend(
                row.as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| u16::from_be_bytes(*b)),
            );
            image.words(&words);
        } else if let Some(packed) = &packed {
            packed.append(row, image);
        } else {
            image.bytes(row);
        }
    };
    if reader.info().interlaced {
        let len = reader.output_buffer_size();
        let len = len.filter(|len| *len as u64 <= MAX_ALLOCATION);
        let mut frame = vec![0; len.ok_or(DecodeError::Memory(FORMAT))?];
        reader.next_frame(&mut frame).map_err(refusal)?;
        append(&mut image, &frame);
    } else {
        while let Some(row) = reader.next_row().map_err(refusal)? {
            append(&mut image, row.data());
        }
    }
    let decoded = image.finish().ok_or(DecodeError::Damaged(FORMAT))?;
    Ok(match reader.info().exif_metadata.as_deref() {
        Some(exif) => orient_exif(decoded, exif, options),
        None => decoded,
    })
}

/// Reads the chunks before the pixels.
fn open(bytes: &[u8]) -> Result<Reader<Cursor<&[u8]>>, DecodeError> {
    let mut checks = png::DecodeOptions::default();
    checks.set_ignore_checksums(false);
    checks.set_skip_ancillary_crc_failures(false);
    // Texts and profiles are not used, and are not worth memory.
    checks.set_ignore_text_chunk(true);
    checks.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), checks);
    decoder.set_limits(Limits {
        bytes: usize::try_from(MAX_ALLOCATION).unwrap_or(usize::MAX),
    });
    let header = decoder.read_header_info().map_err(refusal)?;
    check_pixels(header.width, header.height)?;
    let packed = is_packed_gray(header);
    decoder.set_transformations(match packed {
        true => Transformations::IDENTITY,
        false => Transformations::EXPAND,
    });
    decoder.read_info().map_err(refusal)
}

/// Checks that the chunks are complete, have the right checksums and end with `IEND`.
///
/// The decoder stops after the pixels, and also reads the chunks of later frames, whose order is of
/// no importance here.
fn check_chunks(bytes: &[u8]) -> Result<(), DecodeError> {
    let damaged = || DecodeError::Damaged(FORMAT);
    let mut rest = bytes.get(SIGNATURE..).ok_or_else(damaged)?;
    loop {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let len = u32::from_be_bytes(*len) as usize;
        // The name of the chunk, and its data.
        let (content, after) = after.split_at_checked(4 + len).ok_or_else(damaged)?;
        let (sum, next) = after.split_first_chunk().ok_or_else(damaged)?;
        let mut crc = flate2::Crc::new();
        crc.update(content);
        if crc.sum() != u32::from_be_bytes(*sum) {
            return Err(damaged());
        }
        if content.starts_with(b"IEND") {
            return Ok(());
        }
        rest = next;
    }
}

/// Returns true for gray samples of fewer than 8 bits, which this module unpacks: the decoder does
/// not mask their transparent value.
fn is_packed_gray(info: &Info<'_>) -> bool {
    let bits = info.bit_depth as u8;
    info.color_type == ColorType::Grayscale && bits < 8
}

/// Gray samples of fewer than 8 bits.
struct Packed {
    bits: usize,
    width: usize,
    transparent: Option<u8>,
}

impl Packed {
    fn of(info: &Info<'_>) -> Option<Self> {
        let bits = info.bit_depth as u8;
        let value = info.trns.as_ref().and_then(|value| value.last());
        is_packed_gray(info).then(|| Self {
            bits: usize::from(bits),
            width: info.width as usize,
            // Only the low bits of the transparent value count.
            transparent: value.map(|value| value & ((1 << bits) - 1)),
        })
    }

    /// Appends whole rows, each of which begins with a new byte.
    fn append(&self, rows: &[u8], image: &mut Composer) {
        let largest = (1u8 << self.bits) - 1;
        let mut samples = Vec::with_capacity(2 * self.width);
        for row in rows.chunks_exact((self.width * self.bits).div_ceil(8)) {
            samples.clear();
            for x in 0..self.width {
                let byte = row[x * self.bits / 8];
                let value = byte >> (8 - self.bits - x * self.bits % 8) & largest;
                // 1, 3 and 15 divide 255.
                samples.push(value * (255 / largest));
                if let Some(transparent) = self.transparent {
                    samples.push(if value == transparent { 0 } else { 255 });
                }
            }
            image.bytes(&samples);
        }
    }
}

fn refusal(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::LimitsExceeded => DecodeError::Memory(FORMAT),
        DecodingError::IoError(_) | DecodingError::Format(_) | DecodingError::Parameter(_) => {
            DecodeError::Damaged(FORMAT)
        }
    }
}

/// Returns the significant bits of red, green and blue; 0 if they are not given.
fn significant(chunk: Option<&[u8]>) -> [u8; 3] {
    match chunk {
        Some([gray] | [gray, _]) => [*gray; 3],
        Some([r, g, b] | [r, g, b, _]) => [*r, *g, *b],
        _ => [0; 3],
    }
}

#[cfg(test)]
mod tests;
