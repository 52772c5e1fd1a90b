//! JPEG, with the pixels of libjpeg-turbo.
//!
//! All headers of a file are read before its pixels: they decide whether it is complete, and
//! whether its kind is supported. Everything of T.81 that libjpeg reads is read: sequential and
//! progressive, Huffman and arithmetic coding, any grouping of the components into scans, any
//! sampling factors that are whole multiples. What libjpeg reads with a warning, and fills, is
//! refused. The decision for this decoder is in `docs/images.md`.

mod arithmetic;
mod block;
mod entropy;
mod frame;
mod huffman;
mod markers;
mod pixels;
mod transform;

#[allow(unused_imports)]
pub(super) use self::markers::{dimensions, exif};
use super::{DecodeError, Rgb};

/// Decodes a JPEG.
///
/// # Errors
/// [`DecodeError`] if it is damaged, truncated, too large or of an unsupported kind.
pub(super) fn decode_jpeg(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let outline = frame::outline(bytes)?;
    let planes = entropy::planes(bytes, &outline)?;
    Ok(Rgb {
        pixels: pixels::rgb(&outline.frame, &planes),
        height: outline.frame.height,
        width: outline.frame.width,
    })
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
