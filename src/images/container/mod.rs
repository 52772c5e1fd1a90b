//! Containers of images: a folder of files, or a file with many images.
//!
//! A [`Container`] lists its images, names their labels, and gives their contents in increasing
//! order. It neither decodes nor resizes; [`ImageSource`](super::ImageSource) does.

mod files;
pub(crate) mod fuzzing;
pub(super) mod idx;
#[cfg(feature = "parquet")]
pub(super) mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "parquet_absent.rs"]
pub(super) mod parquet;
pub(super) mod tar;

use std::path::PathBuf;

use super::decode::Rgb;
use super::error::ImagesError;

/// The content of one image, before it is decoded.
pub(super) enum Stored {
    /// An image file, to be read by whoever decodes it.
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

    /// Returns the label of each image; `None` for an image without one.
    ///
    /// # Errors
    /// [`ImagesError`] if the container has no labels, or they cannot be read.
    fn labels(&mut self) -> Result<Vec<Option<String>>, ImagesError>;

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
