//! A set of public images at the size of a run, kept on disk.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};

use super::cache::{key_of, root};
use super::{BlockStore, PublicImagesConfig, PublicImagesError};
use crate::hex;
use crate::images::{DataConfig, ImageBatch, ImageSize, ImageSource, content_digests_with};
use crate::privacy::ImageDigests;
use crate::progress::{Observer, Unit};

/// Images of a batch that is read for digests alone.
const BATCH: usize = 512;
/// Hexadecimal digits of a digest in the name of a folder: 128 bits.
const NAME_DIGITS: usize = 32;

/// Public images at one size. They are decoded once, and then read from a cache whose files belong
/// to the content of the images and to everything that their pixels depend on.
#[derive(Debug)]
pub struct PublicImages {
    config: PublicImagesConfig,
    size: ImageSize,
    /// The folder of everything that is computed from these images.
    folder: PathBuf,
    pixels: BlockStore,
    digests: ImageDigests,
}

impl PublicImages {
    /// Reads the images, or the cache of them. Copies of one configuration share what is opened.
    ///
    /// # Errors
    /// See [`PublicImagesError`].
    pub fn open(
        config: &PublicImagesConfig,
        size: ImageSize,
        observer: &dyn Observer,
    ) -> Result<Arc<Self>, PublicImagesError> {
        let mut opened = config
            .opened
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let sets = opened.iter().cloned();
        let sets = sets.filter_map(|set| set.downcast::<Self>().ok());
        if let Some(set) = { sets }.find(|set| set.size == size) {
            return Ok(set);
        }
        let set = Arc::new(Self::read(config, size, observer)?);
        opened.push(Arc::<Self>::clone(&set));
        Ok(set)
    }

    fn read(
        config: &PublicImagesConfig,
        size: ImageSize,
        observer: &dyn Observer,
    ) -> Result<Self, PublicImagesError> {
        let (content, count) = content_of(config, observer)?;
        let name: String = content.chars().take(NAME_DIGITS).collect();
        let folder = root(config.cache.as_deref())?.join(name);
        let key = key_of(&serde_json::json!({
            "pixels": content,
            "size": size.pair(),
            "sixteen_bit": config.sixteen_bit,
            "alpha": config.alpha,
            "orientation": config.orientation,
            "page": config.page,
        }));
        let row_len = size.height * size.width * 3;
        let pixels = folder.join(format!("pixels-{}", short(&key)));
        let mut set = Self {
            // The list of what is opened is that of the caller, which must not contain itself.
            config: PublicImagesConfig {
                opened: super::OpenedSets::default(),
                ..config.clone()
            },
            size,
            folder,
            pixels: BlockStore::new(pixels, key, count, row_len),
            digests: ImageDigests::none(),
        };
        set.digests = match set.verified(observer)? {
            Some(digests) => digests,
            None => set.fill(observer)?,
        };
        Ok(set)
    }

    /// Returns the digests of the images in the cache; `None` if it is not complete.
    fn verified(&self, observer: &dyn Observer) -> Result<Option<ImageDigests>, PublicImagesError> {
        if !self.pixels.exists() {
            return Ok(None);
        }
        let mut digests = ImageDigests::with_capacity(self.len());
        observer.begin("checking the cache", Some(self.len() as u64), Unit::Steps);
        for rows in self.pixels.blocks() {
            observer.end_if_cancelled()?;
            let Some(of_rows) = self.pixels.verify(&rows)? else {
                observer.end();
                observer.message(
                    "the cache of the public images is incomplete or damaged: it is made again",
                );
                return Ok(None);
            };
            digests.extend(ImageDigests::of_digests(of_rows));
            observer.advance(rows.end as u64);
        }
        observer.end();
        Ok(Some(digests))
    }

