//! Chooses images, if a configuration limits their number (`data.num_samples`).
//!
//! Each image has a rank that depends on nothing but its own name and the seed, and the images with
//! the lowest ranks are chosen. If one image of the source is replaced by another one, of whatever
//! name, the chosen images therefore differ by at most one image that is replaced, and under
//! [`Choose::Stratified`] by at most one in each of the two classes that are concerned. A choice by
//! places in a sorted list would not have this property: the places of all images behind a new one
//! change.

use sha2::{Digest, Sha256};

use super::layout::Choose;

/// Keeps the hash apart from other uses of SHA-256 on names.
const DOMAIN: &[u8] = b"dpsyn data.choose 1\0";

/// Returns the rank of an image, by its key (a name within the source).
fn rank(seed: u64, key: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(DOMAIN);
    hasher.update(seed.to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.finalize().into()
}

/// Returns at most `count` of the numbers of `labels`, in increasing order: those of images of a
/// declared class (`Some`) that are chosen. `key` gives the name of an image within the source;
/// `classes` is the number of declared classes.
pub(super) fn choose(
    labels: &[Option<u32>],
    classes: usize,
    count: usize,
    choice: Choose,
    seed: u64,
    key: impl Fn(usize) -> String,
) -> Vec<usize> {
    let declared = labels.iter().enumerate();
    let declared = declared.filter_map(|(index, label)| Some((index, (*label)?)));
    if choice == Choose::First {
        return declared.map(|(index, _)| index).take(count).collect();
    }
    let mut ranked: Vec<([u8; 32], usize, u32)> = declared
        .map(|(index, label)| (rank(seed, &key(index)), index, label))
        .collect();
    ranked.sort_unstable();
    let mut chosen: Vec<usize> = match choice {
        Choose::Stratified => {
            // The first classes have one image more, if the number does not divide equally.
            let mut left: Vec<usize> = (0..classes)
                .map(|class| count / classes + usize::from(class < count % classes))
                .collect();
            let taken = ranked.iter().filter(|(_, _, label)| {
                let left = left.get_mut(*label as usize);
                left.is_some_and(|left| {
                    let takes = *left > 0;
                    *left = left.saturating_sub(1);
                    takes
                })
            });
            taken.map(|(_, index, _)| *index).collect()
        }
        _ => ranked
            .iter()
            .take(count)
            .map(|(_, index, _)| *index)
            .collect(),
    };
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The names of the chosen images of a source of (name, class), sorted by name as a folder is.
    fn chosen(
        images: &BTreeSet<(String, u32)>,
        count: usize,
        choice: Choose,
    ) -> BTreeSet<(String, u32)> {
        let images: Vec<&(String, u32)> = images.iter().collect();
        let labels: Vec<Option<u32>> = images.iter().map(|(_, class)| Some(*class)).collect();
        let key = |index: usize| images[index].0.clone();
        let chosen = choose(&labels, 3, count, choice, 7, key);
        chosen.iter().map(|index| images[*index].clone()).collect()
    }

    #[test]
    fn a_source_sorted_by_class_gives_images_of_all_classes() {
        let images: BTreeSet<(String, u32)> = (0..3000)
            .map(|n| (format!("c{}_{n}", n / 1000), n / 1000))
            .collect();
        let of_class = |choice, class| {
            let chosen = chosen(&images, 300, choice);
            chosen.iter().filter(|(_, c)| *c == class).count()
        };
        for class in 0..3 {
            // 100 are expected, with a standard deviation of 7.7. The seed is fixed.
            assert!((70..130).contains(&of_class(Choose::Random, class)));
            assert_eq!(of_class(Choose::Stratified, class), 100);
        }
        assert_eq!(of_class(Choose::First, 0), 300);
    }

    #[test]
    fn images_without_a_declared_class_are_not_chosen() {
        let labels = [None, Some(0), None, Some(1), Some(0)];
        let key = |index: usize| index.to_string();
        for choice in [Choose::Random, Choose::Stratified, Choose::First] {
            let chosen = choose(&labels, 2, 4, choice, 0, key);
            let expected: &[usize] = &[1, 3, 4];
            assert_eq!(chosen, expected, "{choice:?}");
        }
        let other_seeds: BTreeSet<Vec<usize>> = (0..20)
            .map(|seed| choose(&labels, 2, 1, Choose::Random, seed, key))
            .collect();
        assert!(other_seeds.len() > 1);
    }

    proptest! {
        #[test]
        fn a_replaced_image_replaces_at_most_one_chosen_image(
            images in prop::collection::btree_set(("[a-z]{1,3}", 0u32..3), 2..40),
            place in any::<prop::sample::Index>(),
            other in ("[a-z]{1,3}", 0u32..3),
            count in 1usize..40,
        ) {
            // A name is that of one image.
            let mut names = BTreeSet::new();
            let images: BTreeSet<(String, u32)> =
                images.into_iter().filter(|(name, _)| names.insert(name.clone())).collect();
            let removed = place.get(&images.iter().cloned().collect::<Vec<_>>()).clone();
            let mut neighbor = images.clone();
            neighbor.remove(&removed);
            prop_assume!(removed.0 == other.0 || !names.contains(&other.0));
            neighbor.insert(other);
            for (choice, most) in
                [(Choose::First, 1), (Choose::Random, 1), (Choose::Stratified, 2)]
            {
                let (a, b) = (chosen(&images, count, choice), chosen(&neighbor, count, choice));
                prop_assert!(a.difference(&b).count() <= most);
                prop_assert!(b.difference(&a).count() <= most);
            }
        }
    }
}
