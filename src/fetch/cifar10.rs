//! Converts the binary version of CIFAR-10 to folders of PNG files with the names that DPSDA's
//! `data/get_cifar10.py` gives them.
//!
//! The archive (<https://www.cs.toronto.edu/~kriz/cifar.html>) has
//! `cifar-10-batches-bin/data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`. A batch is
//! records of 3,073 bytes: the label, then 32 rows of 32 red values, the green and the blue ones. A
//! file is called `<class>_<number>.png`; the number, of five digits, counts the split's records
//! from 0 through its batches.

use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use super::archive::{ArchiveError, for_each_file};
use super::staged_dir::TargetDir;
use crate::images::{ImageBatch, png};
use crate::progress::Progress;

/// Rows and columns of an image.
const SIDE: usize = 32;
/// Values of one channel.
const PLANE: usize = SIDE * SIDE;
/// Size of a record in bytes.
pub(super) const RECORD: usize = 1 + 3 * PLANE;
/// Number of batches of the training set.
const TRAIN_BATCHES: usize = 5;
/// Class names by label, as in the reference implementation.
pub(super) const CLASSES: [&str; 10] = [
    "plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
];

/// Writes the images of `archive` into the folders.
///
/// # Errors
/// [`ArchiveError`]: a batch is missing, has another length or has an unknown label.
pub(super) fn unpack(
    archive: &Path,
    limit: u64,
    wanted: &[TargetDir],
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    for_each_file(archive, limit, progress, &mut |found| {
        let Some((split, batch)) = batch(&found.name) else {
            return Ok(ControlFlow::Continue(()));
        };
        let Some(wanted) = wanted.iter().find(|wanted| wanted.split == split) else {
            return Ok(ControlFlow::Continue(()));
        };
        let batches = if split == "train" { TRAIN_BATCHES } else { 1 };
        let images = wanted.images / batches;
        let expected = (images * RECORD) as u64;
        if found.size != expected || !wanted.images.is_multiple_of(batches) {
            return Err(ArchiveError::Invalid(format!(
                "{} has {} bytes, expected {expected} for {images} images",
                found.name, found.size
            )));
        }
        let bytes = found.read(expected)?;
        let first = batch * images;
        bytes
            .par_chunks_exact(RECORD)
            .enumerate()
            .try_for_each(|(place, record)| {
                let number = first + place;
                let (class, image) = image(record)
                    .map_err(|wrong| ArchiveError::Invalid(format!("{}: {wrong}", found.name)))?;
                let bytes =
                    png(&image).map_err(|error| ArchiveError::Invalid(error.to_string()))?;
                let name = format!("{class}_{number:05}.png");
                wanted
                    .folder
                    .write(&name, &bytes)
                    .map_err(ArchiveError::from)
            })?;
        Ok(ControlFlow::Continue(()))
    })?;
    for wanted in wanted {
        let (found, expected) = (wanted.folder.len(), wanted.images);
        if found != expected {
            let split = &wanted.split;
            return Err(ArchiveError::Invalid(format!(
                "has {found} {split} images, expected {expected}"
            )));
        }
    }
    Ok(())
}

/// Returns split and index of a batch by the name of its file.
pub(super) fn batch(name: &str) -> Option<(&'static str, usize)> {
    let file = name.rsplit('/').next()?;
    if file == "test_batch.bin" {
        return Some(("test", 0));
    }
    let number = file.strip_prefix("data_batch_")?.strip_suffix(".bin")?;
    let batch = (1..=TRAIN_BATCHES).find(|batch| batch.to_string() == number)?;
    Some(("train", batch - 1))
}

