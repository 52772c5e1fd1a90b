//! Stored samples of a frame of a DICOM file: as they are, run-length coded, or in a JPEG.

use std::borrow::Cow;

use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::super::{DecodeError, MAX_ALLOCATION, jpeg};
use super::elements::{Element, Elements, PIXEL_DATA};
use super::{Attributes, FORMAT, damaged, unsupported};

/// Compression of the pixels, by the transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Native,
    /// PackBits of each byte of each sample.
    RunLengths,
    /// JPEG of 8 bits with losses.
    Jpeg,
    /// Lossless JPEG (process 14).
    LosslessJpeg,
}

/// Samples of a frame.
pub struct Frame<'a> {
    /// Samples of one or two bytes, the less significant first.
    pub bytes: Cow<'a, [u8]>,
    /// True if the samples of one color stand together.
    pub planar: bool,
    /// True if a color space other than RGB has been converted to RGB.
    pub is_rgb: bool,
}

impl<'a> Frame<'a> {
    /// Returns the samples of a frame, from 0.
    pub fn read(
        elements: &Elements<'a>,
        attributes: &Attributes<'_>,
        compression: Compression,
        frame: usize,
    ) -> Result<Self, DecodeError> {
        let element = elements
            .get(PIXEL_DATA)
            .ok_or_else(|| unsupported("no image: without the element Pixel Data"))?;
        if frame >= attributes.frames {
            return Err(DecodeError::Page {
                format: FORMAT,
                page: frame,
            });
        }
        if compression == Compression::Native {
            return native(element, attributes, frame);
        }
        let fragments = Elements::fragments(element).filter(|_| element.undefined);
        let fragments = fragments.ok_or_else(damaged)?;
        let coded: Cow<'_, [u8]> = if attributes.frames == 1 {
            fragments.concat().into()
        } else if fragments.len() == attributes.frames {
            fragments.get(frame).copied().ok_or_else(damaged)?.into()
        } else {
            return Err(unsupported("frames of several fragments each"));
        };
        let frame = match compression {
            Compression::RunLengths => run_lengths(&coded, attributes),
            Compression::LosslessJpeg => lossless(&coded, attributes),
            _ => lossy(&coded, attributes),
        }?;
        let expected = attributes.pixels() * attributes.samples * attributes.allocated / 8;
        match frame.bytes.len() == expected {
            true => Ok(frame),
            false => Err(damaged()),
        }
    }
}

/// Cuts a frame out of uncompressed pixels.
fn native<'a>(
    element: &Element<'a>,
    attributes: &Attributes<'_>,
    frame: usize,
) -> Result<Frame<'a>, DecodeError> {
    let halved = attributes.photometric == "YBR_FULL_422";
    let samples = match halved {
        // Two pixels share their chroma samples.
        true => attributes.pixels().next_multiple_of(2) * 2,
        false => attributes.pixels() * attributes.samples,
    };
    let bits = samples * attributes.allocated;
    let (from, to) = match frame.checked_mul(bits).zip(bits.checked_mul(frame + 1)) {
        Some((from, to)) => (from, to),
        None => return Err(damaged()),
    };
    let value = element.value;
    if attributes.allocated == 1 {
        let bit = |at: usize| value.get(at / 8).map(|byte| byte >> (at % 8) & 1);
        let bits: Option<Vec<u8>> = (from..to).map(bit).collect();
        return Ok(interleaved(bits.ok_or_else(damaged)?.into()));
    }
    let (from, to) = (from / 8, to / 8);
    let words = attributes.allocated == 16 || element.vr == *b"OW";
    let bytes: Cow<'a, [u8]> = if attributes.big_endian && words {
        // A frame of bytes in words may begin or end within a word.
        let whole = value
            .get(from & !1..to.next_multiple_of(2))
            .ok_or_else(damaged)?;
        let pairs = whole.as_chunks::<2>().0.iter();
        let swapped = pairs.flat_map(|[first, second]| [*second, *first]);
        swapped.skip(from & 1).take(to - from).collect()
    } else {
        value.get(from..to).ok_or_else(damaged)?.into()
    };
    if halved {
        let pairs = bytes.as_chunks::<4>().0.iter();
        let pixels = pairs.flat_map(|[y, z, b, r]| [*y, *b, *r, *z, *b, *r]);
        return Ok(interleaved(pixels.take(3 * attributes.pixels()).collect()));
    }
    Ok(Frame {
        bytes,
        planar: attributes.planar,
        is_rgb: false,
    })
}

