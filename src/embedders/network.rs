//! The parts that all embedders with a network share: the private images' size, batches, and the
//! normalization of channels.

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use rayon::prelude::*;

use super::{EmbedderError, Embeddings};
use crate::images::{Filter, ImageBatch, Resampler};
use crate::sections::InvalidKey;

/// Images on their way into a network: first brought to the private images' size, then batch by
/// batch to the network's device.
#[derive(Debug)]
pub(super) struct NetworkInput {
    resolution: usize,
    batch_size: usize,
    device: Device,
}

impl NetworkInput {
    /// Returns an error that names the key if a value is 0.
    pub fn check(resolution: usize, batch_size: usize) -> Result<(), InvalidKey> {
        at_least_one("resolution", resolution)?;
        at_least_one("batch_size", batch_size)
    }

    /// Prepares batches of `batch_size` for a network on `device`.
    ///
    /// # Errors
    /// [`EmbedderError::Config`] when `resolution` or `batch_size` is 0.
    pub fn new(
        resolution: usize,
        batch_size: usize,
        device: Device,
    ) -> Result<Self, EmbedderError> {
        Self::check(resolution, batch_size)?;
        Ok(Self {
            resolution,
            batch_size,
            device,
        })
    }

    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn overlaps_host_work(&self) -> bool {
        !self.device.is_cpu()
    }

    /// Resizes the images to the private images' size.
    ///
    /// # Errors
    /// [`EmbedderError::Resize`] when the images cannot be resampled.
    pub fn at_private_size(&self, images: &ImageBatch) -> Result<ImageBatch, EmbedderError> {
        resize_rounded(images, self.resolution)
    }

    /// Embeds any number of images: `prepare` turns a batch at the private images' size into the
    /// network's input `f32[images, …]`, and `network` turns that into `f32[images, dimension]`.
    ///
    /// # Errors
    /// Those of `prepare` and `network`, and [`EmbedderError::Dimension`].
    pub fn embed(
        &self,
        images: &ImageBatch,
        dimension: usize,
        prepare: impl Fn(&ImageBatch) -> Result<Tensor, EmbedderError>,
        network: impl Fn(&Tensor) -> TensorResult<Tensor>,
    ) -> Result<Embeddings, EmbedderError> {
        let mut data = Vec::with_capacity(images.len() * dimension);
        for start in (0..images.len()).step_by(self.batch_size) {
            let chunk = images.slice(start..start.saturating_add(self.batch_size));
            let mut input = prepare(&self.at_private_size(&chunk)?)?;
            if !self.device.is_cpu() && chunk.len() < self.batch_size {
                // A GPU may choose another algorithm for another batch size, and with it another
                // rounding: one private image more or less must not move the others' vectors.
                let mut shape = input.dims().to_vec();
                if let Some(rows) = shape.first_mut() {
                    *rows = self.batch_size - chunk.len();
                }
                let rest = Tensor::zeros(shape, DType::F32, &self.device)?;
                input = Tensor::cat(&[&input, &rest], 0)?;
            }
            let vectors = network(&input)?.narrow(0, 0, chunk.len())?;
            data.extend(vectors.flatten_all()?.to_vec1::<f32>()?);
        }
        Embeddings::new(data, dimension).ok_or(EmbedderError::Dimension)
    }
}

/// Returns an error if `value`, the value of `key`, is 0.
pub(super) fn at_least_one(key: &str, value: usize) -> Result<(), InvalidKey> {
    if value == 0 {
        return Err(InvalidKey::new(key, "is 0: expected at least 1"));
    }
    Ok(())
}

/// Resamples to `size` × `size` with clean-fid's bicubic filter and rounds half to even. Images of
/// that size stay as they are.
///
/// # Errors
/// [`EmbedderError::Resize`] when the images cannot be resampled.
pub(super) fn resize_rounded(
    images: &ImageBatch,
    size: usize,
) -> Result<ImageBatch, EmbedderError> {
    let from = (images.height(), images.width());
    if from == (size, size) {
        return Ok(images.clone());
    }
    Ok(Resampler::new(Filter::Bicubic, from, (size, size))?.batch_rounded(images)?)
}

/// Returns `(level / 255 − mean) / std` of each channel: `f32[images, 3, height, width]` on
/// `device` (`T.ToTensor` and `T.Normalize` of torchvision).
///
/// # Errors
/// [`EmbedderError::Network`] when the device fails.
pub(super) fn normalized(
    images: &ImageBatch,
    mean: [f32; 3],
    std: [f32; 3],
    device: &Device,
) -> Result<Tensor, EmbedderError> {
    let (height, width) = (images.height(), images.width());
    let mut planes = vec![0f32; images.len() * 3 * height * width];
    planes
        .par_chunks_exact_mut((height * width).max(1))
        .enumerate()
        .for_each(|(index, plane)| {
            let (image, channel) = (index / 3, index % 3);
            let image = images.get(image).unwrap_or_default();
            let levels = image.iter().skip(channel).step_by(3);
            for (to, level) in plane.iter_mut().zip(levels) {
                *to = (f32::from(*level) / 255.0 - mean[channel]) / std[channel];
            }
        });
    let shape = (images.len(), 3, height, width);
    Ok(Tensor::from_vec(planes, shape, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_follows_resampling_and_equal_sizes_are_kept() {
        let images = ImageBatch::new((0..48).map(|v| v * 5).collect(), 1, 4, 4).unwrap();
        assert!(resize_rounded(&images, 4).unwrap() == images);
        let halved = resize_rounded(&images, 2).unwrap();
        assert_eq!((halved.len(), halved.height(), halved.width()), (1, 2, 2));
        // The image is a linear ramp, 15 a column and 60 a row, and so symmetric about its middle.
        let sum = u32::from(halved.data()[0]) + u32::from(halved.data()[9]);
        assert!(sum.abs_diff(225) <= 1, "{sum}");
    }
}
