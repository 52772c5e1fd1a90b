//! Decodes image files to 8-bit RGB.
//!
//! Colors are those of Pillow. JPEGs are decoded byte for byte as by libjpeg-turbo, by a decoder of
//! our own: that of the `image` crate differs by up to 28 levels with subsampled chroma. CMYK
//! follows Adobe's inverted convention. Three cases differ from the loader of the reference
//! implementation, which returns wrong planes for them (palette indices, a fourth channel, wrapped
//! integers):
//!
//! * palette, grayscale and bilevel images become RGB;
//! * alpha is composited over black, whereas Pillow's `convert("RGB")` would reveal the color of
//!   transparent pixels;
//! * 16-bit samples keep their high byte, as in Pillow for 16-bit color; for 16-bit grayscale
//!   Pillow clips at 255.
//!
//! EXIF orientation is ignored, as by Pillow's `open`. Of an animation, the first frame is used.

mod jpeg;

use std::io::Cursor;
use std::panic::catch_unwind;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use thiserror::Error;

/// Largest accepted number of pixels, about 179 million: Pillow's limit against decompression
/// bombs.
pub const MAX_PIXELS: u64 = 2 * 89_478_485;
/// Largest allocation of a decoder in bytes: 16-bit RGBA of [`MAX_PIXELS`].
const MAX_ALLOCATION: u64 = 8 * MAX_PIXELS;
/// Longest accepted side in pixels: the limit of JPEG.
const MAX_SIDE: u32 = 65_535;

/// Bytes are not a usable image. Messages never include pixel values.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The first bytes are not those of a JPEG, PNG or GIF.
    #[error("not a JPEG, PNG or GIF")]
    Format,
    /// The image is damaged or truncated. The decoder's message is dropped, because it may include
    /// bytes of the private file.
    #[error("a damaged or truncated {0}")]
    Damaged(&'static str),
    /// The image is of a kind that is not supported.
    #[error("an unsupported {format}: {what}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// The property that is not supported, and what to do.
        what: String,
    },
    /// The image has more than [`MAX_PIXELS`] pixels.
    #[error("has more pixels than the limit of {MAX_PIXELS}")]
    TooLarge,
}

/// One 8-bit RGB image of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels, `[height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Decodes a JPEG, PNG or GIF; the format is detected by the first bytes.
///
/// # Errors
/// [`DecodeError`] if it is none of these, is damaged or truncated, or is too large.
pub fn decode(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    // A decoder that panics has met a damaged file, and it is the file's name that the user needs.
    catch_unwind(|| decode_unguarded(bytes))
        .unwrap_or(Err(DecodeError::Damaged("JPEG, PNG or GIF")))
}

fn decode_unguarded(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    if bytes.starts_with(&[0xff, 0xd8]) {
        jpeg::decode_jpeg(bytes)
    } else {
        decode_other(bytes)
    }
}

fn decode_other(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|_| DecodeError::Format)?;
    if reader
        .format()
        .is_none_or(|format| !format.reading_enabled())
    {
        return Err(DecodeError::Format);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    let unreadable = |_| DecodeError::Damaged("PNG or GIF");
    let decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge);
    }
    let image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    Ok(Rgb {
        pixels: rgb_over_black(image),
        height: height as usize,
        width: width as usize,
    })
}

