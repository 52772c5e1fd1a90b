//! Tests of PNG.

use png::{BitDepth, ColorType, Encoder};

use super::super::{Orientation, SixteenBit};
use super::*;

/// Kind of a PNG to write.
struct Kind {
    color: ColorType,
    depth: BitDepth,
    width: u32,
    height: u32,
}

fn kind(color: ColorType, depth: BitDepth, width: u32, height: u32) -> Kind {
    Kind {
        color,
        depth,
        width,
        height,
    }
}

/// Writes a PNG, with chunks between its header and its pixels.
fn encode(kind: &Kind, chunks: &[(&[u8; 4], &[u8])], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, kind.width, kind.height);
    encoder.set_color(kind.color);
    encoder.set_depth(kind.depth);
    // The encoder wants to write a palette itself.
    if let Some((_, palette)) = chunks.iter().find(|(name, _)| *name == b"PLTE") {
        encoder.set_palette(palette.to_vec());
    }
    let mut writer = encoder.write_header().unwrap();
    for (name, content) in chunks.iter().filter(|(name, _)| *name != b"PLTE") {
        let name = png::chunk::ChunkType(**name);
        writer.write_chunk(name, content).unwrap();
    }
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

fn pixels(bytes: &[u8], options: &DecodeOptions) -> Vec<u8> {
    decode_png(bytes, options).unwrap().image.pixels
}

const WHITE: DecodeOptions = DecodeOptions {
    sixteen_bit: SixteenBit::HighByte,
    alpha: [255; 3],
    orientation: Orientation::Stored,
    page: 0,
};

#[test]
fn transparent_colors_are_replaced_by_the_background() {
    let gray = kind(ColorType::Grayscale, BitDepth::Eight, 3, 1);
    let bytes = encode(&gray, &[(b"tRNS", &[0, 7])], &[6, 7, 8]);
    assert_eq!(pixels(&bytes, &WHITE), [6, 6, 6, 255, 255, 255, 8, 8, 8]);
    assert_eq!(pixels(&bytes, &DecodeOptions::default())[3..6], [0; 3]);
    // Of 16 bits, all bits of the color count.
    let deep = kind(ColorType::Rgb, BitDepth::Sixteen, 2, 1);
    let data = [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 7];
    let bytes = encode(&deep, &[(b"tRNS", &[1, 2, 3, 4, 5, 6])], &data);
    assert_eq!(pixels(&bytes, &WHITE), [255, 255, 255, 1, 3, 5]);
    // Of fewer than 8 bits, the low bits count.
    let bits = kind(ColorType::Grayscale, BitDepth::Two, 3, 2);
    let bytes = encode(
        &bits,
        &[(b"tRNS", &[0xff, 0xfd])],
        &[0b00_01_11_00, 0b01_10_01_00],
    );
    let first = |step: usize| {
        pixels(&bytes, &WHITE)
            .into_iter()
            .step_by(step)
            .collect::<Vec<_>>()
    };
    assert_eq!(first(3), [0, 255, 255, 255, 170, 255]);
    let palette = kind(ColorType::Indexed, BitDepth::Two, 4, 1);
    let colors = [10, 20, 30, 40, 50, 60, 70, 80, 90];
    let chunks: [(&[u8; 4], &[u8]); 2] = [(b"PLTE", &colors), (b"tRNS", &[0, 51])];
    let bytes = encode(&palette, &chunks, &[0b00_01_10_00]);
    let expected = [255, 255, 255, 212, 214, 216, 70, 80, 90, 255, 255, 255];
    assert_eq!(pixels(&bytes, &WHITE), expected);
}

#[test]
fn few_significant_bits_fill_the_byte() {
    let deep = kind(ColorType::Rgb, BitDepth::Sixteen, 1, 1);
    let data = [0xf8, 0, 0xfc, 0, 0x84, 0];
    assert_eq!(
        pixels(&encode(&deep, &[], &data), &WHITE),
        [0xf8, 0xfc, 0x84]
    );
    let bytes = encode(&deep, &[(b"sBIT", &[5, 6, 5])], &data);
    assert_eq!(pixels(&bytes, &WHITE), [0xff, 0xff, 0x84]);
    // Twelve significant bits are the first twelve: the high byte holds eight of them.
    let bytes = encode(&deep, &[(b"sBIT", &[12, 12, 12])], &data);
    assert_eq!(pixels(&bytes, &WHITE), [0xf8, 0xfc, 0x84]);
}

#[test]
fn a_window_and_the_largest_sample() {
    let deep = kind(ColorType::Grayscale, BitDepth::Sixteen, 3, 1);
    let bytes = encode(&deep, &[], &[0, 0, 0x08, 0, 0x0f, 0xff]);
    let found = decode_png(&bytes, &WHITE).unwrap();
    assert_eq!(found.image.pixels, [0, 0, 0, 8, 8, 8, 15, 15, 15]);
    assert_eq!(found.sixteen_bit_max, Some(4095));
    let options = DecodeOptions {
        sixteen_bit: SixteenBit::Window(0, 4095),
        ..WHITE
    };
    let windowed = [0, 0, 0, 128, 128, 128, 255, 255, 255];
    assert_eq!(pixels(&bytes, &options), windowed);
    let shallow = kind(ColorType::Grayscale, BitDepth::Four, 2, 1);
    let found = decode_png(&encode(&shallow, &[], &[0x5f]), &options).unwrap();
    assert_eq!(found.image.pixels, [85, 85, 85, 255, 255, 255]);
    assert_eq!(found.sixteen_bit_max, None);
}

/// Returns the place of a chunk's length, and that of the end of its content.
fn chunk(bytes: &[u8], name: &[u8; 4]) -> (usize, usize) {
    let at = bytes.windows(4).position(|window| window == name).unwrap() - 4;
    let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (at, at + 8 + len as usize)
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[test]
fn every_checksum_counts() {
    let gray = kind(ColorType::Grayscale, BitDepth::Eight, 2, 2);
    let bytes = encode(&gray, &[(b"tRNS", &[0, 9])], &[1, 2, 3, 4]);
    assert!(decode_png(&bytes, &WHITE).is_ok());
    for name in [b"IHDR", b"tRNS", b"IDAT", b"IEND"] {
        let mut damaged = bytes.clone();
        damaged[chunk(&bytes, name).1] ^= 1;
        let error = decode_png(&damaged, &WHITE).unwrap_err();
        assert!(matches!(error, DecodeError::Damaged(_)), "{error}");
    }
    // The Adler-32 of the pixels, in a chunk whose own checksum is right.
    let mut damaged = bytes.clone();
    let (at, end) = chunk(&bytes, b"IDAT");
    damaged[end - 1] ^= 1;
    let sum = crc32(&damaged[at + 4..end]).to_be_bytes();
    damaged[end..end + 4].copy_from_slice(&sum);
    assert!(decode_png(&damaged, &WHITE).is_err());
    for end in 0..bytes.len() {
        assert!(decode_png(&bytes[..end], &WHITE).is_err(), "{end}");
    }
}

#[test]
fn a_side_may_be_longer_than_in_a_jpeg() {
    let strip = kind(ColorType::Grayscale, BitDepth::One, 70_000, 2);
    let bytes = encode(&strip, &[], &[0xff; 2 * 70_000 / 8]);
    let found = decode_png(&bytes, &WHITE).unwrap().image;
    assert_eq!((found.height, found.width), (2, 70_000));
    assert!(found.pixels.iter().all(|v| *v == 255));
}
