//! A pool of public images as a foundation model.
//!
//! A random image is a draw from the pool. A variation of degree d is one of the d images of the
//! pool that are nearest to the parent in an embedding. Nothing is generated, so every sample is a
//! real public image, and the private images decide only which ones are selected.

mod config;
mod draw;
mod groups;
mod nearest;
mod shortlist;
#[cfg(test)]
mod tests;
mod vectors;

pub use config::Config;

use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, OpenedGenerator, Operation,
    Parameters, PlannedWork, SampleRequest, Variation, check_pairs,
};
use crate::embedders::{Embedder, embed_all};
use crate::hex;
use crate::images::ImageBatch;
use crate::privacy::sha256_hex;
use crate::progress::Observer;
use crate::public_images::{PublicImages, key_of};
use crate::sections::InvalidKey;
use config::{Degree, below_embedder};
use draw::Draws;
use groups::Groups;
use vectors::Vectors;

/// Digits of the SHA-256 of an image in its parameters: 64 bits, enough to recognize it.
const DIGEST_DIGITS: usize = 16;

/// An opened pool.
pub struct ImagePool {
    images: Arc<PublicImages>,
    groups: Groups,
    vectors: Vectors,
    embedder: Box<dyn Embedder>,
    /// The public images that the embedder is fitted to, if it is.
    fitted: Option<Arc<PublicImages>>,
    keep_labels: bool,
    unique: bool,
}

/// The parameters of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Drawn {
    /// The number of the image in the pool, from 0, in the order of the pool.
    pool: usize,
    /// The first digits of the SHA-256 of its pixels, by which the image is known where the pool
    /// has another order.
    sha256: String,
}

impl ImagePool {
    /// Reads the pool, and embeds it unless its vectors are in the cache.
    ///
    /// # Errors
    /// [`GeneratorError::Public`] if the images cannot be read; [`GeneratorError::Config`] for a
    /// key that does not fit them; [`GeneratorError::Embedder`].
    pub(super) fn open(
        config: &Config,
        devices: &[Device],
        observer: &dyn Observer,
    ) -> Result<OpenedGenerator, GeneratorError> {
        let images = PublicImages::open(&config.images(), config.image_size, observer)?;
        if u32::try_from(images.len()).is_err() {
            let message = format!("has {} images: expected less than 2^32", images.len());
            return Err(InvalidKey::new("path", message).into());
        }
        let groups = Groups::read(config, images.len())?;
        let section = config.embedder();
        let opened = section
            .open(config.image_size.pair(), devices, observer)
            .map_err(below_embedder)?;
        let embedder = opened.embedder;
        let inputs = serde_json::json!({
            "vectors": section.identity(opened.weights_digest.as_deref())?,
            "images": images.digest(),
            "size": config.image_size,
        });
        let vectors = Vectors::open(&images, &*embedder, key_of(&inputs), observer)?;
        // Unlike the key of the cache, the identity of a run does not depend on the version.
        let identity = serde_json::json!([inputs, groups.digest()]);
        let digest = sha256_hex(identity.to_string().as_bytes());
        Ok(OpenedGenerator {
            generator: Box::new(Self {
                images,
                groups,
                vectors,
                embedder,
                fitted: opened.public_images,
                keep_labels: config.keep_labels,
                unique: config.unique,
            }),
            weights_digest: Some(digest),
            warnings: Vec::new(),
        })
    }

    /// Returns the group of images of each request.
    fn groups_of(&self, requests: &[SampleRequest]) -> Result<Vec<usize>, GeneratorError> {
        let group = |request: &SampleRequest| {
            let group = request.condition.0 as usize;
            let message = || {
                let count = self.groups.len();
                format!("condition {group} does not exist: the pool has {count}")
            };
            let known = group < self.groups.len();
            known
                .then_some(group)
                .ok_or_else(|| GeneratorError::Input(message()))
        };
        requests.iter().map(group).collect()
    }

    /// Returns the vectors of the parents: from the pool for those that are images of it, and
    /// computed for others.
    fn vectors_of(&self, parents: &Generated) -> Result<Vec<f32>, GeneratorError> {
        let known: Vec<Option<usize>> = (0..parents.len())
            .map(|index| self.drawn(parents.parameters(index)))
            .collect();
        let is_other: Vec<bool> = known.iter().map(Option::is_none).collect();
        let others = parents.images.select(&is_other);
        let mut others = embed_all(&*self.embedder, &others)?.into_data().into_iter();
        let known_only: Vec<usize> = known.iter().copied().flatten().collect();
        let mut own = self.vectors.gather(&known_only)?.into_iter();
        let dimension = self.vectors.dimension();
        let mut all = Vec::with_capacity(parents.len() * dimension);
        for index in known {
            match index {
                Some(_) => all.extend(own.by_ref().take(dimension)),
                None => all.extend(others.by_ref().take(dimension)),
            }
        }
        if all.iter().any(|value| !value.is_finite()) {
            let message = "the embedding of an image to vary is not finite".to_owned();
            return Err(GeneratorError::Input(message));
        }
        Ok(all)
    }