    /// Decodes all images into the cache and returns their digests.
    fn fill(&self, observer: &dyn Observer) -> Result<ImageDigests, PublicImagesError> {
        let mut source = ImageSource::open(&self.config.data(self.size))?;
        let mut digests = ImageDigests::with_capacity(self.len());
        let stage = "decoding public images";
        observer.begin(stage, Some(self.len() as u64), Unit::Steps);
        source.for_each_batch(self.pixels.rows_per_block(), |batch| {
            observer.end_if_cancelled()?;
            let rows = digests.len()..digests.len() + batch.len();
            let written = self.pixels.write(&rows, batch.data())?;
            digests.extend(ImageDigests::of_digests(written));
            observer.advance(rows.end as u64);
            Ok::<(), PublicImagesError>(())
        })?;
        observer.end();
        if digests.len() != self.len() {
            return Err(PublicImagesError::ImagesChanged {
                path: self.config.path.clone(),
            });
        }
        Ok(digests)
    }

    /// Removes everything that was computed from these images from the cache.
    ///
    /// # Errors
    /// [`PublicImagesError::Cache`].
    pub fn discard(&self) -> Result<(), PublicImagesError> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(PublicImagesError::cache(&self.folder)),
        }
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pixels.count()
    }

    /// Returns true if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the size of the images.
    #[must_use]
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &PublicImagesConfig {
        &self.config
    }

    /// Returns the SHA-256, in hexadecimal digits, of the pixels of all images in order.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        self.digests.iter().for_each(|digest| hasher.update(digest));
        hex::encode(&hasher.finalize())
    }

    /// Returns the SHA-256 of the pixels of an image.
    #[must_use]
    pub fn image_digest(&self, index: usize) -> Option<&[u8]> {
        self.digests.get(index)
    }

    /// Returns the number of images in all ranges of [`PublicImages::blocks`] but the last one.
    #[must_use]
    pub fn rows_per_block(&self) -> usize {
        self.pixels.rows_per_block()
    }

    /// Describes rows of `row_len` bytes that are computed from these images and belong to `key`,
    /// in the cache of these images.
    #[must_use]
    pub fn store(&self, name: &str, key: [u8; 32], count: usize, row_len: usize) -> BlockStore {
        let folder = self.folder.join(format!("{name}-{}", short(&key)));
        BlockStore::new(folder, key, count, row_len)
    }

    /// Returns ranges of images, in order, each of which fits into memory.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        self.pixels.blocks()
    }

    /// Reads one of the ranges of [`PublicImages::blocks`].
    ///
    /// # Errors
    /// See [`PublicImagesError`].
    pub fn block(&self, rows: &Range<usize>) -> Result<ImageBatch, PublicImagesError> {
        self.batch(self.pixels.read(rows)?, rows.len())
    }

    /// Reads single images, in the order of `indices`.
    ///
    /// # Errors
    /// See [`PublicImagesError`].
    pub fn gather(&self, indices: &[usize]) -> Result<ImageBatch, PublicImagesError> {
        self.batch(self.pixels.read_rows(indices)?, indices.len())
    }

    fn batch(&self, pixels: Vec<u8>, count: usize) -> Result<ImageBatch, PublicImagesError> {
        Ok(ImageBatch::new(
            pixels,
            count,
            self.size.height,
            self.size.width,
        )?)
    }

    /// Returns the digests of the images, read as `private` reads private images, so that those
    /// which are the same have the same digests.
    ///
    /// # Errors
    /// See [`PublicImagesError`].
    pub fn digests_as(
        &self,
        private: &DataConfig,
        observer: &dyn Observer,
    ) -> Result<ImageDigests, PublicImagesError> {
        let own = self.config.data(self.size);
        let alike = DataConfig {
            image_size: private.image_size,
            sixteen_bit: private.sixteen_bit,
            alpha: private.alpha,
            orientation: private.orientation,
            page: private.page,
            ..own.clone()
        };
        if alike == own {
            return Ok(self.digests.clone());
        }
        let mut source = ImageSource::open(&alike)?;
        let mut digests = ImageDigests::with_capacity(self.len());
        let stage = "reading public images";
        observer.begin(stage, Some(self.len() as u64), Unit::Steps);
        source.for_each_batch(BATCH, |batch| {
            observer.end_if_cancelled()?;
            batch.iter().for_each(|image| digests.push(image));
            observer.advance(digests.len() as u64);
            Ok::<(), PublicImagesError>(())
        })?;
        observer.end();
        Ok(digests)
    }

    /// Returns the path of the images.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.config.path
    }
}

