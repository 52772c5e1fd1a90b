//! Standard normal noise for a batch, each image's from its own stream.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::SampleRequest;
use crate::streams::KeyedRng;

/// The streams of a batch of images, read side by side: the i-th tensor holds every image's i-th
/// draw, whatever else is in the batch.
pub struct BatchNoise {
    streams: Vec<KeyedRng>,
    shape: (usize, usize, usize),
    device: Device,
}

impl BatchNoise {
    /// Opens the streams of `requests`; each tensor's images have `shape` (channels, height, width).
    #[must_use]
    pub fn new(requests: &[SampleRequest], shape: (usize, usize, usize), device: &Device) -> Self {
        Self {
            streams: requests.iter().map(|draw| draw.rng_key.rng()).collect(),
            shape,
            device: device.clone(),
        }
    }

    /// The next draw of every image: float32 `[images, channels, height, width]` on the device.
    ///
    /// # Errors
    /// candle's, when the device has no room.
    pub fn draw(&mut self) -> Result<Tensor> {
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

    fn draw(sample: u64) -> SampleRequest {
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
        let mut both = BatchNoise::new(&[draw(5), draw(6)], (3, 2, 2), &Device::Cpu);
        let mut alone =
            [5, 6].map(|sample| BatchNoise::new(&[draw(sample)], (3, 2, 2), &Device::Cpu));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let batch = values(&both.draw().unwrap());
            let [first, second] = alone.each_mut().map(|one| values(&one.draw().unwrap()));
            assert_eq!(batch, [first.clone(), second.clone()].concat());
            seen.extend([first, second]);
        }
        let different = |(index, one): (usize, &Vec<f32>)| !seen[..index].contains(one);
        assert!(seen.iter().enumerate().all(different));
    }
}
