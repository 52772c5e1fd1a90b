//! The private images: `[data]` of the configuration to labelled batches.
//!
//! What is in an error, a count or a progress report is names and numbers of files, never pixels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::sections::{InvalidKey, Section};
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

/// A file that was left out, and why.
pub type Skipped = (PathBuf, String);

/// Images that are read a batch at a time: memory does not grow with their number.
pub struct ImageSource {
    config: DataConfig,
    kind: SourceKind,
    labels: Vec<u32>,
    classes: Vec<String>,
    ignored: usize,
    truncated: bool,
}

enum SourceKind {
    Folder(Vec<PathBuf>),
    Npz(Box<SamplesReader<std::io::BufReader<File>>>),
}

impl Section for DataConfig {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["path", "on_bad_image"];
}

impl DataConfig {
    /// Checks the values by themselves.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if !(1..=MAX_IMAGE_SIZE).contains(&self.image_size) {
            let message = format!("is {}: expected 1 to {MAX_IMAGE_SIZE}", self.image_size);
            return Err(InvalidKey::new("image_size", message));
        }
        if self.num_samples == Some(0) {
            let message = "is 0: expected 1 or more, or nothing for all";
            return Err(InvalidKey::new("num_samples", message));
        }
        Ok(())
    }
}

impl ImageSource {
    /// Lists a folder or opens an `.npz`; reads names and labels, no image.
    ///
    /// # Errors
    /// [`ImagesError`] when there is nothing to read, or a file name has no class.
    pub fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        config.validate()?;
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
        let truncated = config.num_samples.is_some_and(|n| n < files.len());
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
            config: config.clone(),
            kind: SourceKind::Folder(files),
            labels,
            classes,
            ignored: listing.ignored,
            truncated,
        })
    }

    fn open_npz(config: &DataConfig) -> Result<Self, ImagesError> {
        let failed = |source| npz_error(&config.path, source);
        let mut reader = SamplesReader::open(&config.path).map_err(failed)?;
        let count = reader.len().min(config.num_samples.unwrap_or(usize::MAX));
        let truncated = count < reader.len();
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
            config: config.clone(),
            kind: SourceKind::Npz(Box::new(reader)),
            labels,
            classes,
            ignored: 0,
            truncated,
        })
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of each image, as an index into [`ImageSource::classes`].
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Class names, sorted (those of an `.npz` by number).
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Whether `num_samples` leaves images out.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Whether files that are no readable images are left out.
    #[must_use]
    pub fn skips_bad_images(&self) -> bool {
        self.config.on_bad_image == OnBadImage::Skip
    }

    /// Entries of the folder that are no images by their names, and so are not read.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Reads every image once, in order, `uint8[batch, image_size, image_size, 3]` at a time. Files that
    /// are no readable images end it or, under [`OnBadImage::Skip`], are left out, now and later, and
    /// returned.
    ///
    /// # Errors
    /// [`ImagesError`] naming the file; whatever `visit` returns.
    pub fn check<E: From<ImagesError>>(
        &mut self,
        batch_size: usize,
        mut visit: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<Vec<Skipped>, E> {
        let SourceKind::Folder(files) = &self.kind else {
            self.for_each_batch(batch_size, visit)?;
            return Ok(Vec::new());
        };
        let mut bad = BTreeMap::new();
        let skip = self.skips_bad_images();
        for (chunk, files) in files.chunks(batch_size.max(1)).enumerate() {
            let mut pixels = Vec::new();
            for (index, image) in read_all(files, self.config.image_size)
                .into_iter()
                .enumerate()
            {
                match image {
                    Ok(image) => pixels.extend_from_slice(&image),
                    Err(error) if skip && error.is_of_the_image() => {
                        bad.insert(chunk * batch_size.max(1) + index, reason(&error));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            visit(square(pixels, self.config.image_size)?)?;
        }
        Ok(self.leave_out(bad)?)
    }

    /// As [`ImageSource::check`], except that an unreadable file is always an error.
    ///
    /// # Errors
    /// [`ImagesError`] naming the file; whatever `visit` returns.
    pub fn for_each_batch<E: From<ImagesError>>(
        &mut self,
        batch_size: usize,
        mut visit: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let (size, path) = (self.config.image_size, &self.config.path);
        match &mut self.kind {
            SourceKind::Folder(files) => {
                for files in files.chunks(batch_size.max(1)) {
                    let images: Vec<Vec<u8>> = read_all(files, size)
                        .into_iter()
                        .collect::<Result<_, _>>()?;
                    visit(square(images.concat(), size)?)?;
                }
                Ok(())
            }
            SourceKind::Npz(reader) => reader.for_each_batch(
                self.labels.len(),
                batch_size,
                |source| npz_error(path, source).into(),
                |batch| {
                    let (height, width) = (batch.height(), batch.width());
                    let images: Vec<&[u8]> = batch.iter().collect();
                    let images: Vec<Vec<u8>> = images
                        .into_par_iter()
                        .map(|pixels| {
                            let image = Rgb {
                                pixels: pixels.to_vec(),
                                height,
                                width,
                            };
                            fit(path, image, size)
                        })
                        .collect::<Result<_, _>>()?;
                    visit(square(images.concat(), size)?)
                },
            ),
        }
    }

    /// Takes the bad files out. A class may vanish with its last file.
    fn leave_out(&mut self, bad: BTreeMap<usize, String>) -> Result<Vec<Skipped>, ImagesError> {
        let SourceKind::Folder(files) = &mut self.kind else {
            return Ok(Vec::new());
        };
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let mut skipped = Vec::with_capacity(bad.len());
        let mut good = Vec::with_capacity(files.len());
        let mut names = Vec::with_capacity(files.len());
        for (index, (file, label)) in files.drain(..).zip(&self.labels).enumerate() {
            match bad.get(&index) {
                Some(reason) => skipped.push((file, reason.clone())),
                None => {
                    good.push(file);
                    names.extend(self.classes.get(*label as usize).cloned());
                }
            }
        }
        *files = good;
        (self.labels, self.classes) = index(&names, String::clone);
        if self.labels.is_empty() {
            return Err(ImagesError::Empty {
                path: self.config.path.clone(),
                expected: "at least one readable image",
            });
        }
        Ok(skipped)
    }
}

/// Each file as `[size, size, 3]`, in parallel, in order.
fn read_all(files: &[PathBuf], size: usize) -> Vec<Result<Vec<u8>, ImagesError>> {
    files.par_iter().map(|path| read_one(path, size)).collect()
}

/// Whole images of `size` by `size`.
fn square(pixels: Vec<u8>, size: usize) -> Result<ImageBatch, ImagesError> {
    let count = pixels.len() / (size * size * 3);
    Ok(ImageBatch::new(pixels, count, size, size)?)
}

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

/// An error without the path, which is listed beside it.
fn reason(error: &ImagesError) -> String {
    match error {
        ImagesError::Decode { source, .. } => source.to_string(),
        ImagesError::Resize { source, .. } => source.to_string(),
        other => other.to_string(),
    }
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

    struct Loaded {
        images: ImageBatch,
        labels: Vec<u32>,
        classes: Vec<String>,
        ignored: usize,
        skipped: Vec<Skipped>,
    }

    /// Checks, then reads again: the two must agree. Three at a time, to have several batches.
    fn read(config: &DataConfig) -> Result<Loaded, ImagesError> {
        let mut source = ImageSource::open(config)?;
        let mut checked = ImageBatch::empty(config.image_size, config.image_size);
        let skipped = source.check(3, |batch| Ok::<_, ImagesError>(checked.extend(&batch)?))?;
        let mut images = ImageBatch::empty(config.image_size, config.image_size);
        source.for_each_batch(3, |batch| Ok::<_, ImagesError>(images.extend(&batch)?))?;
        assert!(images == checked);
        assert_eq!(images.len(), source.len());
        Ok(Loaded {
            images,
            labels: source.labels().to_vec(),
            classes: source.classes().to_vec(),
            ignored: source.ignored(),
            skipped,
        })
    }

    fn firsts(loaded: &Loaded) -> Vec<u8> {
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
        assert_eq!(loaded.ignored, 1);
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
            })
        });
        assert!(matches!(stopped, Err(ImagesError::Kind { .. })));
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_class_goes_with_its_last_readable_file() {
        let root = folder();
        fs::write(root.path().join("dog_1.png"), b"broken").unwrap();
        let loaded = read(&DataConfig {
            on_bad_image: OnBadImage::Skip,
            ..config(root.path())
        })
        .unwrap();
        assert_eq!(loaded.classes, ["Cat", "ant", "cat"]);
        assert_eq!(loaded.labels, [0, 2, 1]);
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
        assert_eq!(read(&config).unwrap().classes.len(), 2);
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
