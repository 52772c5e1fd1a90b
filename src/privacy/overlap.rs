//! A check that images which were declared public are not private ones.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::evaluation::{PrivateEvaluationConsent, print_marked_private};
use super::sensitive::Sensitive;

/// The SHA-256 of the pixels of each image of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDigests(Vec<[u8; 32]>);

impl ImageDigests {
    /// A set without images.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Bytes of a digest.
    pub const DIGEST: usize = 32;

    /// Creates a set without images, with memory for `count`.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Creates a set from the SHA-256 of the pixels of each image.
    #[must_use]
    pub fn of_digests(digests: Vec<[u8; Self::DIGEST]>) -> Self {
        Self(digests)
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds an image by its pixels.
    pub fn push(&mut self, pixels: &[u8]) {
        self.0.push(Sha256::digest(pixels).into());
    }

    /// Adds all images of another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the digest of an image.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index).map(<[u8; 32]>::as_slice)
    }

    /// Returns the digests in order, each as bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(<[u8; 32]>::as_slice)
    }
}

/// Returns true if a private image is among images that were declared public. The number of such
/// images is shown to the owner by `print`, marked as private.
///
/// This one bit about private images leaves the wall. It may, for three reasons. It is caused by
/// the operator's declaration that the images are public: a correct declaration makes it false for
/// every private data set that the operator has, so it tells nothing about one of them. If it is
/// true, the caller must end the command before anything is written, charged or sent, and what
/// would otherwise be published without noise is far more than the bit. And its message is the same
/// for one common image and for all.
///
/// The images are equal if their pixels are, at the size of the run. A copy that was edited or
/// compressed again is not recognized.
#[must_use]
pub fn contains_private(
    private: &Sensitive<ImageDigests>,
    declared_public: &ImageDigests,
    print: &mut dyn FnMut(&str),
) -> bool {
    let declared: HashSet<&[u8; 32]> = declared_public.0.iter().collect();
    let common = private.map_ref(|private| {
        let common = private.0.iter().filter(|image| declared.contains(image));
        common.count()
    });
    let found = *common.expose() > 0;
    if found {
        // The owner needs the number to find the mistake in the declaration.
        let consent = PrivateEvaluationConsent::given_by_owner();
        let lines = |common: &usize| {
            vec![format!(
                "{common} private images are among the images that are declared public"
            )]
        };
        print_marked_private(&consent, &common, lines, print);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(images: &[&[u8]]) -> ImageDigests {
        let mut digests = ImageDigests::none();
        images.iter().for_each(|image| digests.push(image));
        digests
    }

    #[test]
    fn one_common_image_is_found_and_its_number_is_marked() {
        let private = Sensitive::new(digests(&[b"a", b"b", b"b", b"c"]));
        let mut lines = Vec::new();
        let mut find = |public: &[&[u8]]| {
            lines.clear();
            let found = contains_private(&private, &digests(public), &mut |line| {
                lines.push(line.to_owned());
            });
            (found, lines.clone())
        };
        assert_eq!(find(&[b"d", b"ab"]), (false, vec![]));
        assert_eq!(find(&[]), (false, vec![]));
        let (found, lines) = find(&[b"d", b"b"]);
        assert!(found);
        assert!(
            lines[0].starts_with("[private, not for release] 2 private images"),
            "{lines:?}"
        );
    }
}
