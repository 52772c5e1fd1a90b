use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::super::{all_labels, damaged_copy, folder_of};
use super::*;

/// A tar file with these files.
fn shard(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn bytes(container: &mut WebDataset, indices: &[usize]) -> Vec<Vec<u8>> {
    let stored = container.read(indices).unwrap();
    let bytes = stored.into_iter().map(|stored| match stored {
        Stored::Encoded(bytes) => bytes,
        _ => panic!("not a file"),
    });
    bytes.collect()
}

fn refused(bytes: Vec<u8>) -> String {
    let folder = folder_of(&[("a.tar", bytes)]);
    let error = WebDataset::open(folder.path(), None).err();
    error.expect("it was accepted").to_string()
}

/// Adds an entry of a kind, with a link's target if it is one.
fn with_entry(kind: EntryType) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_path("a/1.png").unwrap();
    header.set_link_name("/etc/passwd").unwrap();
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn samples_are_grouped_by_key_and_read_in_any_order() {
    let long = format!("{}/x.JPG", "long".repeat(40));
    let shard = shard(&[
        ("./b/2.png", b"second"),
        ("./b/2.cls", b"cat\n"),
        ("b/1.txt", b"no label"),
        ("b/1.jpeg", b"first"),
        (
            "b/1.json",
            br#"{"label": 7, "more": [1.5], "client": "p1"}"#,
        ),
        (&long, b"third"),
        (&long.replace(".JPG", ".json"), br#"{"cls": "dog"}"#),
        // No files of samples.
        ("__MACOSX/b/._2.png", b"x"),
        ("b/._2.png", b"x"),
        ("b/README", b"x"),
        ("b/Thumbs.db", b"x"),
    ]);
    let folder = folder_of(&[("a.tar", shard)]);
    let mut dataset = WebDataset::open(&folder.path().join("a.tar"), None).unwrap();
    assert_eq!(dataset.len(), 3);
    assert!(
        dataset.name(0).ends_with("a.tar: b/2"),
        "{}",
        dataset.name(0)
    );
    assert_eq!(dataset.key(1).unwrap(), ":b/1");
    assert_eq!((dataset.stored_len(0), dataset.stored_len(1)), (6, 5));
    assert_eq!(
        bytes(&mut dataset, &[0, 1, 2]),
        [&b"second"[..], b"first", b"third"]
    );
    assert_eq!(bytes(&mut dataset, &[1]), [b"first"]);
    assert_eq!(bytes(&mut dataset, &[0, 2]), [&b"second"[..], b"third"]);
    let labels = ["cat", "7", "dog"].map(|label| Some(label.to_owned()));
    assert_eq!(all_labels(&mut dataset).unwrap(), labels);
    let error = dataset.clients().unwrap_err().to_string();
    assert!(
        error.contains("`b/2`") && error.contains("client"),
        "{error}"
    );
}

#[test]
fn files_of_a_sample_need_not_follow_each_other() {
    let shard = shard(&[
        ("1.png", b"1"),
        ("2.png", b"2"),
        ("1.cls", b"a"),
        ("2.cls", b"b"),
    ]);
    let folder = folder_of(&[("a.tar", shard)]);
    let mut dataset = WebDataset::open(folder.path(), None).unwrap();
    assert_eq!(
        all_labels(&mut dataset).unwrap(),
        [Some("a".to_owned()), Some("b".to_owned())]
    );
}

#[test]
fn shards_are_sorted_and_chosen_by_the_split() {
    let one = |text: &'static [u8]| shard(&[("0.png", text)]);
    let folder = folder_of(&[
        ("train-1.tar", one(b"b")),
        ("train-0.tar", one(b"a")),
        ("val/0.tar", one(b"c")),
        ("training.tar", one(b"d")),
    ]);
    let mut train = WebDataset::open(folder.path(), Some("train")).unwrap();
    assert_eq!(bytes(&mut train, &[0, 1]), [b"a", b"b"]);
    assert_eq!(train.key(1).unwrap(), "train-1.tar:0");
    let mut val = WebDataset::open(folder.path(), Some("val")).unwrap();
    assert_eq!(bytes(&mut val, &[0]), [b"c"]);
    let error = WebDataset::open(folder.path(), None).err().unwrap();
    assert!(error.to_string().contains("several splits (train, val)"));
    let error = WebDataset::open(&folder.path().join("training.tar"), Some("train")).err();
    assert!(error.unwrap().to_string().contains("no data.split"));
}

#[test]
fn samples_without_exactly_one_image_are_refused() {
    for (files, expected) in [
        (&[("1.png", &b"x"[..]), ("1.jpg", b"x")][..], "two images"),
        (
            &[("1.png", b"x"), ("2.png", b"x"), ("1.png", b"x")],
            "`1` has two images",
        ),
        (&[("1.png", b"x"), ("1.seg.png", b"x")], "two images"),
        (
            &[("1.png", b"x"), ("1.cls", b"0"), ("1.cls", b"1")],
            "two files .cls",
        ),
        (&[("a/\u{1b}.cls", b"0")], "`a/\\u{1b}` has no image"),
    ] {
        let error = refused(shard(files));
        assert!(
            error.contains(expected) && error.contains("a.tar"),
            "{error}"
        );
    }
}

#[test]
fn labels_that_are_no_names_are_refused() {
    for (name, text, expected) in [
        ("1.json", &b"{\"label\": [1]}"[..], ".json"),
        ("1.json", b"{\"label\": 1.5}", ".json"),
        ("1.json", b"{", ".json"),
        ("1.json", b"{}", "no sample has a label"),
        ("1.cls", b" \n", ".cls"),
        ("1.cls", b"\xff", ".cls"),
    ] {
        let folder = folder_of(&[("a.tar", shard(&[("1.png", b"x"), (name, text)]))]);
        let mut dataset = WebDataset::open(folder.path(), None).unwrap();
        let error = all_labels(&mut dataset).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn other_files_than_whole_tar_files_are_refused() {
    let whole = shard(&[("1.png", &[1; 600]), ("2.png", b"x")]);
    let joined = [whole.clone(), whole.clone()].concat();
    let cut = |len: usize| whole[..len].to_vec();
    for (bytes, expected) in [
        (b"\x1f\x8b\x08\0".to_vec(), "decompress"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "decompress"),
        (joined, "joined"),
        // Within a file, before the zeros at the end, within a header.
        (cut(512 + 100), "truncated within `1.png`"),
        (cut(512 + 1024 + 512 + 512), "truncated"),
        (cut(512 + 1024 + 100), "not a readable tar file"),
        (Vec::new(), "truncated"),
        (vec![b'x'; 2048], "not a readable tar file"),
        (with_entry(EntryType::Symlink), "a link"),
        (with_entry(EntryType::Link), "a link"),
        (with_entry(EntryType::Fifo), "neither a file"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(expected), "{error}: {expected}");
    }
    let folder = folder_of(&[("train-0.tar.gz", b"x".to_vec())]);
    let error = WebDataset::open(folder.path(), Some("train")).err();
    assert!(error.unwrap().to_string().contains("decompress"));
}

#[test]
fn claims_of_headers_allocate_nothing() {
    let mut header = Header::new_gnu();
    header.set_path("1.png").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let error = refused([header.as_bytes().as_slice(), &[0; 2048]].concat());
    assert!(error.contains("truncated within `1.png`"), "{error}");
    // A name of 2 MiB.
    let name = format!("{}/1.png", "n".repeat(2 << 20));
    let error = refused(shard(&[(&name, b"x")]));
    assert!(error.contains("headers of a file"), "{error}");
}

#[test]
fn sparse_files_are_refused() {
    let mut builder = Builder::new(Vec::new());
    let records = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.name", b"1.png"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(4);
    builder
        .append_data(&mut header, "1.png", &b"1\n0\n"[..])
        .unwrap();
    let error = refused(builder.into_inner().unwrap());
    assert!(error.contains("a sparse file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A damaged shard gives an error, or images of the lengths that its headers state.
    #[test]
    fn damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let whole = shard(&[("1.png", &[1; 700]), ("1.cls", b"0"), ("2.png", b"2"), ("2.cls", b"1")]);
        let damaged = damaged_copy(&whole, changes, cut);
        let same = damaged == whole;
        let folder = folder_of(&[("a.tar", damaged)]);
        let Ok(mut dataset) = WebDataset::open(folder.path(), None) else {
            prop_assert!(!same);
            return Ok(());
        };
        let all: Vec<usize> = (0..dataset.len()).collect();
        let lens: Vec<u64> = all.iter().map(|index| dataset.stored_len(*index)).collect();
        let images = bytes(&mut dataset, &all);
        prop_assert_eq!(images.iter().map(|image| image.len() as u64).collect::<Vec<_>>(), lens);
        prop_assert!(all_labels(&mut dataset).is_ok() || !same);
    }
}
