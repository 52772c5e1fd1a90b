//! Draws of images: at random, or among the nearest to a parent, each image once if wanted.

use std::ops::Range;

use super::groups::Groups;
use super::shortlist::Shortlist;
use super::vectors::Vectors;
use crate::public_images::PublicImagesError;
use crate::streams::{KeyedRng, RngKey};

/// Most bytes of the lists of neighbors of one pass over the vectors.
const LISTS: usize = 1 << 28;
/// Draws that may hit an image that is taken before the free ones are counted.
const TRIES: usize = 16;

/// The draws of one population, in the order of its samples.
pub(super) struct Draws<'a> {
    groups: &'a Groups,
    /// True for each image that was drawn; `None` if an image may be drawn repeatedly.
    taken: Option<Vec<bool>>,
}

impl<'a> Draws<'a> {
    /// Begins the draws from a pool of `count` images.
    pub(super) fn new(groups: &'a Groups, count: usize, unique: bool) -> Self {
        Self {
            groups,
            taken: unique.then(|| vec![false; count]),
        }
    }

    /// Draws any image of a group that is free. When none is left, all of the group are free again.
    pub(super) fn any(&mut self, group: usize, rng: &mut KeyedRng) -> usize {
        let images = self.groups.images(group);
        let at = |place: u64| {
            images
                .get(place as usize)
                .map_or(0, |image| *image as usize)
        };
        if self.taken.is_none() {
            return at(rng.below(images.len() as u64));
        }
        for _ in 0..TRIES {
            let image = at(rng.below(images.len() as u64));
            if self.take(image) {
                return image;
            }
        }
        if let Some(image) = self.one_of(images, rng) {
            return image;
        }
        self.release(group);
        let image = at(rng.below(images.len() as u64));
        self.take(image);
        image
    }

    /// Draws one of `images` that is free; `None` if none is.
    pub(super) fn one_of(&mut self, images: &[u32], rng: &mut KeyedRng) -> Option<usize> {
        let Some(taken) = &self.taken else {
            let place = rng.below(images.len() as u64);
            return images.get(place as usize).map(|image| *image as usize);
        };
        let is_free = |image: &&u32| taken.get(**image as usize) == Some(&false);
        let free = images.iter().filter(is_free).count();
        if free == 0 {
            return None;
        }
        let place = rng.below(free as u64) as usize;
        let image = images
            .iter()
            .filter(is_free)
            .nth(place)
            .map(|image| *image as usize)?;
        self.take(image);
        Some(image)
    }

    /// Takes the first of `images` that is free.
    fn first_of(&mut self, images: &[u32]) -> Option<usize> {
        let found = images.iter().map(|image| *image as usize);
        let found = { found }.find(|image| self.is_free(*image))?;
        self.take(found);
        Some(found)
    }

    fn is_free(&self, image: usize) -> bool {
        let taken = self.taken.as_ref();
        taken.is_none_or(|taken| taken.get(image) == Some(&false))
    }

    /// Returns true if the image was free, and takes it.
    fn take(&mut self, image: usize) -> bool {
        let taken = self.taken.as_mut().and_then(|taken| taken.get_mut(image));
        taken.is_none_or(|taken| !std::mem::replace(taken, true))
    }

    fn release(&mut self, group: usize) {
        for image in self.groups.images(group) {
            if let Some(taken) = self.taken.as_mut().and_then(|t| t.get_mut(*image as usize)) {
                *taken = false;
            }
        }
    }
}

/// A search for the images that are nearest to parents.
pub(super) struct Search<'a> {
    pub(super) vectors: &'a Vectors,
    pub(super) groups: &'a Groups,
    /// True if neighbors must be of the group of the parent.
    pub(super) keep_labels: bool,
    /// `f32 [parents, dimension]`.
    pub(super) parents: &'a [f32],
    /// The group of each parent.
    pub(super) group_of: &'a [usize],
}

