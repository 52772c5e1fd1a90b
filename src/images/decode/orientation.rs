//! Orientation: turning an image as its Exif data say.

use image::metadata::Orientation as Turn;
use serde::{Deserialize, Serialize};

use super::{DecodeOptions, Decoded, Rgb};

/// Orientation in which an image is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    /// Rows and columns as they are stored, like Pillow's `Image.open`.
    #[default]
    Stored,
    /// Turned and mirrored as the file's Exif data say, like Pillow's `ImageOps.exif_transpose`.
    Exif,
}

/// Turns an image by its Exif data, a TIFF header with its tags, if the options ask for it. Data
/// without a valid orientation turn nothing.
pub(super) fn orient_exif(decoded: Decoded, exif: &[u8], options: &DecodeOptions) -> Decoded {
    // Some writers keep the prefix that the data have in a JPEG.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    match Turn::from_exif_chunk(exif) {
        Some(turn) => orient(decoded, turn, options),
        None => decoded,
    }
}

/// Turns an image by the value of the tag `Orientation`, 1 to 8, if the options ask for it; other
/// values turn nothing.
#[cfg(any(test, feature = "tiff"))]
pub(super) fn orient_tag(decoded: Decoded, tag: u16, options: &DecodeOptions) -> Decoded {
    match u8::try_from(tag).ok().and_then(Turn::from_exif) {
        Some(turn) => orient(decoded, turn, options),
        None => decoded,
    }
}

fn orient(mut decoded: Decoded, turn: Turn, options: &DecodeOptions) -> Decoded {
    if options.orientation == Orientation::Exif && turn != Turn::NoTransforms {
        decoded.image = turned(&decoded.image, turn);
    }
    decoded
}

/// Returns the image with each pixel where `turn` puts it.
fn turned(image: &Rgb, turn: Turn) -> Rgb {
    let (rows, columns) = (image.height, image.width);
    let swaps = matches!(
        turn,
        Turn::Rotate90 | Turn::Rotate270 | Turn::Rotate90FlipH | Turn::Rotate270FlipH
    );
    let (height, width) = if swaps {
        (columns, rows)
    } else {
        (rows, columns)
    };
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height {
        for x in 0..width {
            // Row and column from which the pixel comes.
            let (row, column) = match turn {
                Turn::NoTransforms => (y, x),
                Turn::FlipHorizontal => (y, columns - 1 - x),
                Turn::Rotate180 => (rows - 1 - y, columns - 1 - x),
                Turn::FlipVertical => (rows - 1 - y, x),
                Turn::Rotate90FlipH => (x, y),
                Turn::Rotate90 => (rows - 1 - x, y),
                Turn::Rotate270FlipH => (rows - 1 - x, columns - 1 - y),
                Turn::Rotate270 => (x, columns - 1 - y),
            };
            let at = 3 * (row * columns + column);
            pixels.extend_from_slice(&image.pixels[at..at + 3]);
        }
    }
    Rgb {
        pixels,
        height,
        width,
    }
}

#[cfg(test)]
mod tests {
    use super::super::jpeg;
    use super::*;

    /// Two rows of three pixels, numbered from 0.
    fn numbered() -> Decoded {
        Decoded {
            image: Rgb {
                pixels: (0..6).flat_map(|v| [v; 3]).collect(),
                height: 2,
                width: 3,
            },
            sixteen_bit_max: None,
        }
    }

    /// Exif data with the orientation as their only tag, in big endian.
    fn exif(value: u8) -> Vec<u8> {
        let head = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        [head, vec![value, 0, 0, 0, 0, 0, 0]].concat()
    }

    fn oriented(value: u8, orientation: Orientation) -> (usize, Vec<u8>) {
        let options = DecodeOptions {
            orientation,
            ..DecodeOptions::default()
        };
        let found = orient_exif(numbered(), &exif(value), &options);
        assert_eq!(found, orient_tag(numbered(), u16::from(value), &options));
        let first = found.image.pixels.iter().step_by(3).copied().collect();
        (found.image.width, first)
    }

    /// Results of Pillow's `ImageOps.exif_transpose`.
    #[test]
    fn all_eight_orientations_are_those_of_pillow() {
        let expected = [
            (3, [0, 1, 2, 3, 4, 5]),
            (3, [2, 1, 0, 5, 4, 3]),
            (3, [5, 4, 3, 2, 1, 0]),
            (3, [3, 4, 5, 0, 1, 2]),
            (2, [0, 3, 1, 4, 2, 5]),
            (2, [3, 0, 4, 1, 5, 2]),
            (2, [5, 2, 4, 1, 3, 0]),
            (2, [2, 5, 1, 4, 0, 3]),
        ];
        for (value, (width, pixels)) in (1..).zip(expected) {
            let found = oriented(value, Orientation::Exif);
            assert_eq!(found, (width, pixels.to_vec()), "{value}");
            assert_eq!(oriented(value, Orientation::Stored).0, 3);
        }
    }

    #[test]
    fn exif_data_are_found_in_a_jpeg() {
        let segment = |marker: u8, content: &[u8]| {
            let len = (content.len() as u16 + 2).to_be_bytes();
            [&[0xff, marker][..], &len, content].concat()
        };
        let app0 = segment(0xe0, b"JFIF\0");
        let app1 = segment(0xe1, &[b"Exif\0\0".to_vec(), exif(6)].concat());
        let scan = segment(0xda, b"");
        let file = [b"\xff\xd8", &app0[..], b"\xff\xff", &app1, &scan].concat();
        assert_eq!(jpeg::exif(&file), Some(&exif(6)[..]));
        let late = [b"\xff\xd8", &app0[..], &scan, &app1].concat();
        assert_eq!(jpeg::exif(&late), None);
        for end in 0..file.len() - scan.len() {
            assert_eq!(jpeg::exif(&file[..end]), None, "{end}");
        }
    }

    #[test]
    fn invalid_orientations_turn_nothing() {
        for value in [0, 9, 255] {
            assert_eq!(oriented(value, Orientation::Exif).1, [0, 1, 2, 3, 4, 5]);
        }
        let options = DecodeOptions {
            orientation: Orientation::Exif,
            ..DecodeOptions::default()
        };
        let prefixed = [b"Exif\0\0".to_vec(), exif(3)].concat();
        assert_eq!(
            orient_exif(numbered(), &prefixed, &options).image.pixels[0],
            5
        );
        for damaged in [&b""[..], b"MM", &exif(3)[..20]] {
            assert_eq!(orient_exif(numbered(), damaged, &options), numbered());
        }
    }
}
