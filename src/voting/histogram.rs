//! Nearest-neighbor histogram: the number of private images that have a sample among their nearest
//! neighbors. Paper: `DP_NN_HISTOGRAM` (Algorithm 2) without its noise.

use std::ops::Range;

use thiserror::Error;

use super::nearest::{Candidates, NearestError, Rows, SearchOptions, search};
use super::tally::Tally;
use crate::embedders::Embeddings;
use crate::exit_code::{self, ExitCode};
use crate::privacy::{Sensitive, VoteCounts};
use crate::progress::{Cancelled, Progress, Unit};

/// Reason why the histogram could not be computed.
#[derive(Debug, Error)]
pub enum VotingError {
    /// The nearest-neighbor search of a class failed.
    #[error("voting in class {class} failed: {cause}")]
    Class {
        /// Index of the class.
        class: usize,
        /// Error of the search.
        cause: NearestError,
    },
    /// The user requested to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The population's class ranges do not fit its embeddings or the private classes.
    #[error("{0}")]
    Shape(String),
}

impl ExitCode for VotingError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Cancelled(_) => exit_code::INTERRUPTED,
            Self::Class { .. } | Self::Shape(_) => exit_code::COMPUTE,
        }
    }
}

/// Embeddings of the private images, partitioned by class.
pub struct PrivateEmbeddings {
    classes: usize,
    /// Number of private images of all classes together. It is private, and only the number of
    /// passes depends on it, whose reports are marked.
    count: usize,
    partition: Sensitive<ClassPartition>,
}

struct ClassPartition {
    embeddings: Embeddings,
    /// Rows of `embeddings`, one list for each class.
    members: Vec<Vec<usize>>,
    /// The client of each row, if the unit is a client.
    clients: Option<Clients>,
}

/// To whom each private image belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// The client of each image, below `count`.
    pub of_image: Vec<u32>,
    /// Number of clients.
    pub count: usize,
}

impl PrivateEmbeddings {
    /// Partitions the embeddings of `count` private images by class label (`labels[i] < classes`
    /// for image `i`), without copying them. With `clients`, the votes are counted by client.
    #[must_use]
    pub fn new(
        embeddings: Sensitive<Embeddings>,
        labels: &Sensitive<Vec<u32>>,
        clients: Sensitive<Option<Clients>>,
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
        let partition = embeddings.zip(members, |embeddings, members| (embeddings, members));
        let partition = partition.zip(clients, |(embeddings, members), clients| ClassPartition {
            embeddings,
            members,
            clients,
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

    /// Returns the number of passes that a histogram over so many samples takes. The histogram
    /// does not depend on it. The formula assumes classes of equal size, whatever their real sizes
    /// are.
    fn passes(&self, samples: usize, dimension: usize) -> u64 {
        let products = self.count as f64 * samples as f64 / self.classes.max(1) as f64;
        ((products * dimension as f64 / MULTIPLY_ADDS_PER_PASS) as u64).clamp(1, MAX_PASSES)
    }
}

/// Embeddings of the synthetic population, in the order of its classes.
#[derive(Clone, Copy)]
pub struct SampleEmbeddings<'a> {
    /// `f32[samples, dimension]`.
    pub embeddings: &'a Embeddings,
    /// Samples of each class: disjoint, in order, covering all.
    pub class_ranges: &'a [Range<usize>],
}

impl SampleEmbeddings<'_> {
    fn check(&self, private: &PrivateEmbeddings) -> Result<(), VotingError> {
        if self.class_ranges.len() != private.classes {
            return Err(VotingError::Shape(format!(
                "the population has {} classes but the private images have {}",
                self.class_ranges.len(),
                private.classes
            )));
        }
        let covered = self
            .class_ranges
            .iter()
            .try_fold(0, |at, range| (range.start == at).then_some(range.end));
        if covered != Some(self.embeddings.len()) {
            return Err(VotingError::Shape(format!(
                "class ranges do not cover the {} samples",
                self.embeddings.len()
            )));
        }
        Ok(())
    }
}

/// Largest number of passes: each gives one report of progress.
const MAX_PASSES: u64 = 10;
/// Multiply-adds per pass (a few seconds on a few cores). Each pass prepares every class's
/// candidates anew, which takes as long as a few hundred queries.
const MULTIPLY_ADDS_PER_PASS: f64 = 2e12;

impl ClassPartition {
    /// Returns the images of a class that are processed in a pass.
    fn chunk(&self, class: usize, pass: u64, passes: u64) -> &[usize] {
        let members = self.members.get(class).map_or(&[][..], Vec::as_slice);
        chunk(members, pass, passes)
    }

