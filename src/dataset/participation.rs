//! The images of a source that take part in a run. Everything here is computed behind the wall,
//! inside of [`Sensitive`](crate::privacy::Sensitive).

use crate::images::Duplicates;
use crate::privacy::ImageDigests;

/// The images of a source that take part.
pub(super) struct Participation {
    /// For each image of the source: true if it takes part.
    pub kept: Vec<bool>,
    /// The class of each image that takes part.
    pub labels: Vec<u32>,
    /// Number of images that are left out, because their class is not declared.
    undeclared: usize,
    /// Number of copies of earlier images among those of declared classes.
    copies: usize,
}

impl Participation {
    /// Lets every image of a declared class take part. `labels` has the class of each image of the
    /// source.
    pub(super) fn of_declared(labels: &[Option<u32>]) -> Self {
        Self::new(labels, &ImageDigests::none(), Duplicates::Keep)
    }

    /// Leaves out images without a declared class and, under [`Duplicates::Once`], every copy of an
    /// earlier image of the same class. `digests` has one digest for each image.
    pub(super) fn new(
        labels: &[Option<u32>],
        digests: &ImageDigests,
        duplicates: Duplicates,
    ) -> Self {
        let copies = copies(labels, digests);
        let kept: Vec<bool> = labels
            .iter()
            .zip(&copies)
            .map(|(label, copy)| label.is_some() && !(*copy && duplicates == Duplicates::Once))
            .collect();
        let taking_part = labels.iter().zip(&kept).filter(|(_, kept)| **kept);
        Self {
            labels: taking_part.filter_map(|(label, _)| *label).collect(),
            kept,
            undeclared: labels.iter().filter(|label| label.is_none()).count(),
            copies: copies.iter().filter(|copy| **copy).count(),
        }
    }

    /// Returns lines for the owner about images that are left out, and about copies.
    pub(super) fn describe(&self, duplicates: Duplicates) -> Vec<String> {
        let mut lines = Vec::new();
        if self.undeclared > 0 {
            lines.push(format!(
                "images of classes that are not declared: {}, left out",
                self.undeclared
            ));
        }
        if self.copies > 0 {
            let copies = self.copies;
            lines.push(match duplicates {
                Duplicates::Keep => format!(
                    "copies of images: {copies}, counted like other images; whoever is shown in \
                     several copies is protected less (data.duplicates = \"once\" counts equal \
                     images once)"
                ),
                Duplicates::Once => format!("copies of images: {copies}, not counted"),
            });
        }
        lines
    }

    /// Returns lines for the owner with the number of images, in total and of each class. `names`
    /// is empty in an unconditional run.
    pub(super) fn sizes(&self, names: &[String]) -> Vec<String> {
        let mut counts = vec![0usize; names.len()];
        for label in &self.labels {
            if let Some(count) = counts.get_mut(*label as usize) {
                *count += 1;
            }
        }
        let mut lines = vec![format!("private images: {}", self.labels.len())];
        let counts = names.iter().zip(counts);
        lines.extend(counts.map(|(name, count)| format!("class {name}: {count}")));
        lines
    }
}

/// Returns true for each image that has the class and the digest of an earlier one. Images without
/// a declared class are no copies.
fn copies(labels: &[Option<u32>], digests: &ImageDigests) -> Vec<bool> {
    let mut images: Vec<(u32, &[u8], usize)> = labels
        .iter()
        .zip(digests.iter())
        .enumerate()
        .filter_map(|(index, (label, digest))| Some(((*label)?, digest, index)))
        .collect();
    // Equal images become neighbors, the first one in order before the others.
    images.sort_unstable();
    let mut copies = vec![false; labels.len()];
    for pair in images.windows(2) {
        if let [(class, digest, _), (next_class, next_digest, next)] = pair
            && (class, digest) == (next_class, next_digest)
            && let Some(copy) = copies.get_mut(*next)
        {
            *copy = true;
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(images: &[u8]) -> ImageDigests {
        let mut digests = ImageDigests::none();
        images.iter().for_each(|image| digests.push(&[*image]));
        digests
    }

    #[test]
    fn the_first_of_equal_images_of_a_class_counts() {
        let labels = [Some(0), Some(1), Some(0), None, Some(0), Some(1), None];
        let digests = digests(&[7, 7, 8, 7, 7, 7, 7]);
        let once = Participation::new(&labels, &digests, Duplicates::Once);
        assert_eq!(once.kept, [true, true, true, false, false, false, false]);
        assert_eq!(once.labels, [0, 1, 0]);
        assert_eq!((once.undeclared, once.copies), (2, 2));
        assert_eq!(digests.select(&once.kept), self::digests(&[7, 7, 8]));
        let keep = Participation::new(&labels, &digests, Duplicates::Keep);
        assert_eq!(keep.kept, [true, true, true, false, true, true, false]);
        assert_eq!(keep.labels, [0, 1, 0, 0, 1]);
        assert_eq!((keep.undeclared, keep.copies), (2, 2));
    }

    /// One image more or less changes the set of images that count by at most that image, and never
    /// the class of another one.
    #[test]
    fn removing_an_image_removes_at_most_that_image() {
        let labels = [Some(0), Some(1), Some(0), Some(1), Some(1), Some(0)];
        let pixels = [5, 5, 5, 5, 6, 6];
        let counted = |without: Option<usize>| {
            let left = (0..labels.len()).filter(|index| Some(*index) != without);
            let (labels, pixels): (Vec<_>, Vec<u8>) =
                left.map(|index| (labels[index], pixels[index])).unzip();
            let digests = digests(&pixels);
            let once = Participation::new(&labels, &digests, Duplicates::Once);
            let taking_part = labels.iter().zip(&pixels).zip(&once.kept);
            let mut images: Vec<(Option<u32>, u8)> = taking_part
                .filter(|(_, kept)| **kept)
                .map(|((label, pixels), _)| (*label, *pixels))
                .collect();
            images.sort_unstable();
            images
        };
        let all = counted(None);
        assert_eq!(
            all,
            [(Some(0), 5), (Some(0), 6), (Some(1), 5), (Some(1), 6)]
        );
        for index in 0..labels.len() {
            let image = (labels[index], pixels[index]);
            let mut left = counted(Some(index));
            if left.len() < all.len() {
                left.push(image);
                left.sort_unstable();
            }
            assert_eq!(left, all, "without image {index}");
        }
    }

    #[test]
    fn sizes_and_notes_are_lines_for_the_owner() {
        let labels = [Some(0), Some(0), None];
        let images = Participation::new(&labels, &digests(&[1, 1, 1]), Duplicates::Keep);
        let names = ["cat".to_owned(), "dog".to_owned()];
        let lines = images.sizes(&names);
        assert_eq!(lines, ["private images: 2", "class cat: 2", "class dog: 0"]);
        assert_eq!(images.sizes(&[]), ["private images: 2"]);
        let notes = images.describe(Duplicates::Keep);
        assert!(notes[0].ends_with("not declared: 1, left out"), "{notes:?}");
        assert!(
            notes[1].starts_with("copies of images: 1, counted"),
            "{notes:?}"
        );
        let plain = Participation::of_declared(&[Some(0)]);
        assert!(plain.describe(Duplicates::Keep).is_empty());
    }
}
