//! The histogram of votes: how many private images have a sample among their nearest neighbours.

use std::ops::Range;

use candle_core::Device;
use thiserror::Error;

use super::nearest::{Metric, NearestError, Queries, search};
use crate::embedders::Embeddings;
use crate::exit_code::{self, ExitCode};
use crate::privacy::Sensitive;
use crate::progress::{Observer, Unit};

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

impl ExitCode for VotingError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => exit_code::INTERRUPTED,
            Self::Class { .. } | Self::Shape(_) => exit_code::COMPUTE,
        }
    }
}

/// The private embeddings and which of them are in which class: those who vote.
pub struct PrivateEmbeddings {
    classes: usize,
    /// Voters of all classes together: declared public.
    count: usize,
    partition: Sensitive<ClassPartition>,
}

struct ClassPartition {
    embeddings: Embeddings,
    /// Rows of `embeddings`, one list a class.
    members: Vec<Vec<usize>>,
}

impl PrivateEmbeddings {
    /// Splits the embeddings of `count` private images by class label (`labels[i] < classes` for image `i`),
    /// without copying them.
    #[must_use]
    pub fn new(
        embeddings: Sensitive<Embeddings>,
        labels: &Sensitive<Vec<u32>>,
        classes: usize,
        count: usize,
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
        let partition = embeddings.zip(members, |embeddings, members| ClassPartition {
            embeddings,
            members,
        });
        Self {
            classes,
            count,
            partition,
        }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }
}

/// The most passes of a vote.
const MAX_PASSES: u64 = 10;
/// Multiplications that a pass is worth: some seconds on a few cores. In each pass every class' candidates are
/// prepared anew, which takes as long as some hundred voters.
const MULTIPLY_ADDS_PER_PASS: f64 = 2e12;

/// How many passes a vote of `voters` for `samples` takes. Of public numbers alone: classes of equal size are
/// assumed, whatever they are.
fn passes(voters: &PrivateEmbeddings, samples: usize, dimension: usize) -> u64 {
    let products = voters.count as f64 * samples as f64 / voters.classes.max(1) as f64;
    ((products * dimension as f64 / MULTIPLY_ADDS_PER_PASS) as u64).clamp(1, MAX_PASSES)
}

/// Those of `members` who vote in this pass.
fn chunk(members: &[usize], pass: u64, passes: u64) -> &[usize] {
    // At most 2⁶⁴/10 images: far more than memory holds.
    let at = |pass: u64| (members.len() as u64 * pass / passes) as usize;
    members.get(at(pass)..at(pass + 1)).unwrap_or_default()
}

