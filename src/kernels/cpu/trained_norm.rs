//! Batch normalization with ReLU of a network in training, with its gradients.
//!
//! Written by hand because candle composes it of about ten operators, each of which allocates and
//! writes a map. Sums are taken over blocks of a fixed number of pixels and added in order, so that
//! they do not depend on the number of threads.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::isa::Isa;
use super::scalar_loop::ScalarLoop;
use super::scratch::uninit_output;
use super::tensors::contiguous;

/// Pixels of a block.
const BLOCK: usize = 512;

/// Mean and variance (divided by the number of pixels) of each channel of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kernels) struct Moments {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl Moments {
    /// Computes the moments of `x [.., channels]`, contiguous, on the CPU.
    pub fn of(x: &Tensor) -> Result<Self> {
        let channels = x.dim(candle_core::D::Minus1)?;
        let isa = Isa::current()?;
        with_numbers(x, |x| {
            if channels == 0 || x.is_empty() {
                bail!("an empty map has no moments");
            }
            let blocks: Vec<(Vec<f32>, Vec<f32>)> = x
                .par_chunks(BLOCK * channels)
                .map(|x| isa.run_loop(BlockMoments { x, channels }))
                .collect();
            // Of several blocks by Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
            // variance", in f64.
            let mut mean = vec![0f64; channels];
            let mut squares = vec![0f64; channels];
            let mut count = 0.0;
            for (index, block) in blocks.iter().enumerate() {
                let rows = (x.len() / channels - index * BLOCK).min(BLOCK) as f64;
                let total = count + rows;
                let sums = block.0.iter().zip(&block.1);
                for ((mean, squares), (m, s)) in mean.iter_mut().zip(&mut squares).zip(sums) {
                    let apart = f64::from(*m) - *mean;
                    *mean += apart * rows / total;
                    *squares += f64::from(*s) + apart * apart * count * rows / total;
                }
                count = total;
            }
            Ok(Self {
                mean: mean.iter().map(|mean| *mean as f32).collect(),
                variance: squares.iter().map(|s| (*s / count) as f32).collect(),
            })
        })
    }
}

/// Mean and sum of squared deviations of each channel in a block.
struct BlockMoments<'a> {
    x: &'a [f32],
    channels: usize,
}

impl ScalarLoop for BlockMoments<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let mut mean = vec![0f32; self.channels];
        let mut squares = mean.clone();
        for x in self.x.chunks_exact(self.channels) {
            for (mean, x) in mean.iter_mut().zip(x) {
                *mean += x;
            }
        }
        let rows = (self.x.len() / self.channels) as f32;
        for mean in &mut mean {
            *mean /= rows;
        }
        for x in self.x.chunks_exact(self.channels) {
            for ((square, x), mean) in squares.iter_mut().zip(x).zip(&mean) {
                *square += (x - mean) * (x - mean);
            }
        }
        (mean, squares)
    }
}

/// The operator `max(0, (x − mean) / √(variance + ε) · gain + bias)`. Arguments, contiguous: `x
/// [.., channels]`, gain and bias `[channels]`. The gradient is that of a batch whose moments these
/// are, and passes through them.
pub(in crate::kernels) struct TrainedNormOp {
    mean: Vec<f32>,
    /// 1 / √(variance + ε).
    inverse: Vec<f32>,
}

impl TrainedNormOp {
    pub fn new(moments: &Moments, eps: f32) -> Self {
        let inverse = moments.variance.iter().map(|v| 1.0 / (v + eps).sqrt());
        Self {
            mean: moments.mean.clone(),
            inverse: inverse.collect(),
        }
    }

    /// Returns the factor and the summand of each channel.
    fn affine(&self, gain: &[f32], bias: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let channels = self.mean.len();
        if gain.len() != channels || bias.len() != channels {
            bail!(
                "a norm of {channels} channels has {} gains and {} biases",
                gain.len(),
                bias.len()
            );
        }
        let factor: Vec<f32> = gain.iter().zip(&self.inverse).map(|(g, i)| g * i).collect();
        let products = factor.iter().zip(&self.mean).map(|(f, m)| f * m);
        let summand = bias.iter().zip(products).map(|(b, p)| b - p).collect();
        Ok((factor, summand))
    }
}

