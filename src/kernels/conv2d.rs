//! Two-dimensional convolution.

use std::sync::Arc;

use candle_core::conv::CudnnFwdAlgo;
use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu;
use super::limits::check_element_count;
use super::shapes::Conv2dShape;

/// A convolution (a cross-correlation, as in PyTorch) over `[n, in_channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    shape: Conv2dShape,
    weights: Weights,
}

#[derive(Debug, Clone)]
enum Weights {
    /// Packed for the CPU operator of this project; shared by clones.
    Packed(Arc<cpu::PackedConv>),
    /// For candle's operator; the bias is zeros if the layer has none.
    Plain { weight: Tensor, bias: Tensor },
}

impl Conv2d {
    /// Takes `weight [out_channels, in_channels, kernel rows, kernel columns]` and
    /// `bias [out_channels]`.
    ///
    /// # Errors
    /// A weight or bias has another shape; there are no input channels; a kernel or stride is 0; on
    /// the CPU, `DPSYN_CPU` names an instruction set that the CPU lacks.
    pub fn new(shape: Conv2dShape, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        if shape.in_channels == 0 || shape.stride == 0 || shape.kernel.0 == 0 || shape.kernel.1 == 0
        {
            bail!(
                "a convolution needs channels, a kernel and a stride of at least 1, not {shape:?}"
            );
        }
        let (rows, columns) = shape.kernel;
        let expected = [shape.out_channels, shape.in_channels, rows, columns];
        if weight.dims() != expected {
            bail!(
                "convolution weight is {:?}, expected {expected:?}",
                weight.dims()
            );
        }
        if let Some(bias) = &bias
            && bias.dims() != [shape.out_channels]
        {
            bail!(
                "convolution bias is {:?}, expected [{}]",
                bias.dims(),
                shape.out_channels
            );
        }
        let bias = match bias {
            Some(bias) => bias.contiguous()?,
            None => Tensor::zeros(shape.out_channels, weight.dtype(), weight.device())?,
        };
        let weights = if cpu::supports_all(&[&weight, &bias]) {
            let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
            let (weight, bias, dtype) = (numbers(&weight)?, numbers(&bias)?, weight.dtype());
            let packed = cpu::PackedConv::new(shape, dtype, &weight, bias)?;
            Weights::Packed(Arc::new(packed))
        } else {
            let weight = weight.contiguous()?;
            Weights::Plain { weight, bias }
        };
        Ok(Self { shape, weights })
    }

    /// Reads `weight` and, with `bias`, `bias`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(shape: Conv2dShape, bias: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let (rows, columns) = shape.kernel;
        let weight = vb.get(
            (shape.out_channels, shape.in_channels, rows, columns),
            "weight",
        )?;
        let bias = if bias {
            Some(vb.get(shape.out_channels, "bias")?)
        } else {
            None
        };
        Self::new(shape, weight, bias)
    }

    /// Reads a one-dimensional convolution with a kernel of 1, whose `weight` is stored as `[out,
    /// in, 1]`; it is applied to every pixel.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_pointwise_1d(
        in_channels: usize,
        out_channels: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let weight = vb.get((out_channels, in_channels, 1), "weight")?;
        let bias = vb.get(out_channels, "bias")?;
        Self::new(
            Conv2dShape::same(in_channels, out_channels, 1),
            weight.unsqueeze(3)?,
            Some(bias),
        )
    }

    /// Returns the shape of the layer.
    #[must_use]
    pub fn shape(&self) -> &Conv2dShape {
        &self.shape
    }

    /// Convolves `[n, in_channels, h, w]` to `[n, out_channels, h', w']`.
    ///
    /// # Errors
    /// `x` has other channels, is smaller than the kernel, or has another type or device than the
    /// layer; errors of candle.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, false)
    }

    /// Convolves as [`Conv2d::forward`] does and replaces negative results by 0.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, true)
    }

    /// Convolves as [`Conv2d::forward`] does and adds `residual`, which has the shape of the
    /// result.
    ///
    /// # Errors
    /// As [`Conv2d::forward`]; the residual has another shape.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Some(residual), false)
    }

    fn run(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        let (n, channels, height, width) = x.dims4()?;
        let output = match self.shape.output_size(height, width) {
            Some(output) if channels == self.shape.in_channels => output,
            _ => bail!(
                "input {:?} does not fit a convolution of {:?}",
                x.dims(),
                self.shape
            ),
        };
        if let Some(residual) = residual
            && residual.dims() != [n, self.shape.out_channels, output.0, output.1]
        {
            bail!(
                "{:?} cannot be added to a convolution of {:?} by {:?}",
                residual.dims(),
                x.dims(),
                self.shape
            );
        }
        match &self.weights {
            Weights::Packed(packed) => {
                let x = cpu::channels_last(x)?;
                let op = cpu::ConvOp { packed, relu };
                let y = match residual {
                    Some(residual) => x.apply_op2_no_bwd(&cpu::channels_last(residual)?, &op)?,
                    None => x.apply_op1_no_bwd(&op)?,
                };
                cpu::channels_first(&y)
            }
            Weights::Plain { weight, bias } => {
                let y = product(&self.shape, weight, x)?;
                #[cfg(feature = "cuda")]
                if super::cuda::supports(&y) {
                    let op = super::cuda::EpilogueOp { bias, relu };
                    return match residual {
                        Some(residual) => y.apply_op2_no_bwd(&residual.contiguous()?, &op),
                        None => y.apply_op1_no_bwd(&op),
                    };
                }
                let mut y = add_bias(&y, bias)?;
                if let Some(residual) = residual {
                    y = (y + residual)?;
                }
                if relu { y.relu() } else { Ok(y) }
            }
        }
    }
}

