//! The histogram of votes: how many private images have a sample among their nearest neighbours.

use std::cell::Cell;
use std::ops::Range;

use candle_core::Device;
use thiserror::Error;

use super::nearest::{Metric, NearestError, Queries, search};
use crate::embedders::Embeddings;
use crate::privacy::Sensitive;

/// Why votes could not be cast.
#[derive(Debug, Error)]
pub enum VotingError {
    /// A class' neighbours could not be found.
    #[error("voting in class {class} failed: {source}")]
    Class {
        /// Index of the class.
        class: usize,
        /// Why.
        source: NearestError,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The population's class ranges do not fit the voters or the embeddings.
    #[error("{0}")]
    Shape(String),
}

/// The private embeddings and which of them are in which class: those who vote.
pub struct PrivateVoters {
    classes: usize,
    electorate: Sensitive<Electorate>,
}

struct Electorate {
    embeddings: Embeddings,
    /// Rows of `embeddings`, one list a class.
    members: Vec<Vec<usize>>,
}

impl PrivateVoters {
    /// Splits private embeddings by class label (`labels[i] < classes` for image `i`), without copying
    /// them.
    #[must_use]
    pub fn new(
        embeddings: Sensitive<Embeddings>,
        labels: &Sensitive<Vec<u32>>,
        classes: usize,
    ) -> Self {
        let members = labels.map_ref(|labels| {
            let mut members = vec![Vec::new(); classes];
            for (index, label) in labels.iter().enumerate() {
                if let Some(class) = members.get_mut(*label as usize) {
                    class.push(index);
                }
            }
            members
        });
        let electorate = embeddings.zip(members, |embeddings, members| Electorate {
            embeddings,
            members,
        });
        Self {
            classes,
            electorate,
        }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }
}

/// Steps of progress that every class takes, whatever its size.
pub const STEPS_PER_CLASS: u64 = 100;

/// Who hears of the vote's progress and can stop it.
pub trait Poll {
    /// So many steps are done, of [`STEPS_PER_CLASS`] a class. Called with 1, 2, 3 and so on to the end:
    /// what is said depends on the number of classes alone, only when it is said on their sizes.
    fn step(&self, done: u64);
    /// Whether to go on.
    fn keep_going(&self) -> bool;
}

/// Turns the queries done in one class into its steps, each told once.
struct Steps<'a> {
    poll: &'a dyn Poll,
    /// Steps before this class.
    before: u64,
    told: Cell<u64>,
}

impl Steps<'_> {
    fn tell(&self, done: usize, of: usize) {
        // At most 2⁶⁴/100 images: far more than memory holds.
        let reached = match of {
            0 => STEPS_PER_CLASS,
            of => done as u64 * STEPS_PER_CLASS / of as u64,
        };
        for step in self.told.get() + 1..=reached {
            self.poll.step(self.before + step);
        }
        self.told.set(self.told.get().max(reached));
    }
}

