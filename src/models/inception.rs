//! InceptionV3 as the Fréchet Inception Distance uses it.
//!
//! Szegedy et al. 2015 (arXiv 1512.00567) with the weights and the pooling quirks of the original
//! FID's TensorFlow graph. Reference: `fid_inception_v3` in `src/pytorch_fid/inception.py` of
//! mseitzer/pytorch-fid. Weights keep the names of its `state_dict`; batch norms are folded into
//! the convolutions when they are read.

mod blocks;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::kernels::{BatchSplit, Pool, convert, max_pool, par_over_batch};
use blocks::{ConvNorm, Mixed, Step, mixed_a, mixed_b, mixed_c, mixed_d, mixed_e};

/// Rows and columns of an input.
pub const INPUT_SIZE: usize = 299;

/// Numbers in a feature vector.
pub const FEATURES: usize = 2048;

/// Tensors that a checkpoint may hold beyond the network: the classifier, and batch norm's
/// counters.
pub const IGNORED: &[&str] = &["fc.*", "AuxLogits.*", "*.num_batches_tracked"];

/// Max pools between the early layers.
const REDUCE: Pool = Pool {
    kernel: 3,
    stride: 2,
    padding: 0,
};

/// The network up to its last average pool.
#[derive(Debug, Clone)]
pub struct Inception {
    dtype: DType,
    layers: Vec<(&'static str, Layer)>,
}

#[derive(Debug, Clone)]
enum Layer {
    Conv(ConvNorm),
    MaxPool,
    Mixed(Mixed),
}

impl Inception {
    /// Builds the network; its layers and feature maps have the type and device of `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(vb: &VarBuilder<'_>) -> Result<Self> {
        let conv = |from, name, step: Step| -> Result<_> {
            Ok((
                name,
                Layer::Conv(ConvNorm::load(from, &step, &vb.pp(name))?),
            ))
        };
        let mut layers = vec![
            conv(3, "Conv2d_1a_3x3", Step::new("", 32, (3, 3)).halving())?,
            conv(32, "Conv2d_2a_3x3", Step::new("", 32, (3, 3)).unpadded())?,
            conv(32, "Conv2d_2b_3x3", Step::new("", 64, (3, 3)))?,
            ("maxpool1", Layer::MaxPool),
            conv(64, "Conv2d_3b_1x1", Step::new("", 80, (1, 1)))?,
            conv(80, "Conv2d_4a_3x3", Step::new("", 192, (3, 3)).unpadded())?,
            ("maxpool2", Layer::MaxPool),
        ];
        let blocks = [
            ("Mixed_5b", mixed_a(32)),
            ("Mixed_5c", mixed_a(64)),
            ("Mixed_5d", mixed_a(64)),
            ("Mixed_6a", mixed_b()),
            ("Mixed_6b", mixed_c(128)),
            ("Mixed_6c", mixed_c(160)),
            ("Mixed_6d", mixed_c(160)),
            ("Mixed_6e", mixed_c(192)),
            ("Mixed_7a", mixed_d()),
            ("Mixed_7b", mixed_e(false)),
            ("Mixed_7c", mixed_e(true)),
        ];
        let mut channels = 192;
        for (name, branches) in blocks {
            let mixed = Mixed::load(channels, &branches, &vb.pp(name))?;
            channels = mixed.out_channels();
            layers.push((name, Layer::Mixed(mixed)));
        }
        if channels != FEATURES {
            bail!("the last block has {channels} channels, expected {FEATURES}");
        }
        Ok(Self {
            dtype: vb.dtype(),
            layers,
        })
    }

    /// Features of images: `[n, 3, 299, 299]` of values in about `[-1, 1]` to `f32 [n, 2048]`.
    ///
    /// # Errors
    /// Images of another shape, and whatever candle reports.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        par_over_batch(x, BatchSplit::PerThread, |images| {
            let x = x.narrow(0, images.start, images.len())?;
            self.forward_observed(&x, |_, _| Ok(()))
        })
    }

    /// [`Inception::forward`], showing `observe` what comes out of every layer, `[n, channels, h,
    /// w]`.
    ///
    /// # Errors
    /// As [`Inception::forward`], and whatever `observe` returns.
    pub fn forward_observed(
        &self,
        x: &Tensor,
        mut observe: impl FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (n, ..) = x.dims4()?;
        if x.dims() != [n, 3, INPUT_SIZE, INPUT_SIZE] {
            bail!(
                "input {:?} is not [{n}, 3, {INPUT_SIZE}, {INPUT_SIZE}]",
                x.dims()
            );
        }
        let mut h = convert(x, self.dtype)?;
        for (name, layer) in &self.layers {
            h = match layer {
                Layer::Conv(conv) => conv.forward(&h)?,
                Layer::MaxPool => max_pool(&h, REDUCE)?,
                Layer::Mixed(mixed) => mixed.forward(&h)?,
            };
            observe(name, &h)?;
        }
        let h = convert(&h, DType::F32)?;
        h.flatten_from(2)?.mean(D::Minus1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check_bf16_on_cpu;
    use crate::models::testing::{any_weights, any_weights_in, relative_error, uniform};

    /// Each of the roundings of 94 convolutions' results, in chains of up to 20, adds up to 2⁻⁸.
    #[test]
    fn bf16_stays_near_f32() {
        if check_bf16_on_cpu().is_err() {
            return;
        }
        let x = uniform(&[1, 3, INPUT_SIZE, INPUT_SIZE], 1);
        let evaluate = |dtype| Inception::new(&any_weights_in(dtype)).unwrap().forward(&x);
        let (found, expected) = (
            evaluate(DType::BF16).unwrap(),
            evaluate(DType::F32).unwrap(),
        );
        assert_eq!(found.dtype(), DType::F32);
        let error = relative_error(&found, &expected);
        assert!(error > 0.0 && error < 0.02, "{error}");
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        let network = Inception::new(&any_weights()).unwrap();
        let x = uniform(&[3, 3, INPUT_SIZE, INPUT_SIZE], 1);
        let together: Vec<Vec<f32>> = network.forward(&x).unwrap().to_vec2().unwrap();
        let alone = network.forward(&x.narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap()[0], together[1]);
        assert_eq!(together[1].len(), FEATURES);
        assert!(network.forward(&uniform(&[1, 3, 32, 32], 1)).is_err());
    }
}