/// Lets every private image vote for its `k` nearest samples of its own class.
///
/// `population` is `float32[samples, dimension]`, `ranges[class]` the class' samples in it (disjoint, in
/// order, covering all). The result is one count a sample. Each private image adds 1 to exactly `k` bins:
/// the histogram's L2 sensitivity is √k under adding or removing one image.
///
/// In each pass an equal part of every class votes. So passes take equally long, and what `observer` hears and
/// when says nothing of how the images are divided among the classes.
///
/// # Errors
/// See [`VotingError`]. The errors depend on public shapes alone.
pub fn nn_histogram(
    population: &Embeddings,
    ranges: &[Range<usize>],
    voters: &PrivateEmbeddings,
    k: usize,
    metric: Metric,
    device: &Device,
    observer: &dyn Observer,
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
    let mut histogram = Sensitive::new(vec![0u64; population.len()]);
    let passes = passes(voters, population.len(), population.dimension());
    observer.begin("vote", Some(passes), Unit::Steps);
    for pass in 0..passes {
        for (class, range) in ranges.iter().enumerate() {
            let candidates = (population.rows(range.clone()), population.dimension());
            let ids = voters.partition.try_map_ref(|partition| {
                let members = partition.members.get(class).map_or(&[][..], Vec::as_slice);
                let queries = Queries {
                    vectors: &partition.embeddings,
                    members: chunk(members, pass, passes),
                };
                search(&queries, candidates, k, metric, device, observer)
            });
            let ids = ids.map_err(|source| match source {
                NearestError::Interrupted => VotingError::Interrupted,
                source => VotingError::Class { class, source },
            })?;
            histogram = histogram.zip(ids, |mut counts, ids| {
                let class = counts.get_mut(range.clone()).unwrap_or_default();
                for id in ids {
                    if let Some(count) = class.get_mut(id as usize) {
                        *count += 1;
                    }
                }
                counts
            });
        }
        observer.advance(pass + 1);
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Cancellation, Progress};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

    #[derive(Default)]
    struct Heard {
        passes: AtomicU64,
        told: Mutex<Vec<u64>>,
        asked: AtomicUsize,
        stop_at: Option<usize>,
    }

    impl Progress for Heard {
        fn begin(&self, _: &str, passes: Option<u64>, _: Unit) {
            self.passes.store(passes.unwrap(), SeqCst);
        }

        fn resume(&self, _: u64) {}

        fn advance(&self, done: u64) {
            self.told.lock().unwrap().push(done);
        }

        fn end(&self) {}

        fn message(&self, _: &str) {}
    }

    impl Cancellation for Heard {
        fn is_cancelled(&self) -> bool {
            let asked = self.asked.fetch_add(1, SeqCst) + 1;
            self.stop_at.is_some_and(|stop| asked >= stop)
        }
    }

    /// Voters on a line, `(position, class)`, and four samples: 0 and 10 of the first class, 0 and 10 of
    /// the second.
    fn vote(voters: &[(f32, u32)], observer: &Heard) -> Result<Sensitive<Vec<u64>>, VotingError> {
        let count = voters.len();
        let positions = voters.iter().map(|v| v.0).collect();
        let labels = voters.iter().map(|v| v.1).collect();
        let voters = PrivateEmbeddings::new(
            Sensitive::new(Embeddings::new(positions, 1).unwrap()),
            &Sensitive::new(labels),
            2,
            count,
        );
        let population = Embeddings::new(vec![0.0, 10.0, 0.0, 10.0], 1).unwrap();
        nn_histogram(
            &population,
            &[0..2, 2..4],
            &voters,
            1,
            Metric::L2,
            &Device::Cpu,
            observer,
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
        let heard = |share: u32| {
            let heard = Heard::default();
            let voters: Vec<(f32, u32)> = (0..3000)
                .map(|i| (i as f32, u32::from(i % 100 < share)))
                .collect();
            let _votes = vote(&voters, &heard).unwrap();
            (
                heard.passes.load(SeqCst),
                heard.told.lock().unwrap().clone(),
            )
        };
        assert_eq!(heard(50), (1, vec![1]));
        assert_eq!(heard(3), heard(50));
    }

    #[test]
    fn every_member_has_one_turn_and_turns_are_equal() {
        for count in [0, 1, 7, 19, 20, 61, 1000] {
            let members: Vec<usize> = (0..count).map(|i| 3 * i).collect();
            for passes in [1, 2, 20] {
                let turns: Vec<&[usize]> = (0..passes)
                    .map(|pass| chunk(&members, pass, passes))
                    .collect();
                assert_eq!(turns.concat(), members);
                let each = count / passes as usize;
                assert!(
                    turns
                        .iter()
                        .all(|chunk| (each..=each + 1).contains(&chunk.len()))
                );
            }
        }
    }

    #[test]
    fn large_votes_take_rounds_by_public_numbers_alone() {
        let passes = |count, samples, dimension, classes| {
            let none = Sensitive::new(Embeddings::new(Vec::new(), dimension).unwrap());
            let voters = PrivateEmbeddings::new(none, &Sensitive::new(Vec::new()), classes, count);
            super::passes(&voters, samples, dimension)
        };
        assert_eq!(passes(1_000, 1_000, 2048, 1), 1);
        assert_eq!(passes(50_000, 50_000, 2048, 1), 2);
        assert_eq!(passes(302_436, 302_436, 2048, 2), 10);
    }

    /// Rounds change nothing of the votes: with as many, by hand.
    #[test]
    fn votes_of_all_rounds_are_counted() {
        let dimension = 4;
        let vectors = |count: usize, step: f32| {
            let data = (0..count * dimension).map(|i| (i as f32 * step).sin());
            Embeddings::new(data.collect(), dimension).unwrap()
        };
        let (private, samples) = (vectors(50, 0.7), vectors(9, 1.3));
        let labels = (0..50).map(|i| u32::from(i % 3 == 0)).collect();
        let count = |count| {
            let voters = PrivateEmbeddings::new(
                Sensitive::new(private.clone()),
                &Sensitive::new(Vec::clone(&labels)),
                2,
                count,
            );
            let heard = Heard::default();
            let ranges = [0..4, 4..9];
            let metric = Metric::L2;
            let votes = nn_histogram(&samples, &ranges, &voters, 2, metric, &Device::Cpu, &heard);
            (heard.passes.load(SeqCst), votes.unwrap())
        };
        let (one, alone) = count(50);
        // As if there were so many voters that the vote took passes.
        let (many, together) = count(1_000_000_000_000_000);
        assert_eq!((one, many), (1, MAX_PASSES));
        let _checked = alone.zip(together, |alone, together| {
            assert_eq!(alone, together);
            assert_eq!(alone.iter().sum::<u64>(), 100);
        });
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
