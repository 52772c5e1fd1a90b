//! The vectors of a pool, on disk.

use crate::embedders::{Embedder, embed_all};
use crate::generators::GeneratorError;
use crate::progress::{Observer, Unit};
use crate::public_images::{BlockStore, PublicImages, PublicImagesError};

use super::nearest::{Queries, Tile};

/// The vector of each image: `f32 [images, dimension]`, all finite.
pub(super) struct Vectors {
    store: BlockStore,
    dimension: usize,
}

impl Vectors {
    /// Embeds the images, or those whose vectors are not in the cache. `key` is a digest of
    /// everything that the vectors depend on.
    pub(super) fn open(
        images: &PublicImages,
        embedder: &dyn Embedder,
        key: [u8; 32],
        observer: &dyn Observer,
    ) -> Result<Self, GeneratorError> {
        let dimension = embedder.dimension();
        let row_len = dimension * size_of::<f32>();
        let store = images.store("vectors", key, images.len(), row_len);
        let existed = store.exists();
        let mut repaired = false;
        observer.begin("embedding the pool", Some(images.len() as u64), Unit::Steps);
        let step = embedder.batch_size().clamp(1, images.rows_per_block());
        for rows in store.blocks() {
            observer
                .end_if_cancelled()
                .map_err(PublicImagesError::from)?;
            if store.verify(&rows)?.is_none() {
                repaired |= existed;
                let mut bytes = Vec::with_capacity(rows.len() * row_len);
                for start in rows.clone().step_by(step) {
                    observer
                        .end_if_cancelled()
                        .map_err(PublicImagesError::from)?;
                    let batch: Vec<usize> = (start..(start + step).min(rows.end)).collect();
                    let vectors = embed_all(embedder, &images.gather(&batch)?)?;
                    let values = vectors.data();
                    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                        let image = start + place / dimension.max(1);
                        let message = format!("the vector of image {image} is not finite");
                        return Err(GeneratorError::Input(message));
                    }
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    observer.advance((start + batch.len()) as u64);
                }
                store.write(&rows, &bytes)?;
            }
            observer.advance(rows.end as u64);
        }
        observer.end();
        if repaired {
            observer.message("vectors of the pool were missing or damaged: they were made again");
        }
        Ok(Self { store, dimension })
    }

    /// Returns the numbers in a vector.
    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Reads the vectors of single images: `f32 [indices, dimension]`.
    pub(super) fn gather(&self, indices: &[usize]) -> Result<Vec<f32>, PublicImagesError> {
        Ok(numbers(&self.store.read_rows(indices)?))
    }

    /// Returns the images that are nearest to each of `vectors`, `f32 [queries, dimension]`,
    /// nearest first: `wanted` of each, or all that `allowed` permits. `allowed` tells whether an
    /// image (second number) may be a neighbor of a query (first number).
    pub(super) fn nearest(
        &self,
        vectors: Vec<f32>,
        wanted: &[usize],
        allowed: &(impl Fn(usize, usize) -> bool + Sync),
    ) -> Result<Vec<Vec<u32>>, PublicImagesError> {
        let mut queries = Queries::new(vectors, self.dimension, wanted);
        for rows in self.store.blocks() {
            let vectors = numbers(&self.store.read(&rows)?);
            let block = Tile {
                first: rows.start,
                vectors: &vectors,
            };
            queries.search(block, allowed);
        }
        Ok(queries.finish())
    }
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    let numbers = bytes.as_chunks().0.iter();
    numbers.map(|number| f32::from_le_bytes(*number)).collect()
}
