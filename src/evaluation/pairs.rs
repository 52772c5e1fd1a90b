//! Picture of the samples that lie closest to a reference image, after a check for memorization.

use std::path::PathBuf;

use super::evaluator::Evaluator;
use super::{EvaluationError, SampleSetId};
use crate::images::ImageBatch;
use crate::metrics::memorization::ClosestPairs;
use crate::metrics::{MetricKind, MetricsError};

/// Function that passes all samples, in order, to another one.
pub(crate) type ReadSamples<'r> =
    dyn FnMut(&mut dyn FnMut(&ImageBatch)) -> Result<(), EvaluationError> + 'r;

impl Evaluator<'_> {
    /// Draws the closest pairs of the last [`MetricKind::Memorization`], in `private/` unless the
    /// reference is public. Returns the file; `None` if nothing was checked or results are not
    /// kept.
    ///
    /// # Errors
    /// See [`EvaluationError`].
    pub(crate) fn draw_pairs(
        &mut self,
        samples: &SampleSetId,
        read: &mut ReadSamples<'_>,
    ) -> Result<Option<PathBuf>, EvaluationError> {
        let settings = self.settings(MetricKind::Memorization)?;
        let name = format!("closest-{}-{settings}.png", samples.key());
        let observer = self.evaluation.observer;
        let source = self.source.as_mut().filter(|_| self.store.keeps_results());
        let (Some(output), Some(source)) = (self.memorization.take(), source) else {
            return Ok(None);
        };
        let mut pairs = output.map(|output| ClosestPairs::new(&output.closest));
        read(&mut |batch| pairs.update(|pairs| pairs.add_synthetic(batch)))?;
        let stage = "reading reference images";
        let pairs = source.fold_images(stage, observer, pairs, |pairs, batch| {
            pairs.add_reference(batch);
            Ok(())
        })?;
        let Some(pairs) = pairs else {
            return Ok(None);
        };
        let picture = pairs
            .try_map_ref(ClosestPairs::picture)
            .map_err(MetricsError::from)?;
        self.store.write_file(&name, &picture)
    }
}
