use std::fs;
use std::io::Cursor;
use std::path::Path;

use super::super::grid::png;
use super::super::layout::Choose;
use super::super::samples::SamplesWriter;
use super::super::size::ImageSize;
use super::*;

fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Declares the classes of [`folder`], not in the order of their names.
fn config(path: &Path) -> DataConfig {
    DataConfig {
        class_conditional: true,
        classes: names(&["dog", "Cat", "ant", "cat"]),
        ..DataConfig::new(path, 4)
    }
}

fn flat(value: u8, height: usize, width: usize) -> ImageBatch {
    ImageBatch::new(vec![value; height * width * 3], 1, height, width).unwrap()
}

fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("dog_1.png", 1),
        ("cat_2.png", 2),
        ("sub_x", 0),
        ("Cat_9.png", 3),
    ] {
        let path = root.path().join(name);
        if value == 0 {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("ant_7.PNG"), png(&flat(4, 9, 6)).unwrap()).unwrap();
        } else {
            fs::write(path, png(&flat(value, 5, 8)).unwrap()).unwrap();
        }
    }
    fs::write(root.path().join("notes.txt"), "x").unwrap();
    root
}

struct Loaded {
    images: ImageBatch,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    remarks: Vec<String>,
    skipped: Vec<Skipped>,
}

/// Checks, then reads again: the two must agree. Three at a time, to have several batches.
fn read(config: &DataConfig) -> Result<Loaded, ImagesError> {
    let mut source = ImageSource::open(config)?;
    let mut checked = ImageBatch::empty(config.image_size.height, config.image_size.width);
    let skipped = source.check(3, |batch| Ok::<_, ImagesError>(checked.extend(&batch)?))?;
    let mut images = ImageBatch::empty(config.image_size.height, config.image_size.width);
    source.for_each_batch(3, |batch| Ok::<_, ImagesError>(images.extend(&batch)?))?;
    assert!(images == checked);
    assert_eq!(images.len(), source.len());
    Ok(Loaded {
        images,
        labels: source.labels().to_vec(),
        classes: source.classes().to_vec(),
        remarks: source.remarks().to_vec(),
        skipped,
    })
}

fn firsts(loaded: &Loaded) -> Vec<u8> {
    loaded.images.iter().map(|image| image[0]).collect()
}

#[test]
fn a_folder_is_read_in_order_with_the_declared_classes() {
    let root = folder();
    let config = config(root.path());
    let loaded = read(&config).unwrap();
    assert_eq!(loaded.classes, ["dog", "Cat", "ant", "cat"]);
    assert_eq!(firsts(&loaded), [3, 2, 1, 4]);
    assert_eq!(loaded.labels, [1, 3, 0, 2].map(Some));
    assert_eq!((loaded.images.height(), loaded.images.width()), (4, 4));
    assert_eq!(loaded.remarks, ["left out: 1 .txt"]);
}

#[test]
fn the_first_n_are_taken() {
    let root = folder();
    let config = DataConfig {
        num_samples: Some(2),
        choose: Some(Choose::First),
        ..config(root.path())
    };
    let loaded = read(&config).unwrap();
    assert_eq!(firsts(&loaded), [3, 2]);
    // A declared class without images stays.
    assert_eq!(loaded.classes.len(), 4);
    assert_eq!(loaded.labels, [1, 3].map(Some));
}

#[test]
fn names_need_no_class_when_there_is_none() {
    let root = folder();
    fs::write(root.path().join("plain.png"), png(&flat(9, 4, 4)).unwrap()).unwrap();
    let conditional = config(root.path());
    let error = read(&conditional).err().unwrap().to_string();
    assert!(error.contains("plain.png"), "{error}");
    let loaded = read(&DataConfig {
        class_conditional: false,
        classes: None,
        ..conditional
    })
    .unwrap();
    assert_eq!(loaded.classes, ["all"]);
    assert_eq!(loaded.labels, [Some(0); 5]);
}

#[test]
fn a_bad_file_is_named_or_skipped() {
    let root = folder();
    let bad = root.path().join("cat_1.jpg");
    fs::write(&bad, b"not an image").unwrap();
    let mut config = config(root.path());
    let error = read(&config).err().unwrap().to_string();
    assert!(error.contains("cat_1.jpg"), "{error}");
    config.on_bad_image = OnBadImage::Skip;
    let loaded = read(&config).unwrap();
    assert_eq!(firsts(&loaded), [3, 2, 1, 4]);
    assert_eq!(loaded.labels, [1, 3, 0, 2].map(Some));
    let [(image, reason)] = &loaded.skipped[..] else {
        panic!("{:?}", loaded.skipped);
    };
    assert_eq!(image, bad.to_str().unwrap());
    assert_eq!(
        reason,
        "not a JPEG, PNG, GIF, WebP, BMP, TIFF or DICOM file"
    );
}

#[test]
fn nothing_to_read_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(
        read(&config(root.path())),
        Err(ImagesError::Empty { .. })
    ));
    fs::write(root.path().join("ant_1.gif"), b"GIF89a").unwrap();
    let only_bad = DataConfig {
        on_bad_image: OnBadImage::Skip,
        ..config(root.path())
    };
    assert!(matches!(read(&only_bad), Err(ImagesError::Empty { .. })));
    let file = config(&root.path().join("ant_1.gif"));
    assert!(matches!(read(&file), Err(ImagesError::Kind { .. })));
    assert!(matches!(
        read(&config(Path::new("nowhere"))),
        Err(ImagesError::Read { .. })
    ));
}

