//! The picture of the samples that lie closest to a reference image, after a check for memorisation.

use std::path::PathBuf;

use super::evaluator::{CHUNK, Evaluator, MetricResult, ReferenceSource, SampleSource};
use crate::atomic;
use crate::images::ImageBatch;
use crate::metrics::memorization::ClosestPairs;
use crate::metrics::{MetricKind, MetricsError};
use crate::pe::PeError;
use crate::privacy::Sensitive;

/// Hands a function all samples, in order.
pub type ReadSamples<'r> = dyn FnMut(&mut dyn FnMut(&ImageBatch)) -> Result<(), PeError> + 'r;

impl Evaluator<'_> {
    /// Draws the pairs that the last [`MetricKind::Memorization`] found closest, in `private/` unless the
    /// reference is public. Returns the file, `None` where nothing was checked or nothing is kept.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn draw_pairs(
        &mut self,
        samples: &SampleSource<'_>,
        read: &mut ReadSamples<'_>,
    ) -> Result<Option<PathBuf>, PeError> {
        let settings = self.key(MetricKind::Memorization)?;
        let name = format!("closest-{}-{settings}.png", samples.key());
        let observer = self.evaluation.observer;
        match (self.closest.take(), &mut self.against) {
            (
                Some(MetricResult::Private(found)),
                Some(ReferenceSource::Private(images, fingerprint)),
            ) => {
                let Some((folder, _)) = &self.private else {
                    return Ok(None);
                };
                let mut pairs = found.map_ref(|found| ClosestPairs::new(&found.closest));
                read(&mut |batch| {
                    pairs.extend_with(Sensitive::new(()), |pairs, ()| pairs.add_synthetic(batch));
                })?;
                images.each(fingerprint, "reading private images", observer, |batch| {
                    pairs.extend_with(batch, |pairs, batch| pairs.add_reference(&batch));
                    Ok::<_, PeError>(())
                })?;
                let picture = pairs
                    .try_map_ref(ClosestPairs::picture)
                    .map_err(MetricsError::from)?;
                folder.write_sensitive(&name, &picture, |bytes, file| file.write_all(bytes))?;
                Ok(Some(folder.path().join(name)))
            }
            (Some(MetricResult::Public(found)), Some(ReferenceSource::Public(images))) => {
                let Some(root) = &self.root else {
                    return Ok(None);
                };
                let mut pairs = ClosestPairs::new(&found.closest);
                read(&mut |batch| pairs.add_synthetic(batch))?;
                images.for_each_batch(CHUNK, |batch| {
                    pairs.add_reference(&batch);
                    observer.end_if_cancelled().map_err(PeError::from)
                })?;
                let path = root.join(name);
                let picture = pairs.picture().map_err(MetricsError::from)?;
                atomic::write(&path, &picture).map_err(PeError::io(&path))?;
                Ok(Some(path))
            }
            _ => Ok(None),
        }
    }
}
