//! The configuration of an embedder: what every type of `[embedder]` section can do.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;

use super::{BoxedEmbedder, EmbedderError};
use crate::models::Precision;
use crate::progress::Observer;
use crate::public_images::PublicImages;
use crate::sections::InvalidKey;

/// The configuration of one type of embedder.
pub trait EmbedderSection {
    /// Checks the values without reading weights.
    ///
    /// # Errors
    /// The first key that is out of range.
    fn validate(&self) -> Result<(), InvalidKey>;

    /// Returns the display name of the embedder.
    fn name(&self) -> &'static str;

    /// Returns the file of the weights; `None` for an embedder without weights.
    fn weights(&self) -> Option<PathBuf>;

    /// Returns the height and width, in pixels, to which every image is resized first; `None` if
    /// images are embedded at their own size, which then must be the same for all images.
    fn resolution(&self) -> Option<usize>;

    /// Returns the number type that the network computes in.
    fn dtype(&self) -> Precision {
        Precision::F32
    }

    /// Opens the embedder on one device, for images of `image_size` (height, width).
    ///
    /// # Errors
    /// [`EmbedderError::Checkpoint`] if the weights cannot be read; [`EmbedderError::Config`] for a
    /// key that does not fit the device.
    fn open_on(
        &self,
        image_size: (usize, usize),
        device: &Device,
    ) -> Result<BoxedEmbedder, EmbedderError>;

    /// Opens an embedder that is fitted to public images, on the CPU, with progress on `observer`;
    /// `None` for every other embedder, which [`EmbedderSection::open_on`] opens.
    ///
    /// # Errors
    /// [`EmbedderError::Public`] if the images cannot be read; [`EmbedderError::Config`] for a key
    /// that does not fit them.
    fn open_fitted(
        &self,
        image_size: (usize, usize),
        observer: &dyn Observer,
    ) -> Result<Option<FittedEmbedder>, EmbedderError> {
        let _ = (image_size, observer);
        Ok(None)
    }
}

/// An embedder that was fitted to public images.
pub struct FittedEmbedder {
    /// The embedder.
    pub embedder: BoxedEmbedder,
    /// A digest of the images that decided the fit, in hexadecimal.
    pub digest: String,
    /// The images.
    pub images: Arc<PublicImages>,
}
