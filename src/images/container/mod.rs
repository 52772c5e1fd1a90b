//! Containers of images: a folder of files, or a file with many images.
//!
//! A [`Container`] lists its images, names their labels, and gives their contents in increasing
//! order. It neither decodes nor resizes; [`ImageSource`](super::ImageSource) does.

mod files;
mod folder;
pub(crate) mod fuzzing;
mod idx;
mod npz;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "parquet_absent.rs"]
mod parquet;
mod tar;

use std::path::PathBuf;

pub(super) use folder::FolderImages;
use idx::IdxImages;
use npz::NpzImages;
use parquet::ParquetImages;
use tar::WebDataset;

use super::data_config::DataConfig;
use super::decode::Rgb;
use super::error::ImagesError;
use super::layout::{Format, Labels};

/// The content of one image, before it is decoded.
pub(super) enum Stored {
    /// An image file, which is read only when it is decoded.
    Path(PathBuf),
    /// The bytes of an image file.
    Encoded(Vec<u8>),
    /// Pixels, `uint8 [height, width, 3]`.
    Pixels(Rgb),
}

/// A container of images, which are numbered from 0.
///
/// Everything that it says about its images is private: names and labels are for the owner's
/// terminal only.
pub(super) trait Container: Send {
    /// Returns the number of images.
    fn len(&self) -> usize;

    /// Returns the name of an image for messages, such as a path, or a file with the number of the
    /// row.
    fn name(&self, index: usize) -> String;

    /// Returns a text that belongs to the image and not to its place among others, if there is one:
    /// the path within a folder. Images are chosen by it (`data.choose`); where there is none, they
    /// are chosen by their number.
    fn key(&self, index: usize) -> Option<String> {
        let _ = index;
        None
    }

    /// Passes the label of each image to `take`, in order; `None` for an image without one. Not as
    /// a list, which would take more memory than small images do.
    ///
    /// # Errors
    /// [`ImagesError`] if the container has no labels, or they cannot be read.
    fn labels(&mut self, take: &mut dyn FnMut(Option<&str>)) -> Result<(), ImagesError>;

    /// Returns the client of each image.
    ///
    /// # Errors
    /// [`ImagesError`] if the container has no clients, or they cannot be read.
    fn clients(&mut self) -> Result<Vec<String>, ImagesError>;

    /// Returns the bytes of memory that [`Container::read`] takes for an image.
    fn stored_len(&self, index: usize) -> u64;

    /// Returns the images of increasing numbers. Calls with increasing numbers read the container
    /// once from the beginning to the end; a number below that of the last call begins anew.
    ///
    /// # Errors
    /// [`ImagesError`] if the container cannot be read.
    fn read(&mut self, indices: &[usize]) -> Result<Vec<Stored>, ImagesError>;

    /// Ends a pass in which every image was read, and verifies what can be verified only then.
    ///
    /// # Errors
    /// [`ImagesError`] if the container is damaged.
    fn end(&mut self) -> Result<(), ImagesError> {
        Ok(())
    }
}

/// The containers: one that has more to say of its files than the trait, and the others.
pub(super) enum Kinds {
    /// Image files.
    Folder(FolderImages),
    /// A file of many images, or several of them.
    Other(Box<dyn Container>),
}

impl Kinds {
    /// Opens the container of a configuration.
    ///
    /// # Errors
    /// [`ImagesError`] if it cannot be read, or is of another kind.
    pub(super) fn open(config: &DataConfig) -> Result<Self, ImagesError> {
        let (path, split) = (config.path.as_path(), config.split.as_deref());
        let metadata = std::fs::metadata(path).map_err(files::read_error(path))?;
        let refuse = |found, expected| {
            let path = path.to_owned();
            Err(ImagesError::Kind {
                path,
                found,
                expected,
            })
        };
        Ok(match config.format() {
            Format::Images if config.labels() == Labels::Csv => {
                let clients = config.clients.as_ref();
                let column = config.label_column.as_deref();
                Self::Folder(FolderImages::of_table(path, column, clients)?)
            }
            Format::Images if metadata.is_dir() => {
                Self::Folder(FolderImages::open(path, config.labels())?)
            }
            Format::Images => {
                return refuse(
                    "a file of no known kind",
                    "a folder of images, or a file whose name ends with .npz, .parquet, .tar, \
                     .csv or idx3-ubyte",
                );
            }
            Format::Npz if metadata.is_dir() => {
                return refuse("a folder", "an .npz file (data.format = \"npz\")");
            }
            Format::Npz => Self::Other(Box::new(NpzImages::open(path, split)?)),
            Format::Idx => Self::Other(Box::new(IdxImages::open(path, split)?)),
            Format::Parquet => Self::Other(Box::new(ParquetImages::open(path, split)?)),
            Format::Webdataset => Self::Other(Box::new(WebDataset::open(path, split)?)),
        })
    }

    /// Returns the container.
    pub(super) fn get(&self) -> &dyn Container {
        match self {
            Self::Folder(folder) => folder,
            Self::Other(other) => other.as_ref(),
        }
    }

    /// Returns the container, for reading.
    pub(super) fn get_mut(&mut self) -> &mut dyn Container {
        match self {
            Self::Folder(folder) => folder,
            Self::Other(other) => other.as_mut(),
        }
    }
}

/// Returns the labels of all images.
#[cfg(test)]
fn all_labels(container: &mut dyn Container) -> Result<Vec<Option<String>>, ImagesError> {
    let mut labels = Vec::new();
    container.labels(&mut |label| labels.push(label.map(str::to_owned)))?;
    Ok(labels)
}

/// Returns the bytes with some of them changed, and cut off at a place.
#[cfg(test)]
fn damaged_copy(
    whole: &[u8],
    changes: Vec<(proptest::sample::Index, u8)>,
    cut: Option<proptest::sample::Index>,
) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    for (at, value) in changes {
        let at = at.index(damaged.len());
        damaged[at] = value;
    }
    if let Some(cut) = cut {
        damaged.truncate(cut.index(damaged.len()));
    }
    damaged
}

/// Creates a folder with these files.
#[cfg(test)]
fn folder_of(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}
