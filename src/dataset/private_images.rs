//! The private images on their way to the vote: checked, fingerprinted, embedded, and never kept as images.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::embedders::{Embedder, Embeddings, embed_all};
use crate::images::{DataConfig, ImageBatch, ImageSource, Skipped};
use crate::metrics::FeatureSet;
use crate::metrics::features::{FeatureAccumulator, Features};
use crate::pe::PeError;
use crate::privacy::{Fingerprint, PrivacyError, PrivateFolder, Sensitive, same_data};
use crate::progress::{Observer, Unit};
use crate::voting::PrivateEmbeddings;

/// Images read at a time, unless they are large.
const CHUNK: usize = 512;
/// Bytes of images read at a time.
const CHUNK_BYTES: usize = 1 << 26;

/// The private images, still on disk. What is read of them goes straight behind the wall.
pub struct PrivateImages {
    source: ImageSource,
    labels: Sensitive<Vec<u32>>,
    /// Images read at a time.
    chunk: usize,
}

impl PrivateImages {
    /// Lists the images, reads none.
    ///
    /// # Errors
    /// [`PeError::Images`].
    pub fn open(config: &DataConfig) -> Result<Self, PeError> {
        let source = ImageSource::open(config)?;
        let image_bytes = config.image_size.pow(2) * 3;
        Ok(Self {
            labels: Sensitive::new(source.labels().to_vec()),
            source,
            chunk: (CHUNK_BYTES / image_bytes.max(1)).clamp(1, CHUNK),
        })
    }