/// Runs candle's convolution without the bias, on any device and in any type.
///
/// cuDNN always gets the same algorithm. It need not be queried at each call, and the rounding
/// depends neither on the batch nor on a heuristic of the library. This algorithm runs on tensor
/// cores, supports every shape and type, and needs little memory.
fn product(shape: &Conv2dShape, weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = shape.padding;
    // candle takes one padding for both directions.
    let (padded, padding) = if rows == columns {
        (x.clone(), rows)
    } else {
        let padded = x.pad_with_zeros(2, rows, rows)?;
        (padded.pad_with_zeros(3, columns, columns)?, 0)
    };
    let algorithm = Some(CudnnFwdAlgo::ImplicitPrecompGemm);
    let x = padded.contiguous()?;
    check_element_count(x.device(), largest(shape, &x, padding)?)?;
    x.conv2d_with_algo(weight, padding, shape.stride, 1, 1, algorithm)
}

/// Returns the elements of the largest tensor of [`product`]: of `x`, of the result and, without
/// cuDNN, of the unfolded image, a matrix with a copy of the kernel's window for each pixel of the
/// result.
fn largest(shape: &Conv2dShape, x: &Tensor, padding: usize) -> Result<usize> {
    let (n, channels, height, width) = x.dims4()?;
    let along =
        |size: usize, kernel: usize| (size + 2 * padding).saturating_sub(kernel) / shape.stride + 1;
    let pixels = n * along(height, shape.kernel.0) * along(width, shape.kernel.1);
    let covered = if cfg!(feature = "cudnn") && x.device().is_cuda() {
        0
    } else {
        pixels * channels * shape.kernel.0 * shape.kernel.1
    };
    Ok(x.elem_count().max(pixels * shape.out_channels).max(covered))
}

