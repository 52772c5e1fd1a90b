//! The images of a source that take part in a run. Everything here is computed behind the wall,
//! inside of [`Sensitive`](crate::privacy::Sensitive).

use crate::images::Duplicates;
use crate::privacy::ImageDigests;
use crate::voting::Clients;

/// The images of a source before they are selected, one entry for each image.
#[derive(Clone, Default)]
pub(super) struct Listed {
    /// The class; `None` if it is not declared.
    pub labels: Vec<Option<u32>>,
    /// The client as a number from 0, if the configuration names clients.
    pub clients: Option<Vec<u32>>,
}

/// The rules by which images are selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    /// Treatment of equal images.
    pub duplicates: Duplicates,
    /// The largest number of images of one client.
    pub max_images: usize,
}

/// The images of a source that take part.
///
/// If there are clients, whether an image takes part depends on the images of its own client only:
/// the votes of one client do not change when another one is added or removed.
pub(super) struct Participation {
    /// For each image of the source: true if it takes part.
    pub kept: Vec<bool>,
    /// The class of each image that takes part.
    pub labels: Vec<u32>,
    /// The client of each image that takes part, if the configuration names clients.
    pub clients: Option<Clients>,
    /// Number of images that are left out, because their class is not declared.
    undeclared: usize,
    /// Number of copies of earlier images among those of declared classes.
    copies: usize,
    /// Number of images that are left out, because their clients have enough others.
    excess: usize,
}

impl Participation {
    /// Lets every image of a declared class take part.
    pub(super) fn of_declared(images: &Listed) -> Self {
        let all = Selection {
            duplicates: Duplicates::Keep,
            max_images: usize::MAX,
        };
        Self::new(images, &ImageDigests::none(), all)
    }

    /// Leaves out images without a declared class; under [`Duplicates::Once`], every copy of an
    /// earlier image of the same class and client; and of the others, all but `max_images` of each
    /// client, which are as good as drawn at random: those with the smallest digests. `digests` has
    /// one digest for each image.
    pub(super) fn new(images: &Listed, digests: &ImageDigests, selection: Selection) -> Self {
        let labels = &images.labels;
        let copies = copies(images, digests);
        let once = selection.duplicates == Duplicates::Once;
        let mut kept: Vec<bool> = labels
            .iter()
            .zip(&copies)
            .map(|(label, copy)| label.is_some() && !(*copy && once))
            .collect();
        let excess = match &images.clients {
            Some(clients) => leave_out_excess(&mut kept, clients, digests, selection.max_images),
            None => 0,
        };
        let taking_part = labels.iter().zip(&kept).filter(|(_, kept)| **kept);
        let labels_of = taking_part.filter_map(|(label, _)| *label).collect();
        let clients = images.clients.as_ref().map(|clients| {
            let kept = clients.iter().zip(&kept).filter(|(_, kept)| **kept);
            let of_image: Vec<u32> = kept.map(|(client, _)| *client).collect();
            let count = of_image
                .iter()
                .max()
                .map_or(0, |largest| *largest as usize + 1);
            Clients { of_image, count }
        });
        Self {
            labels: labels_of,
            clients,
            kept,
            undeclared: labels.iter().filter(|label| label.is_none()).count(),
            copies: copies.iter().filter(|copy| **copy).count(),
            excess,
        }
    }

    /// Returns the labels and the clients of the images that take part, as `u32`, little-endian.
    pub(super) fn to_bytes(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let bytes = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let clients = self.clients.as_ref();
        (
            bytes(&self.labels),
            clients.map(|clients| bytes(&clients.of_image)),
        )
    }

