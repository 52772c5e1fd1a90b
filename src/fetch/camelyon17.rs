//! Converts Camelyon17 (WILDS) to folders of PNG files with the names that DPSDA's
//! `data/get_camelyon17.py` gives them.
//!
//! The archive has `metadata.csv`, one row per patch, and
//! `patches/patient_<p>_node_<n>/patch_patient_<p>_node_<n>_x_<x>_y_<y>.png`. The official split is
//! the column `split` (0: train, 1: validation from the training hospitals), but all of hospital 1
//! is the validation set and all of hospital 2 the test set
//! (`wilds/datasets/camelyon17_dataset.py`). A file is called `<tumor>_<number>.png`; the number
//! counts the split's rows from 0 in the order of the table.
//!
//! Each folder also gets a `metadata.csv` with the patient and the center of each file, for
//! `data.clients`.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;

use image::{ImageFormat, ImageReader, Limits};
use rayon::prelude::*;

use super::archive::{ArchiveError, for_each_file};
use super::staged_dir::TargetDir;
use crate::images::{ImageBatch, png};
use crate::progress::Progress;

/// Name of the table.
const TABLE: &str = "metadata.csv";
/// Largest accepted table in bytes; the official one has 20 million.
const MAX_TABLE: u64 = 1 << 28;
/// Largest accepted patch in bytes; 96 × 96 pixels need fewer even without compression.
const MAX_PATCH: u64 = 1 << 20;
/// Largest accepted side of a patch in pixels.
const MAX_SIDE: u32 = 1024;
/// Patches that are decoded in parallel.
const AT_ONCE: usize = 512;
/// Hospital of the validation set.
const VALIDATION_CENTER: u32 = 1;
/// Hospital of the test set.
const TEST_CENTER: u32 = 2;

/// Destination of a patch: index of its split in the target folders, label, number.
type Place = (usize, u32, u32);

/// The table, for the splits that are wanted.
pub(super) struct Table {
    /// The destination of each patch, by its name in the archive.
    places: HashMap<String, Place>,
    /// The text of `metadata.csv` of each split.
    metadata: Vec<String>,
}

/// Writes the patches of `archive` into the folders. The archive is read twice, because the table
/// may be anywhere in it: once up to the table, once in full.
///
/// # Errors
/// [`ArchiveError`]: a missing or malformed table, or missing or damaged patches.
pub(super) fn unpack(
    archive: &Path,
    limit: u64,
    wanted: &[TargetDir],
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let (prefix, table) = table(archive, limit, wanted, progress)?;
    let mut places = table.places;
    for (index, wanted) in wanted.iter().enumerate() {
        let found = places.values().filter(|place| place.0 == index).count();
        let expected = wanted.images;
        if found != expected {
            return Err(ArchiveError::Invalid(format!(
                "{TABLE} has {found} rows for {}, expected {expected}",
                wanted.split
            )));
        }
    }
    let mut waiting: Vec<(Place, Vec<u8>)> = Vec::new();
    for_each_file(archive, limit, progress, &mut |found| {
        let patch = found.name.strip_prefix(&prefix);
        if let Some(place) = patch.and_then(|name| places.remove(name)) {
            waiting.push((place, found.read(MAX_PATCH)?));
            if waiting.len() == AT_ONCE {
                write(&mut waiting, wanted)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    write(&mut waiting, wanted)?;
    if !places.is_empty() {
        let first = places.keys().min().cloned().unwrap_or_default();
        return Err(ArchiveError::Invalid(format!(
            "lacks {} patches of its {TABLE}, such as {first}",
            places.len()
        )));
    }
    for (wanted, text) in wanted.iter().zip(&table.metadata) {
        wanted.folder.write(TABLE, text.as_bytes())?;
    }
    Ok(())
}

/// Reads the table, and the prefix of all names in the archive.
fn table(
    archive: &Path,
    limit: u64,
    wanted: &[TargetDir],
    progress: &dyn Progress,
) -> Result<(String, Table), ArchiveError> {
    let mut read = None;
    for_each_file(archive, limit, progress, &mut |found| {
        let prefix = found.name.strip_suffix(TABLE);
        // At the root or in one folder.
        let prefix = prefix.filter(|prefix| {
            prefix.is_empty() || prefix.find('/') == Some(prefix.len().saturating_sub(1))
        });
        let Some(prefix) = prefix.map(str::to_owned) else {
            return Ok(ControlFlow::Continue(()));
        };
        let bytes = found.read(MAX_TABLE)?;
        let splits: Vec<&str> = wanted.iter().map(|wanted| wanted.split.as_str()).collect();
        let table = parse(&bytes, &splits)
            .map_err(|wrong| ArchiveError::Invalid(format!("{}: {wrong}", found.name)))?;
        read = Some((prefix, table));
        Ok(ControlFlow::Break(()))
    })?;
    read.ok_or_else(|| ArchiveError::Invalid(format!("has no {TABLE}")))
}

/// Columns of the table that are used.
const COLUMNS: [&str; 7] = [
    "patient", "node", "x_coord", "y_coord", "tumor", "center", "split",
];

/// Positions of [`COLUMNS`] in a table.
struct Columns {
    places: [usize; 7],
    /// Number of columns of the table.
    all: usize,
}

/// A row of the table. `patient` is text, because names keep its leading zeros.
struct Row<'t> {
    patient: &'t str,
    /// Node, x, y, tumor, center, split.
    numbers: [u32; 6],
}

impl Columns {
    fn find(head: &str) -> Result<Self, String> {
        let head: Vec<&str> = head.split(',').collect();
        let mut places = [0; 7];
        for (place, name) in places.iter_mut().zip(COLUMNS) {
            let mut found = (0..).zip(&head).filter(|(_, head)| **head == name);
            let (Some((index, _)), None) = (found.next(), found.next()) else {
                return Err(format!("expected one column `{name}` in its first line"));
            };
            *place = index;
        }
        let all = head.len();
        Ok(Self { places, all })
    }

    fn row<'t>(&self, line: &'t str) -> Result<Row<'t>, String> {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != self.all {
            let (found, all) = (fields.len(), self.all);
            return Err(format!("{found} fields where the first line has {all}"));
        }
        // Digits alone, and few of them: what goes into names can do no harm there.
        let digits = |text: &&str| {
            !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit())
        };
        let mut patient = "";
        let mut numbers = [0; 6];
        for (index, (place, name)) in self.places.iter().zip(COLUMNS).enumerate() {
            let field = fields.get(*place).copied().filter(digits);
            let field = field.ok_or_else(|| format!("{name}: expected a number"))?;
            match index
                .checked_sub(1)
                .and_then(|index| numbers.get_mut(index))
            {
                None => patient = field,
                Some(number) => {
                    *number = field
                        .parse()
                        .map_err(|_| format!("{name}: expected a number"))?;
                }
            }
        }
        Ok(Row { patient, numbers })
    }
}

