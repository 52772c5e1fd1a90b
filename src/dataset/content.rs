//! A fingerprint of private images that survives copies and renames of their folder.

use std::path::Path;

use super::DatasetError;
use crate::images::content_digests;
use crate::privacy::{Fingerprint, Sensitive};

/// Fingerprints the images of a folder or an `.npz` file by their content: the sorted digests of
/// all of them, whatever the files are called and however they are resized.
///
/// # Errors
/// [`DatasetError::Images`] or [`DatasetError::OfAnImage`] if a file cannot be read.
pub fn content_fingerprint(path: &Path) -> Result<Sensitive<Fingerprint>, DatasetError> {
    let digests = content_digests(path).map_err(|error| DatasetError::of_source(error, path))?;
    let digests = Sensitive::new(digests);
    Ok(digests.map(|mut digests| {
        digests.sort_unstable();
        Fingerprint::of([digests.as_flattened()])
    }))
}
