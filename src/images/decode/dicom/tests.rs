//! Tests of DICOM files.

use super::super::SixteenBit;
use super::*;

const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const RUN_LENGTHS: &str = "1.2.840.10008.1.2.5";

/// An image to write: elements by tag, representation and value, in the order of tags.
struct Image {
    syntax: &'static str,
    elements: Vec<(u32, [u8; 2], Vec<u8>)>,
}

/// A picture of one row.
fn image(syntax: &'static str, photometric: &str, bits: [u16; 2], pixels: &[u8]) -> Image {
    let samples = if photometric.starts_with(['R', 'Y']) {
        3
    } else {
        1
    };
    let columns = pixels.len() / samples / usize::from(bits[0] / 8);
    let mut image = Image {
        syntax,
        elements: Vec::new(),
    };
    image.word(0x0028_0002, samples as u16);
    image.text(0x0028_0004, b"CS", photometric);
    image.word(0x0028_0010, 1);
    image.word(0x0028_0011, columns as u16);
    image.word(0x0028_0100, bits[0]);
    image.word(0x0028_0101, bits[1]);
    image.word(0x0028_0102, bits[1] - 1);
    image.word(0x0028_0103, 0);
    image.set(0x7fe0_0010, b"OW", pixels);
    image
}

impl Image {
    fn set(&mut self, tag: u32, vr: &[u8; 2], value: &[u8]) {
        self.elements.retain(|(found, ..)| *found != tag);
        let mut value = value.to_vec();
        value.resize(value.len().next_multiple_of(2), b' ');
        self.elements.push((tag, *vr, value));
        self.elements.sort();
    }

    fn word(&mut self, tag: u32, value: u16) {
        self.set(tag, b"US", &self.two(value));
    }

    fn text(&mut self, tag: u32, vr: &[u8; 2], text: &str) {
        self.set(tag, vr, text.as_bytes());
    }