/// Lets every private image vote for its `k` nearest samples of its own class.
///
/// `population` is `float32[samples, dimension]`, `ranges[class]` the class' samples in it (disjoint, in
/// order, covering all). The result is one count a sample. Each private image adds 1 to exactly `k` bins:
/// the histogram's L2 sensitivity is √k under adding or removing one image.
///
/// # Errors
/// See [`VotingError`]. The errors depend on public shapes alone.
pub fn cast_votes(
    population: &Embeddings,
    ranges: &[Range<usize>],
    voters: &PrivateVoters,
    k: usize,
    metric: Metric,
    device: &Device,
    poll: &dyn Poll,
) -> Result<Sensitive<Vec<u64>>, VotingError> {
    if ranges.len() != voters.classes {
        return Err(VotingError::Shape(format!(
            "the population has {} classes but the voters have {}",
            ranges.len(),
            voters.classes
        )));
    }
    let covered = ranges
        .iter()
        .try_fold(0, |at, range| (range.start == at).then_some(range.end));
    if covered != Some(population.len()) {
        return Err(VotingError::Shape(format!(
            "class ranges do not cover the {} samples",
            population.len()
        )));
    }
    let mut histogram = Sensitive::new(Vec::with_capacity(population.len()));
    for (class, range) in ranges.iter().enumerate() {
        let candidates = (population.rows(range.clone()), population.dimension());
        let steps = Steps {
            poll,
            before: class as u64 * STEPS_PER_CLASS,
            told: Cell::new(0),
        };
        let counts = voters.electorate.try_map_ref(|electorate| {
            let queries = Queries {
                vectors: &electorate.embeddings,
                members: electorate.members.get(class).map_or(&[], Vec::as_slice),
            };
            let ids = search(&queries, candidates, k, metric, device, &|done, of| {
                steps.tell(done, of);
                poll.keep_going()
            })?;
            steps.tell(1, 1);
            let mut counts = vec![0u64; range.len()];
            for id in ids {
                if let Some(count) = counts.get_mut(id as usize) {
                    *count += 1;
                }
            }
            Ok(counts)
        });
        let counts = counts.map_err(|source| match source {
            NearestError::Interrupted => VotingError::Interrupted,
            source => VotingError::Class { class, source },
        })?;
        histogram = histogram.zip(counts, |mut all, class| {
            all.extend(class);
            all
        });
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Heard {
        steps: RefCell<Vec<u64>>,
        asked: Cell<usize>,
        stop_at: Option<usize>,
    }

    impl Poll for Heard {
        fn step(&self, done: u64) {
            self.steps.borrow_mut().push(done);
        }

        fn keep_going(&self) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.stop_at.is_none_or(|stop| self.asked.get() < stop)
        }
    }

    /// Voters on a line, `(position, class)`, and four samples: 0 and 10 of the first class, 0 and 10 of
    /// the second.
    fn vote(voters: &[(f32, u32)], poll: &Heard) -> Result<Sensitive<Vec<u64>>, VotingError> {
        let positions = voters.iter().map(|v| v.0).collect();
        let labels = voters.iter().map(|v| v.1).collect();
        let voters = PrivateVoters::new(
            Sensitive::new(Embeddings::new(positions, 1).unwrap()),
            &Sensitive::new(labels),
            2,
        );
        let population = Embeddings::new(vec![0.0, 10.0, 0.0, 10.0], 1).unwrap();
        cast_votes(
            &population,
            &[0..2, 2..4],
            &voters,
            1,
            Metric::L2,
            &Device::Cpu,
            poll,
        )
    }

    #[test]
    fn everyone_votes_within_the_own_class() {
        let voters = [(1.0, 1), (9.0, 0), (8.0, 0), (2.0, 0), (3.0, 1), (0.0, 1)];
        let votes = vote(&voters, &Heard::default()).unwrap();
        // The comparison stays behind the wall; a failed assertion is how a test looks over it.
        let _checked = votes.map(|votes| assert_eq!(votes, [1, 2, 3, 0]));
    }

    #[test]
    fn progress_says_nothing_of_the_classes_sizes() {
        let small = Heard::default();
        let _votes = vote(&[(1.0, 0)], &small).unwrap();
        let large = Heard::default();
        let many: Vec<(f32, u32)> = (0..3000)
            .map(|i| (i as f32, u32::from(i % 7 == 0)))
            .collect();
        let _votes = vote(&many, &large).unwrap();
        let expected: Vec<u64> = (1..=2 * STEPS_PER_CLASS).collect();
        assert_eq!(*small.steps.borrow(), expected);
        assert_eq!(*large.steps.borrow(), expected);
        assert!(large.asked.get() > small.asked.get());
    }

    #[test]
    fn an_interruption_is_told_from_a_failure() {
        let poll = Heard {
            stop_at: Some(1),
            ..Heard::default()
        };
        assert!(matches!(
            vote(&[(1.0, 0)], &poll),
            Err(VotingError::Interrupted)
        ));
    }
}
