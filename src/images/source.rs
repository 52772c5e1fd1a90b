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
    /// Gives each class its own samples; otherwise all images form one class.
    #[serde(default = "default_class_conditional")]
    pub class_conditional: bool,
    /// Use only this many images, the first in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_samples: Option<usize>,
    /// Treatment of a file that is not a readable image.
    #[serde(default)]
    pub on_bad_image: OnBadImage,
}

fn default_class_conditional() -> bool {
    true
}

/// Treatment of a file that is not a readable image.
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

    /// Returns true if there is no image.
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

    /// Returns true if `num_samples` excludes images.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Returns true if unreadable images are skipped.
    #[must_use]
    pub fn skips_bad_images(&self) -> bool {
        self.config.on_bad_image == OnBadImage::Skip
    }

    /// Entries of the folder that are no images by their names, and so are not read.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Reads every image once, in order, `uint8[batch, image_size, image_size, 3]` at a time. Files
    /// that are no readable images end it or, under [`OnBadImage::Skip`], are left out, now and
    /// later, and returned.
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
mod tests;
