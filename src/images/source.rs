//! The private images: `[data]` of the configuration to labelled batches.
//!
//! What is in an error, a count or a progress report is names and numbers of files, never pixels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::batch::ImageBatch;
use super::crop::{center_crop, resize_shorter_side};
use super::decode::{Rgb, decode};
use super::error::ImagesError;
use super::filter::Filter;
use super::folder::{class_of, list};
use super::samples::SamplesReader;

/// The only class of an unconditional run.
pub const ALL_CLASS: &str = "all";
/// Larger files than this are not opened: no image within the pixel limit needs them.
const MAX_FILE: u64 = 1 << 31;
/// Larger images than this are not asked for.
const MAX_IMAGE_SIZE: usize = 4096;
/// Images of an `.npz` that are resized at once.
const NPZ_BATCH: usize = 256;

/// `[data]`: where the private images are and how they are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder of `<class>_<rest>.<jpg|jpeg|png|gif>`, nested as it may be, or an `.npz` file.
    pub path: PathBuf,
    /// Rows and columns that every image is resized and cropped to.
    pub image_size: usize,
    /// Whether each class gets its own samples; otherwise all images form one.
    #[serde(default = "default_class_conditional")]
    pub class_conditional: bool,
    /// Use only this many images, the first in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<usize>,
    /// What to do about a file that is no readable image.
    #[serde(default)]
    pub on_bad_image: OnBadImage,
}

fn default_class_conditional() -> bool {
    true
}

/// What to do about a file that is no readable image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadImage {
    /// End the run, naming it.
    #[default]
    Error,
    /// Leave it out and list it.
    Skip,
}

/// Private images of one size, with labels. Deliberately without `Debug`: pixels do not belong in a log.
pub struct LabelledImages {
    /// `uint8[N, image_size, image_size, 3]`.
    pub images: ImageBatch,
    /// For each image its index into `classes`.
    pub labels: Vec<u32>,
    /// Class names, sorted: by name for a folder, by number for an `.npz`. [`ALL_CLASS`] alone when the
    /// run is not class-conditional.
    pub classes: Vec<String>,
    /// Files that were left out, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// What a source holds, by names alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Class names and numbers of images, in the order of [`LabelledImages::classes`].
    pub classes: Vec<(String, usize)>,
    /// Images in all.
    pub total: usize,
    /// Entries of a folder that are no images by their name.
    pub ignored: usize,
}

/// Counts what [`load`] would read, without decoding an image: for `--dry-run`.
///
/// # Errors
/// [`ImagesError`] for all that does not lie in an image itself.
pub fn scan(config: &DataConfig) -> Result<Inventory, ImagesError> {
    let source = Source::open(config)?;
    let mut counts = vec![0usize; source.classes.len()];
    for label in &source.labels {
        if let Some(count) = counts.get_mut(*label as usize) {
            *count += 1;
        }
    }
    Ok(Inventory {
        total: source.labels.len(),
        classes: source.classes.into_iter().zip(counts).collect(),
        ignored: source.ignored,
    })
}

