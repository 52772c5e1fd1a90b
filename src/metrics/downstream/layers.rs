//! Trainable layers on feature maps `[n, h, w, channels]`.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::Linear;

use crate::kernels::{BatchMoments, Conv2dShape, batch_norm_relu, fixed_norm_relu, trained_conv2d};
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
    dims: &[usize],
    fan_in: usize,
    stream: &mut KeyedRng,
    device: &Device,
) -> Result<Tensor> {
    let mut values = vec![0f32; dims.iter().product()];
    stream.fill_normal(&mut values);
    let scale = (2.0 / fan_in.max(1) as f32).sqrt();
    for value in &mut values {
        *value *= scale;
    }
    Tensor::from_vec(values, dims, device)
}

/// A convolution without a bias.
#[derive(Debug, Clone)]
pub(super) struct Conv {
    shape: Conv2dShape,
    /// `[out, in, kernel, kernel]`.
    weight: Var,
}

impl Conv {
    /// Creates a convolution that keeps the size of the map but for the stride.
    pub fn new(
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
        stream: &mut KeyedRng,
        parameters: &mut Parameters,
        device: &Device,
    ) -> Result<Self> {
        let dims = [channels.1, channels.0, kernel, kernel];
        let weight = he_normal(&dims, kernel * kernel * channels.0, stream, device)?;
        Ok(Self {
            shape: Conv2dShape::same(channels.0, channels.1, kernel).with_stride(stride),
            weight: parameters.add(&weight)?,
        })
    }

    /// Convolves `[n, h, w, in]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        trained_conv2d(self.shape, x, &self.weight)
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
    let weight = he_normal(&[size.1, size.0], size.0, stream, device)?;
    let weight = parameters.add(&weight)?;
    let bias = parameters.add(&Tensor::zeros(size.1, DType::F32, device)?)?;
    Ok(Linear::new(
        weight.as_tensor().clone(),
        Some(bias.as_tensor().clone()),
    ))
}

/// Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167) with ReLU.
#[derive(Debug, Clone)]
pub(super) struct BatchNormRelu {
    gain: Var,
    bias: Var,
    /// Exponential averages of the moments of all batches.
    running: (Var, Var),
}

impl BatchNormRelu {
    /// PyTorch's default.
    const EPS: f64 = 1e-5;
    /// Weight of the last batch in the averages; PyTorch's default.
    const MOMENTUM: f64 = 0.1;

    pub fn new(channels: usize, parameters: &mut Parameters, device: &Device) -> Result<Self> {
        let ones = Tensor::ones(channels, DType::F32, device)?;
        let zeros = ones.zeros_like()?;
        Ok(Self {
            gain: parameters.add(&ones)?,
            bias: parameters.add(&zeros)?,
            running: (Var::from_tensor(&zeros)?, Var::from_tensor(&ones)?),
        })
    }

    /// Normalizes `[n, h, w, channels]` by the moments of the batch, which also change the running
    /// ones, or by the running ones. In training, n·h·w is at least 2: the variance of one number
    /// is undefined.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (mean, variance) = &self.running;
        if !train {
            let moments = BatchMoments {
                mean: mean.as_tensor().detach(),
                variance: variance.as_tensor().detach(),
            };
            return fixed_norm_relu(x, &self.gain, &self.bias, &moments, Self::EPS);
        }
        let (n, height, width, _) = x.dims4()?;
        let count = (n * height * width) as f64;
        if count < 2.0 {
            bail!("the variance of one number is undefined: use larger images or batches");
        }
        let (y, moments) = batch_norm_relu(x, &self.gain, &self.bias, Self::EPS)?;
        // The averages are of the unbiased variance.
        let unbiased = (moments.variance * (count / (count - 1.0)))?;
        for (running, batch) in [(mean, moments.mean), (variance, unbiased)] {
            let old = (running.as_tensor().detach() * (1.0 - Self::MOMENTUM))?;
            running.set(&(old + (batch * Self::MOMENTUM)?)?)?;
        }
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::testing::uniform;

    #[test]
    fn a_batch_is_normalized_and_remembered() {
        let mut parameters = Parameters::default();
        let norm = BatchNormRelu::new(3, &mut parameters, &Device::Cpu).unwrap();
        let x = ((uniform(&[4, 5, 5, 3], 1) * 2.0).unwrap() + 7.0).unwrap();
        let mut y = norm.forward(&x, true).unwrap();
        let (mean, variance) = (&norm.running.0, &norm.running.1);
        let of_batch = x.reshape((100, 3)).unwrap();
        let expected = (of_batch.mean(0).unwrap() * 0.1).unwrap();
        let apart = (mean.as_tensor() - expected).unwrap().abs().unwrap();
        assert!(apart.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
        let expected = ((of_batch.var(0).unwrap() * 0.1).unwrap() + 0.9).unwrap();
        let apart = (variance.as_tensor() - expected).unwrap().abs().unwrap();
        assert!(apart.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
        // Often enough, the running moments are the batch's.
        for _ in 0..200 {
            y = norm.forward(&x, true).unwrap();
        }
        let tested = norm.forward(&x, false).unwrap();
        let apart = (tested - y).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 0.02);
        assert_eq!(parameters.0.len(), 2);
    }
}