    /// Returns the client of each of these images; empty if the unit is an image.
    fn clients_of(&self, class: usize, pass: u64, passes: u64) -> Vec<u32> {
        let Some(clients) = &self.clients else {
            return Vec::new();
        };
        let images = self.chunk(class, pass, passes).iter();
        images
            .filter_map(|image| clients.of_image.get(*image).copied())
            .collect()
    }
}

/// Returns the part of `members` that is processed in this pass.
fn chunk(members: &[usize], pass: u64, passes: u64) -> &[usize] {
    // No overflow: it would take 2⁶⁴/10 images, far more than memory holds.
    let at = |pass: u64| (members.len() as u64 * pass / passes) as usize;
    members.get(at(pass)..at(pass + 1)).unwrap_or_default()
}

/// Counts, for each sample, the private images of its class that have it among their `k` nearest
/// samples.
///
/// Each private image adds 1 to exactly `k` bins: the histogram's L2 sensitivity is √k under adding
/// or removing one image. If the unit is a client, the votes of each client are scaled down to an
/// L2 norm of at most 1 ([`VoteCounts::of_clients`]).
///
/// Each pass processes an equal part of every class. So all passes take equally long, and neither
/// the reports to `progress` nor their times depend on how the images are divided among the
/// classes. The number of passes depends on the number of images; the reports are marked.
///
/// # Errors
/// See [`VotingError`]. The errors depend on public shapes alone.
pub fn nn_histogram(
    samples: &SampleEmbeddings<'_>,
    private: &PrivateEmbeddings,
    options: &SearchOptions<'_>,
    progress: &dyn Progress,
) -> Result<Sensitive<VoteCounts>, VotingError> {
    samples.check(private)?;
    let mut tally = private.partition.map_ref(|partition| {
        let clients = partition.clients.as_ref().map(|clients| clients.count);
        Tally::new(samples.embeddings.len(), clients)
    });
    let passes = private.passes(samples.embeddings.len(), samples.embeddings.dimension());
    progress.begin_private("vote", Some(passes), Unit::Steps);
    for pass in 0..passes {
        for (class, range) in samples.class_ranges.iter().enumerate() {
            let candidates = Candidates {
                vectors: samples.embeddings.rows(range.clone()),
                dimension: samples.embeddings.dimension(),
            };
            let ids = private.partition.try_map_ref(|partition| {
                let queries = Rows {
                    vectors: &partition.embeddings,
                    indices: partition.chunk(class, pass, passes),
                };
                search(queries, candidates, options)
            });
            let ids = ids.map_err(|source| match source {
                NearestError::Cancelled(cancelled) => VotingError::Cancelled(cancelled),
                source => VotingError::Class {
                    class,
                    cause: source,
                },
            });
            let ids = ids.inspect_err(|_| progress.end())?;
            let voters = private
                .partition
                .map_ref(|partition| partition.clients_of(class, pass, passes));
            let votes = ids.zip(voters, |ids, voters| (ids, voters));
            tally.extend_with(votes, |tally, (ids, voters)| {
                tally.add(range, &ids, options.k, &voters);
            });
        }
        progress.advance(pass + 1);
    }
    progress.end();
    Ok(tally.map(|tally| tally.finish(options.k)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use candle_core::Device;

    use super::super::nearest::Metric;
    use super::*;
    use crate::privacy::ClientVotes;
    use crate::progress::{Cancellation, Silent};

    /// Records the reported passes.
    #[derive(Default)]
    struct Recorder {
        total: Mutex<Option<u64>>,
        done: Mutex<Vec<u64>>,
        cancelled: AtomicBool,
    }

    impl Recorder {
        fn reports(&self) -> (Option<u64>, Vec<u64>) {
            (
                *self.total.lock().unwrap(),
                self.done.lock().unwrap().clone(),
            )
        }
    }

    impl Progress for Recorder {
        fn begin(&self, _: &str, total: Option<u64>, _: Unit) {
            *self.total.lock().unwrap() = total;
        }

        fn resume(&self, _: u64) {}

        fn advance(&self, done: u64) {
            self.done.lock().unwrap().push(done);
        }

        fn end(&self) {}

        fn message(&self, _: &str) {}
    }

    impl Cancellation for Recorder {
        fn is_cancelled(&self) -> bool {
            self.cancelled.load(Ordering::Relaxed)
        }
    }

    fn options(k: usize, cancellation: &dyn Cancellation) -> SearchOptions<'_> {
        SearchOptions {
            k,
            metric: Metric::L2,
            device: &Device::Cpu,
            cancellation,
        }
    }

    /// Private images on a line, `(position, class)`, and four samples: 0 and 10 of the first
    /// class, 0 and 10 of the second.
    fn histogram(
        images: &[(f32, u32)],
        recorder: &Recorder,
    ) -> Result<Sensitive<VoteCounts>, VotingError> {
        histogram_of(images, None, recorder)
    }

    fn histogram_of(
        images: &[(f32, u32)],
        clients: Option<Clients>,
        recorder: &Recorder,
    ) -> Result<Sensitive<VoteCounts>, VotingError> {
        let positions = images.iter().map(|image| image.0).collect();
        let labels = images.iter().map(|image| image.1).collect();
        let private = PrivateEmbeddings::new(
            Sensitive::new(Embeddings::new(positions, 1).unwrap()),
            &Sensitive::new(labels),
            Sensitive::new(clients),
            2,
            images.len(),
        );
        let samples = SampleEmbeddings {
            embeddings: &Embeddings::new(vec![0.0, 10.0, 0.0, 10.0], 1).unwrap(),
            class_ranges: &[0..2, 2..4],
        };
        nn_histogram(&samples, &private, &options(1, recorder), recorder)
    }

    #[test]
    fn images_count_for_samples_of_their_own_class() {
        let images = [(1.0, 1), (9.0, 0), (8.0, 0), (2.0, 0), (3.0, 1), (0.0, 1)];
        let votes = histogram(&images, &Recorder::default()).unwrap();
        // The comparison happens inside `Sensitive`; only a failed assertion shows its result.
        let expected = VoteCounts::of_images(&[1, 2, 3, 0], 1);
        let _checked = votes.map(|votes| assert_eq!(votes, expected));
    }

    /// The votes of a client in both classes are scaled together.
    #[test]
    fn votes_are_counted_by_client() {
        let images = [(1.0, 1), (9.0, 0), (8.0, 0), (2.0, 0), (3.0, 1), (0.0, 1)];
        let clients = Clients {
            of_image: vec![1, 0, 1, 0, 1, 3],
            count: 4,
        };
        let votes = histogram_of(&images, Some(clients), &Recorder::default()).unwrap();
        let of_clients = [
            ClientVotes::from([(1, 1), (0, 1)]),
            ClientVotes::from([(2, 2), (1, 1)]),
            ClientVotes::new(),
            ClientVotes::from([(2, 1)]),
        ];
        let expected = VoteCounts::of_clients(4, &of_clients);
        let _checked = votes.map(|votes| assert_eq!(votes, expected));
    }

    #[test]
    fn progress_does_not_depend_on_class_sizes() {
        let reports = |share: u32| {
            let recorder = Recorder::default();
            let images: Vec<(f32, u32)> = (0..3000)
                .map(|i| (i as f32, u32::from(i % 100 < share)))
                .collect();
            let _votes = histogram(&images, &recorder).unwrap();
            recorder.reports()
        };
        assert_eq!(reports(50), (Some(1), vec![1]));
        assert_eq!(reports(3), reports(50));
    }

    #[test]
    fn chunks_cover_all_members_and_have_equal_sizes() {
        for count in [0, 1, 7, 19, 20, 61, 1000] {
            let members: Vec<usize> = (0..count).map(|i| 3 * i).collect();
            for passes in [1, 2, 20] {
                let chunks: Vec<&[usize]> = (0..passes)
                    .map(|pass| chunk(&members, pass, passes))
                    .collect();
                assert_eq!(chunks.concat(), members);
                let size = count / passes as usize;
                let sizes = size..=size + 1;
                assert!(chunks.iter().all(|chunk| sizes.contains(&chunk.len())));
            }
        }
    }

    #[test]
    fn the_number_of_passes_depends_on_totals_alone() {
        let passes = |count, samples, dimension, classes| {
            let none = Sensitive::new(Embeddings::new(Vec::new(), dimension).unwrap());
            let private = PrivateEmbeddings::new(
                none,
                &Sensitive::new(Vec::new()),
                Sensitive::new(None),
                classes,
                count,
            );
            private.passes(samples, dimension)
        };
        assert_eq!(passes(1_000, 1_000, 2048, 1), 1);
        assert_eq!(passes(50_000, 50_000, 2048, 1), 2);
        assert_eq!(passes(302_436, 302_436, 2048, 2), 10);
    }

    #[test]
    fn the_number_of_passes_does_not_change_the_histogram() {
        let dimension = 4;
        let vectors = |count: usize, step: f32| {
            let data = (0..count * dimension).map(|i| (i as f32 * step).sin());
            Embeddings::new(data.collect(), dimension).unwrap()
        };
        let (private, samples) = (vectors(50, 0.7), vectors(9, 1.3));
        let labels = (0..50).map(|i| u32::from(i % 3 == 0)).collect();
        let histogram = |count, clients: Option<Clients>| {
            let private = PrivateEmbeddings::new(
                Sensitive::new(private.clone()),
                &Sensitive::new(Vec::clone(&labels)),
                Sensitive::new(clients.clone()),
                2,
                count,
            );
            let samples = SampleEmbeddings {
                embeddings: &samples,
                class_ranges: &[0..4, 4..9],
            };
            let recorder = Recorder::default();
            let votes = nn_histogram(&samples, &private, &options(2, &Silent), &recorder);
            (recorder.reports().0, votes.unwrap())
        };
        let clients = Clients {
            of_image: (0..50).map(|image| image * image % 7).collect(),
            count: 7,
        };
        for clients in [None, Some(clients)] {
            let (one, alone) = histogram(50, clients.clone());
            // A count so large that the histogram takes many passes.
            let (many, together) = histogram(1_000_000_000_000_000, clients);
            assert_eq!((one, many), (Some(1), Some(MAX_PASSES)));
            let _checked = alone.zip(together, |alone, together| assert_eq!(alone, together));
        }
    }

    #[test]
    fn cancellation_is_not_reported_as_a_failure() {
        let recorder = Recorder::default();
        recorder.cancelled.store(true, Ordering::Relaxed);
        assert!(matches!(
            histogram(&[(1.0, 0)], &recorder),
            Err(VotingError::Cancelled(_))
        ));
    }
}
