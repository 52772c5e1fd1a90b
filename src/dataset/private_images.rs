//! Reads private images: checks, fingerprints and embeds them. No image is kept in memory or
//! stored.
//!
//! The names of their classes are declared in the configuration. Everything about the images
//! themselves, their number included, is [`Sensitive`] from the moment they are listed.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::DatasetError;
use super::participation::{Listed, Participation, Selection};
use crate::embedders::{Embedder, Embeddings, embed_all};
use crate::images::{DataConfig, ImageBatch, ImageSource, ImagesError, OccurringClasses};
use crate::metrics::FeatureSet;
use crate::metrics::features::{FeatureAccumulator, Features};
use crate::privacy::{
    Fingerprint, FingerprintHasher, ImageDigests, PrivacyError, PrivateFolder, Sensitive,
    contains_private, same_data,
};
use crate::progress::{Observer, Unit};
use crate::voting::PrivateEmbeddings;

/// File of the embeddings in the private folder. Errors name it, so it does not contain the number
/// of images.
const EMBEDDINGS: &str = "embeddings";
/// Most images in a batch: enough to occupy an embedder.
const MAX_BATCH: usize = 512;
/// Most bytes of images in a batch, so that large images do not fill the memory.
const MAX_BATCH_BYTES: usize = 1 << 26;

/// The private images on disk. Whatever is read of them is [`Sensitive`].
pub struct PrivateImages {
    source: ImageSource,
    path: PathBuf,
    selection: Selection,
    class_conditional: bool,
    /// The images of the source that take part.
    participation: Sensitive<Participation>,
    /// Digests of all readable images of the source, once they were checked.
    digests: Sensitive<ImageDigests>,
    /// Images in a batch.
    batch_size: usize,
}

/// The result of [`PrivateImages::check`].
pub struct CheckedImages {
    /// Fingerprint of the images that take part.
    pub fingerprint: Sensitive<Fingerprint>,
    /// Lines for the owner of the images: skipped files, images that are left out, copies.
    pub notes: Sensitive<Vec<String>>,
}

impl PrivateImages {
    /// Lists the images without reading them.
    ///
    /// # Errors
    /// [`DatasetError::Images`], and [`DatasetError::OfAnImage`] if the class of an image is not
    /// declared and `data.undeclared_class` is `"error"`.
    pub fn open(config: &DataConfig) -> Result<Self, DatasetError> {
        let opened = ImageSource::open(config);
        let source = opened.map_err(|error| DatasetError::of_source(error, &config.path))?;
        let listed = Sensitive::new(listed(&source));
        let image_bytes = config.image_size.height * config.image_size.width * 3;
        Ok(Self {
            participation: listed.map(|images| Participation::of_declared(&images)),
            path: config.path.clone(),
            selection: Selection {
                duplicates: config.duplicates,
                max_images: config
                    .clients
                    .as_ref()
                    .and_then(|c| c.max_images)
                    .unwrap_or(usize::MAX),
            },
            class_conditional: config.class_conditional,
            source,
            digests: Sensitive::new(ImageDigests::none()),
            batch_size: (MAX_BATCH_BYTES / image_bytes.max(1)).clamp(1, MAX_BATCH),
        })
    }

    /// Counts the classes that occur in the layout of a configuration, for the owner of the images.
    ///
    /// # Errors
    /// [`DatasetError::Images`] and [`DatasetError::OfAnImage`].
    pub fn occurring_classes(
        config: &DataConfig,
    ) -> Result<Sensitive<OccurringClasses>, DatasetError> {
        let classes = OccurringClasses::of(config);
        let classes = classes.map_err(|error| DatasetError::of_source(error, &config.path))?;
        Ok(Sensitive::new(classes))
    }

    /// Returns the number of images in the source. It is private: only progress, whose lines are
    /// marked, sizes of buffers, names of files in `private/` and private metrics depend on it.
    pub(crate) fn total(&self) -> usize {
        self.source.len()
    }

    /// Returns the number of protected units among the images that take part: images, or clients if
    /// the configuration names them.
    #[must_use]
    pub fn units(&self) -> Sensitive<usize> {
        self.participation.map_ref(Participation::units)
    }

    /// Returns lines for the owner of the images: their number, in total and of each class.
    #[must_use]
    pub fn describe_sizes(&self) -> Sensitive<Vec<String>> {
        let names = match self.class_conditional {
            true => self.classes(),
            false => &[],
        };
        self.participation.map_ref(|images| images.sizes(names))
    }