fn interleaved(bytes: Cow<'_, [u8]>) -> Frame<'_> {
    Frame {
        bytes,
        planar: false,
        is_rgb: false,
    }
}

/// Decodes segments of PackBits: of each sample, the more significant byte first.
fn run_lengths(coded: &[u8], attributes: &Attributes<'_>) -> Result<Frame<'static>, DecodeError> {
    let (width, pixels) = (attributes.allocated / 8, attributes.pixels());
    let number = |index: usize| {
        let bytes = coded.get(4 * index..4 * index + 4)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0usize, |value, byte| value << 8 | usize::from(*byte)),
        )
    };
    let segments = attributes.samples * width;
    if number(0) != Some(segments) || segments > 15 {
        return Err(damaged());
    }
    // Two bytes stand for at most 128.
    if coded.len().saturating_mul(64) < segments * pixels {
        return Err(damaged());
    }
    let mut bytes = vec![0; segments * pixels];
    for segment in 0..segments {
        let start = number(1 + segment).ok_or_else(damaged)?;
        let end = match segment + 1 < segments {
            true => number(2 + segment).ok_or_else(damaged)?,
            false => coded.len(),
        };
        let packed = coded.get(start..end).ok_or_else(damaged)?;
        let (sample, byte) = (segment / width, width - 1 - segment % width);
        let plane = bytes
            .iter_mut()
            .skip(sample * pixels * width + byte)
            .step_by(width);
        unpack(packed, plane.take(pixels)).ok_or_else(damaged)?;
    }
    Ok(Frame {
        bytes: bytes.into(),
        planar: true,
        is_rgb: false,
    })
}

/// Fills all targets from PackBits.
fn unpack<'t>(packed: &[u8], targets: impl Iterator<Item = &'t mut u8>) -> Option<()> {
    let mut targets = targets.peekable();
    let mut at = 0;
    while targets.peek().is_some() {
        let control = *packed.get(at)?;
        at += 1;
        match control {
            0..=127 => {
                let count = usize::from(control) + 1;
                let bytes = packed.get(at..at + count)?;
                targets
                    .by_ref()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                at += count;
            }
            128 => {}
            129..=255 => {
                let byte = *packed.get(at)?;
                targets
                    .by_ref()
                    .take(257 - usize::from(control))
                    .for_each(|to| *to = byte);
                at += 1;
            }
        }
    }
    Some(())
}

fn lossless(coded: &[u8], attributes: &Attributes<'_>) -> Result<Frame<'static>, DecodeError> {
    let mut decoder = Decoder::new(coded);
    decoder.set_max_decoding_buffer_size(usize::try_from(MAX_ALLOCATION).unwrap_or(usize::MAX));
    // The photometric interpretation says what the samples are.
    decoder.set_color_transform(ColorTransform::None);
    decoder.read_info().map_err(|_| damaged())?;
    let info = decoder.info().ok_or_else(damaged)?;
    let (samples, width) = match info.pixel_format {
        PixelFormat::L8 => (1, 1),
        PixelFormat::L16 => (1, 2),
        PixelFormat::RGB24 => (3, 1),
        PixelFormat::CMYK32 => (4, 1),
    };
    let sides = (usize::from(info.height), usize::from(info.width));
    if sides != (attributes.rows, attributes.columns) || samples != attributes.samples {
        return Err(damaged());
    }
    let mut bytes = decoder.decode().map_err(|_| damaged())?;
    match (width, attributes.allocated / 8) {
        (1, 1) => {}
        (2, 2) => {
            for word in bytes.as_chunks_mut::<2>().0 {
                *word = u16::from_ne_bytes(*word).to_le_bytes();
            }
        }
        (1, 2) => bytes = bytes.into_iter().flat_map(|byte| [byte, 0]).collect(),
        _ => return Err(damaged()),
    }
    Ok(interleaved(bytes.into()))
}

/// Decodes a JPEG by the decoder of JPEG files. The photometric interpretation decides whether its
/// colors are converted, whatever the JPEG itself says.
fn lossy(coded: &[u8], attributes: &Attributes<'_>) -> Result<Frame<'static>, DecodeError> {
    if attributes.allocated != 8 {
        return Err(unsupported("a lossy JPEG of more than 8 bits"));
    }
    let image = match attributes.samples {
        3 => jpeg::decode_jpeg(&with_transform(
            coded,
            attributes.photometric.starts_with("YBR"),
        )),
        _ => jpeg::decode_jpeg(coded),
    };
    let image = image.map_err(|error| match error {
        DecodeError::Unsupported { what, .. } => unsupported(format!("a JPEG with {what}")),
        DecodeError::Damaged(_) => damaged(),
        error => error,
    })?;
    if (image.height, image.width) != (attributes.rows, attributes.columns) {
        return Err(damaged());
    }
    let bytes: Vec<u8> = match attributes.samples {
        3 => image.pixels,
        _ => image.pixels.into_iter().step_by(3).collect(),
    };
    Ok(Frame {
        bytes: bytes.into(),
        planar: false,
        is_rgb: true,
    })
}

/// Returns a JPEG with Adobe's marker of the color transform in place of others.
fn with_transform(coded: &[u8], ycc: bool) -> Vec<u8> {
    let mut jpeg = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0".to_vec();
    jpeg.push(u8::from(ycc));
    let mut rest = coded.get(2..).unwrap_or_default();
    // Application segments stand before the others.
    while let [0xff, marker @ (0xe0..=0xef | 0xff), high, low, ..] = *rest {
        let len = match marker {
            0xff => 1,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    jpeg.extend(rest);
    jpeg
}
