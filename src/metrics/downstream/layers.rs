//! Trainable layers on feature maps `[n, h, w, channels]`, made of operators that candle can
//! differentiate.
//!
//! Normalization and the fully connected layer are those of candle_nn. Its convolution has no place
//! here: see [`Conv::forward`].

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, ModuleT};

use super::unfold::Windows;
use crate::streams::KeyedRng;

/// Everything that is trained.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(pub Vec<Var>);

impl Parameters {
    fn add(&mut self, tensor: &Tensor) -> Result<Var> {
        let var = Var::from_tensor(tensor)?;
        self.0.push(var.clone());
        Ok(var)
    }
}

/// Normal numbers of variance `2 / fan_in` (He et al. 2015, arXiv 1502.01852).
fn he_normal(
    shape: (usize, usize),
    fan_in: usize,
    stream: &mut KeyedRng,
    device: &Device,
) -> Result<Tensor> {
    let mut values = vec![0f32; shape.0 * shape.1];
    stream.fill_normal(&mut values);
    let scale = (2.0 / fan_in.max(1) as f32).sqrt();
    for value in &mut values {
        *value *= scale;
    }
    Tensor::from_vec(values, shape, device)
}

/// A convolution without a bias.
#[derive(Debug, Clone)]
pub(super) struct Conv {
    windows: Windows,
    /// `[kernel · kernel · in, out]`.
    weight: Var,
    channels: (usize, usize),
}

impl Conv {
    /// Keeps the size of the map but for the stride.
    pub fn new(
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
        stream: &mut KeyedRng,
        parameters: &mut Parameters,
        device: &Device,
    ) -> Result<Self> {
        let depth = kernel * kernel * channels.0;
        let weight = he_normal((depth, channels.1), depth, stream, device)?;
        Ok(Self {
            windows: Windows {
                kernel,
                stride,
                padding: kernel / 2,
            },
            weight: parameters.add(&weight)?,
            channels,
        })
    }

    /// On the CPU as a product of unfolded patches, elsewhere by candle's convolution, whose
    /// gradient is an error where rows and columns leave different rests under the stride: GPUs
    /// train on square images.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Windows {
            kernel,
            stride,
            padding,
        } = self.windows;
        let (inputs, outputs) = self.channels;
        if x.device().is_cpu() {
            let patches = if kernel == 1 && stride == 1 {
                x.clone()
            } else {
                self.windows.unfold(x)?
            };
            let (n, height, width, depth) = patches.dims4()?;
            let y = patches.reshape(((), depth))?.matmul(&self.weight)?;
            return y.reshape((n, height, width, outputs));
        }
        let kernels = self.weight.reshape((kernel, kernel, inputs, outputs))?;
        let kernels = kernels.permute((3, 2, 0, 1))?.contiguous()?;
        let planes = x.permute((0, 3, 1, 2))?.contiguous()?;
        let y = planes.conv2d(&kernels, padding, stride, 1, 1)?;
        y.permute((0, 2, 3, 1))?.contiguous()
    }
}

/// Returns a fully connected layer from `size.0` inputs to `size.1` outputs, `[n, in]` to
/// `[n, out]`, whose bias is 0 at first.
pub(super) fn linear(
    size: (usize, usize),
    stream: &mut KeyedRng,
    parameters: &mut Parameters,
    device: &Device,
) -> Result<Linear> {
    let weight = he_normal(size, size.0, stream, device)?.t()?.contiguous()?;
    let weight = parameters.add(&weight)?;
    let bias = parameters.add(&Tensor::zeros(size.1, DType::F32, device)?)?;
    Ok(Linear::new(
        weight.as_tensor().clone(),
        Some(bias.as_tensor().clone()),
    ))
}

/// Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167) by candle_nn.
#[derive(Debug, Clone)]
pub(super) struct BatchNorm(candle_nn::BatchNorm);

impl BatchNorm {
    /// PyTorch's default.
    const EPS: f64 = 1e-5;

    pub fn new(channels: usize, parameters: &mut Parameters, device: &Device) -> Result<Self> {
        let ones = Tensor::ones(channels, DType::F32, device)?;
        let zeros = ones.zeros_like()?;
        let gain = parameters.add(&ones)?.as_tensor().clone();
        let bias = parameters.add(&zeros)?.as_tensor().clone();
        let norm = candle_nn::BatchNorm::new(channels, zeros, ones, gain, bias, Self::EPS)?;
        Ok(Self(norm))
    }

    /// Normalizes `[n, h, w, channels]` by the statistics of the batch, which also change the
    /// running ones, or by the running ones. In training, n·h·w is at least 2: the variance of one
    /// number is undefined.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        // candle_nn has the channels in dimension 1, where those of a matrix of pixels are.
        let (n, height, width, channels) = x.dims4()?;
        let rows = x.reshape((n * height * width, channels))?;
        self.0.forward_t(&rows, train)?.reshape(x.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::testing::uniform;

    #[test]
    fn a_batch_is_normalized_and_remembered() {
        let mut parameters = Parameters::default();
        let norm = BatchNorm::new(3, &mut parameters, &Device::Cpu).unwrap();
        let x = ((uniform(&[4, 5, 5, 3], 1) * 2.0).unwrap() + 7.0).unwrap();
        let mut y = norm.forward(&x, true).unwrap();
        for channel in 0..3 {
            let values = y.narrow(3, channel, 1).unwrap().flatten_all().unwrap();
            let values: Vec<f32> = values.to_vec1().unwrap();
            let mean = values.iter().sum::<f32>() / 100.0;
            let variance = values.iter().map(|v| v * v).sum::<f32>() / 100.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3);
        }
        // Often enough, the running statistics are the batch's.
        for _ in 0..200 {
            y = norm.forward(&x, true).unwrap();
        }
        let tested = norm.forward(&x, false).unwrap();
        let apart = (tested - y).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 0.02);
        assert_eq!(parameters.0.len(), 2);
    }

    #[test]
    fn gradients_of_the_norm_are_the_differences() {
        let mut parameters = Parameters::default();
        let norm = BatchNorm::new(2, &mut parameters, &Device::Cpu).unwrap();
        let start = uniform(&[2, 2, 2, 2], 1);
        let pull = uniform(&[2, 2, 2, 2], 2);
        let value = |x: &Tensor| (norm.forward(x, true)? * &pull)?.sum_all();
        let x = Var::from_tensor(&start).unwrap();
        let grads = value(&x).unwrap().backward().unwrap();
        let gradient: Vec<f32> = grads
            .get(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let numbers: Vec<f32> = start.flatten_all().unwrap().to_vec1().unwrap();
        for (index, gradient) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut numbers = numbers.clone();
                numbers[index] += by;
                let x = Tensor::from_vec(numbers, (2, 2, 2, 2), &Device::Cpu).unwrap();
                value(&x).unwrap().to_scalar::<f32>().unwrap()
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (gradient - difference).abs() < 2e-2,
                "{gradient}, {difference}"
            );
        }
    }
}
