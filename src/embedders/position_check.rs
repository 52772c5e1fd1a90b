//! A test of an embedder: does the vector of an image depend on its place in a batch or on the
//! other images?
//!
//! The privacy guarantee assumes that each private image is embedded by itself: one image more or
//! less moves the places of all later ones, and must not move their vectors. The operators of this
//! project compute each image alike on the CPU. The libraries of a GPU may divide the work of a
//! batch into tiles that are rounded differently, so that has to be tried on the device itself.

use super::{Embedder, EmbedderError, Embeddings, embed_all};
use crate::images::ImageBatch;
use crate::streams::{Phase, RngKey};

/// Seed of the images, any number that no run has by default.
const SEED: u64 = 0x706f_7369_7469_6f6e;
/// Most images that are also embedded alone.
const ALONE: usize = 16;

/// Embeds public images, made from a fixed key, alone, at several places of full batches, in
/// batches of several sizes and beside several other images. Returns true if the vectors are the
/// same to the last bit. `image_size` is (height, width) of the images.
///
/// This is a test and no proof: another place or other images may still differ.
///
/// # Errors
/// [`EmbedderError`].
pub fn is_independent_of_position(
    embedder: &dyn Embedder,
    image_size: (usize, usize),
) -> Result<bool, EmbedderError> {
    let size = embedder.batch_size().max(2);
    let images = noise(0, size, image_size)?;
    let vectors = embed_all(embedder, &images)?;
    let place_of = |place: usize, by: usize| (place + size - by % size) % size;

    // Alone.
    let stride = size.div_ceil(ALONE);
    let probes: Vec<usize> = (0..size).step_by(stride).collect();
    for &probe in &probes {
        let alone = embed_all(embedder, &images.slice(probe..probe + 1))?;
        if !equal(alone.data(), vectors.rows(probe..probe + 1)) {
            return Ok(false);
        }
    }
    // At other places.
    for by in [1, 2, 3, size / 4, size / 2, size - 1] {
        let order: Vec<usize> = (0..size).map(|place| place_of(place, by)).collect();
        if !same(embedder, &pick(&images, &order)?, &vectors.gather(&order))? {
            return Ok(false);
        }
    }
    // In batches that are not full, and in a second batch.
    for len in [2, 3, size / 2 + 1, size - 1, size + size / 2] {
        let order: Vec<usize> = (0..len).map(|place| place_of(place, 1)).collect();
        if !same(embedder, &pick(&images, &order)?, &vectors.gather(&order))? {
            return Ok(false);
        }
    }
    // Beside other images: black, white, and noise of another key.
    let image_len = images.image_len();
    for other in [
        vec![0; image_len],
        vec![u8::MAX; image_len],
        noise(1, 1, image_size)?.data().to_vec(),
    ] {
        let mut data = images.data().to_vec();
        for (place, image) in data.chunks_exact_mut(image_len.max(1)).enumerate() {
            if !place.is_multiple_of(stride) {
                image.copy_from_slice(&other);
            }
        }
        let mixed = ImageBatch::new(data, size, image_size.0, image_size.1)?;
        let embedded = embed_all(embedder, &mixed)?.gather(&probes);
        if !equal(embedded.data(), vectors.gather(&probes).data()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true if the images have these vectors.
fn same(
    embedder: &dyn Embedder,
    images: &ImageBatch,
    expected: &Embeddings,
) -> Result<bool, EmbedderError> {
    Ok(equal(embed_all(embedder, images)?.data(), expected.data()))
}

/// Compares bits, so that −0 and 0 differ and NaN equals itself.
fn equal(a: &[f32], b: &[f32]) -> bool {
    let bits = |numbers: &[f32]| -> Vec<u32> { numbers.iter().map(|n| n.to_bits()).collect() };
    bits(a) == bits(b)
}

/// Returns the images of `order`.
fn pick(images: &ImageBatch, order: &[usize]) -> Result<ImageBatch, EmbedderError> {
    let data: Vec<u8> = order
        .iter()
        .flat_map(|&image| images.get(image).unwrap_or_default())
        .copied()
        .collect();
    Ok(ImageBatch::new(
        data,
        order.len(),
        images.height(),
        images.width(),
    )?)
}

/// Returns images of uniform noise.
fn noise(
    repeat: u32,
    count: usize,
    (height, width): (usize, usize),
) -> Result<ImageBatch, EmbedderError> {
    let mut rng = RngKey {
        seed: SEED,
        phase: Phase::Evaluate,
        iteration: 0,
        repeat,
        sample: 0,
    }
    .rng();
    let data = (0..count * height * width * 3).map(|_| rng.below(256) as u8);
    Ok(ImageBatch::new(data.collect(), count, height, width)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedders::{PixelsConfig, PixelsEmbedder};

    /// The way in which an embedder's vectors depend on more than their image.
    #[derive(Clone, Copy, PartialEq)]
    enum Cheat {
        Nothing,
        /// On the place, in the second half of a batch.
        Place,
        /// On the number of images in the batch.
        Size,
        /// On the image before it.
        Neighbor,
        /// Only the last place, in the last bit.
        LastBit,
    }

    struct Cheating(Cheat);

    impl Embedder for Cheating {
        fn dimension(&self) -> usize {
            2
        }

        fn batch_size(&self) -> usize {
            40
        }

        fn embed(&self, images: &ImageBatch) -> Result<Embeddings, EmbedderError> {
            let mut data = Vec::new();
            let mut before = 0;
            for (place, image) in images.iter().enumerate() {
                let sum: u32 = image.iter().map(|v| u32::from(*v)).sum();
                let second = match self.0 {
                    Cheat::Nothing => 0.0,
                    Cheat::Place => f32::from(u8::from(place >= 20)),
                    Cheat::Size => f32::from(u8::from(images.len() == 40)),
                    Cheat::Neighbor => before as f32,
                    Cheat::LastBit if place == 39 => -0.0,
                    Cheat::LastBit => 0.0,
                };
                data.extend([sum as f32, second]);
                before = sum;
            }
            Ok(Embeddings::new(data, 2).unwrap())
        }
    }

    #[test]
    fn every_dependence_is_found() {
        let independent = |cheat| is_independent_of_position(&Cheating(cheat), (4, 4)).unwrap();
        assert!(independent(Cheat::Nothing));
        for cheat in [Cheat::Place, Cheat::Size, Cheat::Neighbor, Cheat::LastBit] {
            assert!(!independent(cheat));
        }
    }

    #[test]
    fn pixels_depend_on_their_image_alone() {
        let config = PixelsConfig {
            size: Some(3),
            grayscale: true,
        };
        let pixels = PixelsEmbedder::new(&config, (4, 4)).unwrap();
        assert!(is_independent_of_position(&pixels, (4, 4)).unwrap());
    }
}
