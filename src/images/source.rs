//! Reads the private images: from the section `[data]` to labeled batches.
//!
//! Errors, counts and progress reports contain names and numbers of files, never pixels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::batch::ImageBatch;
use super::clients::of_array;
use super::crop::{center_crop, resize_shorter_side};
use super::data_config::{DataConfig, OnBadImage, UndeclaredClass, missing_classes};
use super::decode::{DecodeOptions, Rgb, decode};
use super::error::ImagesError;
use super::filter::Filter;
use super::folder::{class_of, list};
use super::samples::SamplesReader;

/// Largest accepted file in bytes; an image within the pixel limit is smaller.
const MAX_FILE: u64 = 1 << 31;

/// A skipped file, and the reason.
pub type Skipped = (PathBuf, String);

/// Source of images that reads one batch at a time, so that memory does not grow with their number.
pub struct ImageSource {
    config: DataConfig,
    kind: SourceKind,
    labels: Vec<Option<u32>>,
    /// The client of each image, if the configuration names clients.
    clients: Option<Vec<u32>>,
    classes: Vec<String>,
    ignored: usize,
}

enum SourceKind {
    Folder(Vec<PathBuf>),
    Npz(Box<SamplesReader<std::io::BufReader<File>>>),
}

impl ImageSource {
    /// Lists a folder or opens an `.npz` file; reads names and labels, but no images. The classes
    /// are those of the configuration, whatever the names of the files are.
    ///
    /// # Errors
    /// [`ImagesError`] if there are no images, if the run is class-conditional and no classes are
    /// declared, or, under [`UndeclaredClass::Error`], if an image has no declared class.
    pub fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        config.validate()?;
        let metadata = std::fs::metadata(&config.path).map_err(|source| ImagesError::Read {
            path: config.path.clone(),
            cause: source,
        })?;
        if metadata.is_dir() {
            Self::open_folder(config)
        } else if config.is_npz() {
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
        let classes = Classes::of(config)?;
        let labels = files.iter().map(|path| classes.of_file(path));
        let labels = labels.collect::<Result<_, _>>()?;
        let clients = config.clients.as_ref();
        let clients = clients.map(|clients| clients.of_files(&config.path, &files));
        Ok(Self {
            config: config.clone(),
            kind: SourceKind::Folder(files),
            labels,
            clients: clients.transpose()?,
            classes: classes.names,
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
        let classes = Classes::of(config)?;
        let labels = if config.class_conditional {
            let numbers = reader.labels().map_err(failed)?;
            let numbers = numbers.iter().take(count).enumerate();
            numbers
                .map(|(index, number)| classes.of_number(&config.path, index, *number))
                .collect::<Result<_, _>>()?
        } else {
            vec![Some(0); count]
        };
        let clients = match config.clients {
            Some(_) => {
                let numbers = reader.clients().map_err(failed)?;
                Some(of_array(numbers.get(..count).unwrap_or_default()))
            }
            None => None,
        };
        Ok(Self {
            config: config.clone(),
            kind: SourceKind::Npz(Box::new(reader)),
            labels,
            clients,
            classes: classes.names,
            ignored: 0,
        })
    }

    /// Returns the number of images, also of classes that are not declared.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the class of each image, as an index into [`ImageSource::classes`]; `None` for an
    /// image of a class that is not declared, under [`UndeclaredClass::LeaveOut`].
    #[must_use]
    pub fn labels(&self) -> &[Option<u32>] {
        &self.labels
    }

    /// Returns the client of each image as a number from 0, if the configuration names clients.
    #[must_use]
    pub fn clients(&self) -> Option<&[u32]> {
        self.clients.as_deref()
    }

    /// Returns the declared class names, in the declared order.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Returns true if files that are not readable images are skipped.
    #[must_use]
    pub fn skips_bad_images(&self) -> bool {
        self.config.on_bad_image == OnBadImage::Skip
    }

    /// Returns the number of entries of the folder whose names are not those of images.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Reads all images once, in order, in batches `uint8[batch, image_size, image_size, 3]`. A
    /// file that is not a readable image is an error; under [`OnBadImage::Skip`] it is removed from
    /// the source and returned.
    ///
    /// # Errors
    /// [`ImagesError`] with the file, or the error of `visit`.
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
            for (index, image) in
                read_all(files, self.config.image_size, &self.config.decode_options())
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

    /// Reads all images like [`ImageSource::check`], except that an unreadable file is always an
    /// error.
    ///
    /// # Errors
    /// [`ImagesError`] with the file, or the error of `visit`.
    pub fn for_each_batch<E: From<ImagesError>>(
        &mut self,
        batch_size: usize,
        mut visit: impl FnMut(ImageBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let (size, path) = (self.config.image_size, &self.config.path);
        let options = self.config.decode_options();
        match &mut self.kind {
            SourceKind::Folder(files) => {
                for files in files.chunks(batch_size.max(1)) {
                    let images: Vec<Vec<u8>> = read_all(files, size, &options)
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

    /// Removes unreadable files. A class without files stays, because it is declared.
    fn leave_out(&mut self, bad: BTreeMap<usize, String>) -> Result<Vec<Skipped>, ImagesError> {
        let SourceKind::Folder(files) = &mut self.kind else {
            return Ok(Vec::new());
        };
        let mut skipped = Vec::with_capacity(bad.len());
        let mut good = Vec::with_capacity(files.len());
        let mut labels = Vec::with_capacity(files.len());
        for (index, (file, label)) in files.drain(..).zip(&self.labels).enumerate() {
            match bad.get(&index) {
                Some(reason) => skipped.push((file, reason.clone())),
                None => {
                    good.push(file);
                    labels.push(*label);
                }
            }
        }
        *files = good;
        self.labels = labels;
        if let Some(clients) = &mut self.clients {
            let mut index = 0..;
            clients.retain(|_| index.next().is_some_and(|index| !bad.contains_key(&index)));
        }
        if self.labels.is_empty() {
            return Err(ImagesError::Empty {
                path: self.config.path.clone(),
                expected: "at least one readable image",
            });
        }
        Ok(skipped)
    }
}

/// The declared classes of a source.
struct Classes {
    names: Vec<String>,
    /// Index of each name; empty in an unconditional run.
    places: BTreeMap<String, u32>,
    conditional: bool,
    undeclared: UndeclaredClass,
}

impl Classes {
    /// Reads the declaration.
    ///
    /// # Errors
    /// [`ImagesError::Config`] if the run is class-conditional and no classes are declared.
    fn of(config: &DataConfig) -> Result<Self, ImagesError> {
        if config.class_conditional && config.classes.is_none() {
            return Err(missing_classes().into());
        }
        let names = config.class_names();
        Ok(Self {
            places: names.iter().cloned().zip(0..).collect(),
            names,
            conditional: config.class_conditional,
            undeclared: config.undeclared_class,
        })
    }

    /// Returns the label of a file, by its name.
    fn of_file(&self, path: &Path) -> Result<Option<u32>, ImagesError> {
        if !self.conditional {
            return Ok(Some(0));
        }
        let label = class_of(path).and_then(|class| {
            let label = self.places.get(class).copied();
            label.ok_or_else(|| ImagesError::Undeclared {
                image: path.display().to_string(),
                class: class.to_owned(),
            })
        });
        self.or_leave_out(label)
    }

    /// Returns the label of image `index` of an `.npz` file, by its number there.
    fn of_number(
        &self,
        path: &Path,
        index: usize,
        number: i64,
    ) -> Result<Option<u32>, ImagesError> {
        let class = number.to_string();
        let label = self.places.get(&class).copied();
        self.or_leave_out(label.ok_or_else(|| ImagesError::Undeclared {
            image: format!("{}: image {index}", path.display()),
            class,
        }))
    }

    fn or_leave_out(&self, label: Result<u32, ImagesError>) -> Result<Option<u32>, ImagesError> {
        match (label, self.undeclared) {
            (Ok(label), _) => Ok(Some(label)),
            (Err(_), UndeclaredClass::LeaveOut) => Ok(None),
            (Err(error), UndeclaredClass::Error) => Err(error),
        }
    }
}

/// Classes that occur among images, with the number of images of each.
///
/// They are as private as the images. They serve their owner, who decides what to declare, and
/// evaluations; no run reads them.
pub struct OccurringClasses {
    /// Name and number of images of each class: those of a folder sorted by name, those of an
    /// `.npz` file by number.
    pub counts: Vec<(String, usize)>,
    /// Number of images whose names have no class.
    pub unnamed: usize,
}

impl OccurringClasses {
    /// Reads the names of the files in a folder, or the labels of an `.npz` file; no image.
    ///
    /// # Errors
    /// [`ImagesError`] if the source cannot be read or has no images.
    pub fn of(path: &Path) -> Result<Self, ImagesError> {
        let config = DataConfig::new(path, 1);
        let mut source = ImageSource::open(&config)?;
        match &mut source.kind {
            SourceKind::Folder(files) => {
                let mut counts = BTreeMap::new();
                let mut unnamed = 0;
                for file in files {
                    match class_of(file) {
                        Ok(class) => *counts.entry(class.to_owned()).or_default() += 1,
                        Err(_) => unnamed += 1,
                    }
                }
                let counts = counts.into_iter().collect();
                Ok(Self { counts, unnamed })
            }
            SourceKind::Npz(reader) => {
                let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
                for number in reader.labels().map_err(|cause| npz_error(path, cause))? {
                    *counts.entry(number).or_default() += 1;
                }
                let counts = counts.into_iter();
                Ok(Self {
                    counts: counts
                        .map(|(name, count)| (name.to_string(), count))
                        .collect(),
                    unnamed: 0,
                })
            }
        }
    }

    /// Returns the names of the classes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.counts.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Reads files as `[size, size, 3]` in parallel; the result is in order.
fn read_all(
    files: &[PathBuf],
    size: usize,
    options: &DecodeOptions,
) -> Vec<Result<Vec<u8>, ImagesError>> {
    files
        .par_iter()
        .map(|path| read_one(path, size, options))
        .collect()
}

/// Creates a batch of square images.
fn square(pixels: Vec<u8>, size: usize) -> Result<ImageBatch, ImagesError> {
    let count = pixels.len() / (size * size * 3);
    Ok(ImageBatch::new(pixels, count, size, size)?)
}

fn npz_error(path: &Path, source: super::npz::NpzError) -> ImagesError {
    ImagesError::Npz {
        path: path.to_owned(),
        cause: source,
    }
}

/// Formats an error without the path.
fn reason(error: &ImagesError) -> String {
    match error {
        ImagesError::Decode { cause: source, .. } => source.to_string(),
        ImagesError::Resize { cause: source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Reads one file as `[size, size, 3]`.
fn read_one(path: &Path, size: usize, options: &DecodeOptions) -> Result<Vec<u8>, ImagesError> {
    let read_error = |source| ImagesError::Read {
        path: path.to_owned(),
        cause: source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(read_error)?;
    let decoded = decode(&bytes, options).map_err(|source| ImagesError::Decode {
        path: path.to_owned(),
        cause: source,
    })?;
    fit(path, decoded.image, size)
}

/// Applies `T.Resize(size)` and `T.CenterCrop(size)`.
fn fit(path: &Path, image: Rgb, size: usize) -> Result<Vec<u8>, ImagesError> {
    resize_shorter_side(image, size, Filter::Bilinear)
        .and_then(|image| center_crop(&image, size))
        .map_err(|source| ImagesError::Resize {
            path: path.to_owned(),
            cause: source,
        })
}

#[cfg(test)]
mod tests;
