//! Digests of images as they lie on disk, for recognizing a data set.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::container::{Kinds, Stored};
use super::data_config::DataConfig;
use super::error::ImagesError;
use super::reader::fitting;

/// Most images that are read at a time.
const BATCH: usize = 4096;

/// Returns the SHA-256 of each image of a source, in the order of the source: of the bytes of an
/// image file, wherever it is stored, or of rows, columns and pixels. Neither names nor places of
/// files matter, so the digests are the same for a copy and after a renaming, up to their order.
/// All images count, also those that a configuration does not choose.
///
/// # Errors
/// [`ImagesError`] if a file cannot be read; files that are no readable images are not noticed.
pub fn content_digests(config: &DataConfig) -> Result<Vec<[u8; 32]>, ImagesError> {
    let mut digests = Vec::new();
    content_digests_with(config, |of_batch| {
        digests.extend_from_slice(of_batch);
        Ok::<(), ImagesError>(())
    })?;
    Ok(digests)
}

/// Passes the digests of [`content_digests`] to `visit`, batch by batch.
///
/// # Errors
/// Those of [`content_digests`], and those of `visit`.
pub fn content_digests_with<E: From<ImagesError>>(
    config: &DataConfig,
    mut visit: impl FnMut(&[[u8; 32]]) -> Result<(), E>,
) -> Result<(), E> {
    let mut container = Kinds::open(config)?;
    let container = container.get_mut();
    let places: Vec<usize> = (0..container.len()).collect();
    let mut left = places.as_slice();
    while !left.is_empty() {
        let (now, later) = left.split_at(fitting(container, left).min(BATCH));
        let stored = container.read(now)?;
        let now: Vec<[u8; 32]> = stored
            .par_iter()
            .map(digest)
            .collect::<Result<_, ImagesError>>()?;
        visit(&now)?;
        left = later;
    }
    container.end()?;
    Ok(())
}

fn digest(stored: &Stored) -> Result<[u8; 32], ImagesError> {
    match stored {
        Stored::Path(path) => file_digest(path),
        Stored::Encoded(bytes) => Ok(Sha256::digest(bytes).into()),
        Stored::Pixels(image) => {
            let mut hasher = Sha256::new();
            for side in [image.height as u64, image.width as u64] {
                hasher.update(side.to_le_bytes());
            }
            hasher.update(&image.pixels);
            Ok(hasher.finalize().into())
        }
    }
}

fn file_digest(path: &Path) -> Result<[u8; 32], ImagesError> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(read_error(path))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(read_error(path))?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => hasher.update(bytes),
            _ => return Ok(hasher.finalize().into()),
        }
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> ImagesError {
    move |cause| ImagesError::Read {
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_folders_do_not_matter_and_bytes_do() {
        let digests = |files: &[(&str, &[u8])]| {
            let top = tempfile::tempdir().unwrap();
            for (name, bytes) in files {
                let path = top.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            let mut digests = content_digests(&DataConfig::new(top.path(), 1)).unwrap();
            digests.sort_unstable();
            digests
        };
        let base = digests(&[("a_1.png", b"one"), ("a_2.png", b"two")]);
        assert_eq!(base.len(), 2);
        assert_eq!(
            base,
            digests(&[("z/b_9.png", b"two"), ("y/b_8.png", b"one")])
        );
        assert_ne!(base, digests(&[("a_1.png", b"one"), ("a_2.png", b"tvo")]));
        assert_ne!(base, digests(&[("a_1.png", b"one")]));
    }
}