/// Reads the images in parallel: decodes, scales the shorter side to `image_size`, crops the centre.
/// The order is that of the names, the result the same on any number of threads.
///
/// `progress` is called with images done and images in all, from several threads; when `interrupted`
/// says so, reading stops.
///
/// # Errors
/// [`ImagesError`]; for a bad image, unless `on_bad_image` is `skip`, one that names it.
pub fn load(
    config: &DataConfig,
    progress: &(dyn Fn(u64, u64) + Sync),
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<LabelledImages, ImagesError> {
    let source = Source::open(config)?;
    let watch = Watch {
        done: AtomicU64::new(0),
        total: source.labels.len() as u64,
        progress,
        interrupted,
    };
    let (images, labels, skipped) = match source.kind {
        SourceKind::Folder(files) => load_files(config, &files, source.labels, &watch)?,
        SourceKind::Npz(reader) => {
            let images = load_npz(config, *reader, source.labels.len(), &watch)?;
            (images, source.labels, Vec::new())
        }
    };
    if images.is_empty() {
        return Err(ImagesError::Empty {
            path: config.path.clone(),
            expected: "at least one readable image",
        });
    }
    Ok(LabelledImages {
        images,
        labels,
        classes: source.classes,
        skipped,
    })
}

/// A source whose names are read, and nothing else.
struct Source {
    kind: SourceKind,
    /// One for each image that will be read.
    labels: Vec<u32>,
    classes: Vec<String>,
    ignored: usize,
}

enum SourceKind {
    Folder(Vec<PathBuf>),
    Npz(Box<SamplesReader<std::io::BufReader<File>>>),
}

impl Source {
    fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        let out_of_range = |key, value, expected: String| {
            Err(ImagesError::Config {
                key,
                value,
                expected,
            })
        };
        if !(1..=MAX_IMAGE_SIZE).contains(&config.image_size) {
            let expected = format!("1 to {MAX_IMAGE_SIZE}");
            return out_of_range("image_size", config.image_size, expected);
        }
        if config.num_samples == Some(0) {
            return out_of_range("num_samples", 0, "1 or more, or nothing for all".to_owned());
        }
        let metadata = std::fs::metadata(&config.path).map_err(|source| ImagesError::Read {
            path: config.path.clone(),
            source,
        })?;
        if metadata.is_dir() {
            Self::open_folder(config)
        } else if config
            .path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
        {
            Self::open_npz(config)
        } else {
            Err(ImagesError::Kind {
                path: config.path.clone(),
            })
        }
    }

    fn open_folder(config: &DataConfig) -> Result<Self, ImagesError> {
        let listing = list(&config.path)?;
        let mut files = listing.files;
        files.truncate(config.num_samples.unwrap_or(usize::MAX));
        if files.is_empty() {
            return Err(ImagesError::Empty {
                path: config.path.clone(),
                expected: "files named `<class>_<rest>.<jpg|jpeg|png|gif>`",
            });
        }
        let (labels, classes) = if config.class_conditional {
            let names: Vec<&str> = files
                .iter()
                .map(|path| class_of(path))
                .collect::<Result<_, _>>()?;
            index(&names, |name| (*name).to_owned())
        } else {
            one_class(files.len())
        };
        Ok(Self {
            kind: SourceKind::Folder(files),
            labels,
            classes,
            ignored: listing.ignored,
        })
    }

    fn open_npz(config: &DataConfig) -> Result<Self, ImagesError> {
        let failed = |source| npz_error(&config.path, source);
        let mut reader = SamplesReader::open(&config.path).map_err(failed)?;
        let count = reader.len().min(config.num_samples.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(ImagesError::Empty {
                path: config.path.clone(),
                expected: "at least one image",
            });
        }
        let (labels, classes) = if config.class_conditional {
            let mut numbers = reader.labels().map_err(failed)?;
            numbers.truncate(count);
            index(&numbers, i64::to_string)
        } else {
            one_class(count)
        };
        Ok(Self {
            kind: SourceKind::Npz(Box::new(reader)),
            labels,
            classes,
            ignored: 0,
        })
    }
}

/// Sorted distinct values as class names, and each value's place among them.
fn index<T: Ord>(values: &[T], name: impl Fn(&T) -> String) -> (Vec<u32>, Vec<String>) {
    let distinct: BTreeSet<&T> = values.iter().collect();
    let places: BTreeMap<&T, u32> = distinct.iter().copied().zip(0..).collect();
    let labels = values
        .iter()
        .filter_map(|value| places.get(value).copied())
        .collect();
    (labels, distinct.into_iter().map(name).collect())
}

fn one_class(count: usize) -> (Vec<u32>, Vec<String>) {
    (vec![0; count], vec![ALL_CLASS.to_owned()])
}

fn npz_error(path: &Path, source: super::npz::NpzError) -> ImagesError {
    ImagesError::Npz {
        path: path.to_owned(),
        source,
    }
}

/// Progress and interruption.
struct Watch<'a> {
    done: AtomicU64,
    total: u64,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    fn one_done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.progress)(done, self.total);
    }

    fn check(&self) -> Result<(), ImagesError> {
        if (self.interrupted)() {
            return Err(ImagesError::Interrupted);
        }
        Ok(())
    }
}

type Loaded = (ImageBatch, Vec<u32>, Vec<(PathBuf, String)>);

