//! Tests of TIFF.

use super::super::{Orientation, SixteenBit};
use super::*;

/// One page: its tags as lists of numbers of two bytes, and its only strip. The tags of the strip
/// are added.
struct Page {
    tags: Vec<(u16, Vec<u16>)>,
    strip: Vec<u8>,
}

fn page(width: u16, height: u16, photometric: u16, bits: &[u16], strip: &[u8]) -> Page {
    let mut tags = vec![
        (256, vec![width]),
        (257, vec![height]),
        (258, bits.to_vec()),
        (259, vec![1]),
        (262, vec![photometric]),
        (277, vec![bits.len() as u16]),
        (278, vec![height]),
    ];
    tags.sort();
    Page {
        tags,
        strip: strip.to_vec(),
    }
}

impl Page {
    fn with(mut self, tag: u16, values: &[u16]) -> Self {
        self.tags.retain(|(found, _)| *found != tag);
        self.tags.push((tag, values.to_vec()));
        self
    }
}

/// Writes a little- or big-endian TIFF.
fn file(pages: Vec<Page>, little: bool) -> Vec<u8> {
    let word = |value: u16| match little {
        true => value.to_le_bytes(),
        false => value.to_be_bytes(),
    };
    let long = |value: u32| match little {
        true => value.to_le_bytes(),
        false => value.to_be_bytes(),
    };
    let mut bytes = if little { b"II*\0" } else { b"MM\0*" }.to_vec();
    // Place of the number that points to the next page.
    let mut link = bytes.len();
    bytes.extend([0; 4]);
    for page in pages {
        let strip = bytes.len() as u32;
        bytes.extend(&page.strip);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let mut entries = Vec::new();
        for (tag, values) in &page.tags {
            let mut value: Vec<u8> = values.iter().flat_map(|value| word(*value)).collect();
            if value.len() > 4 {
                let at = bytes.len() as u32;
                bytes.extend(&value);
                value = long(at).to_vec();
            }
            value.resize(4, 0);
            entries.push((*tag, 3, values.len() as u32, value));
        }
        entries.push((273, 4, 1, long(strip).to_vec()));
        entries.push((279, 4, 1, long(page.strip.len() as u32).to_vec()));
        entries.sort();
        let start = long(bytes.len() as u32);
        bytes[link..link + 4].copy_from_slice(&start);
        bytes.extend(word(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            bytes.extend([word(tag), word(kind)].concat());
            bytes.extend(long(count));
            bytes.extend(value);
        }
        link = bytes.len();
        bytes.extend([0; 4]);
    }
    bytes
}

fn pixels(page: Page, options: &DecodeOptions) -> Vec<u8> {
    let decoded = decode_tiff(&file(vec![page], true), options).unwrap();
    decoded.image.pixels
}

/// First samples of the pixels of a gray picture.
fn grays(page: Page) -> Vec<u8> {
    let pixels = pixels(page, &DecodeOptions::default());
    pixels.into_iter().step_by(3).collect()
}

#[test]
fn gray_of_every_depth() {
    assert_eq!(
        grays(page(3, 2, 1, &[1], &[0b101_00000, 0b010_00000])),
        [255, 0, 255, 0, 255, 0]
    );
    assert_eq!(grays(page(3, 1, 0, &[1], &[0b101_00000])), [0, 255, 0]);
    assert_eq!(
        grays(page(4, 1, 1, &[2], &[0b00_01_10_11])),
        [0, 85, 170, 255]
    );
    assert_eq!(grays(page(3, 1, 0, &[4], &[0x0f, 0x50])), [255, 0, 170]);
    assert_eq!(grays(page(2, 1, 0, &[8], &[3, 255])), [252, 0]);
    // Black is 65,535.
    let deep = page(2, 1, 0, &[16], &[0xff, 0xfe, 0x34, 0x12]);
    let found = decode_tiff(&file(vec![deep], true), &DecodeOptions::default()).unwrap();
    assert_eq!(found.image.pixels, [1, 1, 1, 0xed, 0xed, 0xed]);
    assert_eq!(found.sixteen_bit_max, Some(0xedcb));
    let deep = page(2, 1, 1, &[16], &[0x01, 0x00, 0x12, 0x34]);
    let found = decode_tiff(&file(vec![deep], false), &DecodeOptions::default()).unwrap();
    assert_eq!(found.image.pixels, [1, 1, 1, 0x12, 0x12, 0x12]);
}

#[test]
fn a_window_applies_to_16_bits() {
    let options = DecodeOptions {
        sixteen_bit: SixteenBit::Window(0, 4095),
        ..DecodeOptions::default()
    };
    let deep = page(2, 1, 1, &[16], &[0xff, 0x0f, 0x00, 0x08]);
    assert_eq!(pixels(deep, &options), [255, 255, 255, 128, 128, 128]);
}

#[test]
fn colors_alpha_and_palettes() {
    let black = DecodeOptions::default();
    let white = DecodeOptions {
        alpha: [255; 3],
        ..DecodeOptions::default()
    };
    let rgb = || page(1, 1, 2, &[8; 3], &[1, 2, 3]);
    assert_eq!(pixels(rgb(), &black), [1, 2, 3]);
    let rgba = |kind: &[u16]| page(1, 1, 2, &[8; 4], &[50, 100, 0, 51]).with(338, kind);
    assert_eq!(pixels(rgba(&[2]), &white), [214, 224, 204]);
    assert_eq!(pixels(rgba(&[1]), &white), [254, 255, 204]);
    assert_eq!(pixels(rgba(&[0]), &white), [50, 100, 0]);
    // Without the tag, the fourth sample is alpha.
    let unstated = page(1, 1, 2, &[8; 4], &[50, 100, 0, 51]);
    assert_eq!(pixels(unstated, &white), [214, 224, 204]);
    let gray = page(1, 1, 1, &[8; 2], &[50, 51]).with(338, &[2]);
    assert_eq!(pixels(gray, &black), [10; 3]);
    let colors = [0x1234, 0, 0, 0xffff, 0x0100, 0, 0, 0, 0, 0x8000, 0, 0x00ff];
    let palette = page(4, 1, 3, &[2], &[0b00_11_01_10]).with(320, &colors);
    assert_eq!(
        pixels(palette, &black),
        [0x12, 1, 0, 255, 0, 0, 0, 0, 128, 0, 0, 0]
    );
    let cmyk = page(1, 1, 5, &[8; 4], &[255, 0, 128, 51]);
    assert_eq!(pixels(cmyk, &black), [0, 204, 102]);
}

#[test]
fn a_predictor_covers_samples_that_are_not_used() {
    // Differences to the pixel before.
    let predicted = page(2, 1, 2, &[8; 4], &[10, 20, 30, 1, 1, 2, 3, 4]);
    let predicted = predicted.with(338, &[0]).with(317, &[2]);
    let found = pixels(predicted, &DecodeOptions::default());
    assert_eq!(found, [10, 20, 30, 11, 22, 33]);
}

#[test]
fn reversed_bits_and_orientation() {
    let reversed = page(4, 2, 1, &[1], &[0b1010, 0b0100]).with(266, &[2]);
    assert_eq!(grays(reversed), [0, 255, 0, 255, 0, 0, 255, 0]);
    let turned = || page(2, 1, 1, &[8], &[1, 2]).with(274, &[3]);
    assert_eq!(grays(turned()), [1, 2]);
    let options = DecodeOptions {
        orientation: Orientation::Exif,
        ..DecodeOptions::default()
    };
    assert_eq!(pixels(turned(), &options), [2, 2, 2, 1, 1, 1]);
}

#[test]
fn a_page_is_chosen() {
    let pages = || (0..3).map(|value| page(1, 1, 1, &[8], &[value])).collect();
    for little in [true, false] {
        let bytes = file(pages(), little);
        for page in 0..3 {
            let options = DecodeOptions {
                page,
                ..DecodeOptions::default()
            };
            let found = decode_tiff(&bytes, &options).unwrap().image.pixels;
            assert_eq!(found, [page as u8; 3]);
        }
        let options = DecodeOptions {
            page: 3,
            ..DecodeOptions::default()
        };
        let error = decode_tiff(&bytes, &options).unwrap_err().to_string();
        assert!(
            error.contains("page 3") && error.contains("data.page"),
            "{error}"
        );
    }
}

#[test]
fn unsupported_kinds_are_named() {
    let gray = || page(1, 1, 1, &[8], &[0]);
    for (page, name) in [
        (gray().with(259, &[7]), "JPEG compression"),
        (gray().with(259, &[50_002]), "JPEG XL compression"),
        (gray().with(259, &[999]), "compression number 999"),
        (gray().with(339, &[2]), "signed"),
        (
            page(1, 1, 1, &[32], &[0; 4]).with(339, &[3]),
            "floating-point",
        ),
        (page(1, 1, 1, &[12], &[0; 2]), "12 bits"),
        (page(1, 1, 6, &[8; 3], &[0; 3]), "YCbCr"),
        (page(1, 1, 8, &[8; 3], &[0; 3]), "L*a*b*"),
    ] {
        let error = decode_tiff(&file(vec![page], true), &DecodeOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DecodeError::Unsupported { .. }), "{text}");
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn damage_and_size_are_told_apart() {
    let options = DecodeOptions::default();
    let bytes = file(vec![page(4, 4, 1, &[8], &[7; 16])], true);
    assert!(decode_tiff(&bytes, &options).is_ok());
    assert_eq!(memory(&bytes), Some((17 << 20) + 64));
    for end in 0..bytes.len() - 4 {
        assert!(decode_tiff(&bytes[..end], &options).is_err(), "{end}");
    }
    let huge = file(vec![page(65_535, 65_535, 1, &[8], &[7; 16])], true);
    let error = decode_tiff(&huge, &options).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge), "{error}");
}
