//! GIF, WebP and BMP by the `image` crate.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::composer::{Composer, Layout};
use super::orientation::{Orientation, orient_exif};
use super::{DecodeError, DecodeOptions, Decoded, MAX_ALLOCATION, check_pixels};

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
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| refusal("WebP", error))?;
    read("WebP", decoder, options)
}

/// Decodes a BMP.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind.
#[cfg(feature = "bmp")]
pub(super) fn decode_bmp(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, DecodeError> {
    use image::codecs::bmp::BmpDecoder;
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
    let exif = match options.orientation {
        Orientation::Stored => None,
        // Damaged Exif data say nothing about the pixels.
        Orientation::Exif => decoder.exif_metadata().ok().flatten(),
    };
    let len = usize::try_from(decoder.total_bytes()).map_err(|_| DecodeError::Memory(format))?;
    let mut samples = vec![0; len];
    decoder.read_image(&mut samples).map_err(refusal)?;
    let mut image = Composer::new(layout, height, width, options);
    image.bytes(&samples);
    let decoded = image.finish().ok_or(DecodeError::Damaged(format))?;
    Ok(match exif {
        Some(exif) => orient_exif(decoded, &exif, options),
        None => decoded,
    })
}

fn refusal(format: &'static str, error: ImageError) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::Memory(format),
        ImageError::Unsupported(error) => DecodeError::Unsupported {
            format,
            what: error.to_string(),
        },
        _ => DecodeError::Damaged(format),
    }
}