fn load_files(
    config: &DataConfig,
    files: &[PathBuf],
    labels: Vec<u32>,
    watch: &Watch<'_>,
) -> Result<Loaded, ImagesError> {
    let size = config.image_size;
    let image_len = size * size * 3;
    let mut data = zeroed(files.len(), size)?;
    // The bad files by their index: the one that is reported does not depend on the threads unless
    // the run ends at once.
    let bad = Mutex::new(BTreeMap::new());
    let stop = AtomicBool::new(false);
    data.par_chunks_exact_mut(image_len)
        .zip(files)
        .enumerate()
        .try_for_each(|(index, (place, path))| {
            watch.check()?;
            if stop.load(Ordering::Relaxed) {
                return Ok::<_, ImagesError>(());
            }
            match read_one(path, size) {
                Ok(pixels) => place.copy_from_slice(&pixels),
                Err(error) => {
                    if config.on_bad_image == OnBadImage::Error {
                        stop.store(true, Ordering::Relaxed);
                    }
                    // A poisoned lock holds a map as good as any: nothing panics while it is held.
                    bad.lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .insert(index, error);
                }
            }
            watch.one_done();
            Ok(())
        })?;
    let mut bad = bad
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if config.on_bad_image == OnBadImage::Error
        && let Some((_, error)) = bad.pop_first()
    {
        return Err(error);
    }
    let (data, labels) = without(data, labels, image_len, &bad);
    let skipped = bad
        .into_iter()
        .filter_map(|(index, error)| Some((files.get(index)?.clone(), reason(&error))))
        .collect();
    let images = ImageBatch::new(data, labels.len(), size, size)?;
    Ok((images, labels, skipped))
}

