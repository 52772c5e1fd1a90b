//! Digests of images as they lie on disk, for recognizing a data set.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::error::ImagesError;
use super::folder::list;
use super::samples::SamplesReader;

/// Images of an `.npz` file that are read at a time.
const BATCH: usize = 256;

/// Returns the SHA-256 of each image of a folder (the bytes of its file) or of an `.npz` file
/// (rows, columns and pixels), in no particular order. Neither names nor places of files matter, so
/// the digests are the same for a copy and after a renaming.
///
/// # Errors
/// [`ImagesError`] if a file cannot be read; files that are no readable images are not noticed.
pub fn content_digests(path: &Path) -> Result<Vec<[u8; 32]>, ImagesError> {
    let metadata = std::fs::metadata(path).map_err(read_error(path))?;
    if metadata.is_dir() {
        let files = list(path)?.files;
        return files.par_iter().map(|file| file_digest(file)).collect();
    }
    let failed = |cause| ImagesError::Npz {
        path: path.to_owned(),
        cause,
    };
    let mut reader = SamplesReader::open(path).map_err(failed)?;
    let mut digests = Vec::new();
    let count = reader.len();
    reader.for_each_batch(count, BATCH, failed, |batch| {
        let size = [batch.height() as u64, batch.width() as u64];
        digests.extend(batch.iter().map(|pixels| {
            let mut hasher = Sha256::new();
            size.iter().for_each(|n| hasher.update(n.to_le_bytes()));
            hasher.update(pixels);
            <[u8; 32]>::from(hasher.finalize())
        }));
        Ok::<_, ImagesError>(())
    })?;
    Ok(digests)
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
            let mut digests = content_digests(top.path()).unwrap();
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
