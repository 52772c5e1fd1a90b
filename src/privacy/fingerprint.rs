//! A hash that recognizes the private data without revealing them.

use sha2::{Digest, Sha256};

use super::sensitive::Sensitive;
use crate::hex;

/// SHA-256 of private data. The hash is itself derived from the private data: an observer who can
/// guess a candidate data set could test the guess. It therefore exists only as
/// `Sensitive<Fingerprint>` and is stored only in the private folder.
pub struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// Hashes `parts` in order, each preceded by its length (8 bytes, little-endian), so that
    /// moving a boundary between two parts changes the fingerprint.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = FingerprintHasher::default();
        parts.into_iter().for_each(|part| hasher.part(part));
        hasher.finish()
    }
}

/// Computes a fingerprint like [`Fingerprint::of`], part by part.
#[derive(Default)]
pub struct FingerprintHasher(Sha256);

impl FingerprintHasher {
    /// Adds a part.
    pub fn part(&mut self, part: &[u8]) {
        self.chunks(part.len(), [part]);
    }

    /// Adds one part of `len` bytes, which are in `chunks`.
    pub fn chunks<'a>(&mut self, len: usize, chunks: impl IntoIterator<Item = &'a [u8]>) {
        self.0.update((len as u64).to_le_bytes());
        chunks.into_iter().for_each(|chunk| self.0.update(chunk));
    }

    /// Returns the fingerprint of all parts.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// Returns true if two readings of the private data gave the same bytes. This one bit is not
/// sensitive: it is true for every data set as long as no file changes during a run.
#[must_use]
pub fn same_data(before: &Sensitive<Fingerprint>, now: &Sensitive<Fingerprint>) -> bool {
    before.expose().0 == now.expose().0
}

/// Returns the SHA-256 of *public* bytes (a configuration, a released histogram) as 64 hexadecimal
/// digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_sha256() {
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn boundaries_matter() {
        let joined = Fingerprint::of([b"ab".as_slice(), b"c"]);
        let moved = Fingerprint::of([b"a".as_slice(), b"bc"]);
        let again = Fingerprint::of([b"ab".as_slice(), b"c"]);
        assert_ne!(joined.0, moved.0);
        assert_eq!(joined.0, again.0);
    }
}
