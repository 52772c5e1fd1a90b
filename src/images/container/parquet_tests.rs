use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use proptest::prelude::*;

use super::super::{all_labels, damaged_copy, folder_of};
use super::*;

const HUB: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
    optional binary client (STRING);
}";

/// The values of a column: the defined ones, and a level for each row.
enum Cells {
    Bytes(Vec<Option<Vec<u8>>>),
    Longs(Vec<Option<i64>>),
    Ints(Vec<i32>),
}

fn texts(values: &[&str]) -> Cells {
    let values = values.iter().map(|text| Some(text.as_bytes().to_vec()));
    Cells::Bytes(values.collect())
}

fn numbers(values: &[i64]) -> Cells {
    Cells::Longs(values.iter().map(|value| Some(*value)).collect())
}

struct Columns {
    schema: &'static str,
    /// Row groups of leaves.
    groups: Vec<Vec<Cells>>,
    properties: WriterProperties,
}

impl Columns {
    /// A row group of images with labels 1, 0, -1 and clients.
    fn hub() -> Self {
        let cells = vec![
            texts(&["first", "second", "third"]),
            texts(&["1.png", "2.png", "3.png"]),
            numbers(&[1, 0, -1]),
            texts(&["p1", "p2", "p1"]),
        ];
        Self {
            schema: HUB,
            groups: vec![cells],
            properties: WriterProperties::builder().build(),
        }
    }

    fn compressed(compression: Compression, version: WriterVersion) -> Self {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version);
        Self {
            properties: properties.build(),
            ..Self::hub()
        }
    }

    fn with_metadata(metadata: &str) -> Self {
        let pair = KeyValue::new("huggingface".to_owned(), metadata.to_owned());
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![pair]));
        Self {
            properties: properties.build(),
            ..Self::hub()
        }
    }

    fn write(self) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(self.schema).unwrap());
        let mut file =
            SerializedFileWriter::new(Vec::new(), schema, Arc::new(self.properties)).unwrap();
        for group in self.groups {
            let mut rows = file.next_row_group().unwrap();
            for cells in group {
                let mut column = rows.next_column().unwrap().unwrap();
                // In these schemas a missing value has one level less than a present one.
                let level = |missing: bool, max: i16| if missing { max - 1 } else { max };
                match cells {
                    Cells::Bytes(values) => {
                        let writer = column.typed::<ByteArrayType>();
                        let max = writer.get_descriptor().max_def_level();
                        let levels = values.iter().map(|value| level(value.is_none(), max));
                        let levels: Vec<i16> = levels.collect();
                        let values: Vec<ByteArray> =
                            values.into_iter().flatten().map(ByteArray::from).collect();
                        writer.write_batch(&values, Some(&levels), None).unwrap();
                    }
                    Cells::Longs(values) => {
                        let levels: Vec<i16> = values
                            .iter()
                            .map(|value| i16::from(value.is_some()))
                            .collect();
                        let values: Vec<i64> = values.into_iter().flatten().collect();
                        let writer = column.typed::<Int64Type>();
                        writer.write_batch(&values, Some(&levels), None).unwrap();
                    }
                    Cells::Ints(values) => {
                        let writer = column.typed::<Int32Type>();
                        writer.write_batch(&values, None, None).unwrap();
                    }
                }
                column.close().unwrap();
            }
            rows.close().unwrap();
        }
        file.into_inner().unwrap()
    }
}

fn bytes(container: &mut ParquetImages, indices: &[usize]) -> Vec<String> {
    let stored = container.read(indices).unwrap();
    let bytes = stored.into_iter().map(|stored| match stored {
        Stored::Encoded(bytes) => String::from_utf8(bytes).unwrap(),
        _ => panic!("not a file"),
    });
    bytes.collect()
}

/// Opens a file in a folder that must outlive it.
fn open(file: Vec<u8>) -> (tempfile::TempDir, Result<ParquetImages, String>) {
    let folder = folder_of(&[("train.parquet", file)]);
    let images = ParquetImages::open(folder.path(), Some("train"));
    (folder, images.map_err(|error| error.to_string()))
}

#[test]
fn rows_are_read_in_any_order_under_every_compression() {
    let gzip = Compression::GZIP(GzipLevel::default());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for (compression, version) in [
        (Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0),
        (Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0),
        (Compression::SNAPPY, WriterVersion::PARQUET_1_0),
        (Compression::SNAPPY, WriterVersion::PARQUET_2_0),
        (Compression::LZ4_RAW, WriterVersion::PARQUET_1_0),
        (zstd, WriterVersion::PARQUET_1_0),
        (gzip, WriterVersion::PARQUET_1_0),
    ] {
        let (_folder, images) = open(Columns::compressed(compression, version).write());
        let mut images = images.unwrap();
        assert_eq!(images.len(), 3);
        assert!(images.stored_len(2) > 0);
        assert!(images.name(1).ends_with("train.parquet: row 1"));
        assert_eq!(bytes(&mut images, &[0, 1, 2]), ["first", "second", "third"]);
        assert_eq!(bytes(&mut images, &[2]), ["third"], "{compression}");
        assert_eq!(bytes(&mut images, &[0, 2]), ["first", "third"]);
        let labels = ["1", "0", "-1"].map(|label| Some(label.to_owned()));
        assert_eq!(all_labels(&mut images).unwrap(), labels);
        assert_eq!(images.clients().unwrap(), ["p1", "p2", "p1"]);
    }
}