impl CustomOp3 for TrainedNormOp {
    fn name(&self) -> &'static str {
        "batch normalization with ReLU"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous::<f32>(x, x_layout)?;
        let gain = contiguous(gain, gain_layout)?;
        let (factor, summand) = self.affine(gain, contiguous(bias, bias_layout)?)?;
        if x_layout.dims().last() != Some(&factor.len()) {
            bail!("{x_layout:?} does not have {} channels", factor.len());
        }
        let isa = Isa::current()?;
        let mut out = uninit_output::<f32>(x.len());
        let block = (BLOCK * factor.len()).max(1);
        out.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .for_each(|(out, x)| {
                isa.run_loop(Forward {
                    x,
                    factor: &factor,
                    summand: &summand,
                    out,
                });
            });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        if gradient.dims() != x.dims() {
            bail!("a gradient of {:?} for {:?}", gradient.dims(), x.dims());
        }
        let (gains, biases) = (gain.to_vec1::<f32>()?, bias.to_vec1::<f32>()?);
        let (factor, summand) = self.affine(&gains, &biases)?;
        let channels = factor.len();
        let isa = Isa::current()?;
        let (out, for_gain, for_bias) = with_numbers(x, |x| {
            with_numbers(&gradient, |gradient| {
                let block = (BLOCK * channels).max(1);
                let blocks = || {
                    let pairs = x.par_chunks(block).zip(gradient.par_chunks(block));
                    pairs.map(|(x, gradient)| Block {
                        x,
                        gradient,
                        factor: &factor,
                        summand: &summand,
                        op: self,
                    })
                };
                let sums: Vec<(Vec<f32>, Vec<f32>)> =
                    blocks().map(|block| isa.run_loop(Sums(block))).collect();
                let mut for_gain = vec![0f32; channels];
                let mut for_bias = for_gain.clone();
                for (gain, bias) in sums {
                    add(&mut for_gain, &gain);
                    add(&mut for_bias, &bias);
                }
                let pixels = (x.len() / channels.max(1)).max(1) as f32;
                let mean = |sums: &[f32]| sums.iter().map(|sum| sum / pixels).collect::<Vec<f32>>();
                let (scaled, plain) = (mean(&for_gain), mean(&for_bias));
                let mut out = uninit_output::<f32>(x.len());
                out.par_chunks_mut(block)
                    .zip(blocks())
                    .for_each(|(out, block)| {
                        isa.run_loop(Backward {
                            block,
                            scaled: &scaled,
                            plain: &plain,
                            out,
                        });
                    });
                Ok((out, for_gain, for_bias))
            })
        })?;
        let tensor = |numbers: Vec<f32>| Tensor::from_vec(numbers, channels, &Device::Cpu);
        let out = Tensor::from_vec(out, x.shape(), &Device::Cpu)?;
        Ok((Some(out), Some(tensor(for_gain)?), Some(tensor(for_bias)?)))
    }
}

struct Forward<'a> {
    x: &'a [f32],
    factor: &'a [f32],
    summand: &'a [f32],
    out: &'a mut [f32],
}

impl ScalarLoop for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.factor.len();
        let pixels = self.x.chunks_exact(channels);
        for (out, x) in self.out.chunks_exact_mut(channels).zip(pixels) {
            let affine = self.factor.iter().zip(self.summand);
            for ((out, x), (factor, summand)) in out.iter_mut().zip(x).zip(affine) {
                let y = x * factor + summand;
                // Not `max`, which would hide what is not a number.
                *out = if y < 0.0 { 0.0 } else { y };
            }
        }
    }
}

/// A block of the map and of the gradient of the result, as both backward loops read it.
#[derive(Clone, Copy)]
struct Block<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    factor: &'a [f32],
    summand: &'a [f32],
    op: &'a TrainedNormOp,
}

impl<'a> Block<'a> {
    /// Returns, for each channel of each pixel, the gradient that passes the ReLU, and the
    /// normalized number.
    #[inline(always)]
    fn pixels(self) -> impl Iterator<Item = impl Iterator<Item = (f32, f32)> + 'a> + 'a {
        let channels = self.factor.len();
        let gradients = self.gradient.chunks_exact(channels);
        let pixels = self.x.chunks_exact(channels).zip(gradients);
        pixels.map(move |(x, gradient)| {
            let affine = self.factor.iter().zip(self.summand);
            let moments = self.op.mean.iter().zip(&self.op.inverse);
            let pixel = x.iter().zip(gradient).zip(affine).zip(moments);
            pixel.map(|(((x, gradient), (factor, summand)), (mean, inverse))| {
                let passes = x * factor + summand > 0.0;
                let passed = if passes { *gradient } else { 0.0 };
                (passed, (x - mean) * inverse)
            })
        })
    }
}