/// Returns the split of a patch under the official scheme.
fn split_of(center: u32, split: u32) -> Result<&'static str, String> {
    Ok(match (center, split) {
        (VALIDATION_CENTER, _) => "val",
        (TEST_CENTER, _) => "test",
        (_, 0) => "train",
        (_, 1) => "id_val",
        (_, other) => return Err(format!("split is {other}: expected 0 or 1")),
    })
}

/// Parses the table, for the requested splits.
///
/// # Errors
/// Line and column of the fault.
pub(super) fn parse(table: &[u8], splits: &[&str]) -> Result<Table, String> {
    let text = std::str::from_utf8(table).map_err(|_| "is not UTF-8".to_owned())?;
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.is_empty());
    let columns = Columns::find(lines.next().ok_or("is empty")?.0)?;
    let mut places = HashMap::new();
    let mut counts = vec![0u32; splits.len()];
    let mut metadata = vec!["file,patient,center\n".to_owned(); splits.len()];
    for (line, number) in lines {
        let wrong = |message: String| format!("line {number}: {message}");
        let Row { patient, numbers } = columns.row(line).map_err(wrong)?;
        let [node, x, y, tumor, center, split] = numbers;
        if tumor > 1 {
            return Err(wrong(format!("tumor is {tumor}: expected 0 or 1")));
        }
        let split = split_of(center, split).map_err(wrong)?;
        let index = splits.iter().position(|wanted| *wanted == split);
        let found = index.and_then(|i| Some((i, counts.get_mut(i)?, metadata.get_mut(i)?)));
        let Some((index, count, metadata)) = found else {
            continue;
        };
        let folder = format!("patient_{patient}_node_{node}");
        let name = format!("patches/{folder}/patch_{folder}_x_{x}_y_{y}.png");
        if places.insert(name, (index, tumor, *count)).is_some() {
            return Err(wrong("a patch that was there before".to_owned()));
        }
        // All three are digits alone.
        *metadata += &format!("{tumor}_{count}.png,{patient},{center}\n");
        *count += 1;
    }
    Ok(Table { places, metadata })
}

