//! GIF, WebP and BMP by the `image` crate.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::error::UnsupportedErrorKind;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::composer::{Composer, Layout};
#[cfg(feature = "webp")]
use super::orientation::orient_exif;
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels};

/// Longest side of a BMP in pixels that the decoder accepts.
#[cfg(feature = "bmp")]
const MAX_SIDE: u32 = 65_535;

/// Decodes the first frame of a GIF on a canvas of the color `options.alpha`.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated or too large.
pub(super) fn decode_gif(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    let decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|error| refusal("GIF", error))?;
    read("GIF", decoder, options)
}

/// Decodes a WebP; of an animation, its first frame on a canvas of the color `options.alpha`.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated or too large.
#[cfg(feature = "webp")]
pub(super) fn decode_webp(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    use image::codecs::webp::WebPDecoder;
    // The decoder would accept an animation whose later frames are cut off.
    let stated = bytes
        .get(4..8)
        .and_then(|size| size.try_into().ok())
        .map(u32::from_le_bytes);
    if stated.is_none_or(|size| (bytes.len() as u64) < 8 + u64::from(size)) {
        return Err(DecodeError::Damaged("WebP"));
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| refusal("WebP", error))?;
    let decoded = read("WebP", decoder, options)?;
    // The decoder would take memory for as many Exif data as the file claims to have.
    Ok(match riff_chunk(bytes, b"EXIF") {
        Some(exif) => orient_exif(decoded, exif, options),
        None => decoded,
    })
}

/// Returns the content of a chunk of a RIFF file.
#[cfg(feature = "webp")]
fn riff_chunk<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let (found, after) = rest.split_first_chunk::<4>()?;
        let (len, content) = after.split_first_chunk()?;
        let len = u32::from_le_bytes(*len) as usize;
        if found == name {
            return content.get(..len);
        }
        rest = content.get(len.checked_next_multiple_of(2)?..)?;
    }
}

/// Decodes a BMP.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind.
#[cfg(feature = "bmp")]
pub(super) fn decode_bmp(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    use image::codecs::bmp::BmpDecoder;
    check_bmp(bytes)?;
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|error| refusal("BMP", error))?;
    read("BMP", decoder, options)
}

fn read(
    format: &'static str,
    mut decoder: impl ImageDecoder,
    options: &DecodeOptions,
) -> Result<Decoded, DecodeError> {
    let refusal = |error| refusal(format, error);
    let (width, height) = decoder.dimensions();
    check_pixels(width, height)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOCATION);
    decoder.set_limits(limits).map_err(refusal)?;
    let layout = match decoder.color_type() {
        ColorType::L8 => Layout::Gray,
        ColorType::La8 => Layout::GrayAlpha,
        ColorType::Rgb8 => Layout::Rgb,
        ColorType::Rgba8 => Layout::Rgba,
        other => {
            return Err(DecodeError::Unsupported {
                format,
                what: format!("samples of the kind {other:?}"),
            });
        }
    };
    let len = usize::try_from(decoder.total_bytes()).map_err(|_| DecodeError::Memory(format))?;
    let mut samples = vec![0; len];
    decoder.read_image(&mut samples).map_err(refusal)?;
    let mut image = Composer::new(layout, height, width, options);
    image.bytes(&samples);
    image.finish().ok_or(DecodeError::Damaged(format))
}

/// Refuses what the decoder misunderstands: a side above its limit, which it calls invalid; pixels
/// that begin within the palette; and compressed pixels that end early or are left out, which it
/// invents.
#[cfg(feature = "bmp")]
fn check_bmp(bytes: &[u8]) -> Result<(), DecodeError> {
    let number = |at: usize, len: usize| {
        let bytes = bytes.get(at..at + len)?.iter().rev();
        Some(bytes.fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
    };
    let damaged = || DecodeError::Damaged("BMP");
    let header = number(14, 4).ok_or_else(damaged)?;
    // The first version has sides and colors of two bytes, and neither compression nor a number of
    // colors.
    let first_version = header == 12;
    if first_version {
        return Ok(());
    }
    let side = |at: usize| Some((number(at, 4)? as i32).unsigned_abs());
    let (width, height) = side(18).zip(side(22)).ok_or_else(damaged)?;
    check_pixels(width, height)?;
    if width.max(height) > MAX_SIDE {
        return Err(DecodeError::Unsupported {
            format: "BMP",
            what: format!("a side of more than {MAX_SIDE} pixels: convert the image to PNG"),
        });
    }
    let start = number(10, 4).ok_or_else(damaged)? as usize;
    let bits = number(28, 2).ok_or_else(damaged)?;
    let compression = number(30, 4).ok_or_else(damaged)?;
    let colors = number(46, 4).filter(|_| bits <= 8).unwrap_or_default();
    let palette = u64::from(colors).min(256) * 4;
    if (start as u64) < 14 + u64::from(header) + palette {
        return Err(damaged());
    }
    match (compression, bits) {
        (1, 8) | (2, 4) => {
            let pixels = bytes.get(start..).ok_or_else(damaged)?;
            match run_lengths_fill(pixels, bits as usize, (width, height)) {
                Some(true) => Ok(()),
                Some(false) => Err(DecodeError::Unsupported {
                    format: "BMP",
                    what: "pixels that are left out: convert the image to PNG".to_owned(),
                }),
                None => Err(damaged()),
            }
        }
        _ => Ok(()),
    }
}

/// Returns true if run-length coded pixels fill the image, and `None` if they have no end.
#[cfg(feature = "bmp")]
fn run_lengths_fill(pixels: &[u8], bits: usize, (width, height): (u32, u32)) -> Option<bool> {
    let (width, height) = (u64::from(width), u64::from(height));
    let mut at = 0;
    // Pixels of the current row, and rows that are complete.
    let (mut x, mut y) = (0u64, 0u64);
    let mut full = true;
    loop {
        match (*pixels.get(at)?, *pixels.get(at + 1)?) {
            (0, 0) => {
                full &= x >= width;
                (x, y) = (0, y + 1);
                at += 2;
            }
            (0, 1) => {
                let rows = y + u64::from(x >= width);
                return Some(full && (x == 0 || x >= width) && rows >= height);
            }
            // Pixels are skipped.
            (0, 2) => {
                full = false;
                at += 4;
            }
            // So many pixels follow as they are, to the next even byte.
            (0, count) => {
                x += u64::from(count);
                at += 2 + (usize::from(count) * bits).div_ceil(8).next_multiple_of(2);
            }
            (count, _) => {
                x += u64::from(count);
                at += 2;
            }
        }
    }
}

fn refusal(format: &'static str, error: ImageError) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::Memory(format),
        ImageError::Unsupported(error) => DecodeError::Unsupported {
            format,
            what: match error.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => feature,
                other => format!("{other:?}"),
            },
        },
        _ => DecodeError::Damaged(format),
    }
}

#[cfg(test)]
mod tests;