    /// Returns the class names, which are declared public.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.source.classes()
    }

    /// Reads every image once, so that a damaged one is found before anything is charged. Files
    /// that are not images are removed from the source (`data.on_bad_image = "skip"`), and copies
    /// are left out (`data.duplicates = "once"`).
    ///
    /// # Errors
    /// [`DatasetError::OfAnImage`] naming the file.
    pub fn check(&mut self, observer: &dyn Observer) -> Result<CheckedImages, DatasetError> {
        let (total, batch_size) = (self.total(), self.batch_size);
        observer.begin_private("checking private images", Some(total as u64), Unit::Steps);
        let mut digests = Sensitive::new(ImageDigests::with_capacity(total));
        let mut done = 0;
        let checked = self.source.check(batch_size, |batch| {
            done += batch.len();
            add_digests(&mut digests, &Sensitive::new(batch));
            observer.advance(done.min(total) as u64);
            let checked = observer.end_if_cancelled();
            checked.map_err(|cancelled| EachError::Other(DatasetError::from(cancelled)))
        });
        let skipped = checked.map_err(|error| error.of_source(&self.path))?;
        observer.end();
        let selection = self.selection;
        // Skipped files are not listed any more.
        let images = Sensitive::new(listed(&self.source));
        let examined = images.zip(digests, |images, digests| {
            (Participation::new(&images, &digests, selection), digests)
        });
        let classes = self.classes().join("\n");
        let taking_part = examined.map_ref(|(images, digests)| {
            let kept = digests.iter().zip(&images.kept);
            let kept = kept.filter_map(|(digest, kept)| kept.then_some(digest));
            fingerprint(&classes, &images.to_bytes(), images.labels.len(), kept)
        });
        (self.participation, self.digests) = examined.unzip();
        let left_out = self
            .participation
            .map_ref(|images| images.describe(selection.duplicates));
        let notes = Sensitive::new((skipped, self.source.remarks().to_vec()));
        let notes = notes.zip(left_out, |(skipped, remarks), left_out| {
            let skipped = skipped.into_iter();
            let skipped = skipped.map(|(image, reason)| format!("skipped {image}: {reason}"));
            remarks.into_iter().chain(skipped).chain(left_out).collect()
        });
        Ok(CheckedImages {
            fingerprint: taking_part,
            notes,
        })
    }

    /// Returns true if one of the images, at the size of the run, is among images that were
    /// declared public, also if it is left out; the caller then ends the command before anything is
    /// written. See [`contains_private`]. To be called after [`PrivateImages::check`].
    #[must_use]
    pub fn are_in(&self, declared_public: &ImageDigests, observer: &dyn Observer) -> bool {
        contains_private(&self.digests, declared_public, &mut |line| {
            observer.message(line)
        })
    }

    /// Fingerprints the class names, and the label, the client and the bytes of each image that
    /// takes part, whose `digests` these are.
    fn fingerprint(&self, digests: Sensitive<ImageDigests>) -> Sensitive<Fingerprint> {
        let classes = self.classes().join("\n");
        let of_images = self.participation.map_ref(Participation::to_bytes);
        of_images.zip(digests, |of_images, digests| {
            fingerprint(&classes, &of_images, digests.len(), digests.iter())
        })
    }

    /// Returns the embeddings split by class, as the vote takes them: see
    /// [`PrivateImages::embeddings`].
    ///
    /// # Errors
    /// See [`DatasetError`].
    pub fn embeddings_by_class(
        &mut self,
        embedder: &dyn Embedder,
        private: &PrivateFolder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<PrivateEmbeddings, DatasetError> {
        let embeddings = self.embeddings(embedder, private, fingerprint, observer)?;
        let classes = self.classes().len();
        Ok(PrivateEmbeddings::new(
            embeddings,
            &self.labels(),
            self.participation.map_ref(|images| images.clients.clone()),
            classes,
            self.total(),
        ))
    }

    /// Returns the embeddings in the order of the images: read from the private folder of the run
    /// if they are there, otherwise computed and stored there.
    ///
    /// Stored embeddings need no key: the ledger of the run has checked that images and
    /// configuration are those that the run began with.
    ///
    /// # Errors
    /// See [`DatasetError`].
    pub(crate) fn embeddings(
        &mut self,
        embedder: &dyn Embedder,
        private: &PrivateFolder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<Sensitive<Embeddings>, DatasetError> {
        let (total, dimension) = (self.total(), embedder.dimension());
        if let Some(cached) = private.read_back(EMBEDDINGS, decode)? {
            let cached = cached.zip(self.labels(), |cached, labels| (cached, labels.len()));
            let checked = cached.try_map(|(cached, images)| {
                let fits = cached.len() == images && cached.dimension() == dimension;
                fits.then_some(cached).ok_or(PrivacyError::PrivateFile {
                    path: private.path().join(EMBEDDINGS),
                    kind: io::ErrorKind::InvalidData,
                })
            });
            return Ok(checked?);
        }
        let mut data = Sensitive::new(Vec::with_capacity(total * dimension));
        self.embed(embedder, fingerprint, observer, |embedded| {
            data.extend_with(embedded, |data: &mut Vec<f32>, embedded| {
                data.extend(embedded.into_data());
            });
            Ok(())
        })?;
        // `embed_all` has checked the dimension of every batch, so `new` does not fail.
        let embeddings = data.map(|data| {
            Embeddings::new(data, dimension).unwrap_or_else(|| Embeddings::empty(dimension))
        });
        private.write_sensitive(EMBEDDINGS, &embeddings, encode)?;
        Ok(embeddings)
    }

    /// Returns the features that metrics need: read from `cache` if it has them for these images
    /// and this `space` (a digest of everything that an embedding depends on), otherwise computed
    /// and stored there.
    ///
    /// # Errors
    /// See [`DatasetError`].
    pub fn features(
        &mut self,
        embedder: &dyn Embedder,
        space: &str,
        needs: FeatureSet,
        cache: Option<&PrivateFolder>,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
    ) -> Result<Sensitive<Features>, DatasetError> {
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

    /// Returns the class of each image that takes part, as an index into
    /// [`PrivateImages::classes`].
    pub(crate) fn labels(&self) -> Sensitive<Vec<u32>> {
        self.participation.map_ref(|images| images.labels.clone())
    }

    /// Embeds every image and passes the embeddings to `take`, in the order of the images.
    fn embed(
        &mut self,
        embedder: &dyn Embedder,
        fingerprint: &Sensitive<Fingerprint>,
        observer: &dyn Observer,
        mut take: impl FnMut(Sensitive<Embeddings>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        self.each(fingerprint, "embedding private images", observer, |batch| {
            take(batch.try_map_ref(|batch| embed_all(embedder, batch))?)
        })
    }

    /// Reads every image again and passes batches of those that take part to `take`, in order;
    /// `stage` is the name of the progress bar.
    ///
    /// # Errors
    /// [`PrivacyError::PrivateData`] when the images are not those of the fingerprint any more;
    /// see the others in [`DatasetError`]. Errors of `take` are passed on.
    pub(crate) fn each<E: From<DatasetError>>(
        &mut self,
        fingerprint: &Sensitive<Fingerprint>,
        stage: &str,
        observer: &dyn Observer,
        mut take: impl FnMut(Sensitive<ImageBatch>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (total, batch_size) = (self.total(), self.batch_size);
        observer.begin_private(stage, Some(total as u64), Unit::Steps);
        let mut digests = Sensitive::new(ImageDigests::with_capacity(total));
        let (mut done, mut begin) = (0, 0);
        let participation = &self.participation;
        let read = self.source.for_each_batch(batch_size, |batch| {
            let range = begin..begin + batch.len();
            begin = range.end;
            let kept = participation.map_ref(|images| {
                let kept = images.kept.get(range);
                kept.unwrap_or_default().to_vec()
            });
            let batch = Sensitive::new(batch).zip(kept, |batch, kept| batch.select(&kept));
            add_digests(&mut digests, &batch);
            take(batch).map_err(EachError::Other)?;
            done += batch_size;
            observer.advance(done.min(total) as u64);
            let checked = observer.end_if_cancelled();
            checked.map_err(|cancelled| EachError::Other(DatasetError::from(cancelled).into()))
        });
        read.map_err(|error| error.of_source(&self.path))?;
        observer.end();
        if !same_data(fingerprint, &self.fingerprint(digests)) {
            let message = "the private images changed while they were read: do not change them \
                           during a run";
            let error = PrivacyError::PrivateData {
                message: message.to_owned(),
            };
            return Err(DatasetError::from(error).into());
        }
        Ok(())
    }
}

/// Fingerprints images: the class names, labels and clients, and the digests of the images, which
/// are not copied, because there may be millions.
fn fingerprint<'a>(
    classes: &str,
    (labels, clients): &(Vec<u8>, Option<Vec<u8>>),
    count: usize,
    digests: impl Iterator<Item = &'a [u8]>,
) -> Fingerprint {
    let mut hasher = FingerprintHasher::default();
    hasher.part(classes.as_bytes());
    hasher.part(labels);
    hasher.chunks(count * ImageDigests::DIGEST, digests);
    if let Some(clients) = clients {
        hasher.part(clients);
    }
    hasher.finish()
}

/// Returns what the source knows of each image without reading it.
fn listed(source: &ImageSource) -> Listed {
    Listed {
        labels: source.labels().to_vec(),
        clients: source.clients().map(<[u32]>::to_vec),
    }
}

/// Lets the image source report its own errors through the error type of a caller.
enum EachError<E> {
    /// An error of the source.
    Source(ImagesError),
    /// An error of the caller.
    Other(E),
}

impl<E> From<ImagesError> for EachError<E> {
    fn from(error: ImagesError) -> Self {
        Self::Source(error)
    }
}

impl<E: From<DatasetError>> EachError<E> {
    /// Returns the error of reading the private images at `path`.
    fn of_source(self, path: &Path) -> E {
        match self {
            Self::Source(error) => DatasetError::of_source(error, path).into(),
            Self::Other(error) => error,
        }
    }
}

/// Appends the SHA-256 of each image.
fn add_digests(digests: &mut Sensitive<ImageDigests>, batch: &Sensitive<ImageBatch>) {
    let of_batch = batch.map_ref(|batch| {
        let mut digests = ImageDigests::none();
        batch.iter().for_each(|image| digests.push(image));
        digests
    });
    digests.extend_with(of_batch, ImageDigests::extend);
}

/// Writes number and dimension as `u64`, then all values as `float32`, little-endian.
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