#[test]
fn files_and_row_groups_follow_each_other() {
    let named = |prefix: &str, groups: &[usize]| {
        let mut number = 0;
        let groups = groups.iter().map(|rows| {
            let values = (0..*rows).map(|_| {
                number += 1;
                Some(format!("{prefix}{number}").into_bytes())
            });
            vec![Cells::Bytes(values.collect())]
        });
        let columns = Columns {
            schema: "message schema { optional binary img; }",
            groups: groups.collect(),
            properties: WriterProperties::builder().build(),
        };
        columns.write()
    };
    let folder = folder_of(&[
        ("data/train-1.parquet", named("b", &[])),
        ("data/train-2.parquet", named("c", &[1, 0, 2])),
        ("data/train-0.parquet", named("a", &[2, 1])),
        ("data/train_more-0.parquet", named("x", &[1])),
        ("test/0000.parquet", named("t", &[1])),
    ]);
    let mut images = ParquetImages::open(folder.path(), Some("train")).unwrap();
    let all = bytes(&mut images, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(all, ["a1", "a2", "a3", "c1", "c2", "c3"]);
    assert!(images.name(5).ends_with("train-2.parquet: row 2"));
    assert_eq!(bytes(&mut images, &[2, 5]), ["a3", "c3"]);
    let mut test = ParquetImages::open(folder.path(), Some("test")).unwrap();
    assert_eq!(bytes(&mut test, &[0]), ["t1"]);
}

#[test]
fn many_rows_over_several_pages_are_skipped_and_read() {
    let text = |row: usize| format!("image {row}").repeat(1 + row % 7);
    let values = (0..5000).map(|row| Some(text(row).into_bytes()));
    let properties = WriterProperties::builder()
        .set_data_page_size_limit(4096)
        .set_write_batch_size(16)
        .set_dictionary_page_size_limit(4096);
    let (_folder, images) = open(
        Columns {
            schema: "message schema { required group image { required binary bytes; } }",
            groups: vec![vec![Cells::Bytes(values.collect())]],
            properties: properties.build(),
        }
        .write(),
    );
    let mut images = images.unwrap();
    let indices: Vec<usize> = (0..5000).step_by(37).collect();
    let expected: Vec<String> = indices.iter().map(|row| text(*row)).collect();
    assert_eq!(bytes(&mut images, &indices), expected);
    let all: Vec<usize> = (0..5000).collect();
    assert_eq!(bytes(&mut images, &all)[4999], text(4999));
}

#[test]
fn integers_become_the_names_of_classes() {
    let metadata = r#"{"info": {"features": {"image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;
    let (_folder, images) = open(Columns::with_metadata(metadata).write());
    let labels = all_labels(&mut images.unwrap()).unwrap();
    assert_eq!(
        labels,
        [Some("dog".to_owned()), Some("cat".to_owned()), None]
    );
    let (_folder, images) =
        open(Columns::with_metadata(&metadata.replace(", \"dog\"", "")).write());
    let error = all_labels(&mut images.unwrap()).unwrap_err().to_string();
    assert!(
        error.contains("label 1") && error.contains("1 classes"),
        "{error}"
    );
    let (_folder, images) = open(Columns::with_metadata("{").write());
    let error = all_labels(&mut images.unwrap()).unwrap_err().to_string();
    assert!(error.contains("huggingface"), "{error}");
    let other = metadata.replace("cat", "cow");
    let folder = folder_of(&[
        ("0.parquet", Columns::with_metadata(metadata).write()),
        ("1.parquet", Columns::with_metadata(&other).write()),
    ]);
    let mut images = ParquetImages::open(folder.path(), None).unwrap();
    let error = all_labels(&mut images).unwrap_err().to_string();
    assert!(error.contains("other classes"), "{error}");
}

#[test]
fn missing_values_are_told_from_present_ones() {
    let mut columns = Columns::hub();
    columns.groups[0][0] = Cells::Bytes(vec![Some(b"first".to_vec()), None, Some(b"x".to_vec())]);
    columns.groups[0][2] = Cells::Longs(vec![None, Some(3), None]);
    columns.groups[0][3] = Cells::Bytes(vec![Some(b"p".to_vec()), None, None]);
    let (_folder, images) = open(columns.write());
    let mut images = images.unwrap();
    assert_eq!(
        all_labels(&mut images).unwrap(),
        [None, Some("3".to_owned()), None]
    );
    let error = images.clients().unwrap_err().to_string();
    assert!(error.contains("row 1 has no client"), "{error}");
    assert_eq!(bytes(&mut images, &[0, 2]), ["first", "x"]);
    let error = images.read(&[1]).err().unwrap().to_string();
    assert!(error.contains("row 1 has no image"), "{error}");
}

#[test]
fn other_layouts_are_refused_with_the_columns() {
    let images = |schema, cells| {
        let columns = Columns {
            schema,
            groups: vec![cells],
            properties: WriterProperties::builder().build(),
        };
        open(columns.write())
    };
    for (schema, cells, expected) in [
        (
            "message schema { required int32 size; optional binary picture; }",
            vec![Cells::Ints(vec![1]), texts(&["a"])],
            "`size`: int32, `picture`: byte_array",
        ),
        (
            "message schema { optional binary image (STRING); }",
            vec![texts(&["a.png"])],
            "`image`: text",
        ),
        (
            "message schema { optional binary image; optional binary img; }",
            vec![texts(&["a"]), texts(&["a"])],
            "expected one column of images",
        ),
        (
            "message schema { optional group image { optional binary data; } }",
            vec![texts(&["a"])],
            "`image`: structure of data",
        ),
    ] {
        let error = images(schema, cells).1.err().unwrap();
        assert!(error.contains(expected), "{error}: {expected}");
    }
    let schema = "message schema { optional binary image; optional binary kind; }";
    let (_folder, read) = images(schema, vec![texts(&["a"]), texts(&["b"])]);
    let error = all_labels(&mut read.unwrap()).unwrap_err().to_string();
    assert!(
        error.contains("`label` or `labels`") && error.contains("`kind`"),
        "{error}"
    );
    let schema = "message schema { optional binary image; required double label; }";
    let schema = parse_message_type(schema).unwrap();
    let schema = SchemaDescriptor::new(Arc::new(schema));
    let error = columns::named(Path::new("a"), &schema, &columns::LABELS, "labels");
    assert!(error.unwrap_err().to_string().contains("`label`: double"));
}

#[test]
fn damaged_files_are_refused() {
    let whole = Columns::hub().write();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        let at = file.len() - at;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (bytes, expected) in [
        (whole[..whole.len() - 1].to_vec(), "`PAR1` at its end"),
        (b"PAR1".to_vec(), "`PAR1` at its end"),
        (with(4, b"PARE"), "encryption"),
        (
            with(8, &[0xff, 0xff, 0xff, 0x7f]),
            "a footer of 2147483647 bytes",
        ),
        (with(8, &[2, 0, 0, 0]), "damaged or not supported"),
    ] {
        let error = open(bytes).1.err().unwrap();
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

#[test]
fn pages_that_claim_too_much_are_not_read() {
    // The first page is the dictionary of the images. Its header begins with the kind, 2, and the
    // uncompressed size, 28 bytes.
    let whole = Columns::compressed(Compression::SNAPPY, WriterVersion::PARQUET_1_0).write();
    assert_eq!(whole[4..8], [0x15, 0x04, 0x15, 0x38]);
    let claim = |size: &[u8]| {
        let mut file = whole.clone();
        // The rest of the header moves into the page, which is not looked at before the sizes.
        file.splice(7..7 + size.len(), size.iter().copied());
        let (_folder, images) = open(file);
        images.unwrap().read(&[0]).err().unwrap().to_string()
    };
    // The compressed size is 16 bytes, and the dictionary has 3 values.
    let rest = [0x15, 0x20, 0x4c, 0x15, 0x06, 0, 0];
    for (size, expected) in [
        (&[0x80, 0x80, 0x80, 0x80, 0x10][..], "malformed"),
        (
            &[0x82, 0x80, 0x80, 0x80, 0x08],
            "a page of 1073741825 bytes is larger",
        ),
        (&[0x80, 0x80, 0x80, 0x01], "larger than it can be"),
    ] {
        let error = claim(&[size, &rest].concat());
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A damaged file gives an error or as many images and labels as it claims.
    #[test]
    fn damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        snappy: bool,
    ) {
        let compression = if snappy { Compression::SNAPPY } else { Compression::UNCOMPRESSED };
        let whole = Columns::compressed(compression, WriterVersion::PARQUET_1_0).write();
        let damaged = damaged_copy(&whole, changes, cut);
        let same = damaged == whole;
        let (_folder, images) = open(damaged);
        let Ok(mut images) = images else {
            prop_assert!(!same);
            return Ok(());
        };
        let all: Vec<usize> = (0..images.len()).collect();
        let read = images.read(&all);
        prop_assert!(read.as_ref().is_ok_and(|read| read.len() == all.len()) || !same);
        let labels = all_labels(&mut images);
        prop_assert!(labels.is_ok_and(|labels| labels.len() == all.len()) || !same);
    }
}
