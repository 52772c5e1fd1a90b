//! A fingerprint of private images that survives copies and renames of their folder.

use super::DatasetError;
use crate::images::{DataConfig, content_digests};
use crate::privacy::{Fingerprint, Sensitive};

/// Fingerprints the images of a configuration by their content: the sorted digests of all images of
/// the source, whatever the files are called and however they are resized.
///
/// # Errors
/// [`DatasetError::Images`] or [`DatasetError::OfAnImage`] if a file cannot be read.
pub fn content_fingerprint(config: &DataConfig) -> Result<Sensitive<Fingerprint>, DatasetError> {
    let digests = content_digests(config);
    let digests = digests.map_err(|error| DatasetError::of_source(error, &config.path))?;
    let digests = Sensitive::new(digests);
    Ok(digests.map(|mut digests| {
        digests.sort_unstable();
        Fingerprint::of([digests.as_flattened()])
    }))
}
