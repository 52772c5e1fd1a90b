//! Candidates that may be among the k nearest of one query, judged by approximate scores.

/// Entries beyond `k` that are gathered before the first pruning: few enough to keep a list small,
/// enough to make pruning rare.
const ROOM: usize = 32;
/// Largest number of indistinguishable candidates beyond `k` that a list keeps; with more, the
/// query is searched exhaustively. Bounds the memory to 32 kB for each query.
pub(super) const MAX_EXTRA: usize = 4096;
/// Scores compared at a time: one or two vector registers.
const LANES: usize = 16;

/// Collects candidates whose score (small is near) is at most the k-th smallest plus a slack.
///
/// With a slack of twice the largest error of a score, the list contains all of the k nearest: the
/// k smallest approximate scores belong to k candidates whose true scores are below the k-th
/// approximate score plus one error, and every candidate left out has a true score above that.
pub(super) struct Shortlist {
    k: usize,
    slack: f64,
    /// Largest number of candidates beyond `k`.
    max_extra: usize,
    /// Scores above it are excluded. Never increases.
    limit: f32,
    entries: Vec<(f32, u32)>,
    prune_at: usize,
    /// Set once the list guarantees nothing any more.
    overflowed: bool,
}

impl Shortlist {
    /// Creates an empty list. If the slack is not finite, or more than `k + max_extra` candidates
    /// are near, [`Shortlist::finish`] returns `None`.
    pub(super) fn new(k: usize, slack: f64, max_extra: usize) -> Self {
        Self {
            k,
            slack,
            max_extra,
            limit: f32::INFINITY,
            entries: Vec::new(),
            prune_at: k + ROOM,
            overflowed: !slack.is_finite(),
        }
    }

    /// Adds the candidates `first`, `first + 1`, … with the scores `offsets[i] − products[i]`.
    pub(super) fn fold(&mut self, first: usize, products: &[f32], offsets: &[f32]) {
        if self.overflowed {
            return;
        }
        let (products, last_products) = products.as_chunks::<LANES>();
        let (offsets, last_offsets) = offsets.as_chunks::<LANES>();
        let mut index = first;
        for (products, offsets) in products.iter().zip(offsets) {
            let mut scores = [0f32; LANES];
            for (score, (offset, product)) in scores.iter_mut().zip(offsets.iter().zip(products)) {
                *score = offset - product;
            }
            // Almost never is one near enough; this test takes a few vector instructions.
            let mut near = false;
            for score in &scores {
                near |= *score <= self.limit;
            }
            if near {
                for (lane, score) in scores.into_iter().enumerate() {
                    self.push(score, index + lane);
                }
            }
            index += LANES;
        }
        for (lane, (offset, product)) in last_offsets.iter().zip(last_products).enumerate() {
            self.push(offset - product, index + lane);
        }
    }

    /// Adds one candidate.
    pub(super) fn push(&mut self, score: f32, index: usize) {
        if score <= self.limit {
            self.entries.push((score, index as u32));
            if self.entries.len() >= self.prune_at {
                self.prune();
            }
        }
    }

    /// Returns true if a candidate of this score could still be on the list.
    pub(super) fn may_accept(&mut self, score: f32) -> bool {
        self.prune();
        !self.overflowed && score <= self.limit
    }

    fn prune(&mut self) {
        if self.entries.len() < self.k {
            return;
        }
        let (_, (kth, _), _) = self
            .entries
            .select_nth_unstable_by(self.k - 1, |a, b| a.0.total_cmp(&b.0));
        // Rounding to `f32` must not lower the limit.
        self.limit = ((f64::from(*kth) + self.slack) as f32).next_up();
        self.entries.retain(|(score, _)| *score <= self.limit);
        self.prune_at = (2 * self.entries.len()).max(self.k + ROOM);
        if self.entries.len() > self.k.saturating_add(self.max_extra) {
            self.overflowed = true;
            self.limit = f32::NEG_INFINITY;
            self.entries = Vec::new();
        }
    }

    /// Returns the indices of all candidates that may be among the k nearest, in no order; `None`
    /// if the list gives no guarantee.
    pub(super) fn finish(mut self) -> Option<Vec<u32>> {
        self.prune();
        (!self.overflowed && self.entries.len() >= self.k)
            .then(|| self.entries.into_iter().map(|(_, index)| index).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finished(k: usize, slack: f64, scores: &[f32]) -> Option<Vec<u32>> {
        let mut list = Shortlist::new(k, slack, MAX_EXTRA);
        // In two parts, with products and offsets that make the scores.
        let (a, b) = scores.split_at(scores.len() / 3);
        let zeros = vec![0f32; scores.len()];
        list.fold(0, &zeros[..a.len()], a);
        list.fold(a.len(), &zeros[..b.len()], b);
        list.finish().map(|mut ids| {
            ids.sort_unstable();
            ids
        })
    }

    proptest! {
        #[test]
        fn all_within_the_slack_and_no_others(
            scores in proptest::collection::vec((0u16..2000).prop_map(f32::from), 1..400),
            k in 1usize..12,
            slack in 0u8..40,
        ) {
            prop_assume!(k <= scores.len());
            let mut sorted = scores.clone();
            sorted.sort_by(f32::total_cmp);
            let limit = sorted[k - 1] + f32::from(slack);
            let expected: Vec<u32> = (0..scores.len() as u32)
                .filter(|i| scores[*i as usize] <= limit)
                .collect();
            prop_assert_eq!(finished(k, f64::from(slack), &scores), Some(expected));
        }
    }

    #[test]
    fn no_guarantee_is_given_where_there_is_none() {
        let scores = vec![1f32; MAX_EXTRA * 2];
        assert!(finished(1, 0.5, &scores).is_none());
        assert!(finished(1, f64::NAN, &scores[..5]).is_none());
        assert!(finished(1, f64::INFINITY, &scores[..5]).is_none());
        assert!(finished(2, 0.5, &scores[..MAX_EXTRA]).is_some());
        let mut list = Shortlist::new(1, 0.5, MAX_EXTRA);
        assert!(list.may_accept(1e30));
        list.push(1.0, 0);
        assert!(list.may_accept(1.5) && !list.may_accept(1.6));
        assert!(!Shortlist::new(1, f64::NAN, MAX_EXTRA).may_accept(1.0));
        for (near, lost) in [(3, false), (4, true)] {
            let mut list = Shortlist::new(1, 0.5, 2);
            (0..near).for_each(|index| list.push(1.0, index));
            assert_eq!(list.finish().is_none(), lost);
        }
    }
}