/// An error without the path, which is listed beside it.
fn reason(error: &ImagesError) -> String {
    match error {
        ImagesError::Decode { source, .. } => source.to_string(),
        ImagesError::Resize { source, .. } => source.to_string(),
        ImagesError::Read { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Takes the bad images' places out.
fn without<E>(
    data: Vec<u8>,
    labels: Vec<u32>,
    image_len: usize,
    bad: &BTreeMap<usize, E>,
) -> (Vec<u8>, Vec<u32>) {
    if bad.is_empty() {
        return (data, labels);
    }
    let good = |index: &usize| !bad.contains_key(index);
    let data = data
        .chunks_exact(image_len)
        .enumerate()
        .filter(|(index, _)| good(index))
        .flat_map(|(_, image)| image.iter().copied())
        .collect();
    let labels = labels
        .into_iter()
        .enumerate()
        .filter(|(index, _)| good(index))
        .map(|(_, label)| label)
        .collect();
    (data, labels)
}

/// One file as `[size, size, 3]`.
fn read_one(path: &Path, size: usize) -> Result<Vec<u8>, ImagesError> {
    let read_error = |source| ImagesError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(read_error)?;
    let image = decode(&bytes).map_err(|source| ImagesError::Decode {
        path: path.to_owned(),
        source,
    })?;
    fit(path, image, size)
}

/// `T.Resize(size)`, `T.CenterCrop(size)`.
fn fit(path: &Path, image: Rgb, size: usize) -> Result<Vec<u8>, ImagesError> {
    resize_shorter_side(image, size, Filter::Bilinear)
        .and_then(|image| center_crop(&image, size))
        .map_err(|source| ImagesError::Resize {
            path: path.to_owned(),
            source,
        })
}

fn load_npz(
    config: &DataConfig,
    mut reader: SamplesReader<std::io::BufReader<File>>,
    count: usize,
    watch: &Watch<'_>,
) -> Result<ImageBatch, ImagesError> {
    let size = config.image_size;
    let (height, width) = (reader.height(), reader.width());
    let mut data = zeroed(count, size)?;
    let mut places = data.chunks_exact_mut(size * size * 3);
    let take = |batch: ImageBatch| {
        watch.check()?;
        let places: Vec<&mut [u8]> = places.by_ref().take(batch.len()).collect();
        let images: Vec<&[u8]> = batch.iter().collect();
        places
            .into_par_iter()
            .zip(images)
            .try_for_each(|(place, image)| {
                let image = Rgb {
                    pixels: image.to_vec(),
                    height,
                    width,
                };
                place.copy_from_slice(&fit(&config.path, image, size)?);
                watch.one_done();
                Ok::<_, ImagesError>(())
            })
    };
    reader.for_each_batch(
        count,
        NPZ_BATCH,
        |source| npz_error(&config.path, source),
        take,
    )?;
    Ok(ImageBatch::new(data, count, size, size)?)
}

/// Memory for the images, or an error instead of an abort.
fn zeroed(count: usize, size: usize) -> Result<Vec<u8>, ImagesError> {
    let too_much = || ImagesError::Memory { count, size };
    let len = (size * size * 3).checked_mul(count).ok_or_else(too_much)?;
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| too_much())?;
    data.resize(len, 0);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use super::super::grid::png;
    use super::super::samples::SamplesWriter;
    use super::*;

    fn config(path: &Path) -> DataConfig {
        DataConfig {
            path: path.to_owned(),
            image_size: 4,
            class_conditional: true,
            num_samples: None,
            on_bad_image: OnBadImage::Error,
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

    fn read(config: &DataConfig) -> Result<LabelledImages, ImagesError> {
        load(config, &|_, _| (), &|| false)
    }

    fn firsts(loaded: &LabelledImages) -> Vec<u8> {
        loaded.images.iter().map(|image| image[0]).collect()
    }

    #[test]
    fn a_folder_is_read_in_order_with_sorted_classes() {
        let root = folder();
        let config = config(root.path());
        let loaded = read(&config).unwrap();
        assert_eq!(loaded.classes, ["Cat", "ant", "cat", "dog"]);
        assert_eq!(firsts(&loaded), [3, 2, 1, 4]);
        assert_eq!(loaded.labels, [0, 2, 3, 1]);
        assert_eq!((loaded.images.height(), loaded.images.width()), (4, 4));
        let inventory = scan(&config).unwrap();
        assert_eq!((inventory.total, inventory.ignored), (4, 1));
        assert_eq!(inventory.classes[2], ("cat".to_owned(), 1));
    }

    #[test]
    fn the_first_n_are_taken() {
        let root = folder();
        let config = DataConfig {
            num_samples: Some(2),
            ..config(root.path())
        };
        let loaded = read(&config).unwrap();
        assert_eq!(firsts(&loaded), [3, 2]);
        assert_eq!(loaded.classes, ["Cat", "cat"]);
        assert_eq!(scan(&config).unwrap().total, 2);
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
            ..conditional
        })
        .unwrap();
        assert_eq!(loaded.classes, [ALL_CLASS]);
        assert_eq!(loaded.labels, [0; 5]);
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
        assert_eq!(loaded.labels, [0, 2, 3, 1]);
        let [(path, reason)] = &loaded.skipped[..] else {
            panic!("{:?}", loaded.skipped);
        };
        assert_eq!(path, &bad);
        assert_eq!(reason, "not a JPEG, PNG or GIF");
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(
            read(&config(root.path())),
            Err(ImagesError::Empty { .. })
        ));
        fs::write(root.path().join("a_1.gif"), b"GIF89a").unwrap();
        let only_bad = DataConfig {
            on_bad_image: OnBadImage::Skip,
            ..config(root.path())
        };
        assert!(matches!(read(&only_bad), Err(ImagesError::Empty { .. })));
        let file = config(&root.path().join("a_1.gif"));
        assert!(matches!(read(&file), Err(ImagesError::Kind { .. })));
        assert!(matches!(
            read(&config(Path::new("nowhere"))),
            Err(ImagesError::Read { .. })
        ));
    }

    #[test]
    fn sizes_out_of_range_name_their_key() {
        let root = folder();
        for (image_size, num_samples, key) in [(0, None, "image_size"), (4, Some(0), "num_samples")]
        {
            let config = DataConfig {
                image_size,
                num_samples,
                ..config(root.path())
            };
            let error = scan(&config).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn progress_counts_and_interruption_stops() {
        let root = folder();
        let config = config(root.path());
        let seen = Mutex::new(Vec::new());
        load(
            &config,
            &|done, total| seen.lock().unwrap().push((done, total)),
            &|| false,
        )
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        let stopped = load(&config, &|_, _| (), &|| true);
        assert!(matches!(stopped, Err(ImagesError::Interrupted)));
    }

    #[test]
    fn an_npz_is_read_with_classes_by_number() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data.npz");
        let mut writer = SamplesWriter::create(Cursor::new(Vec::new()), 4, 8, 8).unwrap();
        for value in 1..=4 {
            writer.push(&flat(value, 8, 8)).unwrap();
        }
        writer.i64s("labels", &[10, 9, 10, 2]).unwrap();
        fs::write(&path, writer.finish().unwrap().into_inner()).unwrap();
        let mut config = config(&path);
        let loaded = read(&config).unwrap();
        assert_eq!(loaded.classes, ["2", "9", "10"]);
        assert_eq!(loaded.labels, [2, 1, 2, 0]);
        assert_eq!(firsts(&loaded), [1, 2, 3, 4]);
        assert_eq!(loaded.images.height(), 4);
        config.num_samples = Some(2);
        assert_eq!(firsts(&read(&config).unwrap()), [1, 2]);
        assert_eq!(scan(&config).unwrap().classes.len(), 2);
        fs::write(&path, b"PK nonsense").unwrap();
        let error = read(&config).err().unwrap().to_string();
        assert!(error.contains("data.npz"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = "path = 'x'\nimage_size = 32\non_bad_image = 'skip'\n";
        let config: DataConfig = toml::from_str(text).unwrap();
        assert!(config.class_conditional);
        assert_eq!(config.on_bad_image, OnBadImage::Skip);
        assert!(toml::from_str::<DataConfig>(&format!("{text}image_sise = 3")).is_err());
    }
}
