//! The histogram of votes: how many private images have a sample among their nearest neighbours.

use std::ops::Range;

use candle_core::Device;
use thiserror::Error;

use super::nearest::{Metric, NearestError, nearest_neighbours};
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

/// The private embeddings, one matrix a class: those who vote.
pub struct PrivateVoters {
    classes: Vec<Sensitive<Embeddings>>,
}

impl PrivateVoters {
    /// Splits private embeddings by class label (`labels[i] < classes` for image `i`).
    #[must_use]
    pub fn new(
        embeddings: Sensitive<Embeddings>,
        labels: &Sensitive<Vec<u32>>,
        classes: usize,
    ) -> Self {
        let classes = (0..classes)
            .map(|class| {
                let members = labels.map_ref(|labels| {
                    labels
                        .iter()
                        .enumerate()
                        .filter(|(_, label)| **label as usize == class)
                        .map(|(index, _)| index)
                        .collect::<Vec<_>>()
                });
                embeddings.zip_ref(&members, |embeddings, members| embeddings.gather(members))
            })
            .collect();
        Self { classes }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len()
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
    keep_going: &dyn Fn() -> bool,
) -> Result<Sensitive<Vec<u64>>, VotingError> {
    if ranges.len() != voters.classes.len() {
        return Err(VotingError::Shape(format!(
            "the population has {} classes but the voters have {}",
            ranges.len(),
            voters.classes.len()
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
    for (class, (range, voters)) in ranges.iter().zip(&voters.classes).enumerate() {
        let indices: Vec<usize> = range.clone().collect();
        let candidates = population.gather(&indices);
        let counts = voters.try_map_ref(|voters| {
            let ids =
                nearest_neighbours(voters, &candidates, k, metric, device, &|_, _| keep_going())?;
            let mut counts = vec![0u64; candidates.len()];
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