/// Sums of a block that are the gradients of gain and bias.
struct Sums<'a>(Block<'a>);

impl ScalarLoop for Sums<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let channels = self.0.factor.len();
        let mut sums = (vec![0f32; channels], vec![0f32; channels]);
        for pixel in self.0.pixels() {
            let sums = sums.0.iter_mut().zip(&mut sums.1);
            for ((scaled, plain), (passed, normalized)) in sums.zip(pixel) {
                *plain += passed;
                *scaled += passed * normalized;
            }
        }
        sums
    }
}

/// Gradient of `x` in a block.
struct Backward<'a> {
    block: Block<'a>,
    /// Means over all pixels of what [`Sums`] adds up.
    scaled: &'a [f32],
    plain: &'a [f32],
    out: &'a mut [f32],
}

impl ScalarLoop for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let factors = self.block.factor;
        let pixels = self.out.chunks_exact_mut(factors.len());
        for (out, pixel) in pixels.zip(self.block.pixels()) {
            let channel = factors.iter().zip(self.scaled.iter().zip(self.plain));
            for ((out, (passed, normalized)), (factor, (scaled, plain))) in
                out.iter_mut().zip(pixel).zip(channel)
            {
                *out = factor * (passed - plain - normalized * scaled);
            }
        }
    }
}

fn add(total: &mut [f32], summand: &[f32]) {
    for (total, summand) in total.iter_mut().zip(summand) {
        *total += summand;
    }
}

/// Calls `use_numbers` with the elements of a contiguous tensor on the CPU.
fn with_numbers<R>(x: &Tensor, use_numbers: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => use_numbers(contiguous(storage, layout)?),
        _ => bail!("a tensor on {:?}, expected the CPU", x.device()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::models::testing::uniform;

    #[test]
    fn moments_are_those_of_each_channel() {
        // Several blocks, the last of which is not full, far from 0.
        let x = (uniform(&[3, 20, 20, 4], 1) + 1000.0).unwrap();
        let moments = Moments::of(&x).unwrap();
        let rows: Vec<Vec<f32>> = x.reshape(((), 4)).unwrap().to_vec2().unwrap();
        for channel in 0..4 {
            let values: Vec<f64> = rows.iter().map(|row| f64::from(row[channel])).collect();
            let mean = values.iter().sum::<f64>() / 1200.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1200.0;
            assert!((f64::from(moments.mean[channel]) - mean).abs() < 1e-3);
            assert!((f64::from(moments.variance[channel]) / variance - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn gradients_are_those_of_candle_s_operators() {
        let x = Var::from_tensor(&uniform(&[3, 20, 20, 4], 1)).unwrap();
        let gain = Var::from_tensor(&(uniform(&[4], 2) + 1.5).unwrap()).unwrap();
        let bias = Var::from_tensor(&uniform(&[4], 3)).unwrap();
        let pull = uniform(&[3, 20, 20, 4], 4);
        let op = TrainedNormOp::new(&Moments::of(&x).unwrap(), 1e-5);
        let ours = x.apply_op3(&gain, &bias, op).unwrap();
        let rows = x.reshape(((), 4)).unwrap();
        let centered = rows.broadcast_sub(&rows.mean_keepdim(0).unwrap()).unwrap();
        let variance = centered.sqr().unwrap().mean_keepdim(0).unwrap();
        let deviation = (variance + 1e-5).unwrap().sqrt().unwrap();
        let theirs = centered.broadcast_div(&deviation).unwrap();
        let theirs = theirs.broadcast_mul(&gain).unwrap();
        let theirs = theirs.broadcast_add(&bias).unwrap().relu().unwrap();
        let theirs = theirs.reshape(x.shape()).unwrap();
        let numbers = |y: &Tensor| {
            let gradients = (y * &pull).unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = [&x, &gain, &bias].map(|of| gradients.get(of).unwrap().clone());
            gradients
                .iter()
                .chain([y])
                .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                .collect::<Vec<_>>()
        };
        for (ours, theirs) in numbers(&ours).iter().zip(numbers(&theirs)) {
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a}, {b}");
            }
        }
    }

    #[test]
    fn other_channels_are_refused() {
        let x = uniform(&[1, 2, 2, 4], 1);
        let op = TrainedNormOp::new(&Moments::of(&x).unwrap(), 1e-5);
        let three = uniform(&[3], 1);
        assert!(x.apply_op3(&three, &three, op).is_err());
        assert!(Moments::of(&uniform(&[0, 2, 2, 4], 1)).is_err());
    }
}
