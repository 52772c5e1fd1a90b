//! The nearest images of one query so far.

use std::cmp::Ordering;

/// Entries that are collected beyond twice the wanted number before the farthest are dropped.
const SPARE: usize = 64;

/// The `wanted` nearest images of a query among those that were offered: by their distance, and by
/// the lower index at equal distance.
pub(super) struct Shortlist {
    wanted: usize,
    /// Squared distance and index, in no order; all of the nearest, and others.
    entries: Vec<(f64, u32)>,
    /// Squared distance of the last of the nearest when the list was cut; no image that is farther
    /// away belongs to the nearest.
    limit: f64,
}

impl Shortlist {
    /// Creates an empty list for at least one image.
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            wanted: wanted.max(1),
            entries: Vec::new(),
            limit: f64::INFINITY,
        }
    }

    /// Returns the bytes of memory that a list of `wanted` images takes at most.
    pub(super) fn memory(wanted: usize) -> usize {
        capacity(wanted.max(1)).saturating_mul(size_of::<(f64, u32)>())
    }

    /// Returns the squared distance beyond which no image belongs to the nearest.
    pub(super) fn limit(&self) -> f64 {
        self.limit
    }

    /// Offers an image.
    pub(super) fn offer(&mut self, distance: f64, index: u32) {
        if distance > self.limit {
            return;
        }
        self.entries.push((distance, index));
        if self.entries.len() >= capacity(self.wanted) {
            self.cut();
        }
    }

    /// Returns the nearest images, nearest first: fewer than wanted if fewer were offered.
    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.entries.len() > self.wanted {
            self.cut();
        }
        self.entries.sort_unstable_by(order);
        self.entries.into_iter().map(|(_, index)| index).collect()
    }

    /// Drops all but the nearest.
    fn cut(&mut self) {
        let (_, last, _) = self.entries.select_nth_unstable_by(self.wanted - 1, order);
        self.limit = last.0;
        self.entries.truncate(self.wanted);
    }
}

fn capacity(wanted: usize) -> usize {
    wanted.saturating_mul(2).saturating_add(SPARE)
}

fn order(a: &(f64, u32), b: &(f64, u32)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_stay_and_ties_go_to_the_lower_index() {
        for wanted in [1, 3, 100, 999, 1000, 2000] {
            let mut list = Shortlist::new(wanted);
            // Distances 0 to 100, each about ten times.
            let distance = |index: u32| f64::from(index * 7919 % 101);
            for index in (0..1000).rev() {
                list.offer(distance(index), index);
            }
            let mut all: Vec<u32> = (0..1000).collect();
            all.sort_by_key(|index| (distance(*index) as u64, *index));
            all.truncate(wanted);
            assert_eq!(list.finish(), all, "{wanted}");
        }
    }
}