/// Decodes and writes the queued patches.
fn write(waiting: &mut Vec<(Place, Vec<u8>)>, wanted: &[TargetDir]) -> Result<(), ArchiveError> {
    waiting
        .par_drain(..)
        .try_for_each(|((index, label, number), bytes)| {
            let Some(wanted) = wanted.get(index) else {
                return Ok(());
            };
            let name = format!("{label}_{number}.png");
            let image = rgb(&bytes).map_err(|wrong| {
                ArchiveError::Invalid(format!("the patch of {}/{name}: {wrong}", wanted.split))
            })?;
            let bytes = png(&image).map_err(|error| ArchiveError::Invalid(error.to_string()))?;
            Ok(wanted.folder.write(&name, &bytes)?)
        })
}

/// Returns the pixels of a PNG without alpha, equal to Pillow's `convert("RGB")`, which the wilds
/// package uses.
fn rgb(bytes: &[u8]) -> Result<ImageBatch, String> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let image = reader
        .decode()
        .map_err(|_| "is no readable PNG".to_owned())?
        .into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    ImageBatch::new(image.into_raw(), 1, height, width).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{add, packed};
    use super::super::staged_dir::StagedDir;
    use super::*;
    use crate::images::{DecodeOptions, decode};
    use crate::progress::Silent;
    use image::{ExtendedColorType, ImageEncoder};
    use proptest::prelude::*;

    const HEAD: &str = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n";

    /// An RGBA patch whose red tells which it is.
    fn patch(red: u8) -> Vec<u8> {
        let pixels: Vec<u8> = (0..4u8)
            .flat_map(|at| [red, at, 7, 255 - 60 * at])
            .collect();
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(&pixels, 2, 2, ExtendedColorType::Rgba8)
            .unwrap();
        bytes
    }

    fn name(patient: &str, node: u32, x: u32, y: u32) -> String {
        format!(
            "patches/patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
        )
    }

    fn unpacked(
        bytes: &[u8],
        splits: &[(&str, usize)],
    ) -> Result<(tempfile::TempDir, Vec<Vec<String>>), String> {
        let root = tempfile::tempdir().unwrap();
        let archive = root.path().join("archive.tar.gz");
        std::fs::write(&archive, bytes).unwrap();
        let wanted: Vec<TargetDir> = splits
            .iter()
            .map(|(split, images)| TargetDir {
                split: (*split).to_owned(),
                images: *images,
                folder: StagedDir::begin(&root.path().join(split)).unwrap(),
            })
            .collect();
        unpack(&archive, 1 << 24, &wanted, &Silent)
            .map_err(|problem| problem.about(&archive).to_string())?;
        let mut names = Vec::new();
        for wanted in wanted {
            let folder = root.path().join(&wanted.split);
            wanted.folder.finish("camelyon17", "sum").ok().unwrap();
            names.push(super::super::record::names(&folder).unwrap());
        }
        Ok((root, names))
    }

    /// Rows of every hospital and split, patches in another order than the table, which comes last.
    #[test]
    fn splits_labels_and_numbers_are_those_of_the_wilds_package() {
        let rows = [
            "0,004,4,3328,21792,1,0,0,0", // train 0
            "1,010,1,10,20,0,1,0,1",      // validation from a training hospital
            "2,020,2,10,20,1,10,1,0",     // val 0: the hospital decides
            "3,040,0,10,20,0,20,2,1",     // test 0
            "4,004,4,1,2,0,0,0,0",        // train 1
            "5,061,0,512,512,1,35,3,0",   // train 2
            "6,021,2,10,20,0,11,1,1",     // val 1
        ];
        let table = format!("{HEAD}{}\n", rows.join("\n"));
        let patches = [
            (name("061", 0, 512, 512), 5),
            (name("004", 4, 3328, 21792), 0),
            (name("010", 1, 10, 20), 1),
            (name("021", 2, 10, 20), 6),
            (name("040", 0, 10, 20), 3),
            (name("004", 4, 1, 2), 4),
            (name("020", 2, 10, 20), 2),
        ];
        for prefix in ["", "camelyon17_v1.0/", "./"] {
            let bytes = packed(|builder| {
                add(builder, &format!("{prefix}RELEASE_v1.0.txt"), b"");
                for (name, red) in &patches {
                    add(builder, &format!("{prefix}{name}"), &patch(*red));
                }
                add(builder, &format!("{prefix}{TABLE}"), table.as_bytes());
            });
            let splits = [("train", 3), ("val", 2), ("test", 1)];
            let (root, names) = unpacked(&bytes, &splits).unwrap();
            assert_eq!(names[0], ["0_1.png", "1_0.png", "1_2.png", TABLE]);
            assert_eq!(names[1], ["0_1.png", "1_0.png", TABLE]);
            assert_eq!(names[2], ["0_0.png", TABLE]);
            let metadata = std::fs::read_to_string(root.path().join("train").join(TABLE)).unwrap();
            assert_eq!(
                metadata,
                "file,patient,center\n1_0.png,004,0\n0_1.png,004,0\n1_2.png,061,3\n"
            );
            for (file, red) in [
                ("train/1_0.png", 0),
                ("train/0_1.png", 4),
                ("train/1_2.png", 5),
                ("val/1_0.png", 2),
                ("val/0_1.png", 6),
                ("test/0_0.png", 3),
            ] {
                let image = decode(
                    &std::fs::read(root.path().join(file)).unwrap(),
                    &DecodeOptions::default(),
                )
                .unwrap()
                .image;
                // The alpha is dropped, not applied.
                let expected: Vec<u8> = (0..4).flat_map(|at| [red, at, 7]).collect();
                assert_eq!(image.pixels, expected, "{file}");
            }
            let (_root, names) = unpacked(&bytes, &[("id_val", 1)]).unwrap();
            assert_eq!(names[0], ["0_0.png", TABLE]);
        }
    }

    #[test]
    fn what_does_not_add_up_is_named() {
        let table = format!("{HEAD}0,004,4,1,2,1,0,0,0\n");
        let with = |patch: &[u8], table: &str| {
            packed(|builder| {
                add(builder, TABLE, table.as_bytes());
                add(builder, &name("004", 4, 1, 2), patch);
            })
        };
        let good = with(&patch(1), &table);
        assert!(unpacked(&good, &[("train", 1)]).is_ok());
        let fails = |bytes: &[u8], images: usize, expected: &str| {
            let text = unpacked(bytes, &[("train", images)]).unwrap_err();
            assert!(text.contains(expected), "{expected}: {text}");
        };
        fails(&good, 2, "1 rows for train, expected 2");
        fails(
            &with(b"no image", &table),
            1,
            "train/1_0.png: is no readable PNG",
        );
        fails(&with(&vec![0; 2 << 20], &table), 1, "expected at most");
        fails(
            &packed(|builder| add(builder, "a", b"")),
            1,
            "has no metadata.csv",
        );
        let lacking = packed(|builder| add(builder, TABLE, table.as_bytes()));
        fails(&lacking, 1, "lacks 1 patches");
        for (wrong, expected) in [
            (table.replace(",tumor", ",tumr"), "`tumor`"),
            (table.replace("4,1,2,1", "4,1,2,2"), "tumor is 2"),
            (table.replace(",0,0,0\n", ",0,0,3\n"), "split is 3"),
            (table.replace("004", "../4"), "patient: expected a number"),
            (format!("{table}1,004,4,1,2,1,0,0,0\n"), "there before"),
            (format!("{table}1,004\n"), "line 3: 2 fields"),
            (String::new(), "is empty"),
        ] {
            fails(&with(&patch(1), &wrong), 1, expected);
        }
    }

    proptest! {
        /// Compares with the algorithm of the package: a mask of the split, then positions in
        /// the mask.
        #[test]
        fn numbers_count_each_split_by_itself(
            rows in proptest::collection::vec((0..5u32, 0..2u32, 0..2u32), 0..60),
        ) {
            let mut table = HEAD.to_owned();
            for (index, (center, split, tumor)) in rows.iter().enumerate() {
                let patient = 20 * center;
                table += &format!(
                    "{index},{patient:03},0,{index},0,{tumor},0,{center},{split}\n"
                );
            }
            let table = parse(table.as_bytes(), &["train", "id_val", "test", "val"]).unwrap();
            let places = table.places;
            let rows_of = table.metadata.iter().map(|text| text.lines().count() - 1);
            prop_assert_eq!(rows_of.sum::<usize>(), rows.len());
            prop_assert_eq!(places.len(), rows.len());
            let code = |(center, split, _): &(u32, u32, u32)| match center {
                1 => 3,
                2 => 2,
                _ => *split as usize,
            };
            for wanted in 0..4 {
                let mask = rows.iter().enumerate().filter(|(_, row)| code(row) == wanted);
                for (number, (index, row)) in mask.enumerate() {
                    let key = name(&format!("{:03}", 20 * row.0), 0, index as u32, 0);
                    prop_assert_eq!(places[&key], (wanted, row.2, number as u32));
                }
            }
        }
    }
}
