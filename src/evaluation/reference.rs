//! References of an evaluation: images or statistics, private or declared public.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::context::{CHUNK, Evaluation};
use super::store::ResultStore;
use super::{EvaluationError, Guarded};
use crate::artifacts::ArtifactsError;
use crate::atomic;
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, embed_all};
use crate::images::{ImageBatch, ImageSource};
use crate::metrics::features::{FeatureAccumulator, Features};
use crate::metrics::table::FeatureSpace;
use crate::metrics::{MetricsError, Statistics};
use crate::privacy::{Fingerprint, PrivateFolder, Sensitive, sha256_hex};
use crate::progress::{Observer, Unit};

/// Images or statistics that samples are compared with.
pub struct ReferenceSource {
    data: ReferenceData,
    /// Number of images; `None` where a file of statistics does not say.
    count: Option<usize>,
    /// Class names of images.
    classes: Option<Vec<String>>,
    /// Fingerprint of private data; `None` for a public reference.
    fingerprint: Option<Sensitive<Fingerprint>>,
    /// Digest of public data, once it was computed.
    digest: Option<String>,
}

enum ReferenceData {
    PrivateImages(Box<PrivateImages>),
    PublicImages(Box<ImageSource>),
    Statistics(Guarded<Statistics>),
}

/// The private images of a run, lent for the evaluation of one population.
pub(crate) struct RunImages<'a> {
    /// The images.
    pub images: &'a mut PrivateImages,
    /// Fingerprint of the images when they were checked.
    pub fingerprint: &'a Sensitive<Fingerprint>,
    /// The vote's embeddings, if the metrics use the same feature space.
    pub vote: Option<VoteEmbeddings<'a>>,
}

/// The embeddings of the private images that vote: stored, or still to be computed.
#[derive(Clone, Copy)]
pub(crate) struct VoteEmbeddings<'a> {
    /// Folder in which they are stored.
    pub folder: &'a PrivateFolder,
    /// Embedder of the private images.
    pub embedder: &'a dyn Embedder,
}

impl ReferenceSource {
    /// Private images with the fingerprint of their check. Their number is in the rows of their
    /// metrics, which are private.
    #[must_use]
    pub fn private_images(images: PrivateImages, fingerprint: Sensitive<Fingerprint>) -> Self {
        Self {
            count: Some(images.total()),
            classes: Some(images.classes().to_vec()),
            data: ReferenceData::PrivateImages(Box::new(images)),
            fingerprint: Some(fingerprint),
            digest: None,
        }
    }

    /// Images that the user declares public.
    #[must_use]
    pub fn public_images(images: ImageSource) -> Self {
        Self {
            count: Some(images.len()),
            classes: Some(images.classes().to_vec()),
            data: ReferenceData::PublicImages(Box::new(images)),
            fingerprint: None,
            digest: None,
        }
    }

    /// Statistics of images; `public` if the user declares them public.
    #[must_use]
    pub fn statistics(statistics: Statistics, public: bool) -> Self {
        let count = statistics.count;
        let digest = public.then(|| digest_of(&statistics));
        let statistics = match public {
            true => Guarded::Public(statistics),
            false => Guarded::Private(Sensitive::new(statistics)),
        };
        let fingerprint = match &statistics {
            Guarded::Private(statistics) => Some(statistics.map_ref(fingerprint_of)),
            Guarded::Public(_) => None,
        };
        Self {
            data: ReferenceData::Statistics(statistics),
            count,
            classes: None,
            fingerprint,
            digest,
        }
    }

    /// Returns true if the user declared the reference public.
    pub(super) fn is_public(&self) -> bool {
        self.fingerprint.is_none()
    }

    /// Fingerprint of a private reference.
    pub(super) fn fingerprint(&self) -> Option<&Sensitive<Fingerprint>> {
        self.fingerprint.as_ref()
    }