    /// Returns the number of an image of this pool; `None` for one from elsewhere.
    fn drawn(&self, parameters: &Parameters) -> Option<usize> {
        let drawn = parameters.read::<Drawn>().ok()?;
        (self.sha256(drawn.pool)? == drawn.sha256).then_some(drawn.pool)
    }

    fn sha256(&self, index: usize) -> Option<String> {
        let digits = hex::encode(self.images.image_digest(index)?);
        Some(digits.chars().take(DIGEST_DIGITS).collect())
    }

    /// Returns images of the pool with their parameters.
    fn generated(&self, indices: &[usize]) -> Result<Generated, GeneratorError> {
        let images = self.images.gather(indices)?;
        let parameters = indices.iter().map(|index| {
            Parameters::of(&Drawn {
                pool: *index,
                sha256: self.sha256(*index).unwrap_or_default(),
            })
        });
        Generated::new(images, parameters.collect::<Result<_, _>>()?)
    }

    /// Returns the number of images that a variation in a group is one of.
    fn neighbors(&self, group: usize, degree: f64) -> Result<usize, GeneratorError> {
        let degree = Degree::new(degree)?;
        let images = if self.keep_labels {
            self.groups.images(group).len()
        } else {
            self.images.len()
        };
        degree.of(images)
    }
}

impl Generator for ImagePool {
    fn image_size(&self) -> (usize, usize) {
        self.images.size().pair()
    }

    /// Returns the size of a whole population if no image may occur twice in it: only then does
    /// the result not depend on interruptions.
    fn batch_size(&self) -> usize {
        if self.unique {
            return usize::MAX;
        }
        let (height, width) = self.image_size();
        let fitting = config::BATCH_BYTES / (height * width * 3).max(1);
        fitting.clamp(1, config::BATCH_SIZE)
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let condition = |request: &ConditionRequest<'_>| self.groups.condition(request.class);
        requests.iter().map(condition).collect()
    }

    fn num_conditions(&self) -> u32 {
        u32::try_from(self.groups.len()).unwrap_or(u32::MAX)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.groups.describe(class)
    }

    fn public_images(&self) -> Vec<Arc<PublicImages>> {
        let fitted = self.fitted.as_ref();
        let others = fitted.filter(|fitted| !Arc::ptr_eq(fitted, &self.images));
        [&self.images].into_iter().chain(others).cloned().collect()
    }

    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let count = self.images.len();
        let largest = work.iter().map(|work| work.images).max().unwrap_or(0);
        if self.unique && largest > count as u64 {
            let message = format!(
                "is true, but a population has {largest} samples and the pool {count} images: \
                 expected no more samples than images, or unique = false"
            );
            return Err(InvalidKey::new("unique", message).into());
        }
        let dimension = self.vectors.dimension();
        Ok(vec![format!(
            "image pool: {count} images, compared by vectors of {dimension} numbers"
        )])
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let groups = self.groups_of(requests)?;
        let mut draws = Draws::new(&self.groups, self.images.len(), self.unique);
        let drawn: Vec<usize> = requests
            .iter()
            .zip(groups)
            .map(|(request, group)| draws.any(group, &mut request.rng_key.rng()))
            .collect();
        self.generated(&drawn)
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        check_pairs(parents, requests)?;
        self.check_size(&parents.images)?;
        let groups = self.groups_of(requests)?;
        let wanted: Vec<usize> = groups
            .iter()
            .map(|group| self.neighbors(*group, variation.degree))
            .collect::<Result<_, _>>()?;
        let search = draw::Search {
            vectors: &self.vectors,
            groups: &self.groups,
            keep_labels: self.keep_labels,
            parents: &self.vectors_of(parents)?,
            group_of: &groups,
        };
        let mut draws = Draws::new(&self.groups, self.images.len(), self.unique);
        let keys: Vec<_> = requests.iter().map(|request| request.rng_key).collect();
        self.generated(&search.vary(&mut draws, &keys, &wanted)?)
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        if let Operation::Vary(variation) = operation {
            for group in 0..self.groups.len() {
                self.neighbors(group, variation.degree)?;
            }
        }
        // No network takes part.
        Ok(0)
    }
}

impl ImagePool {
    fn check_size(&self, images: &ImageBatch) -> Result<(), GeneratorError> {
        let (height, width) = self.image_size();
        if (images.height(), images.width()) == (height, width) {
            return Ok(());
        }
        Err(GeneratorError::Input(format!(
            "images of {}x{} for a pool of {height}x{width}",
            images.height(),
            images.width(),
        )))
    }
}
