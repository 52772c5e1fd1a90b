use std::io::Cursor;

use super::*;

fn archive() -> Vec<u8> {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    writer.i64s("labels", &[3, 1], &[-1, 0, i64::MAX]).unwrap();
    writer
        .f64s("votes", &[2, 2], &[0.5, -1.0, 1e300, 0.0])
        .unwrap();
    writer.finish().unwrap().into_inner()
}

/// Inserts ZIP64 records that the last record does not announce, as Python does between 2 and 4
/// GiB.
fn with_zip64_records(mut archive: Vec<u8>) -> Vec<u8> {
    let end = archive.len() - 22;
    let count = u64::from(u16::from_le_bytes([archive[end + 10], archive[end + 11]]));
    let number = |at: usize| u64::from(u32::from_le_bytes(archive[at..at + 4].try_into().unwrap()));
    let (size, offset) = (number(end + 12), number(end + 16));
    let mut records = b"PK\x06\x06".to_vec();
    records.extend(44u64.to_le_bytes());
    records.extend([45, 0, 45, 0]);
    records.extend([0; 8]);
    for number in [count, count, size, offset] {
        records.extend(number.to_le_bytes());
    }
    records.extend(b"PK\x06\x07");
    records.extend(0u32.to_le_bytes());
    records.extend((end as u64).to_le_bytes());
    records.extend(1u32.to_le_bytes());
    archive.splice(end..end, records);
    archive
}

#[test]
fn zip64_records_that_are_not_announced_are_accepted() {
    let bytes = with_zip64_records(archive());
    let mut reader = NpzReader::new(Cursor::new(bytes)).unwrap();
    assert_eq!(
        reader.i64s("labels").unwrap(),
        (vec![3, 1], vec![-1, 0, i64::MAX])
    );
}

#[test]
fn arrays_come_back() {
    let mut reader = NpzReader::new(Cursor::new(archive())).unwrap();
    assert_eq!(
        reader.i64s("labels").unwrap(),
        (vec![3, 1], vec![-1, 0, i64::MAX])
    );
    assert_eq!(
        reader.f64s("votes").unwrap(),
        (vec![2, 2], vec![0.5, -1.0, 1e300, 0.0])
    );
    assert!(reader.i64s("votes").is_err());
    assert_eq!(reader.first_of(&["no", "votes"]).unwrap(), "votes");
}

#[test]
fn the_bytes_do_not_depend_on_the_clock() {
    // Time and date of the first entry: midnight, 1 January 1980.
    assert_eq!(archive()[10..14], [0, 0, 0x21, 0]);
}

#[test]
fn a_missing_array_lists_those_of_the_archive() {
    let mut reader = NpzReader::new(Cursor::new(archive())).unwrap();
    let error = reader.i64s("samples").unwrap_err().to_string();
    assert_eq!(
        error,
        "no array `samples`: the archive has `labels`, `votes`"
    );
}

/// An archive of one entry with numpy's header.
fn entry(descriptor: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text =
        format!("{{'descr': '{descriptor}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("a.npy", SimpleFileOptions::default())
        .unwrap();
    zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
    zip.write_all(&(text.len() as u16).to_le_bytes()).unwrap();
    zip.write_all(text.as_bytes()).unwrap();
    zip.write_all(data).unwrap();
    zip.finish().unwrap().into_inner()
}

fn opened(archive: Vec<u8>) -> NpzReader<Cursor<Vec<u8>>> {
    NpzReader::new(Cursor::new(archive)).unwrap()
}

#[test]
fn numbers_of_every_type_are_widened() {
    let i64s = |descriptor, data: &[u8]| {
        let mut npz = opened(entry(descriptor, "False", "(1,)", data));
        npz.i64s("a").map(|(_, values)| values[0])
    };
    let f64s = |descriptor, data: &[u8]| {
        let mut npz = opened(entry(descriptor, "False", "(1,)", data));
        npz.f64s("a").map(|(_, values)| values[0])
    };
    for (descriptor, data, value) in [
        ("|b1", &[1][..], 1),
        ("|i1", &[0xfe], -2),
        ("<i2", &[0xfe, 0xff], -2),
        (">i2", &[0xff, 0xfe], -2),
        ("<i4", &[0xfe, 0xff, 0xff, 0xff], -2),
        (">i8", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], -2),
        ("|u1", &[200], 200),
        ("<u2", &[0xfe, 0xff], 65_534),
        (">u4", &[0, 0, 1, 0], 256),
        ("<u8", &[7, 0, 0, 0, 0, 0, 0, 0], 7),
    ] {
        assert_eq!(i64s(descriptor, data).unwrap(), value, "{descriptor}");
        assert_eq!(
            f64s(descriptor, data).unwrap(),
            value as f64,
            "{descriptor}"
        );
    }
    assert_eq!(f64s("<f4", &1.5f32.to_le_bytes()).unwrap(), 1.5);
    assert_eq!(f64s(">f8", &(-2.5f64).to_be_bytes()).unwrap(), -2.5);
    for (descriptor, data) in [("<u8", &[0xff; 8][..]), ("<f4", &[0; 4]), ("|b1", &[2])] {
        let error = i64s(descriptor, data).unwrap_err().to_string();
        assert!(error.starts_with("array `a`"), "{error}");
    }
}

#[test]
fn fortran_order_becomes_row_major() {
    let mut npz = opened(entry("|u1", "True", "(2, 3)", &[0, 3, 1, 4, 2, 5]));
    assert_eq!(npz.i64s("a").unwrap(), (vec![2, 3], (0..6).collect()));
}

#[test]
fn no_memory_is_allocated_for_absent_data() {
    for shape in [
        "(1099511627776,)",
        "(0, 9223372036854775807, 9)",
        "(9223372036854775807,)",
    ] {
        let mut npz = opened(entry("<f8", "False", shape, &[0; 8]));
        assert!(npz.f64s("a").is_err(), "{shape}");
        assert!(npz.i64s("a").is_err(), "{shape}");
    }
}

#[test]
fn empty_arrays_and_scalars_are_read() {
    let mut npz = opened(entry("<f8", "False", "(0, 3)", &[]));
    assert_eq!(npz.f64s("a").unwrap(), (vec![0, 3], vec![]));
    let mut npz = opened(entry("<f8", "False", "()", &[0; 8]));
    assert_eq!(npz.f64s("a").unwrap(), (vec![], vec![0.0]));
}

#[test]
fn other_compressions_are_named() {
    // The method of both headers is changed to bzip2.
    let mut bytes = entry("<f8", "False", "(1,)", &[0; 8]);
    let central = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bytes[8] = 12;
    bytes[central + 10] = 12;
    let error = opened(bytes).f64s("a").unwrap_err().to_string();
    assert!(
        error.contains("array `a` is compressed with Bzip2") && error.contains("np.savez"),
        "{error}"
    );
}

#[test]
fn values_must_fill_the_shape() {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    assert!(writer.i64s("labels", &[2], &[1, 2, 3]).is_err());
    assert!(writer.i64s("labels", &[4], &[1, 2, 3]).is_err());
}

#[test]
fn a_flipped_bit_in_the_data_is_detected() {
    let mut bytes = archive();
    let place = bytes
        .windows(8)
        .position(|w| w == i64::MAX.to_le_bytes())
        .unwrap();
    bytes[place] ^= 1;
    let mut reader = NpzReader::new(Cursor::new(bytes)).unwrap();
    assert!(reader.i64s("labels").is_err());
}
