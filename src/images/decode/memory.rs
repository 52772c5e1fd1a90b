//! Memory that decoding takes, by the header of a file.

use super::{Format, MAX_ALLOCATION, product};

/// Returns the bytes of memory that decoding a file takes at most, its result included, by the
/// header only: a bound for files that are read, and a figure without meaning for damaged ones.
/// `None` if the format is not known or the header is not complete.
#[must_use]
pub fn decoding_memory(bytes: &[u8]) -> Option<u64> {
    let at = |range: std::ops::Range<usize>| bytes.get(range);
    match Format::of(bytes)? {
        Format::Jpeg => jpeg(bytes),
        Format::Png => {
            let (width, height) = (be32(at(16..20)?), be32(at(20..24)?));
            let (depth, color, interlaced) = (*bytes.get(24)?, *bytes.get(25)?, *bytes.get(28)?);
            // Palettes and transparent colors are expanded to four samples.
            let samples = if matches!(color, 0 | 4) { 2 } else { 4 };
            let pixel = samples * if depth == 16 { 2 } else { 1 };
            let rows = if interlaced == 0 { 6 } else { height };
            Some(product(&[width, rows, pixel]) + product(&[width, height, 3]) + (1 << 20))
        }
        Format::Gif => {
            let screen = product(&[le16(at(6..8)?), le16(at(8..10)?)]);
            // The frame is decoded apart from the screen, and is limited like it.
            let frame = gif_frame(bytes).unwrap_or(screen).min(MAX_ALLOCATION / 4);
            Some(7 * screen + 4 * frame + (1 << 20))
        }
        // Samples, planes, a frame apart from the canvas, and the result.
        Format::WebP => Some(15 * webp_pixels(bytes)? + (1 << 20)),
        Format::Bmp => {
            let pixels = match le32(at(14..18)?) {
                12 => product(&[le16(at(18..20)?), le16(at(20..22)?)]),
                _ => product(&[
                    u64::from((le32(at(18..22)?) as i32).unsigned_abs()),
                    u64::from((le32(at(22..26)?) as i32).unsigned_abs()),
                ]),
            };
            Some(pixels.saturating_mul(7) + (1 << 20))
        }
        #[cfg(feature = "tiff")]
        Format::Tiff => super::tiff::memory(bytes),
        #[cfg(not(feature = "tiff"))]
        Format::Tiff => None,
        #[cfg(feature = "dicom")]
        Format::Dicom => super::dicom::memory(bytes),
        #[cfg(not(feature = "dicom"))]
        Format::Dicom => None,
    }
}

fn be32(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn le32(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn le16(bytes: &[u8]) -> u64 {
    le32(bytes)
}

/// Planes, the coefficients of all blocks (progressive files) and the result.
fn jpeg(bytes: &[u8]) -> Option<u64> {
    let (width, height, components) = super::jpeg::dimensions(bytes)?;
    let [width, height] = [width, height].map(|side| u64::from(side).next_multiple_of(64));
    let samples = product(&[width, height, components.into()]);
    Some(4 * samples + product(&[width, height, 3]) + (1 << 20))
}

/// Returns the pixels of a GIF's first frame.
fn gif_frame(bytes: &[u8]) -> Option<u64> {
    let table = |flags: u8| {
        if flags & 0x80 == 0 {
            0
        } else {
            6 << (flags & 7)
        }
    };
    let mut at = 13 + table(*bytes.get(10)?);
    loop {
        match *bytes.get(at)? {
            0x2c => {
                let side = |from: usize| bytes.get(at + from..at + from + 2).map(le16);
                return Some(product(&[side(5)?, side(7)?]));
            }
            // An extension is a sequence of blocks with their lengths.
            0x21 => {
                at += 2;
                while *bytes.get(at)? != 0 {
                    at += 1 + usize::from(*bytes.get(at)?);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn webp_pixels(bytes: &[u8]) -> Option<u64> {
    let at = |range: std::ops::Range<usize>| bytes.get(range).map(le32);
    match bytes.get(12..16)? {
        b"VP8X" => Some(product(&[at(24..27)? + 1, at(27..30)? + 1])),
        b"VP8L" => {
            let bits = at(21..25)?;
            Some(product(&[(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1]))
        }
        b"VP8 " => Some(product(&[at(26..28)? & 0x3fff, at(28..30)? & 0x3fff])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_suffice_and_damaged_ones_have_no_figure() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x0a\0\0\0\x14\x10\x06\0\0\0".to_vec();
        // Rows of 16-bit RGBA, and the result.
        assert_eq!(decoding_memory(&png), Some(10 * 6 * 8 + 600 + (1 << 20)));
        png[28] = 1;
        assert_eq!(decoding_memory(&png), Some(10 * 20 * 8 + 600 + (1 << 20)));
        // Side by side: marker, length, precision, height, width, components.
        let head = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc2\0\x11\x08\0\x09\0\x08\x03".as_slice();
        let jpeg = [head, &[1; 9]].concat();
        assert_eq!(decoding_memory(&jpeg), Some(64 * 64 * 15 + (1 << 20)));
        let gif = b"GIF89a\x0a\0\x14\0\0\0\0\x21\xfe\x02ab\0\x2c\0\0\0\0\x05\0\x06\0".as_slice();
        assert_eq!(decoding_memory(gif), Some(7 * 200 + 4 * 30 + (1 << 20)));
        let webp = b"RIFF____WEBPVP8X________\x09\0\0\x13\0\0".as_slice();
        assert_eq!(decoding_memory(webp), Some(15 * 200 + (1 << 20)));
        let bmp = b"BM____________\x28\0\0\0\x0a\0\0\0\xec\xff\xff\xff".as_slice();
        assert_eq!(decoding_memory(bmp), Some(7 * 200 + (1 << 20)));
        for bytes in [&png[..28], &jpeg[..16], webp, bmp] {
            assert_eq!(decoding_memory(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(decoding_memory(b"hello"), None);
    }

    #[test]
    fn products_do_not_overflow() {
        assert_eq!(product(&[u64::MAX, 3, u64::MAX]), u64::MAX >> 8);
        assert_eq!(product(&[2, 3]), 6);
    }
}