    /// Number of images, as private as they are; `None` where a file of statistics does not say.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        self.count
    }

    /// Number of images that can be embedded; `None` for statistics.
    #[must_use]
    pub fn images(&self) -> Option<usize> {
        match self.data {
            ReferenceData::Statistics(_) => None,
            _ => self.count,
        }
    }

    /// Class names of images.
    #[must_use]
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// Class of each image, as an index into [`ReferenceSource::classes`].
    pub(super) fn labels(&self) -> Option<Guarded<Vec<u32>>> {
        match &self.data {
            ReferenceData::PrivateImages(images) => Some(Guarded::Private(images.labels())),
            ReferenceData::PublicImages(images) => {
                let labels = images.labels().iter().copied().flatten();
                Some(Guarded::Public(labels.collect()))
            }
            ReferenceData::Statistics(_) => None,
        }
    }

    /// Returns the digest of a public reference. The first call reads all images.
    pub(super) fn public_digest(
        &mut self,
        observer: &dyn Observer,
    ) -> Result<Option<String>, EvaluationError> {
        if let (ReferenceData::PublicImages(images), None) = (&mut self.data, &self.digest) {
            self.digest = Some(digest_of_images(images, observer)?);
        }
        Ok(self.digest.clone())
    }

    /// Computes the features of the reference, or reads those that an earlier evaluation stored.
    pub(super) fn features(
        &mut self,
        evaluation: &Evaluation<'_>,
        store: &ResultStore,
    ) -> Result<Guarded<Features>, EvaluationError> {
        let digest = self.public_digest(evaluation.observer)?;
        match (&mut self.data, &self.fingerprint) {
            (ReferenceData::PrivateImages(images), Some(fingerprint)) => RunImages {
                images,
                fingerprint,
                vote: None,
            }
            .features(evaluation, store),
            (ReferenceData::PublicImages(images), _) => {
                let name = statistics_name(&digest.unwrap_or_default(), &evaluation.space);
                let file = store.public_cache().map(|root| root.join(name));
                let features = public_features(images, evaluation, file.as_deref())?;
                Ok(Guarded::Public(features))
            }
            (ReferenceData::Statistics(statistics), _) => Ok(statistics.map_ref(features_of)),
            (ReferenceData::PrivateImages(_), None) => Err(EvaluationError::NoReference),
        }
    }

    /// Reads all images in order, and changes `value` by each batch. The result is private if the
    /// images are. Returns `None` for statistics.
    pub(super) fn fold_images<T>(
        &mut self,
        stage: &str,
        observer: &dyn Observer,
        mut value: Guarded<T>,
        mut change: impl FnMut(&mut T, &ImageBatch) -> Result<(), MetricsError>,
    ) -> Result<Option<Guarded<T>>, EvaluationError> {
        match (&mut self.data, &self.fingerprint) {
            (ReferenceData::PrivateImages(images), Some(fingerprint)) => {
                let mut value = value.into_sensitive();
                images.each(fingerprint, stage, observer, |batch| {
                    value.try_extend_with(batch, |value, batch| change(value, &batch))?;
                    Ok::<_, EvaluationError>(())
                })?;
                Ok(Some(Guarded::Private(value)))
            }
            (ReferenceData::PublicImages(images), _) => {
                for_each_batch(images, stage, observer, |batch| {
                    value.try_update(|value| change(value, &batch))?;
                    Ok(())
                })?;
                Ok(Some(value))
            }
            _ => Ok(None),
        }
    }
}

impl RunImages<'_> {
    /// Computes the features of the images, or reads those that were stored before.
    pub(super) fn features(
        self,
        evaluation: &Evaluation<'_>,
        store: &ResultStore,
    ) -> Result<Guarded<Features>, EvaluationError> {
        let set = evaluation.config.reference_features();
        let (embedder, observer) = (evaluation.embedder, evaluation.observer);
        let Some(vote) = self.vote else {
            let space = &evaluation.space.digest;
            let cache = store.private_cache();
            let features =
                self.images
                    .features(embedder, space, set, cache, self.fingerprint, observer)?;
            return Ok(Guarded::Private(features));
        };
        let vectors =
            self.images
                .embeddings(vote.embedder, vote.folder, self.fingerprint, observer)?;
        let features = vectors.try_map(|vectors| {
            let mut accumulator = FeatureAccumulator::new(vectors.dimension(), set);
            accumulator.push(&vectors)?;
            accumulator.finish("reference images")
        })?;
        Ok(Guarded::Private(features))
    }
}

/// Passes all public images to `visit`, in order.
fn for_each_batch(
    images: &mut ImageSource,
    stage: &str,
    observer: &dyn Observer,
    mut visit: impl FnMut(ImageBatch) -> Result<(), EvaluationError>,
) -> Result<(), EvaluationError> {
    let mut done = 0;
    observer.begin(stage, Some(images.len() as u64), Unit::Steps);
    images.for_each_batch(CHUNK, |batch| {
        done += batch.len();
        visit(batch)?;
        observer.advance(done as u64);
        observer.end_if_cancelled()?;
        Ok::<_, EvaluationError>(())
    })?;
    observer.end();
    Ok(())
}