/// Returns class and image of a record.
///
/// # Errors
/// Description of the fault.
fn image(record: &[u8]) -> Result<(&'static str, ImageBatch), String> {
    let (label, values) = match record {
        [label, values @ ..] if values.len() == 3 * PLANE => (*label, values),
        _ => {
            return Err(format!(
                "a record of {} bytes, expected {RECORD}",
                record.len()
            ));
        }
    };
    let Some(class) = CLASSES.get(usize::from(label)) else {
        return Err(format!("a record with the label {label}: expected 0 to 9"));
    };
    let (red, rest) = values.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    let pixels = red.iter().zip(green).zip(blue);
    let pixels = pixels.flat_map(|((r, g), b)| [*r, *g, *b]).collect();
    let image = ImageBatch::new(pixels, 1, SIDE, SIDE).map_err(|error| error.to_string())?;
    Ok((class, image))
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{add, packed};
    use super::super::staged_dir::StagedDir;
    use super::*;
    use crate::images::{DecodeOptions, decode};
    use crate::progress::Silent;
    use proptest::prelude::*;

    /// A record with a known texture.
    fn record(label: u8, seed: usize) -> Vec<u8> {
        let mut bytes = vec![label];
        bytes.extend((0..3 * PLANE).map(|at| ((at * 31 + seed * 97) % 251) as u8));
        bytes
    }

    fn wanted(root: &Path, split: &str, images: usize) -> TargetDir {
        TargetDir {
            split: split.to_owned(),
            images,
            folder: StagedDir::begin(&root.join(split)).unwrap(),
        }
    }

    fn run(bytes: &[u8], root: &Path, wanted: Vec<TargetDir>) -> Result<(), String> {
        let archive = root.join("archive.tar.gz");
        std::fs::write(&archive, bytes).unwrap();
        unpack(&archive, 1 << 24, &wanted, &Silent)
            .map_err(|problem| problem.about(&archive).to_string())?;
        for wanted in wanted {
            wanted
                .folder
                .finish("cifar10", "sum")
                .map_err(|problem| problem.about(&archive).to_string())?;
        }
        Ok(())
    }

    /// Whatever the order in the archive, numbers are those of the official one.
    #[test]
    fn the_shipped_configuration_declares_these_classes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let text = std::fs::read_to_string(folder.join("cifar10.toml")).unwrap();
        let config: toml::Table = text.parse().unwrap();
        let declared = config["data"]["classes"].as_array().unwrap().iter();
        let declared: Vec<&str> = declared.map(|name| name.as_str().unwrap()).collect();
        assert_eq!(declared, CLASSES);
    }

    #[test]
    fn numbers_count_through_the_batches() {
        let root = tempfile::tempdir().unwrap();
        let bytes = packed(|builder| {
            add(builder, "cifar-10-batches-bin/readme.html", b"<html>");
            for batch in [4usize, 1, 5, 2, 3] {
                let records = [record(batch as u8, batch), record(9, 10 + batch)].concat();
                add(
                    builder,
                    &format!("cifar-10-batches-bin/data_batch_{batch}.bin"),
                    &records,
                );
            }
            add(
                builder,
                "cifar-10-batches-bin/test_batch.bin",
                &record(0, 77),
            );
        });
        let both = vec![
            wanted(root.path(), "train", 10),
            wanted(root.path(), "test", 1),
        ];
        run(&bytes, root.path(), both).unwrap();
        let read = |name: &str| {
            let bytes = std::fs::read(root.path().join(name)).unwrap();
            decode(&bytes, &DecodeOptions::default()).unwrap().image
        };
        for (batch, class) in CLASSES.iter().enumerate().skip(1).take(5) {
            let first = 2 * (batch - 1);
            let image = read(&format!("train/{class}_{first:05}.png"));
            assert_eq!((image.height, image.width), (SIDE, SIDE));
            let record = record(0, batch);
            for (at, pixel) in image.pixels.chunks_exact(3).enumerate() {
                let expected = [
                    record[1 + at],
                    record[1 + PLANE + at],
                    record[1 + 2 * PLANE + at],
                ];
                assert_eq!(pixel, expected);
            }
            read(&format!("train/truck_{:05}.png", first + 1));
        }
        read("test/plane_00000.png");
        let names = super::super::record::names(&root.path().join("train")).unwrap();
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn wrong_batches_are_named_and_leave_no_folder() {
        let good = record(1, 1);
        let case = |name: &str, bytes: &[u8]| {
            let root = tempfile::tempdir().unwrap();
            let bytes = packed(|builder| add(builder, name, bytes));
            let test = vec![wanted(root.path(), "test", 1)];
            let error = run(&bytes, root.path(), test).unwrap_err();
            assert!(!root.path().join("test").exists());
            error
        };
        let text = case("a/test_batch.bin", &good[..3000]);
        assert!(
            text.contains("test_batch.bin has 3000 bytes") && text.contains("3073"),
            "{text}"
        );
        let text = case("a/test_batch.bin", &record(10, 1));
        assert!(text.contains("label 10"), "{text}");
        let text = case("a/data_batch_1.bin", &good);
        assert!(text.contains("0 test images, expected 1"), "{text}");
    }

    proptest! {
        #[test]
        fn every_record_of_the_right_length_is_an_image_or_a_named_fault(
            label in any::<u8>(), seed in 0..1000usize, cut in 0..=RECORD
        ) {
            let record = record(label, seed);
            match image(&record) {
                Ok((class, image)) => {
                    prop_assert_eq!(class, CLASSES[usize::from(label)]);
                    let back = decode(&png(&image).unwrap(), &DecodeOptions::default()).unwrap().image;
                    let planes: Vec<u8> = (0..3)
                        .flat_map(|c| back.pixels.iter().skip(c).step_by(3).copied())
                        .collect();
                    prop_assert_eq!(&planes[..], &record[1..]);
                }
                Err(wrong) => prop_assert!(label > 9, "{}", wrong),
            }
            if cut < RECORD {
                prop_assert!(image(&record[..cut]).is_err());
            }
        }
    }
}