    fn two(&self, value: u16) -> [u8; 2] {
        match self.syntax == BIG_ENDIAN {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    fn four(&self, value: u32) -> [u8; 4] {
        match self.syntax == BIG_ENDIAN {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    fn file(&self) -> Vec<u8> {
        let mut uid = self.syntax.as_bytes().to_vec();
        uid.resize(uid.len().next_multiple_of(2), 0);
        let mut bytes = [&[0; 128][..], b"DICM", b"\x02\0\x10\0UI"].concat();
        bytes.extend((uid.len() as u16).to_le_bytes());
        bytes.extend(uid);
        let mut body = Vec::new();
        for (tag, vr, value) in &self.elements {
            body.extend([self.two((tag >> 16) as u16), self.two(*tag as u16)].concat());
            let len = value.len() as u32;
            if self.syntax == IMPLICIT {
                body.extend(self.four(len));
            } else if vr.starts_with(b"O") {
                body.extend([&vr[..], &[0; 2], &self.four(len)].concat());
            } else {
                body.extend([&vr[..], &self.two(len as u16)].concat());
            }
            body.extend(value);
        }
        if self.syntax == DEFLATED {
            use std::io::Write;
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(&body).unwrap();
            body = encoder.finish().unwrap();
        }
        bytes.extend(body);
        bytes
    }

    /// Pixels with the fragments of one frame each.
    fn encapsulated(&self, frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = self.file();
        bytes.extend(b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0");
        for frame in frames {
            bytes.extend(b"\xfe\xff\0\xe0");
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend(*frame);
        }
        bytes.extend(b"\xfe\xff\xdd\xe0\0\0\0\0");
        bytes
    }

    fn pixels(&self, rule: SixteenBit) -> Vec<u8> {
        let options = DecodeOptions {
            sixteen_bit: rule,
            ..DecodeOptions::default()
        };
        let decoded = decode_dicom(&self.file(), &options).unwrap();
        assert_eq!(decoded.sixteen_bit_max, None);
        decoded.image.pixels
    }

    /// First samples of the pixels of a gray picture.
    fn grays(&self) -> Vec<u8> {
        self.pixels(SixteenBit::HighByte)
            .into_iter()
            .step_by(3)
            .collect()
    }
}

fn le(values: &[i16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn the_range_of_the_stored_bits_is_used_without_a_window() {
    let values = le(&[0, 2048, 4095]);
    for syntax in [IMPLICIT, EXPLICIT, DEFLATED] {
        let gray = image(syntax, "MONOCHROME2", [16, 12], &values);
        assert_eq!(gray.grays(), [0, 128, 255]);
    }
    let swapped: Vec<u8> = values
        .as_chunks::<2>()
        .0
        .iter()
        .flat_map(|[a, b]| [*b, *a])
        .collect();
    let gray = image(BIG_ENDIAN, "MONOCHROME2", [16, 12], &swapped);
    assert_eq!(gray.grays(), [0, 128, 255]);
    let inverted = image(EXPLICIT, "MONOCHROME1", [16, 12], &values);
    assert_eq!(inverted.grays(), [255, 127, 0]);
    // Bits above those that are stored may belong to an overlay.
    let gray = image(
        EXPLICIT,
        "MONOCHROME2",
        [16, 12],
        &le(&[0x1000, -1, 0x2800]),
    );
    assert_eq!(gray.grays(), [0, 255, 128]);
    let mut signed = image(
        EXPLICIT,
        "MONOCHROME2",
        [16, 16],
        &le(&[i16::MIN, 0, i16::MAX]),
    );
    signed.word(0x0028_0103, 1);
    assert_eq!(signed.grays(), [0, 128, 255]);
}

#[test]
fn a_window_is_in_rescaled_units() {
    let mut gray = image(
        EXPLICIT,
        "MONOCHROME2",
        [16, 16],
        &le(&[864, 1064, 1264, 0, 2000]),
    );
    gray.text(0x0028_1052, b"DS", "-1024");
    gray.text(0x0028_1053, b"DS", "1");
    let windowed = gray.pixels(SixteenBit::Window(-160, 240));
    let first: Vec<u8> = windowed.into_iter().step_by(3).collect();
    assert_eq!(first, [0, 128, 255, 0, 255]);
    // The file's own window, by PS3.3 C.11.2.1.2: center 40, width 401.
    gray.text(0x0028_1050, b"DS", "40\\1");
    gray.text(0x0028_1051, b"DS", "401\\2");
    assert_eq!(gray.grays(), [0, 128, 255, 0, 255]);
    gray.text(0x0028_1056, b"CS", "LINEAR_EXACT");
    assert_eq!(gray.grays(), [0, 128, 255, 0, 255]);
    gray.text(0x0028_1056, b"CS", "SIGMOID");
    assert_eq!(gray.grays(), [31, 128, 224, 0, 255]);
    gray.text(0x0028_1056, b"CS", "OTHER");
    let error = decode_dicom(&gray.file(), &DecodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("data.sixteen_bit"), "{error}");
    // 8 bits have no window of the configuration.
    let shallow = image(EXPLICIT, "MONOCHROME2", [8, 8], &[0, 5, 240, 255]);
    let found = shallow.pixels(SixteenBit::Window(-160, 240));
    assert_eq!(found[3..9], [5, 5, 5, 240, 240, 240]);
}

#[test]
fn colors_are_read_by_pixel_and_by_plane() {
    let mut color = image(EXPLICIT, "RGB", [8, 8], &[1, 2, 3, 4, 5, 6]);
    color.word(0x0028_0006, 0);
    assert_eq!(color.pixels(SixteenBit::HighByte), [1, 2, 3, 4, 5, 6]);
    color.word(0x0028_0006, 1);
    assert_eq!(color.pixels(SixteenBit::HighByte), [1, 3, 5, 2, 4, 6]);
    let ybr = image(EXPLICIT, "YBR_FULL", [8, 8], &[76, 85, 255, 255, 128, 128]);
    assert_eq!(ybr.pixels(SixteenBit::HighByte), [254, 0, 0, 255, 255, 255]);
    let mut halved = image(EXPLICIT, "YBR_FULL_422", [8, 8], &[10, 20, 128, 128]);
    halved.word(0x0028_0011, 2);
    assert_eq!(
        halved.pixels(SixteenBit::HighByte),
        [10, 10, 10, 20, 20, 20]
    );
    let mut palette = image(EXPLICIT, "PALETTE COLOR", [8, 8], &[0, 1, 2, 9]);
    for channel in 0..3 {
        let descriptor = [3, 1, 16].map(u16::to_le_bytes).concat();
        palette.set(0x0028_1101 + channel, b"US", &descriptor);
        let entries = le(&[0x1000, 0x2000 + 0x100 * channel as i16, 0x7fff]);
        palette.set(0x0028_1201 + channel, b"OW", &entries);
    }
    let expected = [16, 16, 16, 16, 16, 16, 0x20, 0x21, 0x22, 0x7f, 0x7f, 0x7f];
    assert_eq!(palette.pixels(SixteenBit::HighByte), expected);
}

/// Frame of two pixels of 16 bits: segments of the high and of the low bytes.
fn packed() -> Vec<u8> {
    let mut bytes: Vec<u8> = [2u32, 64, 66]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    bytes.resize(64, 0);
    // Twice 0x0f; then 0xff and 0x01 as they are.
    [&bytes[..], &[0xff, 0x0f, 0x01, 0xff, 0x01, 0x00]].concat()
}

#[test]
fn run_lengths_and_frames() {
    let mut gray = image(RUN_LENGTHS, "MONOCHROME2", [16, 12], &[0; 4]);
    gray.elements.retain(|(tag, ..)| *tag != 0x7fe0_0010);
    gray.text(0x0028_0008, b"IS", "2");
    let mut other = packed();
    other[65] = 0x08;
    let bytes = gray.encapsulated(&[&packed(), &other]);
    let of = |page| {
        let options = DecodeOptions {
            page,
            ..DecodeOptions::default()
        };
        decode_dicom(&bytes, &options).map(|decoded| decoded.image.pixels)
    };
    assert_eq!(of(0).unwrap(), [255, 255, 255, 239, 239, 239]);
    assert_eq!(of(1).unwrap(), [143, 143, 143, 128, 128, 128]);
    let error = of(2).unwrap_err().to_string();
    assert!(error.contains("page 2"), "{error}");
    // A segment that ends early.
    let cut = gray.encapsulated(&[&packed()[..67], &other]);
    assert!(decode_dicom(&cut, &DecodeOptions::default()).is_err());
}

#[test]
fn a_jpeg_is_decoded_like_a_file() {
    use libjpeg_turbo_rs as jpeg;
    let pixels: Vec<u8> = (0..16 * 8 * 3u32).map(|i| (i * i / 7) as u8).collect();
    let (format, sampling) = (jpeg::PixelFormat::Rgb, jpeg::Subsampling::S420);
    let file = jpeg::compress(&pixels, 16, 8, format, 90, sampling).unwrap();
    let expected = super::super::jpeg::decode_jpeg(&file).unwrap();
    for (photometric, equal) in [("YBR_FULL_422", true), ("RGB", false)] {
        let mut color = image("1.2.840.10008.1.2.4.50", photometric, [8, 8], &[0; 48]);
        color.elements.retain(|(tag, ..)| *tag != 0x7fe0_0010);
        color.word(0x0028_0010, 8);
        color.word(0x0028_0011, 16);
        let bytes = color.encapsulated(&[&file]);
        let found = decode_dicom(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!(found.image == expected, equal, "{photometric}");
    }
}

#[test]
fn unsupported_kinds_are_named_and_damage_is_damage() {
    for (syntax, name) in [
        ("1.2.840.10008.1.2.4.90", "JPEG 2000"),
        ("1.2.840.10008.1.2.4.80", "JPEG-LS"),
        ("1.2.840.10008.1.2.4.102", "video"),
        ("1.2.3", "transfer syntax"),
    ] {
        let gray = image(syntax, "MONOCHROME2", [8, 8], &[1, 2]);
        let error = decode_dicom(&gray.file(), &DecodeOptions::default()).unwrap_err();
        assert!(matches!(error, DecodeError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let gray = image(EXPLICIT, "MONOCHROME2", [32, 32], &[0; 8]);
    let error = decode_dicom(&gray.file(), &DecodeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("32 bits"), "{error}");
    let gray = image(EXPLICIT, "MONOCHROME2", [8, 8], &[1, 2, 3, 4]);
    let bytes = gray.file();
    assert_eq!(memory(&bytes), Some(4 * 9 + bytes.len() as u64 + (1 << 20)));
    for end in 0..bytes.len() {
        assert!(
            decode_dicom(&bytes[..end], &DecodeOptions::default()).is_err(),
            "{end}"
        );
    }
    let mut huge = image(EXPLICIT, "MONOCHROME2", [8, 8], &[1, 2]);
    huge.word(0x0028_0010, u16::MAX);
    huge.word(0x0028_0011, u16::MAX);
    let error = decode_dicom(&huge.file(), &DecodeOptions::default()).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge), "{error}");
}
