//! The nearest neighbor as a classifier.

use candle_core::Device;

use super::{DownstreamError, check_labels};
use crate::embedders::Embeddings;
use crate::progress::Cancellation;
use crate::voting::{Metric, NearestError, SearchOptions, nearest_neighbors};

/// Returns the class of the nearest training vector of each of `queries`, by L2; of equally near
/// ones, the first.
///
/// # Errors
/// [`DownstreamError::Labels`] unless there is one label for each training vector;
/// [`DownstreamError::Empty`] without a training vector; [`DownstreamError::Nearest`] for vectors
/// of different dimensions or that are not finite; [`DownstreamError::Cancelled`].
pub fn predict_nearest(
    training: &Embeddings,
    labels: &[u32],
    queries: &Embeddings,
    device: &Device,
    cancellation: &dyn Cancellation,
) -> Result<Vec<u32>, DownstreamError> {
    check_labels(training.len(), labels.len())?;
    if labels.is_empty() {
        return Err(DownstreamError::Empty);
    }
    let options = SearchOptions {
        k: 1,
        metric: Metric::L2,
        device,
        cancellation,
    };
    let nearest = nearest_neighbors(queries, training, &options).map_err(|error| match error {
        NearestError::Cancelled(cancelled) => DownstreamError::Cancelled(cancelled),
        other => DownstreamError::Nearest(other),
    })?;
    let label = |index: u32| labels.get(index as usize).copied().unwrap_or_default();
    Ok(nearest.into_iter().map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn the_nearest_sample_gives_its_class() {
        let vectors = |data: &[f32]| Embeddings::new(data.to_vec(), 2).unwrap();
        let training = vectors(&[0.0, 0.0, 4.0, 4.0, 4.0, 4.0]);
        let queries = vectors(&[1.0, 0.0, 3.0, 3.0, 9.0, 9.0]);
        let predict =
            |labels: &[u32]| predict_nearest(&training, labels, &queries, &Device::Cpu, &Silent);
        // Of two equal samples, the first counts.
        assert_eq!(predict(&[7, 2, 5]).unwrap(), [7, 2, 2]);
        assert!(matches!(
            predict(&[7, 2]),
            Err(DownstreamError::Labels { .. })
        ));
        let none = Embeddings::new(Vec::new(), 2).unwrap();
        let empty = predict_nearest(&none, &[], &queries, &Device::Cpu, &Silent);
        assert!(matches!(empty, Err(DownstreamError::Empty)));
        let wide = Embeddings::new(vec![0.0; 3], 3).unwrap();
        let other = predict_nearest(&training, &[0, 1, 2], &wide, &Device::Cpu, &Silent);
        assert!(matches!(other, Err(DownstreamError::Nearest(_))));
    }
}
