//! Which candidates may be among the k nearest of one query, judged by rough scores.

/// Entries beyond `k` that are gathered before the first pruning.
const ROOM: usize = 32;
/// More candidates than this that cannot be told apart are not kept: the query is then searched
/// exhaustively. Bounds the memory.
pub(super) const MOST: usize = 4096;
/// Scores looked at together.
const LANES: usize = 16;

/// Collects candidates whose score (small is near) is at most the k-th smallest plus a slack.
///
/// With a slack of twice the largest error of a score, every one of the k nearest is among them: the
/// k smallest rough scores belong to k candidates whose true scores are below the k-th rough score
/// plus one error, and what is left out has a true score above that.
pub(super) struct Shortlist {
    k: usize,
    slack: f64,
    /// Candidates beyond `k` that may be kept.
    most: usize,
    /// Scores above it are out. Only ever falls.
    limit: f32,
    entries: Vec<(f32, u32)>,
    prune_at: usize,
    /// Whether nothing is guaranteed any more.
    lost: bool,
}

impl Shortlist {
    /// An empty list. A slack that is not finite is no guarantee: then [`Shortlist::finish`] gives
    /// nothing, as where more than `k + most` candidates are near.
    pub(super) fn new(k: usize, slack: f64, most: usize) -> Self {
        Self {
            k,
            slack,
            most,
            limit: f32::INFINITY,
            entries: Vec::new(),
            prune_at: k + ROOM,
            lost: !slack.is_finite(),
        }
    }

    /// Takes the candidates `first`, `first + 1`, … with the scores `offsets[i] − products[i]`.
    pub(super) fn fold(&mut self, first: usize, products: &[f32], offsets: &[f32]) {
        if self.lost {
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
            // Nearly always none is near enough, and this finds it out in a few vector instructions.
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

    /// Takes one candidate.
    pub(super) fn push(&mut self, score: f32, index: usize) {
        if score <= self.limit {
            self.entries.push((score, index as u32));
            if self.entries.len() >= self.prune_at {
                self.prune();
            }
        }
    }

    /// Whether a candidate of this score could still be on the list.
    pub(super) fn may_take(&mut self, score: f32) -> bool {
        self.prune();
        !self.lost && score <= self.limit
    }

    fn prune(&mut self) {
        if self.entries.len() < self.k {
            return;
        }
        let (_, (kth, _), _) = self
            .entries
            .select_nth_unstable_by(self.k - 1, |a, b| a.0.total_cmp(&b.0));
        // Rounding to `f32` must not bring the limit down.
        self.limit = ((f64::from(*kth) + self.slack) as f32).next_up();
        self.entries.retain(|(score, _)| *score <= self.limit);
        self.prune_at = (2 * self.entries.len()).max(self.k + ROOM);
        if self.entries.len() > self.k.saturating_add(self.most) {
            self.lost = true;
            self.limit = f32::NEG_INFINITY;
            self.entries = Vec::new();
        }
    }

    /// Indices of all candidates that may be among the k nearest, in no order; `None` where that could
    /// not be told.
    pub(super) fn finish(mut self) -> Option<Vec<u32>> {
        self.prune();
        (!self.lost && self.entries.len() >= self.k)
            .then(|| self.entries.into_iter().map(|(_, index)| index).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finished(k: usize, slack: f64, scores: &[f32]) -> Option<Vec<u32>> {
        let mut list = Shortlist::new(k, slack, MOST);
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
        let scores = vec![1f32; MOST * 2];
        assert!(finished(1, 0.5, &scores).is_none());
        assert!(finished(1, f64::NAN, &scores[..5]).is_none());
        assert!(finished(1, f64::INFINITY, &scores[..5]).is_none());
        assert!(finished(2, 0.5, &scores[..MOST]).is_some());
        let mut list = Shortlist::new(1, 0.5, MOST);
        assert!(list.may_take(1e30));
        list.push(1.0, 0);
        assert!(list.may_take(1.5) && !list.may_take(1.6));
        assert!(!Shortlist::new(1, f64::NAN, MOST).may_take(1.0));
        for (near, lost) in [(3, false), (4, true)] {
            let mut list = Shortlist::new(1, 0.5, 2);
            (0..near).for_each(|index| list.push(1.0, index));
            assert_eq!(list.finish().is_none(), lost);
        }
    }
}
