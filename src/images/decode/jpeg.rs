//! JPEG, with the pixels of libjpeg-turbo.
//!
//! The headers of a file are read first: they decide whether it is complete, whether its kind is
//! supported, and who decodes it. Ordinary files go to the crate `libjpeg-turbo-rs`, which is fast;
//! those that it reads wrongly or not at all, to the decoder here, which reads everything that
//! libjpeg does.

mod arithmetic;
mod entropy;
mod frame;
mod huffman;
mod markers;
mod pixels;

use std::panic::catch_unwind;

use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use self::frame::{Component, Frame, MAX_SCANS, Outline};
#[allow(unused_imports)]
pub(super) use self::markers::{dimensions, exif};
use super::{DecodeError, MAX_ALLOCATION, MAX_PIXELS, MAX_SIDE, Rgb};

/// Decodes a JPEG.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind.
pub(super) fn decode_jpeg(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let outline = frame::outline(bytes)?;
    let pixels = match is_ordinary(&outline).then(|| by_crate(bytes)).flatten() {
        Some(pixels) => pixels,
        None => by_ourselves(bytes, &outline)?,
    };
    Ok(Rgb {
        pixels,
        height: outline.frame.height,
        width: outline.frame.width,
    })
}

/// Decodes with the code of this module alone.
fn by_ourselves(bytes: &[u8], outline: &Outline) -> Result<Vec<u8>, DecodeError> {
    pixels::rgb(&outline.frame, entropy::coefficients(bytes, outline)?)
}

/// Tells whether the crate decodes a file to the pixels of libjpeg-turbo.
fn is_ordinary(outline: &Outline) -> bool {
    let Outline { frame, scans } = outline;
    let one_scan = scans.len() == 1 && scans[0].selected.len() == frame.components.len();
    (one_scan || frame.progressive) && !frame.arithmetic && is_usual_sampling(frame)
}

/// Tells whether chroma is equally fine in both components, coarser than luma by usual factors,
/// and whether identifiers differ.
fn is_usual_sampling(frame: &Frame) -> bool {
    let factors = |c: &Component| (c.h, c.v);
    match &frame.components[..] {
        [_] => true,
        [y, cb, cr] => {
            let distinct = y.id != cb.id && y.id != cr.id && cb.id != cr.id;
            let usual = matches!(factors(y), (1, 1) | (2, 1) | (2, 2) | (1, 2) | (4, 1));
            distinct && usual && factors(cb) == (1, 1) && factors(cr) == (1, 1)
        }
        _ => false,
    }
}

/// Decodes with the crate; nothing if it refuses the file.
fn by_crate(bytes: &[u8]) -> Option<Vec<u8>> {
    let limits = DecodeLimits {
        max_width: MAX_SIDE as usize,
        max_height: MAX_SIDE as usize,
        max_pixels: MAX_PIXELS,
        max_scans: MAX_SCANS,
        max_memory: Some(MAX_ALLOCATION),
    };
    // What the crate cannot read, we try ourselves.
    let decode = || {
        let decoder = Decoder::new_with_limits(bytes, limits).ok()?;
        decoder
            .with_output_format(PixelFormat::Rgb)
            .decode_image()
            .ok()
    };
    Some(catch_unwind(decode).ok().flatten()?.data)
}

fn damaged() -> DecodeError {
    DecodeError::Damaged("JPEG")
}

fn unsupported(what: impl Into<String>) -> DecodeError {
    DecodeError::Unsupported {
        format: "JPEG",
        what: what.into(),
    }
}
