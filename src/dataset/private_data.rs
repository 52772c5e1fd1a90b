//! The private data of one run: images, fingerprint, private folder, and the embeddings that vote.

use super::{DatasetError, PrivateImages};
use crate::embedders::Embedder;
use crate::kill_point::{KillPoint, reach};
use crate::privacy::{Fingerprint, PrivateFolder, Sensitive};
use crate::progress::Observer;
use crate::voting::PrivateEmbeddings;

/// The private images of a run (S_priv in the paper) with the run's folder for derived data.
pub struct PrivateData<'a> {
    images: &'a mut PrivateImages,
    fingerprint: &'a Sensitive<Fingerprint>,
    folder: &'a PrivateFolder,
    embeddings: Option<PrivateEmbeddings>,
}

impl<'a> PrivateData<'a> {
    /// Joins checked images with the private folder of a run.
    #[must_use]
    pub fn new(
        images: &'a mut PrivateImages,
        fingerprint: &'a Sensitive<Fingerprint>,
        folder: &'a PrivateFolder,
    ) -> Self {
        Self {
            images,
            fingerprint,
            folder,
            embeddings: None,
        }
    }

    /// Returns the folder for data derived from private images.
    #[must_use]
    pub fn folder(&self) -> &'a PrivateFolder {
        self.folder
    }

    /// Returns the parts that an evaluation against the private images needs.
    pub(crate) fn for_evaluation(
        &mut self,
    ) -> (&mut PrivateImages, &Sensitive<Fingerprint>, &PrivateFolder) {
        (self.images, self.fingerprint, self.folder)
    }

    /// Returns true if the embeddings are in memory, so that [`PrivateData::embeddings`] does
    /// nothing.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.embeddings.is_some()
    }

    /// Returns the embeddings of the images by class. The first call reads them from the private
    /// folder or computes and stores them; a resumed run whose votes are all released never needs
    /// them.
    ///
    /// # Errors
    /// See [`DatasetError`].
    pub fn embeddings(
        &mut self,
        embedder: &dyn Embedder,
        observer: &dyn Observer,
    ) -> Result<&PrivateEmbeddings, DatasetError> {
        let embeddings = match self.embeddings.take() {
            Some(embeddings) => embeddings,
            None => {
                let embeddings = self.images.embeddings_by_class(
                    embedder,
                    self.folder,
                    self.fingerprint,
                    observer,
                )?;
                reach(KillPoint::PrivateDataEmbedded);
                embeddings
            }
        };
        Ok(self.embeddings.insert(embeddings))
    }
}
