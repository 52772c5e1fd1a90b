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

#[cfg(test)]
mod tests {
    use libjpeg_turbo_rs::{Decoder, PixelFormat, Subsampling, compress, compress_arithmetic};
    use libjpeg_turbo_rs::{compress_arithmetic_progressive, compress_progressive};
    use proptest::prelude::*;

    use super::markers::{Markers, SOS};
    use super::*;

    const WRITERS: [Writer; 4] = [
        compress,
        compress_progressive,
        compress_arithmetic,
        compress_arithmetic_progressive,
    ];

    type Writer =
        fn(&[u8], usize, usize, PixelFormat, u8, Subsampling) -> libjpeg_turbo_rs::Result<Vec<u8>>;

    fn written(writer: Writer, (height, width): (usize, usize), sampling: Subsampling) -> Vec<u8> {
        let level = |at: usize| (at * at / 7 + at / 11) as u8;
        let pixels: Vec<u8> = (0..height * width * 3).map(level).collect();
        writer(&pixels, width, height, PixelFormat::Rgb, 85, sampling).unwrap()
    }

    /// Position of the first scan's data.
    fn data_start(bytes: &[u8]) -> usize {
        let scan = Markers::new(bytes).map(Result::unwrap);
        let scan = scan.into_iter().find(|marker| marker.code == SOS).unwrap();
        scan.data.as_ptr() as usize - bytes.as_ptr() as usize
    }

    fn message(bytes: &[u8]) -> String {
        decode_jpeg(bytes).unwrap_err().to_string()
    }

    #[test]
    fn pixels_are_those_of_another_decoder() {
        use Subsampling::{S411, S420, S422, S440, S444};
        for sampling in [S444, S422, S420, S440, S411] {
            for size in [(1, 1), (8, 8), (9, 17), (17, 6), (33, 3), (40, 70)] {
                for writer in WRITERS {
                    let bytes = written(writer, size, sampling);
                    let decoder = Decoder::new(&bytes).unwrap();
                    let expected = decoder.with_output_format(PixelFormat::Rgb);
                    let expected = expected.decode_image().unwrap();
                    let found = decode_jpeg(&bytes).unwrap();
                    assert_eq!((found.height, found.width), size);
                    assert!(found.pixels == expected.data, "{size:?} {sampling:?}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_is_refused_wherever() {
        for writer in WRITERS {
            let bytes = written(writer, (20, 30), Subsampling::S420);
            for len in 0..bytes.len() {
                assert_eq!(
                    message(&bytes[..len]),
                    "a damaged or truncated JPEG",
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn huffman_data_that_end_early_are_refused() {
        for writer in [compress, compress_progressive] {
            let bytes = written(writer, (20, 30), Subsampling::S420);
            for len in data_start(&bytes)..bytes.len() - 3 {
                let cut = [&bytes[..len], &[0xff, 0xd9]].concat();
                assert!(decode_jpeg(&cut).is_err(), "{len} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let bytes = written(compress, (16, 16), Subsampling::S420);
        let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        let changed = |offset: usize, new: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[frame + offset..frame + offset + new.len()].copy_from_slice(new);
            message(&bytes)
        };
        let cases: [(usize, &[u8], &str); 9] = [
            (1, &[0xc3], "it is lossless"),
            (1, &[0xc7], "it is hierarchical"),
            (4, &[12], "it has 12 bits per sample"),
            (5, &[0, 0], "its height comes after the pixels (DNL)"),
            (
                5,
                &[0, 1, 0xff, 0xff],
                "a side of it is longer than 65500 pixels",
            ),
            (
                11,
                &[0x32, 0, 2, 0x21],
                "its sampling factors are 3x2, 2x1, 1x1, and no whole",
            ),
            (11, &[0x44], "give more than 10 blocks to an MCU"),
            (
                5,
                &[0xea, 0x60, 0xea, 0x60],
                "has more pixels than the limit",
            ),
            (5, &[0, 1, 0, 0], "a damaged or truncated JPEG"),
        ];
        for (offset, new, words) in cases {
            let found = changed(offset, new);
            assert!(found.contains(words), "{found}, not {words}");
        }
    }

    #[test]
    fn an_incomplete_progressive_file_is_named() {
        let bytes = written(compress_progressive, (16, 16), Subsampling::S444);
        let scans: Vec<usize> = bytes
            .windows(2)
            .enumerate()
            .filter(|(_, window)| *window == [0xff, 0xda])
            .map(|(at, _)| at)
            .collect();
        let last = scans.last().unwrap();
        let cut = [&bytes[..*last], &[0xff, 0xd9]].concat();
        assert_eq!(
            message(&cut),
            "an unsupported JPEG: it is progressive and lacks scans"
        );
    }

    proptest! {
        #[test]
        fn changed_files_are_read_or_refused(
            writer in 0..4usize,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = written(WRITERS[writer], (20, 30), Subsampling::S420);
            for (at, new) in changes {
                let at = at.index(bytes.len());
                bytes[at] = new;
            }
            let _ = exif(&bytes);
            if let Ok(image) = decode_jpeg(&bytes) {
                prop_assert_eq!(image.pixels.len(), 3 * image.height * image.width);
                let size = (image.width as u32, image.height as u32);
                prop_assert_eq!(dimensions(&bytes).map(|(w, h, _)| (w, h)), Some(size));
            }
        }
    }
}
