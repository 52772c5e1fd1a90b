//! Reads the private images: from the section `[data]` to labeled batches.
//!
//! Errors, counts and progress reports contain names and numbers of files, never pixels.

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

/// Name of the only class of an unconditional run.
pub const ALL_CLASS: &str = "all";
/// Largest accepted file in bytes; an image within the pixel limit is smaller.
const MAX_FILE: u64 = 1 << 31;
/// Largest accepted `image_size`.
const MAX_IMAGE_SIZE: usize = 4096;

/// Section `[data]`: path of the private images, and options of reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder of `<class>_<rest>.<jpg|jpeg|png|gif>`, possibly nested, or an `.npz` file.
    pub path: PathBuf,
    /// Rows and columns of every image after resizing and cropping.
    pub image_size: usize,
    /// Generates separate samples for each class; otherwise all images form one class.
    #[serde(default = "default_class_conditional")]
    pub class_conditional: bool,
    /// Number of images to use, the first ones in order; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<usize>,
    /// Treatment of files that are not readable images.
    #[serde(default)]
    pub on_bad_image: OnBadImage,
}

fn default_class_conditional() -> bool {
    true
}

/// Treatment of files that are not readable images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadImage {
    /// Ends the run with an error that names the file.
    #[default]
    Error,
    /// Skips and lists the file.
    Skip,
}

/// A skipped file, and the reason.
pub type Skipped = (PathBuf, String);

/// Source of images that reads one batch at a time, so that memory does not grow with their number.
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
    /// Checks the ranges of the values.
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
    /// Lists a folder or opens an `.npz` file; reads names and labels, but no images.
    ///
    /// # Errors
    /// [`ImagesError`] if there are no images, or a file name has no class.
    pub fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        config.validate()?;
        let metadata = std::fs::metadata(&config.path).map_err(|source| ImagesError::Read {
            path: config.path.clone(),
            cause: source,
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

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the class of each image, as an index into [`ImageSource::classes`].
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the class names, sorted (those of an `.npz` file by number).
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Returns true if `num_samples` excludes images.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
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

    /// Removes unreadable files. A class without files is removed, too.
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

/// Reads files as `[size, size, 3]` in parallel; the result is in order.
fn read_all(files: &[PathBuf], size: usize) -> Vec<Result<Vec<u8>, ImagesError>> {
    files.par_iter().map(|path| read_one(path, size)).collect()
}

/// Creates a batch of square images.
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
fn read_one(path: &Path, size: usize) -> Result<Vec<u8>, ImagesError> {
    let read_error = |source| ImagesError::Read {
        path: path.to_owned(),
        cause: source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(read_error)?;
    let image = decode(&bytes).map_err(|source| ImagesError::Decode {
        path: path.to_owned(),
        cause: source,
    })?;
    fit(path, image, size)
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
