//! Digests of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::hex;

use super::CheckpointError;

/// Returns the SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// Returns the error of reading the file.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    sha256_watched(path, &mut |_| {})
}

/// Returns [`sha256_file`] of a file of weights.
///
/// # Errors
/// [`CheckpointError::Io`] naming the file.
pub fn weights_digest(path: &Path) -> Result<String, CheckpointError> {
    sha256_file(path).map_err(|source| CheckpointError::Io {
        path: path.to_owned(),
        cause: source,
    })
}

/// Returns the SHA-256 of a file like [`sha256_file`]; calls `read` with the number of bytes so
/// far.
///
/// # Errors
/// Returns the error of reading the file.
pub(crate) fn sha256_watched(path: &Path, read: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut hasher = Sha256::new();
    each_part(path, read, |part| hasher.update(part))?;
    Ok(hex::encode(&hasher.finalize()))
}

/// Returns the name of a file's content in git, which the hub states for small files: SHA-1 of
/// `blob`, the length and the bytes. It detects damage, but SHA-1 does not protect against an
/// attacker.
///
/// # Errors
/// Returns the error of reading the file.
#[cfg(feature = "hub")]
pub(crate) fn git_blob_file(path: &Path) -> io::Result<String> {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", std::fs::metadata(path)?.len()));
    each_part(path, &mut |_| {}, |part| hasher.update(part))?;
    Ok(hex::encode(&hasher.finalize()))
}

fn each_part(
    path: &Path,
    read: &mut dyn FnMut(u64),
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut file = File::open(path)?;
    // A larger buffer would cost more than it saves for the many small files of a data set.
    let mut buffer = vec![0; 1 << 17];
    let mut done = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(buffer.get(..count).unwrap_or_default());
        done += count as u64;
        read(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_usual_tools() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "what is up, doc?").unwrap();
        // `git hash-object` on the same bytes.
        #[cfg(feature = "hub")]
        assert_eq!(
            git_blob_file(file.path()).unwrap(),
            "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
        );
        std::fs::write(file.path(), "abc").unwrap();
        let mut seen = Vec::new();
        assert_eq!(
            sha256_watched(file.path(), &mut |done| seen.push(done)).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(seen, [3]);
    }
}
