//! Evaluation of one file of samples: all metrics, downstream accuracy included, and the picture of
//! the samples that are closest to a reference image.

use std::path::PathBuf;

use super::evaluator::Evaluator;
use super::{EvaluationError, SampleSetId, Training};
use crate::images::ImageBatch;
use crate::metrics::features::Features;
use crate::metrics::memorization::ClosestPairs;
use crate::metrics::{MetricKind, MetricsError};

/// Function that passes all samples, in order, to another one.
pub(crate) type ReadSamples<'r> =
    dyn FnMut(&mut dyn FnMut(&ImageBatch)) -> Result<(), EvaluationError> + 'r;

impl Evaluator<'_> {
    /// Evaluates a file of samples, whose features were computed before. `show` receives the lines:
    /// marked, if the reference is private. `training` is for [`MetricKind::Downstream`].
    ///
    /// # Errors
    /// See [`EvaluationError`].
    pub(crate) fn file(
        &mut self,
        samples: &SampleSetId,
        features: &Features,
        training: Option<&Training>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        for &metric in &self.evaluation.config.metrics {
            match (metric, training) {
                (MetricKind::Downstream, Some(training)) => {
                    self.downstream(samples, features.vectors.as_ref(), training, show)?;
                }
                _ => self.measure(samples, metric, features, show)?,
            }
        }
        Ok(())
    }

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
