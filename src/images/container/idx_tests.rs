use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::super::{all_labels, damaged_copy, folder_of};
use super::*;

/// An IDX file of these dimensions and values.
fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, UINT8, dimensions.len() as u8];
    for dimension in dimensions {
        bytes.extend(dimension.to_be_bytes());
    }
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Five images of 2x3 pixels, the values of which count.
fn images() -> Vec<u8> {
    idx(&[5, 2, 3], &(0..30).collect::<Vec<u8>>())
}

fn pixels(container: &mut IdxImages, indices: &[usize]) -> Vec<Vec<u8>> {
    let stored = container.read(indices).unwrap();
    let pixels = stored.into_iter().map(|stored| match stored {
        Stored::Pixels(image) => {
            assert_eq!(image.pixels.len(), 3 * image.height * image.width);
            image.pixels
        }
        _ => panic!("not pixels"),
    });
    pixels.collect()
}

/// The gray image `index` of [`images`] as RGB.
fn gray(index: u8) -> Vec<u8> {
    (6 * index..6 * index + 6)
        .flat_map(|value| [value; 3])
        .collect()
}

fn error_of(files: &[(&str, Vec<u8>)]) -> String {
    let folder = folder_of(files);
    let opened = IdxImages::open(folder.path(), Some("train"));
    let read = opened.and_then(|mut images| {
        let all: Vec<usize> = (0..images.len()).collect();
        images.read(&all)?;
        images.end()
    });
    read.unwrap_err().to_string()
}

#[test]
fn plain_and_gzipped_files_are_read_in_any_order() {
    for (name, bytes) in [
        ("train-images-idx3-ubyte", images()),
        ("train-images-idx3-ubyte.gz", gzip(&images())),
        // Unpacked by a browser, with its old name.
        ("train-images.idx3-ubyte.gz", images()),
    ] {
        let folder = folder_of(&[(name, bytes)]);
        let mut images = IdxImages::open(folder.path(), Some("train")).unwrap();
        assert_eq!((images.len(), images.stored_len(0)), (5, 18));
        assert!(images.name(3).ends_with(&format!("{name}: image 3")));
        for indices in [&[0, 1, 2][..], &[4], &[1, 3], &[0]] {
            let expected: Vec<_> = indices.iter().map(|index| gray(*index as u8)).collect();
            assert_eq!(pixels(&mut images, indices), expected, "{name} {indices:?}");
        }
        images.end().unwrap();
    }
}

#[test]
fn color_is_a_fourth_dimension() {
    let values: Vec<u8> = (0..12).collect();
    let folder = folder_of(&[("train-images-idx4-ubyte", idx(&[2, 1, 2, 3], &values))]);
    let mut images = IdxImages::open(folder.path(), None).unwrap();
    assert_eq!(pixels(&mut images, &[1]), [&values[6..]]);
}

#[test]
fn a_split_selects_the_file_and_its_labels() {
    let one = |value: u8| idx(&[1, 1, 1], &[value]);
    let folder = folder_of(&[
        ("train-images-idx3-ubyte.gz", gzip(&one(1))),
        ("train-labels-idx1-ubyte", idx(&[1], &[7])),
        ("t10k-images-idx3-ubyte", one(2)),
        ("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[1], &[8]))),
    ]);
    for (split, value, label) in [("train", 1, "7"), ("test", 2, "8")] {
        let mut images = IdxImages::open(folder.path(), Some(split)).unwrap();
        assert_eq!(pixels(&mut images, &[0]), [[value; 3]]);
        assert_eq!(all_labels(&mut images).unwrap(), [Some(label.to_owned())]);
    }
    let refused = |path: PathBuf, split| IdxImages::open(&path, split).err().unwrap().to_string();
    let error = refused(folder.path().to_owned(), Some("val"));
    assert!(error.contains("val-images-idx3-ubyte.gz"), "{error}");
    let error = refused(folder.path().to_owned(), None);
    assert!(error.contains("data.split"), "{error}");
    let error = refused(folder.path().join("t10k-images-idx3-ubyte"), Some("test"));
    assert!(error.contains("no data.split"), "{error}");
}

#[test]
fn labels_must_be_there_and_fit() {
    let labels = |files: &[(&str, Vec<u8>)]| {
        let folder = folder_of(files);
        let mut images = IdxImages::open(folder.path(), None).unwrap();
        all_labels(&mut images).map_err(|error| error.to_string())
    };
    let error = labels(&[("train-images-idx3-ubyte", images())]).unwrap_err();
    assert!(error.contains("train-labels-idx1-ubyte"), "{error}");
    let few = ("train-labels-idx1-ubyte", idx(&[4], &[0; 4]));
    let error = labels(&[("train-images-idx3-ubyte", images()), few]).unwrap_err();
    assert!(error.contains("[4]") && error.contains('5'), "{error}");
    let error = labels(&[("my-images-idx3-ubyte.gz", images())]).unwrap_err();
    assert!(error.contains("my-labels-idx1-ubyte.gz"), "{error}");
}

#[test]
fn damaged_files_are_refused_with_what_was_expected() {
    const NAME: &str = "train-images-idx3-ubyte";
    let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
    let longer = [images(), vec![0]].concat();
    let mut wrong_sum = gzip(&images());
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let floats = [&[0, 0, 0x0d, 3], &images()[4..]].concat();
    for (bytes, expected) in [
        (cut(&images(), 1), "whole file"),
        (longer.clone(), "whole file"),
        (gzip(&cut(&images(), 1)), "ends after 45 bytes, expected 46"),
        (gzip(&longer), "longer"),
        (cut(&gzip(&images()), 1), "gzip"),
        (wrong_sum, "checksum"),
        (floats, "00 00 08"),
        (vec![0, 0, 8], "00 00 08"),
        (idx(&[30], &[0; 30]), "[30]"),
        (idx(&[1, 0, 3], &[]), "0x3"),
        (idx(&[1, 1, 1, 2], &[0; 2]), "[1, 1, 1, 2]"),
        // Claims beyond what a file of this length can have.
        (
            gzip(&idx(&[u32::MAX, 1 << 13, 1 << 13], &[0; 9])),
            "cannot be",
        ),
        (gzip(&idx(&[u32::MAX; 4], &[0; 9])), "cannot be"),
        (idx(&[1, u32::MAX, u32::MAX], &[0; 9]), "cannot be"),
    ] {
        let error = error_of(&[(NAME, bytes)]);
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A damaged file gives an error, or the images that are there. Gzip reveals every change of a
    /// value by the end of the pass.
    #[test]
    fn damage_is_survived(
        at: prop::sample::Index,
        value: u8,
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        zipped: bool,
    ) {
        let whole = if zipped { gzip(&images()) } else { images() };
        let bytes = damaged_copy(&whole, vec![(at, value)], cut);
        let same = bytes == whole;
        let folder = folder_of(&[("train-images-idx3-ubyte", bytes)]);
        let Ok(mut container) = IdxImages::open(folder.path(), None) else {
            prop_assert!(!same);
            return Ok(());
        };
        let all: Vec<usize> = (0..container.len()).collect();
        let read = container.read(&all);
        let whole = read.is_ok() && container.end().is_ok();
        prop_assert!(whole || !same);
        if whole && zipped {
            let expected: Vec<Vec<u8>> = (0..5).map(gray).collect();
            prop_assert_eq!(pixels(&mut container, &all), expected);
        }
    }
}
