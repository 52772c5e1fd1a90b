//! Tests of GIF, WebP and BMP.

use super::*;

/// A GIF of a screen of 3 by 2 pixels, whose frame has the lower right 2 by 1 pixels: the second
/// color, and the transparent first.
fn gif() -> Vec<u8> {
    let mut bytes = b"GIF89a\x03\0\x02\0\x80\x01\0".to_vec();
    bytes.extend([10, 20, 30, 40, 50, 60]);
    bytes.extend(b"\x21\xf9\x04\x01\0\0\0\0");
    bytes.extend(b"\x2c\x01\0\x01\0\x02\0\x01\0\0");
    // Codes of 3 bits, the first one lowest: clear 4, 1, 0, end 5.
    let codes = [4u16, 1, 0, 5].into_iter().rev();
    let packed = codes
        .fold(0, |packed, code| packed << 3 | code)
        .to_le_bytes();
    bytes.extend([2, 2, packed[0], packed[1], 0, 0x3b]);
    bytes
}

#[test]
fn a_frame_stands_on_a_canvas_of_the_background() {
    for alpha in [[0; 3], [255, 0, 7]] {
        let options = DecodeOptions {
            alpha,
            ..DecodeOptions::default()
        };
        let image = decode_gif(&gif(), &options).unwrap().image;
        assert_eq!((image.height, image.width), (2, 3));
        let pixels: Vec<&[u8]> = image.pixels.chunks(3).collect();
        let background = &alpha[..];
        let row = [background; 3];
        assert_eq!(pixels[..3], row);
        assert_eq!(pixels[3..], [background, &[40, 50, 60], background]);
    }
}

#[test]
fn a_gif_that_is_cut_is_damaged() {
    let bytes = gif();
    for end in 0..bytes.len() - 3 {
        let error = decode_gif(&bytes[..end], &DecodeOptions::default()).unwrap_err();
        assert!(matches!(error, DecodeError::Damaged(_)), "{end}: {error}");
    }
}

#[cfg(feature = "bmp")]
mod bmp {
    use super::*;

    /// A BMP with a palette of two colors.
    fn bmp(width: i32, height: i32, (bits, compression): (u16, u32), pixels: &[u8]) -> Vec<u8> {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0\x3e\0\0\0\x28\0\0\0".to_vec();
        bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes.extend([[1, 0], bits.to_le_bytes()].concat());
        bytes.extend(compression.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0]);
        bytes.extend(pixels);
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        decode_bmp(bytes, &DecodeOptions::default()).map(|decoded| decoded.image.pixels)
    }

    #[test]
    fn run_lengths_need_an_end() {
        let pixels = [2, 1, 1, 0, 0, 1];
        let bytes = bmp(3, 1, (8, 1), &pixels);
        assert_eq!(decoded(&bytes).unwrap(), [6, 5, 4, 6, 5, 4, 3, 2, 1]);
        for end in 0..bytes.len() {
            let error = decoded(&bytes[..end]).unwrap_err();
            assert!(matches!(error, DecodeError::Damaged(_)), "{end}: {error}");
        }
        // Three pixels as they are, and a byte to the next even one.
        let literal = bmp(3, 1, (8, 1), &[0, 3, 0, 1, 0, 9, 0, 1]);
        assert_eq!(decoded(&literal).unwrap(), [3, 2, 1, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn pixels_that_are_left_out_are_not_invented() {
        let full = [3, 1, 0, 0, 3, 1, 0, 0, 0, 1];
        assert!(decoded(&bmp(3, 2, (8, 1), &full)).is_ok());
        let skipped = [1, 1, 0, 2, 1, 0, 1, 1, 0, 0, 3, 1, 0, 1];
        let short_row = [2, 1, 0, 0, 3, 1, 0, 1];
        let short_image = [3, 1, 0, 1];
        for pixels in [&skipped[..], &short_row, &short_image] {
            let error = decoded(&bmp(3, 2, (8, 1), pixels)).unwrap_err();
            assert!(error.to_string().contains("left out"), "{error}");
        }
    }

    #[test]
    fn rows_stand_upside_down_unless_the_height_is_negative() {
        let rows = [0x40, 0, 0, 0, 0x80, 0, 0, 0];
        let up = decoded(&bmp(2, 2, (1, 0), &rows)).unwrap();
        assert_eq!(up, [6, 5, 4, 3, 2, 1, 3, 2, 1, 6, 5, 4]);
        let down = decoded(&bmp(2, -2, (1, 0), &rows)).unwrap();
        assert_eq!(down, [3, 2, 1, 6, 5, 4, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn refusals_have_their_own_words() {
        let long = decoded(&bmp(65_536, 1, (1, 0), &[0; 8192])).unwrap_err();
        assert!(long.to_string().contains("side"), "{long}");
        let large = decoded(&bmp(60_000, 60_000, (1, 0), &[])).unwrap_err();
        assert!(matches!(large, DecodeError::TooLarge), "{large}");
        let mut within_palette = bmp(2, 2, (1, 0), &[0; 8]);
        within_palette[10] = 0x36;
        let damaged = decoded(&within_palette).unwrap_err();
        assert!(matches!(damaged, DecodeError::Damaged(_)), "{damaged}");
    }
}

#[cfg(feature = "webp")]
#[test]
fn chunks_of_a_riff_file_are_found() {
    let file = b"RIFF\x20\0\0\0WEBPVP8X\x03\0\0\0abc\0EXIF\x02\0\0\0xy".as_slice();
    assert_eq!(riff_chunk(file, b"EXIF"), Some(&b"xy"[..]));
    assert_eq!(riff_chunk(file, b"VP8X"), Some(&b"abc"[..]));
    assert_eq!(riff_chunk(file, b"ICCP"), None);
    for end in 0..file.len() {
        assert_eq!(riff_chunk(&file[..end], b"EXIF"), None, "{end}");
    }
}
