//! The check that images which a run declares public are not its private images.

use std::sync::Arc;

use crate::cli::error::CliError;
use crate::cli::evaluation::{check_paths, overlap};
use crate::config::Loaded;
use crate::dataset::PrivateImages;
use crate::embedders::OpenedEmbedder;
use crate::generators::{GeneratorError, OpenedGenerator};
use crate::progress::Observer;
use crate::public_images::PublicImages;

/// Refuses a path of public images that contains private ones or lies among them, before anything
/// is read.
pub(super) fn refuse_paths(loaded: &Loaded) -> Result<(), CliError> {
    let settings = &loaded.settings;
    let private = [
        Some(settings.data.path.as_path()),
        settings.private_reference(),
    ];
    for (key, public) in settings.declared_public() {
        for private in private.into_iter().flatten() {
            check_paths(public, private)
                .map_err(|message| loaded.locations.error(&key, message))?;
        }
    }
    Ok(())
}

/// Refuses a model or an embedder whose public images overlap the private ones, which have been
/// checked. Nothing has been charged or sent at this point, and nothing has been written but the
/// cache of the public images, which is removed.
pub(super) fn refuse(
    loaded: &Loaded,
    generator: &OpenedGenerator,
    embedder: &OpenedEmbedder,
    images: &PrivateImages,
    observer: &dyn Observer,
) -> Result<(), CliError> {
    let of_model = generator.generator.public_images();
    for declared in &of_model {
        refuse_public(loaded, "model.public", declared, images, observer)?;
    }
    match &embedder.public_images {
        // An embedder that is fitted to a pool shares its images.
        Some(fit) if !of_model.iter().any(|declared| Arc::ptr_eq(declared, fit)) => {
            refuse_public(loaded, "embedder.public", fit, images, observer)
        }
        _ => Ok(()),
    }
}

/// Refuses images that are declared public by `key` if one of them has the pixels of a private
/// image. The message is the same for one common image and for all. [`refuse_paths`] has compared
/// the paths.
pub(super) fn refuse_public(
    loaded: &Loaded,
    key: &str,
    declared: &PublicImages,
    images: &PrivateImages,
    observer: &dyn Observer,
) -> Result<(), CliError> {
    let private = &loaded.settings.data;
    let digests = declared
        .digests_as(private, observer)
        .map_err(GeneratorError::from)?;
    if images.are_in(&digests, observer) {
        declared.discard().map_err(GeneratorError::from)?;
        let message = overlap(declared.path(), &private.path);
        return Err(loaded.locations.error(key, message).into());
    }
    Ok(())
}