impl Search<'_> {
    /// Draws one of the `wanted` nearest images of each parent, with the random numbers of its key.
    /// If each image may be drawn once only and all of the nearest are taken, the sample gets the
    /// nearest image that is free after all other samples have theirs.
    pub(super) fn vary(
        &self,
        draws: &mut Draws<'_>,
        keys: &[RngKey],
        wanted: &[usize],
    ) -> Result<Vec<usize>, PublicImagesError> {
        let mut drawn = Vec::with_capacity(keys.len());
        let mut deferred = Vec::new();
        // The lists of those for whom all images of their group are wanted need no search.
        let everything: Vec<Option<&[u32]>> = wanted
            .iter()
            .zip(self.group_of)
            .map(|(wanted, group)| {
                let images = self.groups.images(*group);
                (self.keep_labels && *wanted >= images.len()).then_some(images)
            })
            .collect();
        let listed = wanted.iter().zip(&everything);
        let listed: Vec<usize> = listed
            .map(|(wanted, everything)| everything.map_or(*wanted, |_| 0))
            .collect();
        for range in within_memory(&listed) {
            let searched: Vec<usize> = range
                .clone()
                .filter(|parent| listed.get(*parent).is_some_and(|wanted| *wanted > 0))
                .collect();
            let wanted: Vec<usize> = searched
                .iter()
                .filter_map(|parent| listed.get(*parent).copied())
                .collect();
            let mut lists = self.nearest(&searched, &wanted, |_| true)?.into_iter();
            for (parent, everything) in range.clone().zip(everything.get(range).unwrap_or_default())
            {
                let nearest = match everything {
                    Some(_) => None,
                    None => lists.next(),
                };
                let images = everything.or(nearest.as_deref()).unwrap_or_default();
                let key = keys.get(parent);
                let image = key.and_then(|key| draws.one_of(images, &mut key.rng()));
                if image.is_none() {
                    deferred.push(parent);
                }
                drawn.push(image.unwrap_or(usize::MAX));
            }
        }
        // So many free images are enough for all of them.
        let wanted = vec![deferred.len(); deferred.len()];
        for range in within_memory(&wanted) {
            let parents = deferred.get(range.clone()).unwrap_or_default();
            let wanted = wanted.get(range).unwrap_or_default();
            let lists = self.nearest(parents, wanted, |image| draws.is_free(image))?;
            for (parent, nearest) in parents.iter().zip(lists) {
                let image = match (draws.first_of(&nearest), keys.get(*parent)) {
                    (Some(image), _) => image,
                    (None, Some(key)) => {
                        let group = self.group_of.get(*parent).copied().unwrap_or(0);
                        draws.any(group, &mut key.rng())
                    }
                    (None, None) => continue,
                };
                if let Some(place) = drawn.get_mut(*parent) {
                    *place = image;
                }
            }
        }
        Ok(drawn)
    }

    /// Returns the images that are nearest to some parents and fulfil a condition.
    fn nearest(
        &self,
        parents: &[usize],
        wanted: &[usize],
        is_free: impl Fn(usize) -> bool + Sync,
    ) -> Result<Vec<Vec<u32>>, PublicImagesError> {
        if parents.is_empty() {
            return Ok(Vec::new());
        }
        let dimension = self.vectors.dimension();
        let mut vectors = Vec::with_capacity(parents.len() * dimension);
        let mut groups = Vec::with_capacity(parents.len());
        for parent in parents {
            let vector = self
                .parents
                .get(parent * dimension..(parent + 1) * dimension);
            vectors.extend_from_slice(vector.unwrap_or_default());
            groups.push(self.group_of.get(*parent).copied().unwrap_or(0));
        }
        let allowed = |query: usize, image: usize| {
            let group = groups.get(query).copied().unwrap_or(0);
            (!self.keep_labels || self.groups.contains(group, image)) && is_free(image)
        };
        self.vectors.nearest(vectors, wanted, &allowed)
    }
}

/// Returns ranges of parents, in order, whose lists fit into memory together.
fn within_memory(wanted: &[usize]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0usize);
    for (index, wanted) in wanted.iter().enumerate() {
        let list = Shortlist::memory(*wanted);
        if bytes.saturating_add(list) > LISTS && index > start {
            ranges.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(list);
    }
    if start < wanted.len() {
        ranges.push(start..wanted.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_parents_within_the_memory() {
        assert!(within_memory(&[]).is_empty());
        assert_eq!(
            within_memory(&[5; 9]).as_slice(),
            std::slice::from_ref(&(0..9))
        );
        let large = LISTS / 40;
        let ranges = within_memory(&[large, large, 1, usize::MAX, 1]);
        assert_eq!(ranges, [0..1, 1..3, 3..4, 4..5]);
    }
}
