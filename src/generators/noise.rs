//! Standard normal noise for a batch of images, each from its own random stream.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::SampleRequest;
use crate::streams::KeyedRng;

/// The random streams of a batch of images. The i-th tensor holds the i-th noise of every image,
/// independent of the other images in the batch.
pub struct BatchNoise {
    streams: Vec<KeyedRng>,
    shape: (usize, usize, usize),
    device: Device,
}

impl BatchNoise {
    /// Creates the streams of `requests` for noise of `shape` (channels, height, width).
    #[must_use]
    pub fn new(requests: &[SampleRequest], shape: (usize, usize, usize), device: &Device) -> Self {
        Self {
            streams: requests
                .iter()
                .map(|request| request.rng_key.rng())
                .collect(),
            shape,
            device: device.clone(),
        }
    }

    /// Returns the next noise of every image: `float32 [images, channels, height, width]` on the
    /// device.
    ///
    /// # Errors
    /// candle's error if the device has no memory.
    pub fn sample(&mut self) -> Result<Tensor> {
        let (channels, height, width) = self.shape;
        let image_len = channels * height * width;
        let mut values = vec![0f32; self.streams.len() * image_len];
        values
            .par_chunks_exact_mut(image_len.max(1))
            .zip(&mut self.streams)
            .for_each(|(image, stream)| stream.fill_normal(image));
        let shape = (self.streams.len(), channels, height, width);
        Tensor::from_vec(values, shape, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::Condition;
    use crate::streams::{Phase, RngKey};

    fn request(sample: u64) -> SampleRequest {
        SampleRequest {
            condition: Condition::UNCONDITIONAL,
            rng_key: RngKey {
                seed: 3,
                phase: Phase::Vary,
                iteration: 1,
                repeat: 0,
                sample,
            },
        }
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_image_reads_its_own_stream_in_order() {
        let mut both = BatchNoise::new(&[request(5), request(6)], (3, 2, 2), &Device::Cpu);
        let mut alone =
            [5, 6].map(|sample| BatchNoise::new(&[request(sample)], (3, 2, 2), &Device::Cpu));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let batch = values(&both.sample().unwrap());
            let [first, second] = alone.each_mut().map(|one| values(&one.sample().unwrap()));
            assert_eq!(batch, [first.clone(), second.clone()].concat());
            seen.extend([first, second]);
        }
        let different = |(index, one): (usize, &Vec<f32>)| !seen[..index].contains(one);
        assert!(seen.iter().enumerate().all(different));
    }
}