    /// Returns the number of protected units: images, or clients with an image that takes part.
    pub(super) fn units(&self) -> usize {
        match &self.clients {
            None => self.labels.len(),
            Some(clients) => {
                let mut present = clients.of_image.clone();
                present.sort_unstable();
                present.dedup();
                present.len()
            }
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
        if self.excess > 0 {
            lines.push(format!(
                "images beyond data.clients.max_images of their clients: {}, left out",
                self.excess
            ));
        }
        if self.copies > 0 {
            let copies = self.copies;
            lines.push(match duplicates {
                Duplicates::Keep => format!(
                    "copies of images: {copies}, counted like other images; a person with several \
                     copies is protected less (data.duplicates = \"once\" counts equal \
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
        if self.clients.is_some() {
            lines.push(format!("clients: {}", self.units()));
        }
        let counts = names.iter().zip(counts);
        lines.extend(counts.map(|(name, count)| format!("class {name}: {count}")));
        lines
    }
}

/// Lets `most` images of each client take part, those with the smallest digests, and returns the
/// number of others.
///
/// The order of the names would not do: they begin with the class, so that small clients would have
/// images of the first classes only. Which images of a client take part depends on its own images
/// alone.
fn leave_out_excess(
    kept: &mut [bool],
    clients: &[u32],
    digests: &ImageDigests,
    most: usize,
) -> usize {
    let mut images: Vec<(u32, &[u8], usize)> = kept
        .iter()
        .zip(clients)
        .zip(digests.iter())
        .enumerate()
        .filter(|(_, ((kept, _), _))| **kept)
        .map(|(index, ((_, client), digest))| (*client, digest, index))
        .collect();
    images.sort_unstable();
    let mut excess = 0;
    for of_client in images.chunk_by(|(one, ..), (other, ..)| one == other) {
        for (_, _, index) in of_client.iter().skip(most) {
            if let Some(kept) = kept.get_mut(*index) {
                *kept = false;
                excess += 1;
            }
        }
    }
    excess
}

/// Class and client of an image.
type Kind = (u32, Option<u32>);

/// Returns true for each image that has the class, the client and the digest of an earlier one.
/// Images without a declared class are no copies.
fn copies(listed: &Listed, digests: &ImageDigests) -> Vec<bool> {
    let labels = &listed.labels;
    let client = |index: usize| {
        let clients = listed.clients.as_ref();
        clients.and_then(|clients| clients.get(index).copied())
    };
    let kind = |index: usize| -> Option<(Kind, &[u8])> {
        let label = labels.get(index).copied().flatten()?;
        Some(((label, client(index)), digests.get(index)?))
    };
    // Places only, because there may be millions of small images.
    let mut images: Vec<u32> = (0..labels.len())
        .filter(|index| kind(*index).is_some())
        .map(|index| index as u32)
        .collect();
    // Equal images become neighbors, the first one in order before the others.
    images.sort_unstable_by_key(|index| (kind(*index as usize), *index));
    let mut copies = vec![false; labels.len()];
    for pair in images.windows(2) {
        if let [image, next] = *pair
            && kind(image as usize) == kind(next as usize)
            && let Some(copy) = copies.get_mut(next as usize)
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

    fn listed(labels: &[Option<u32>]) -> Listed {
        Listed {
            labels: labels.to_vec(),
            clients: None,
        }
    }

    fn select(images: &Listed, digests: &ImageDigests, duplicates: Duplicates) -> Participation {
        let selection = Selection {
            duplicates,
            max_images: usize::MAX,
        };
        Participation::new(images, digests, selection)
    }

    #[test]
    fn the_first_of_equal_images_of_a_class_counts() {
        let labels = listed(&[Some(0), Some(1), Some(0), None, Some(0), Some(1), None]);
        let digests = digests(&[7, 7, 8, 7, 7, 7, 7]);
        let once = select(&labels, &digests, Duplicates::Once);
        assert_eq!(once.kept, [true, true, true, false, false, false, false]);
        assert_eq!(once.labels, [0, 1, 0]);
        assert_eq!((once.undeclared, once.copies), (2, 2));
        let kept: Vec<&[u8]> = digests
            .iter()
            .zip(&once.kept)
            .filter_map(|(digest, kept)| kept.then_some(digest))
            .collect();
        assert!(kept.into_iter().eq(self::digests(&[7, 7, 8]).iter()));
        let keep = select(&labels, &digests, Duplicates::Keep);
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
            let once = select(&listed(&labels), &digests, Duplicates::Once);
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
        let images = select(&listed(&labels), &digests(&[1, 1, 1]), Duplicates::Keep);
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
        let plain = Participation::of_declared(&listed(&[Some(0)]));
        assert!(plain.describe(Duplicates::Keep).is_empty());
    }

    /// Six images of three clients; the cap and equal images are those of each client.
    fn of_clients(clients: &[u32], pixels: &[u8], most: usize) -> Vec<(u32, u8)> {
        let images = Listed {
            labels: vec![Some(0); clients.len()],
            clients: Some(clients.to_vec()),
        };
        let selection = Selection {
            duplicates: Duplicates::Once,
            max_images: most,
        };
        let selected = Participation::new(&images, &digests(pixels), selection);
        let of_image = &selected.clients.as_ref().unwrap().of_image;
        let mut present = of_image.clone();
        present.dedup();
        assert!(selected.units() <= 3 && selected.units() <= of_image.len());
        assert_eq!(of_image.len(), selected.labels.len());
        let kept = clients.iter().zip(pixels).zip(&selected.kept);
        kept.filter(|(_, kept)| **kept)
            .map(|((client, pixels), _)| (*client, *pixels))
            .collect()
    }

    #[test]
    fn a_cap_keeps_the_images_of_each_client_with_the_smallest_digests() {
        let (clients, pixels) = ([0, 1, 0, 0, 2, 0], [5, 5, 5, 6, 5, 7]);
        let mut order = [5u8, 6, 7];
        order.sort_by_key(|image| digests(&[*image]).iter().next().unwrap().to_vec());
        let expected = |most: usize| {
            let mut kept: Vec<(u32, u8)> =
                order.iter().take(most).map(|image| (0, *image)).collect();
            kept.extend([(1, 5), (2, 5)]);
            kept.sort_unstable();
            kept
        };
        for most in 1..=4 {
            let mut kept = of_clients(&clients, &pixels, most);
            kept.sort_unstable();
            assert_eq!(kept, expected(most));
        }
    }

    /// Without a client, exactly the images of the others take part that took part before.
    #[test]
    fn a_client_has_no_influence_on_the_images_of_others() {
        let (clients, pixels) = ([0, 1, 0, 2, 1, 0, 2, 1], [5, 5, 5, 5, 6, 6, 6, 5]);
        for most in 1..4 {
            let all = of_clients(&clients, &pixels, most);
            for removed in 0..3 {
                let left = (0..clients.len()).filter(|index| clients[*index] != removed);
                let (clients, pixels): (Vec<u32>, Vec<u8>) =
                    left.map(|index| (clients[index], pixels[index])).unzip();
                let of_others = all.iter().filter(|(client, _)| *client != removed);
                let expected: Vec<(u32, u8)> = of_others.copied().collect();
                assert_eq!(of_clients(&clients, &pixels, most), expected);
            }
        }
    }
}
