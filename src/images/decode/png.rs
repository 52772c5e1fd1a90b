//! PNG, checked as libpng checks it: the checksums of the chunks and of the compressed pixels.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Reader, Transformations};

use super::composer::{Composer, Layout};
use super::orientation::orient_exif;
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels};

const FORMAT: &str = "PNG";

/// Decodes a PNG; of an animation, its default image.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated or too large.
pub(super) fn decode_png(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let mut reader = open(bytes)?;
    let (width, height) = reader.info().size();
    let (color, depth) = reader.output_color_type();
    let layout = match color {
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
    // The checksums of the last chunks.
    reader.finish().map_err(refusal)?;
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
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(refusal)?;
    check_pixels(header.width, header.height)?;
    decoder.read_info().map_err(refusal)
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