/// Computes the features of public images. Their statistics are stored in `file`, and read from it
/// if it exists.
fn public_features(
    images: &mut ImageSource,
    evaluation: &Evaluation<'_>,
    file: Option<&Path>,
) -> Result<Features, EvaluationError> {
    let set = evaluation.config.reference_features();
    let only_moments = set.moments && !set.vectors;
    if let Some(path) = file.filter(|path| only_moments && path.exists()) {
        return Ok(features_of(&Statistics::open(path)?));
    }
    let embedder = evaluation.embedder;
    let mut accumulator = FeatureAccumulator::new(embedder.dimension(), set);
    let stage = "embedding the reference";
    for_each_batch(images, stage, evaluation.observer, |batch| {
        accumulator.push(&embed_all(embedder, &batch)?)?;
        Ok(())
    })?;
    let features = accumulator.finish("reference images")?;
    if let (Some(path), Some(gaussian)) = (file, &features.gaussian) {
        let statistics = Statistics {
            gaussian: gaussian.clone(),
            count: Some(features.count),
            resolution: Some(evaluation.space.resolution),
            embedder: Some(evaluation.space.digest.clone()),
        };
        let mut bytes = io::Cursor::new(Vec::new());
        let written = statistics.write(&mut bytes);
        written.map_err(ArtifactsError::npz(path))?;
        atomic::write(path, bytes.get_ref()).map_err(ArtifactsError::io(path))?;
    }
    Ok(features)
}

/// Returns the features that statistics stand for.
fn features_of(statistics: &Statistics) -> Features {
    let count = statistics.count.unwrap_or(0);
    Features {
        count,
        moment_count: count,
        gaussian: Some(statistics.gaussian.clone()),
        vectors: None,
    }
}

/// Name of the file of a public reference's statistics: it depends on the images, their size and
/// the embedder.
fn statistics_name(digest: &str, space: &FeatureSpace) -> String {
    let parts = format!("{digest} {} {}", space.resolution, space.digest);
    let name: String = sha256_hex(parts.as_bytes()).chars().take(32).collect();
    format!("reference-{name}.npz")
}

/// Mean and covariance as little-endian bytes.
fn bytes_of(statistics: &Statistics) -> [Vec<u8>; 2] {
    let bytes =
        |numbers: &[f64]| -> Vec<u8> { numbers.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let gaussian = &statistics.gaussian;
    [bytes(gaussian.mean()), bytes(&gaussian.covariance())]
}

fn fingerprint_of(statistics: &Statistics) -> Fingerprint {
    Fingerprint::of(bytes_of(statistics).iter().map(Vec::as_slice))
}

/// Returns the SHA-256, in hexadecimal digits, of the SHA-256 of mean and covariance.
fn digest_of(statistics: &Statistics) -> String {
    sha256_hex(&Sha256::digest(bytes_of(statistics).concat()))
}

/// Returns the SHA-256, in hexadecimal digits, of the SHA-256 of all images. Rows of existing
/// result folders are found by this value, so the second hash has to stay.
fn digest_of_images(
    images: &mut ImageSource,
    observer: &dyn Observer,
) -> Result<String, EvaluationError> {
    let mut hasher = Sha256::new();
    for_each_batch(images, "reading the reference", observer, |batch| {
        hasher.update(batch.data());
        Ok(())
    })?;
    Ok(sha256_hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(digest: &str, resolution: usize) -> FeatureSpace {
        FeatureSpace {
            embedder: "pixels".to_owned(),
            resolution,
            dtype: "f32",
            digest: digest.to_owned(),
        }
    }

    #[test]
    fn names_of_statistics_depend_on_images_size_and_embedder() {
        let name = statistics_name("data", &space("embedder", 32));
        assert!(name.starts_with("reference-") && name.ends_with(".npz"));
        for other in [
            statistics_name("datb", &space("embedder", 32)),
            statistics_name("data", &space("embedder", 64)),
            statistics_name("data", &space("another", 32)),
        ] {
            assert_ne!(name, other);
        }
    }
}