/// Returns a digest of the content of all images in order, and their number.
fn content_of(
    config: &PublicImagesConfig,
    observer: &dyn Observer,
) -> Result<(String, usize), PublicImagesError> {
    let mut hasher = Sha256::new();
    let mut count = 0;
    observer.begin("examining public images", None, Unit::Steps);
    content_digests_with(&config.data(ImageSize::square(1)), |digests| {
        hasher.update(digests.as_flattened());
        count += digests.len();
        observer.advance(count as u64);
        observer.end_if_cancelled()?;
        Ok::<(), PublicImagesError>(())
    })?;
    observer.end();
    if count == 0 {
        // The source reports what it expected.
        ImageSource::open(&config.data(ImageSize::square(1)))?;
    }
    Ok((hex::encode(&hasher.finalize()), count))
}

/// Returns the first digits of a key, for the name of a folder.
fn short(key: &[u8; 32]) -> String {
    hex::encode(key).chars().take(NAME_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::png;
    use crate::progress::Silent;

    /// Writes 9 images of 4x4 pixels; returns the configuration.
    fn pool(folder: &Path) -> PublicImagesConfig {
        let images = folder.join("images");
        std::fs::create_dir(&images).unwrap();
        for index in 0..9u8 {
            let pixels = (0..48).map(|v| v * 5 + index).collect();
            let image = ImageBatch::new(pixels, 1, 4, 4).unwrap();
            std::fs::write(images.join(format!("{index}.png")), png(&image).unwrap()).unwrap();
        }
        PublicImagesConfig {
            path: images,
            cache: Some(folder.join("cache")),
            ..PublicImagesConfig::default()
        }
    }

    fn open(config: &PublicImagesConfig, side: usize) -> Arc<PublicImages> {
        PublicImages::open(config, ImageSize::square(side), &Silent).unwrap()
    }

    /// The same images without what is opened already.
    fn anew(config: &PublicImagesConfig) -> PublicImagesConfig {
        PublicImagesConfig {
            opened: super::super::OpenedSets::default(),
            ..config.clone()
        }
    }

    #[test]
    fn images_come_from_the_cache_and_damage_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let config = pool(folder.path());
        let set = open(&config, 4);
        assert_eq!(set.len(), 9);
        let all = set.block(&(0..9)).unwrap();
        assert_eq!(all.get(3).unwrap()[..2], [3, 8]);
        let chosen = set.gather(&[8, 0]).unwrap();
        assert_eq!(chosen.get(0), all.get(8));
        assert_eq!(chosen.get(1), all.get(0));
        assert!(Arc::ptr_eq(&set, &open(&config.clone(), 4)));
        let file = set.pixels.folder().join("00000000.rows");
        let whole = std::fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[200] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let again = open(&anew(&config), 4);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
        assert_eq!(again.digest(), set.digest());
        assert_eq!(again.digests, set.digests);
    }

    #[test]
    fn changed_images_and_other_sizes_have_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let config = pool(folder.path());
        let set = open(&config, 4);
        let smaller = open(&config, 2);
        assert_eq!(smaller.block(&(0..9)).unwrap().image_len(), 12);
        assert_ne!(smaller.digest(), set.digest());
        assert_eq!(
            smaller
                .digests_as(&DataConfig::new("x", 4), &Silent)
                .unwrap(),
            set.digests
        );
        let other = DataConfig {
            page: 1,
            ..DataConfig::new("x", 4)
        };
        // PNG files have no pages, so the images are read again and are the same.
        assert_eq!(set.digests_as(&other, &Silent).unwrap(), set.digests);
        let extra = ImageBatch::new(vec![9; 48], 1, 4, 4).unwrap();
        std::fs::write(config.path.join("a.png"), png(&extra).unwrap()).unwrap();
        let more = open(&anew(&config), 4);
        assert_eq!(more.len(), 10);
        assert_ne!(more.folder, set.folder);
    }
}