#[test]
fn sizes_out_of_range_name_their_key() {
    let root = folder();
    for (image_size, num_samples, key) in [(0, None, "image_size"), (4, Some(0), "num_samples")] {
        let config = DataConfig {
            image_size: ImageSize::square(image_size),
            num_samples,
            ..config(root.path())
        };
        assert_eq!(config.validate().unwrap_err().key, key);
        assert!(matches!(read(&config), Err(ImagesError::Config { .. })));
    }
}

#[test]
fn a_visitor_can_stop_the_reading() {
    let root = folder();
    let mut source = ImageSource::open(&config(root.path())).unwrap();
    let mut seen = 0;
    let stopped = source.for_each_batch(1, |_| {
        seen += 1;
        Err(ImagesError::Kind {
            path: "stop".into(),
            found: "found",
            expected: "expected",
        })
    });
    assert!(matches!(stopped, Err(ImagesError::Kind { .. })));
    assert_eq!(seen, 1);
}

#[test]
fn a_class_stays_without_its_last_readable_file() {
    let root = folder();
    fs::write(root.path().join("dog_1.png"), b"broken").unwrap();
    let loaded = read(&DataConfig {
        on_bad_image: OnBadImage::Skip,
        ..config(root.path())
    })
    .unwrap();
    assert_eq!(loaded.classes, ["dog", "Cat", "ant", "cat"]);
    assert_eq!(loaded.labels, [1, 3, 2].map(Some));
}

#[test]
fn an_image_of_an_undeclared_class_is_named_or_has_no_label() {
    let root = folder();
    fs::write(root.path().join("plain.png"), png(&flat(9, 4, 4)).unwrap()).unwrap();
    let mut config = DataConfig {
        classes: names(&["cat", "dog"]),
        ..config(root.path())
    };
    let error = read(&config).err().unwrap();
    assert!(error.tells_of_images(root.path()));
    let text = error.to_string();
    for part in ["Cat_9.png", "`Cat` is not declared", "leave-out"] {
        assert!(text.contains(part), "{text}");
    }
    config.undeclared_class = UndeclaredClass::LeaveOut;
    let loaded = read(&config).unwrap();
    assert_eq!(loaded.classes, ["cat", "dog"]);
    let labels = [None, Some(0), Some(1), None, None];
    assert_eq!(loaded.labels, labels);
}

#[test]
fn classes_of_a_conditional_source_must_be_declared() {
    let root = folder();
    let config = DataConfig {
        classes: None,
        ..config(root.path())
    };
    let text = read(&config).err().unwrap().to_string();
    assert!(text.starts_with("classes: missing"), "{text}");
}

#[test]
fn occurring_classes_are_counted_for_their_owner() {
    let root = folder();
    fs::write(root.path().join("plain.png"), "").unwrap();
    fs::write(root.path().join("ant_8.png"), "").unwrap();
    let found = OccurringClasses::of(&DataConfig::new(root.path(), 1)).unwrap();
    let counts = [("Cat", 1), ("ant", 2), ("cat", 1), ("dog", 1)];
    assert_eq!(
        found.counts,
        counts.map(|(name, count)| (name.to_owned(), count))
    );
    assert_eq!(found.unnamed, 1);
}

#[test]
fn the_labels_of_an_npz_are_numbers() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data.npz");
    let mut writer = SamplesWriter::create(Cursor::new(Vec::new()), 4, 8, 8).unwrap();
    for value in 1..=4 {
        writer.push(&flat(value, 8, 8)).unwrap();
    }
    writer.i64s("labels", &[10, 9, 10, 2]).unwrap();
    fs::write(&path, writer.finish().unwrap().into_inner()).unwrap();
    let mut config = DataConfig {
        classes: names(&["10", "2", "9", "11"]),
        ..config(&path)
    };
    let loaded = read(&config).unwrap();
    assert_eq!(loaded.labels, [0, 2, 0, 1].map(Some));
    let counts = [("2", 1), ("9", 1), ("10", 2)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(
        OccurringClasses::of(&DataConfig::new(&path, 1))
            .unwrap()
            .counts,
        counts
    );
    assert_eq!(firsts(&loaded), [1, 2, 3, 4]);
    assert_eq!(loaded.images.height(), 4);
    config.num_samples = Some(2);
    config.choose = Some(Choose::First);
    assert_eq!(firsts(&read(&config).unwrap()), [1, 2]);
    assert_eq!(read(&config).unwrap().classes.len(), 4);
    (config.num_samples, config.choose) = (None, None);
    config.classes = names(&["10", "2"]);
    let error = read(&config).err().unwrap().to_string();
    assert!(
        error.contains("data.npz: image 1: its class `9`"),
        "{error}"
    );
    config.undeclared_class = UndeclaredClass::LeaveOut;
    let loaded = read(&config).unwrap();
    assert_eq!(loaded.labels, [Some(0), None, Some(0), Some(1)]);
    fs::write(&path, b"PK nonsense").unwrap();
    let error = read(&config).err().unwrap().to_string();
    assert!(error.contains("data.npz"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_is_shown_and_explained() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = folder();
    let name = OsStr::from_bytes(b"caf\xe9_1.png");
    fs::write(root.path().join(name), png(&flat(9, 4, 4)).unwrap()).unwrap();
    let error = read(&config(root.path())).err().unwrap().to_string();
    for part in ["caf\\xe9_1.png has no class", "a path in UTF-8"] {
        assert!(error.contains(part), "{error}");
    }
    let unconditional = DataConfig::new(root.path(), 4);
    assert_eq!(read(&unconditional).unwrap().labels.len(), 5);
}