    /// Number of images: declared public.
    #[must_use]
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Class names: declared public.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.source.classes()
    }

    /// Which images of the source these are, for the privacy statement.
    #[must_use]
    pub fn selection(&self) -> String {
        let mut text = if self.source.truncated() {
            "the first data.num_samples images in the order of their names; which ones these are is \
             declared public, and an image that is added or removed is one of them"
        } else {
            "all images of the source"
        }
        .to_owned();
        if self.source.skips_bad_images() {
            text += ", but for files that are no readable images (data.on_bad_image = \"skip\")";
        }
        text
    }

    /// Reads every private image once, so that a broken one is found before anything is spent, and
    /// fingerprints the lot. Files that may be and were left out are returned.
    ///
    /// # Errors
    /// [`PeError::Images`] naming the file.
    pub fn check(
        &mut self,
        observer: &dyn Observer,
    ) -> Result<(Sensitive<Fingerprint>, Vec<Skipped>), PeError> {
        let (total, chunk) = (self.len(), self.chunk);
        observer.begin("checking private images", Some(total as u64), Unit::Steps);
        let mut digests = Sensitive::new(Vec::new());
        let mut done = 0;
        let skipped = self.source.check(chunk, |batch| {
            add_digests(&mut digests, &Sensitive::new(batch));
            done += chunk;
            observer.advance(done.min(total) as u64);
            observer.end_if_cancelled().map_err(PeError::from)
        })?;
        observer.end();
        self.labels = Sensitive::new(self.source.labels().to_vec());
        Ok((self.fingerprint(digests), skipped))
    }

    /// Of the classes' names, every image's label and every image's bytes.
    fn fingerprint(&self, digests: Sensitive<Vec<u8>>) -> Sensitive<Fingerprint> {
        let labels = self.labels.map_ref(|labels| {
            labels
                .iter()
                .flat_map(|label| label.to_le_bytes())
                .collect::<Vec<u8>>()
        });
        let classes = self.classes().join("\n");
        labels.zip(digests, |labels, digests| {
            Fingerprint::of([classes.as_bytes(), labels.as_slice(), digests.as_slice()])
        })
    }

    /// The images' embeddings, split by class: from the run's private folder if they are there, else
    /// computed and put there.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn voters(
        &mut self,
        embedder: &dyn Embedder,
        private: &PrivateFolder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<PrivateEmbeddings, PeError> {
        let embeddings = self.embeddings(embedder, private, fingerprint, observer)?;
        let classes = self.classes().len();
        Ok(PrivateEmbeddings::new(
            embeddings,
            &self.labels,
            classes,
            self.len(),
        ))
    }

    /// The images' embeddings for the vote, in the images' order.
    ///
    /// The folder belongs to one run, and its ledger has established that images and configuration are
    /// those that it began with; so the embeddings are, too.
    ///
    /// # Errors
    /// See [`PeError`].
    pub(crate) fn embeddings(
        &mut self,
        embedder: &dyn Embedder,
        private: &PrivateFolder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<Sensitive<Embeddings>, PeError> {
        // Number and dimension are public; in the name, they need no look through the wall.
        let (total, dimension) = (self.len(), embedder.dimension());
        let name = format!("embeddings-{total}x{dimension}");
        if let Some(cached) = private.read_back(&name, decode)? {
            return Ok(cached);
        }
        let mut data = Sensitive::new(Vec::with_capacity(total * dimension));
        self.embed(embedder, fingerprint, observer, |embedded| {
            data.extend_with(embedded, |data: &mut Vec<f32>, embedded| {
                data.extend(embedded.into_data());
            });
            Ok(())
        })?;
        // `embed_all` has checked every part, so the whole is of this dimension, too.
        let embeddings = data.map(|data| {
            Embeddings::new(data, dimension).unwrap_or_else(|| Embeddings::empty(dimension))
        });
        private.write_sensitive(&name, &embeddings, encode)?;
        Ok(embeddings)
    }

    /// What an evaluation needs of the images: from `cache` if it is there for these images and this
    /// `space` (a digest of what an image's vector depends on), else computed and put there.
    ///
    /// # Errors
    /// See [`PeError`].
    pub fn features(
        &mut self,
        embedder: &dyn Embedder,
        space: &str,
        needs: FeatureSet,
        cache: Option<&PrivateFolder>,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<Sensitive<Features>, PeError> {
        let kept = match (needs.moments, needs.vectors) {
            (true, true) => "both",
            (true, false) => "moments",
            (false, _) => "vectors",
        };
        let name = format!("features-{kept}-{space}");
        if let Some(cache) = cache
            && let Some(cached) = cache.read_keyed(&name, fingerprint, Features::decode)?
        {
            return Ok(cached);
        }
        let mut collector = Sensitive::new(FeatureAccumulator::new(embedder.dimension(), needs));
        self.embed(embedder, fingerprint, observer, |embedded| {
            let pushed = collector
                .try_extend_with(embedded, |collector: &mut FeatureAccumulator, batch| {
                    collector.push(&batch)
                });
            Ok(pushed?)
        })?;
        let features = collector.try_map(|collector| collector.finish("reference images"))?;
        if let Some(cache) = cache {
            cache.write_keyed(&name, fingerprint, &features, Features::encode)?;
        }
        Ok(features)
    }

    /// The class of each image, as a place among [`PrivateImages::classes`].
    pub(crate) fn labels(&self) -> &Sensitive<Vec<u32>> {
        &self.labels
    }

    /// Embeds every image and hands the vectors on, in the images' order.
    fn embed(
        &mut self,
        embedder: &dyn Embedder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
        mut take: impl FnMut(Sensitive<Embeddings>) -> Result<(), PeError>,
    ) -> Result<(), PeError> {
        self.each(fingerprint, "embedding private images", observer, |batch| {
            take(batch.try_map_ref(|batch| embed_all(embedder, batch))?)
        })
    }

    /// Reads every image again and hands them on, in order, `stage` being shown meanwhile.
    ///
    /// # Errors
    /// [`PrivacyError::PrivateData`] when they are not those of the fingerprint any more; see the others in
    /// [`PeError`].
    pub(crate) fn each(
        &mut self,
        fingerprint: &Sensitive<Fingerprint>,
        stage: &str,
        observer: &dyn Observer,
        mut take: impl FnMut(Sensitive<ImageBatch>) -> Result<(), PeError>,
    ) -> Result<(), PeError> {
        let (total, chunk) = (self.len(), self.chunk);
        observer.begin(stage, Some(total as u64), Unit::Steps);
        let mut digests = Sensitive::new(Vec::new());
        let mut done = 0;
        self.source.for_each_batch(chunk, |batch| {
            let batch = Sensitive::new(batch);
            add_digests(&mut digests, &batch);
            take(batch)?;
            done += chunk;
            observer.advance(done.min(total) as u64);
            observer.end_if_cancelled().map_err(PeError::from)
        })?;
        observer.end();
        if !same_data(fingerprint, &self.fingerprint(digests)) {
            return Err(PeError::Privacy(PrivacyError::PrivateData {
                message:
                    "the private images changed while they were read: leave them alone during \
                          a run"
                        .to_owned(),
            }));
        }
        Ok(())
    }
}

/// Appends each image's SHA-256.
fn add_digests(digests: &mut Sensitive<Vec<u8>>, batch: &Sensitive<ImageBatch>) {
    let of_batch = batch.map_ref(|batch| {
        batch
            .iter()
            .flat_map(|image| Sha256::digest(image).to_vec())
            .collect::<Vec<u8>>()
    });
    digests.extend_with(of_batch, |all, batch| all.extend(batch));
}

/// Number and dimension as u64, then all numbers, little-endian.
fn encode(embeddings: &Embeddings, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(&(embeddings.len() as u64).to_le_bytes())?;
    file.write_all(&(embeddings.dimension() as u64).to_le_bytes())?;
    embeddings.write(file)
}

fn decode(file: &mut dyn Read) -> io::Result<Embeddings> {
    let mut number = || -> io::Result<usize> {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let (count, dimension) = (number()?, number()?);
    let embeddings = Embeddings::read(file, count, dimension)?;
    match file.read(&mut [0])? {
        0 => Ok(embeddings),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_embeddings_come_back_and_damaged_ones_do_not() {
        let embeddings = Embeddings::new(vec![0.5, -1.0, 2.0, 1e-40, 7.0, -0.0], 2).unwrap();
        let mut stored = Vec::new();
        encode(&embeddings, &mut stored).unwrap();
        assert!(decode(&mut stored.as_slice()).unwrap() == embeddings);
        assert!(decode(&mut &stored[..stored.len() - 1]).is_err());
        for (at, value) in [(0, u64::MAX), (0, 2), (8, u64::MAX), (8, 0), (8, 3)] {
            let mut damaged = stored.clone();
            damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            assert!(decode(&mut damaged.as_slice()).is_err());
        }
        stored.push(0);
        assert!(decode(&mut stored.as_slice()).is_err());
    }
}
