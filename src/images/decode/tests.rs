//! Tests over the formats.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgba};

use super::*;

/// Decodes with the default options.
fn decode(bytes: &[u8]) -> Result<Rgb, DecodeError> {
    super::decode(bytes, &DecodeOptions::default()).map(|decoded| decoded.image)
}

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