fn add_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    y.broadcast_add(&bias.reshape((1, bias.dim(0)?, 1, 1))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::Isa;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    /// A layer, and the weights of candle's.
    struct Both {
        shape: Conv2dShape,
        layer: Conv2d,
        weight: Tensor,
        bias: Tensor,
    }

    impl Both {
        fn new(shape: Conv2dShape) -> Self {
            let (rows, columns) = shape.kernel;
            let weight = uniform(&[shape.out_channels, shape.in_channels, rows, columns], 1);
            let bias = uniform(&[shape.out_channels], 2);
            let layer = Conv2d::new(shape, weight.clone(), Some(bias.clone())).unwrap();
            Self {
                shape,
                layer,
                weight,
                bias,
            }
        }

        fn plain(&self, x: &Tensor) -> Tensor {
            add_bias(&product(&self.shape, &self.weight, x).unwrap(), &self.bias).unwrap()
        }

        /// Compares all forms of the layer. Sums of magnitude 1 are rounded to 6e-8; the tolerance
        /// is for the sum of all products, which a transform may amplify.
        fn check(&self, x: &Tensor, tolerance: f32) {
            let expected = self.plain(x);
            assert_close(&self.layer.forward(x).unwrap(), &expected, tolerance);
            let relu = expected.relu().unwrap();
            assert_close(&self.layer.forward_relu(x).unwrap(), &relu, tolerance);
            let residual = uniform(expected.dims(), 9);
            let sum = (&expected + &residual).unwrap();
            assert_close(
                &self.layer.forward_add(x, &residual).unwrap(),
                &sum,
                tolerance,
            );
        }
    }

    prop_compose! {
        fn shapes()(
            in_channels in 1usize..20,
            out_channels in 1usize..100,
            kernel in (1usize..6, 1usize..6),
            stride in 1usize..4,
            padding in (0usize..4, 0usize..4),
        ) -> Conv2dShape {
            Conv2dShape { in_channels, out_channels, kernel, stride, padding, side: None }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn agrees_with_candle(
            shape in shapes(),
            n in 1usize..3,
            (height, width) in (1usize..24, 1usize..24),
        ) {
            prop_assume!(shape.output_size(height, width).is_some());
            let x = uniform(&[n, shape.in_channels, height, width], 3);
            for isa in Isa::all() {
                // At most 475 products, each rounded to 6e-8 of at most 1.
                isa.within(|| Both::new(shape).check(&x, 1e-4));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Shapes for which Winograd's algorithm is chosen, with large or small tiles: its error is
        /// a few 1e-6 of the results' magnitude, which is about 10 here.
        #[test]
        fn wide_layers_agree_with_candle(
            in_channels in (2usize..8).prop_map(|c| 16 * c),
            out_channels in (2usize..10).prop_map(|c| 16 * c),
            padding in (0usize..3, 0usize..3),
            n in 1usize..4,
            (height, width) in (3usize..24, 3usize..24),
            small in any::<bool>(),
        ) {
            let shape = Conv2dShape {
                padding,
                side: small.then_some(8),
                ..Conv2dShape::same(in_channels + if small { 256 } else { 0 }, out_channels, 3)
            };
            let in_channels = shape.in_channels;
            let tolerance = if small { 5e-4 } else { 3e-4 };
            let x = uniform(&[n, in_channels, height, width], 3);
            for isa in Isa::all() {
                isa.within(|| Both::new(shape).check(&x, tolerance));
            }
        }
    }

    #[test]
    fn large_images_and_deep_kernels_agree_with_candle() {
        // Several tasks per image; the last two are split by the kernel's rows and by the batch.
        for (in_channels, out_channels, kernel, size, n) in [
            (3, 5, (1, 1), 70, 1),
            (8, 5, (1, 7), 70, 1),
            (8, 5, (7, 1), 70, 1),
            (600, 50, (3, 3), 9, 2),
            (64, 64, (3, 3), 70, 3),
        ] {
            let shape = Conv2dShape {
                kernel,
                padding: (kernel.0 / 2, kernel.1 / 2),
                ..Conv2dShape::same(in_channels, out_channels, 1)
            };
            let x = uniform(&[n, in_channels, size, size], 4);
            for isa in Isa::all() {
                isa.within(|| Both::new(shape).check(&x, 1e-3));
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (in_channels, out_channels, kernel, size) in [
            (3, 32, 3, 32),
            (64, 64, 1, 4),
            (64, 80, 3, 16),
            (64, 80, 3, 5),
            (40, 1, 3, 5),
            (32, 70, 3, 1),
            (96, 33, 3, 17),
        ] {
            for isa in Isa::all() {
                let shape = Conv2dShape::same(in_channels, out_channels, kernel).giving(size);
                let conv = isa.within(|| Both::new(shape)).layer;
                let x = uniform(&[7, in_channels, size, size], 5);
                assert_batch_independent(&x, |x| conv.forward(x).unwrap());
            }
        }
    }

    #[test]
    fn strided_views_and_empty_batches_are_taken() {
        let both = Both::new(Conv2dShape::same(4, 3, 3));
        let x = uniform(&[2, 6, 7, 4], 6).transpose(2, 3).unwrap();
        let view = x.narrow(1, 1, 4).unwrap();
        let expected = both.plain(&view.contiguous().unwrap());
        assert_close(&both.layer.forward(&view).unwrap(), &expected, 1e-4);
        let none = both.layer.forward(&view.narrow(0, 0, 0).unwrap()).unwrap();
        assert_eq!(none.dims(), [0, 3, 4, 7]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let conv = Both::new(Conv2dShape {
            padding: (0, 0),
            ..Conv2dShape::same(4, 3, 3)
        })
        .layer;
        let x = uniform(&[1, 4, 8, 8], 7);
        assert!(conv.forward(&uniform(&[1, 5, 8, 8], 7)).is_err());
        assert!(conv.forward(&uniform(&[1, 4, 2, 8], 7)).is_err());
        assert!(conv.forward_add(&x, &uniform(&[1, 3, 8, 8], 7)).is_err());
        let shape = Conv2dShape::same(4, 3, 3);
        assert!(Conv2d::new(shape, uniform(&[3, 4, 3, 1], 1), None).is_err());
        assert!(Conv2d::new(shape.with_stride(0), uniform(&[3, 4, 3, 3], 1), None).is_err());
        let nothing = uniform(&[3, 0, 3, 3], 1);
        assert!(Conv2d::new(Conv2dShape::same(0, 3, 3), nothing, None).is_err());
    }
}