fn rgb_over_black(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        DynamicImage::ImageLuma8(grey) => grey.iter().flat_map(|v| [*v; 3]).collect(),
        DynamicImage::ImageLumaA8(grey) => {
            let over = |c: u8, a: u8| ((u32::from(c) * u32::from(a) + 127) / 255) as u8;
            grey.pixels()
                .flat_map(|p| [over(p.0[0], p.0[1]); 3])
                .collect()
        }
        DynamicImage::ImageRgba8(rgba) => {
            let over = |c: u8, a: u8| ((u32::from(c) * u32::from(a) + 127) / 255) as u8;
            rgba.pixels()
                .flat_map(|p| {
                    let [r, g, b, a] = p.0;
                    [over(r, a), over(g, a), over(b, a)]
                })
                .collect()
        }
        // 16 bits; also whatever kind a later version of the decoder may add.
        other => {
            let over = |c: u16, a: u16| {
                let product = (u64::from(c) * u64::from(a) + 32_767) / 65_535;
                (product >> 8) as u8
            };
            other
                .into_rgba16()
                .pixels()
                .flat_map(|p| {
                    let [r, g, b, a] = p.0;
                    [over(r, a), over(g, a), over(b, a)]
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageBuffer, ImageFormat, Luma, LumaA, Rgba};

    use super::*;

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        image
            .into()
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn jpeg() -> Vec<u8> {
        let pixels: Vec<u8> = (0..24 * 20 * 3u32).map(|i| (i * i / 7) as u8).collect();
        let sampling = libjpeg_turbo_rs::Subsampling::S420;
        libjpeg_turbo_rs::compress(
            &pixels,
            24,
            20,
            libjpeg_turbo_rs::PixelFormat::Rgb,
            90,
            sampling,
        )
        .unwrap()
    }

    #[test]
    fn sixteen_bits_keep_the_high_byte() {
        let grey = ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, vec![0x12ffu16, 0xfe00]).unwrap();
        let rgb = decode(&png(grey)).unwrap();
        assert_eq!(rgb.pixels, [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]);
        assert_eq!((rgb.height, rgb.width), (1, 2));
    }

    #[test]
    fn alpha_is_composited_over_black() {
        let rgba = ImageBuffer::<Rgba<u8>, _>::from_raw(
            3,
            1,
            vec![10, 20, 30, 255, 200, 100, 50, 0, 200, 100, 50, 128],
        );
        let rgb = decode(&png(rgba.unwrap())).unwrap();
        assert_eq!(rgb.pixels, [10, 20, 30, 0, 0, 0, 100, 50, 25]);
        let grey = ImageBuffer::<LumaA<u8>, _>::from_raw(2, 1, vec![80, 255, 80, 51]).unwrap();
        assert_eq!(decode(&png(grey)).unwrap().pixels, [80, 80, 80, 16, 16, 16]);
        let deep = ImageBuffer::<Rgba<u16>, _>::from_raw(1, 1, vec![0x8000u16, 0xffff, 0, 0x8000]);
        let rgb = decode(&png(deep.unwrap())).unwrap();
        assert_eq!(rgb.pixels, [0x40, 0x80, 0]);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let grey = ImageBuffer::<Luma<u8>, _>::from_fn(40, 40, |x, y| Luma([(x * y) as u8]));
        for bytes in [png(grey), jpeg()] {
            assert!(decode(&bytes).is_ok());
            for len in [0, 1, 2, 20, bytes.len() / 2, bytes.len() * 9 / 10] {
                assert!(decode(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(matches!(decode(b"hello"), Err(DecodeError::Format)));
        assert!(matches!(
            decode(b"BM______________"),
            Err(DecodeError::Format)
        ));
    }

    #[test]
    fn a_huge_header_is_refused_before_memory_is_taken() {
        let mut bytes = png(ImageBuffer::<Luma<u8>, _>::from_pixel(1, 1, Luma([0u8])));
        // Width and height of IHDR, then its checksum.
        bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let sum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        let error = decode(&bytes).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge), "{error}");
        let mut bytes = jpeg();
        let sof = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        bytes[sof + 5..sof + 9].copy_from_slice(&[0xff; 4]);
        assert!(decode(&bytes).is_err());
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
            })
        })
    }

    /// A small JPEG of every kind that is read.
    fn kinds() -> [Vec<u8>; 4] {
        use libjpeg_turbo_rs as jpeg;
        let pixels: Vec<u8> = (0..24 * 20 * 3u32).map(|i| (i * i / 7) as u8).collect();
        let (format, sampling) = (jpeg::PixelFormat::Rgb, jpeg::Subsampling::S420);
        [
            jpeg::compress,
            jpeg::compress_progressive,
            jpeg::compress_arithmetic,
            jpeg::compress_arithmetic_progressive,
        ]
        .map(|compress| compress(&pixels, 24, 20, format, 90, sampling).unwrap())
    }

    #[test]
    fn every_kind_of_jpeg_is_read() {
        let [baseline, others @ ..] = kinds().map(|bytes| decode(&bytes).unwrap().pixels);
        assert!(others.iter().all(|pixels| *pixels == baseline));
    }
}
