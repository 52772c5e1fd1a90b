//! Votes weighed by the classes of near samples.
//!
//! Classes vote separately, so a sample of one class that looks like another class keeps its votes
//! from those private images that look like it. Where the samples around it mostly belong to other
//! classes, its label is probably wrong. This is post-processing: the samples and their classes are
//! released.

use std::ops::Range;

use candle_core::Device;

use crate::embedders::Embeddings;
use crate::progress::Cancellation;
use crate::voting::{Metric, NearestError, SearchOptions, nearest_neighbors};

/// Number of near samples whose classes are compared.
const NEIGHBORS: usize = 20;

/// The space in which samples are near each other: that of the vote.
#[derive(Clone, Copy)]
pub(super) struct Space<'a> {
    /// `f32[samples, dimension]`, in the order of the classes.
    pub embeddings: &'a Embeddings,
    /// Samples of each class.
    pub classes: &'a [Range<usize>],
    pub metric: Metric,
    pub device: &'a Device,
    pub cancellation: &'a dyn Cancellation,
}

/// Multiplies the votes of each sample by `share` to the power of `exponent`, where `share` is the
/// share of its 20 nearest other samples (fewer if there are fewer) that have its class. A class
/// that would lose all its votes keeps them unchanged.
///
/// # Errors
/// As [`nearest_neighbors`].
pub(super) fn weigh(
    votes: &[f64],
    exponent: f64,
    space: Space<'_>,
) -> Result<Vec<f64>, NearestError> {
    let samples = space.embeddings.len();
    let neighbors = NEIGHBORS.min(samples.saturating_sub(1));
    if neighbors == 0 {
        return Ok(votes.to_vec());
    }
    let options = SearchOptions {
        // The sample itself is among them, unless many samples are equal.
        k: neighbors + 1,
        metric: space.metric,
        device: space.device,
        cancellation: space.cancellation,
    };
    let near = nearest_neighbors(space.embeddings, space.embeddings, &options)?;
    let mut weighed = votes.to_vec();
    for class in space.classes {
        let (Some(to), Some(from)) = (weighed.get_mut(class.clone()), votes.get(class.clone()))
        else {
            continue;
        };
        let rows = near.chunks_exact(neighbors + 1).skip(class.start);
        for ((index, weight), near) in class.clone().zip(to.iter_mut()).zip(rows) {
            let near = near.iter().map(|other| *other as usize);
            let others = near.filter(|other| *other != index).take(neighbors);
            let same = others.filter(|other| class.contains(other)).count();
            *weight *= (same as f64 / neighbors as f64).powf(exponent);
        }
        if to.iter().sum::<f64>() <= 0.0 {
            to.copy_from_slice(from);
        }
    }
    Ok(weighed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn weighed(votes: &[f64], exponent: f64, x: &[f32], classes: &[Range<usize>]) -> Vec<f64> {
        let space = Space {
            embeddings: &Embeddings::new(x.to_vec(), 1).unwrap(),
            classes,
            metric: Metric::L2,
            device: &Device::Cpu,
            cancellation: &Silent,
        };
        weigh(votes, exponent, space).unwrap()
    }

    #[test]
    fn votes_of_samples_among_another_class_count_less() {
        // 30 samples of each class around 0 and 100; the last of the first class is at 100.
        let mut x: Vec<f32> = (0..60)
            .map(|i| (i / 30 * 100) as f32 + i as f32 / 60.0)
            .collect();
        x[29] = 100.2;
        let votes = vec![8.0; 60];
        let classes = [0..30, 30..60];
        for exponent in [1.0, 2.0] {
            let found = weighed(&votes, exponent, &x, &classes);
            assert_eq!(found[0], 8.0);
            assert_eq!(found[29], 0.0);
            // One of the 20 nearest is of the other class.
            let expected = 8.0 * 0.95f64.powf(exponent);
            assert!((found[30] - expected).abs() < 1e-12, "{}", found[30]);
        }
        assert_eq!(weighed(&votes, 0.0, &x, &classes), votes);
    }

    #[test]
    fn a_class_never_loses_all_its_votes() {
        // The only sample with votes of the first class is among the second.
        let x: Vec<f32> = [5.0, 0.0, 0.1]
            .into_iter()
            .chain((0..30).map(|i| 5.0 + i as f32 / 100.0))
            .collect();
        let mut votes = vec![1.0; 33];
        votes[1] = 0.0;
        votes[2] = 0.0;
        let found = weighed(&votes, 1.0, &x, &[0..3, 3..33]);
        assert_eq!(found[..3], votes[..3]);
        assert!(found[3..].iter().all(|votes| (0.9..=1.0).contains(votes)));
        assert_eq!(
            weighed(&[3.0, 4.0], 1.0, &[1.0, 9.0], &[0..1, 1..2]),
            [3.0, 4.0]
        );
        // Equal samples: the share is of 20 of them, whichever the search returns first.
        let found = weighed(&[1.0; 50], 1.0, &[7.0; 50], &[0..50, 50..50]);
        assert_eq!(found, [1.0; 50]);
    }
}
