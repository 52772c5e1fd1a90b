//! JPEG by `libjpeg-turbo-rs`, byte for byte as libjpeg-turbo decodes.

use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use super::{DecodeError, MAX_ALLOCATION, MAX_PIXELS, MAX_SIDE, Rgb};

/// Largest accepted number of scans of a progressive JPEG; encoders write about ten.
const MAX_SCANS: usize = 512;

/// Decodes a JPEG.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind.
pub(super) fn decode_jpeg(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let limits = DecodeLimits {
        max_width: MAX_SIDE as usize,
        max_height: MAX_SIDE as usize,
        max_pixels: MAX_PIXELS,
        max_scans: MAX_SCANS,
        max_memory: Some(MAX_ALLOCATION),
    };
    let image = Decoder::new_with_limits(bytes, limits)
        .and_then(|decoder| decoder.with_output_format(PixelFormat::Rgb).decode_image())
        .map_err(|_| DecodeError::Damaged("JPEG"))?;
    Ok(Rgb {
        height: image.height,
        width: image.width,
        pixels: image.data,
    })
}
