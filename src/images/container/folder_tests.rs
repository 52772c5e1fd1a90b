use super::super::all_labels;
use super::*;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    root
}

fn list(root: &Path) -> Result<FolderImages, ImagesError> {
    FolderImages::open(root, Labels::Prefix)
}

fn names(folder: &FolderImages) -> Vec<String> {
    (0..folder.len())
        .map(|index| folder.key(index).unwrap())
        .collect()
}

fn labels(root: &Path, labels: Labels) -> Vec<Option<String>> {
    all_labels(&mut FolderImages::open(root, labels).unwrap()).unwrap()
}

fn some(labels: &[&str]) -> Vec<Option<String>> {
    labels
        .iter()
        .map(|label| (!label.is_empty()).then(|| (*label).to_owned()))
        .collect()
}

#[test]
fn nested_folders_stand_in_the_place_of_their_name() {
    let root = folder(&[
        "b_1.png",
        "a/z_1.JPG",
        "a/a/y_2.gif",
        "B_2.jpeg",
        "c.txt",
        ".hidden_1.png",
        "a.png",
        "a0/x_9.png",
        ".git/q_1.png",
        "noextension",
    ]);
    let listed = list(root.path()).unwrap();
    assert_eq!(
        names(&listed),
        [
            "B_2.jpeg",
            "a/a/y_2.gif",
            "a/z_1.JPG",
            "a.png",
            "a0/x_9.png",
            "b_1.png"
        ]
    );
    let passed_over = listed.passed_over().unwrap();
    assert_eq!(passed_over, "2 hidden, 1 .txt, 1 without an ending");
}

#[test]
fn what_other_programs_write_beside_images_is_passed_over() {
    let root = folder(&[
        "a_1.png",
        "@eaDir/a_1.png",
        "sub/@eaDir/a_1.png@SynoEAStream",
        "__MACOSX/a_1.png",
        "._a_1.png",
        "Thumbs.db",
        "x.SVG",
        "y.svg",
    ]);
    let listed = list(root.path()).unwrap();
    assert_eq!(names(&listed), ["a_1.png"]);
    let passed_over = listed.passed_over().unwrap();
    assert_eq!(
        passed_over,
        "3 folders of other programs, 2 .svg, 1 .db, 1 hidden"
    );
}

#[test]
fn labels_are_in_names_or_folders() {
    let root = folder(&[
        "melanoma/ISIC_1.png",
        "nevus/old/ISIC_2.png",
        "nevus/plain.png",
        "top_3.png",
    ]);
    let of = |place| labels(root.path(), place);
    assert_eq!(of(Labels::Prefix), some(&["ISIC", "ISIC", "", "top"]));
    assert_eq!(
        of(Labels::Folder),
        some(&["melanoma", "nevus", "nevus", ""])
    );
    assert_eq!(
        of(Labels::LeafFolder),
        some(&["melanoma", "old", "nevus", ""])
    );
    let shared = list(root.path()).unwrap().classes_over_folders();
    assert_eq!(shared, [("ISIC".to_owned(), 2)]);
    let shards = folder(&["0/a_1.png", "0/b_1.png", "1/a_2.png", "1/b_2.png"]);
    assert!(
        list(shards.path())
            .unwrap()
            .classes_over_folders()
            .is_empty()
    );
}

#[test]
fn the_class_ends_at_the_first_underscore() {
    assert_eq!(prefix(Path::new("x/a b_c_1.png")), Some("a b"));
    for bad in ["x_y/plain.png", "_1.png", "plain.png"] {
        assert_eq!(prefix(Path::new(bad)), None, "{bad}");
    }
}

#[test]
fn names_in_two_normal_forms_are_one_class() {
    let root = folder(&["cafe\u{301}_1.png", "caf\u{e9}_2.png"]);
    let expected = some(&["caf\u{e9}", "caf\u{e9}"]);
    assert_eq!(labels(root.path(), Labels::Prefix), expected);
}

#[test]
fn a_missing_folder_is_named() {
    let error = list(Path::new("no/such/folder")).err().unwrap().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}

fn table(text: &str, files: &[&str]) -> Result<FolderImages, String> {
    let root = folder(files);
    fs::write(root.path().join("labels.csv"), text).unwrap();
    let clients = ClientsConfig::default();
    let found = FolderImages::of_table(root.path(), None, Some(&clients));
    found.map_err(|error| error.to_string())
}

#[test]
fn a_table_lists_files_with_labels_and_clients() {
    let rows = "\u{feff}file,label,client\nb/2.png,y,p1\na.png,x,p2\n";
    let mut folder = table(rows, &["a.png", "b/2.png", "c.png"]).unwrap();
    assert_eq!(names(&folder), ["a.png", "b/2.png"]);
    assert_eq!(all_labels(&mut folder).unwrap(), some(&["x", "y"]));
    assert!(folder.has_clients());
    assert_eq!(folder.clients().unwrap(), ["p2", "p1"]);
}

#[test]
fn a_wrong_row_is_named_with_its_line() {
    for (rows, expected) in [
        (
            "file,client\na.png,1\n",
            "line 1: expected one column `label`",
        ),
        (
            "file,label,client\na.png,x,1\nb.png,x,1\n",
            "line 3: there is no file `b.png`",
        ),
        (
            "file,label,client\na.png,x,1\na.png,y,1\n",
            "line 3: `a.png` is on an earlier line too",
        ),
        ("file,label,client\na.png,,1\n", "line 2: has no label"),
        ("file,label,client\na.png,x\n", "line 2"),
        (
            "file,label,client\n./a.png,x,1\na.png,y,1\n",
            "the same file",
        ),
    ] {
        let error = table(rows, &["a.png"]).err().unwrap();
        assert!(error.contains(expected), "`{expected}` is not in: {error}");
    }
}

#[test]
fn a_folder_without_a_table_is_refused() {
    let root = folder(&["a.png"]);
    let error = FolderImages::of_table(root.path(), None, None)
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(error.contains("labels.csv or metadata.csv"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_never_loop() {
    use std::os::unix::fs::symlink;
    let outside = folder(&["a_1.png"]);
    let root = folder(&["b_1.png"]);
    symlink(outside.path().join("a_1.png"), root.path().join("a_2.png")).unwrap();
    symlink(root.path(), root.path().join("loop")).unwrap();
    symlink("nowhere", root.path().join("notes.txt")).unwrap();
    let listed = list(root.path()).unwrap();
    assert_eq!(names(&listed), ["a_2.png", "b_1.png"]);
    assert_eq!(
        listed.passed_over().unwrap(),
        "1 dead links, 1 links to folders that were read"
    );
    symlink("nowhere", root.path().join("c_1.png")).unwrap();
    let error = list(root.path()).err().unwrap().to_string();
    assert!(error.contains("c_1.png"), "{error}");
}

#[cfg(unix)]
#[test]
fn one_file_under_two_names_is_refused() {
    let root = folder(&["a_1.png"]);
    let (first, second) = (root.path().join("a_1.png"), root.path().join("a_2.png"));
    std::os::unix::fs::symlink(&first, &second).unwrap();
    let error = list(root.path()).err().unwrap().to_string();
    assert!(
        error.contains("a_1.png") && error.contains("a_2.png"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn hard_links_are_equal_images_and_no_duplicates_of_a_path() {
    let root = folder(&["a_1.png"]);
    fs::hard_link(root.path().join("a_1.png"), root.path().join("a_2.png")).unwrap();
    // `data.duplicates` treats them as it treats copies.
    assert_eq!(names(&list(root.path()).unwrap()), ["a_1.png", "a_2.png"]);
}
