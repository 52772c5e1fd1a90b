//! Two-dimensional convolution.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::cpu;

/// What a convolution looks like, apart from its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Channels that come in.
    pub in_channels: usize,
    /// Channels that go out.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Step in both directions.
    pub stride: usize,
    /// Zeros added above and below, left and right.
    pub padding: (usize, usize),
}

impl Conv2dShape {
    /// A square kernel of odd size with stride 1 that keeps the image's size.
    #[must_use]
    pub fn same(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: (kernel, kernel),
            stride: 1,
            padding: (kernel / 2, kernel / 2),
        }
    }

    /// This shape with another stride.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Rows and columns of the result for an input of `height` × `width`; `None` when the kernel does
    /// not fit.
    #[must_use]
    pub fn output_size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let along = |size: usize, kernel: usize, padding: usize| {
            let room = size
                .checked_add(padding.checked_mul(2)?)?
                .checked_sub(kernel)?;
            Some(room.checked_div(self.stride)? + 1)
        };
        Some((
            along(height, self.kernel.0, self.padding.0)?,
            along(width, self.kernel.1, self.padding.1)?,
        ))
    }
}

/// A convolution (as in PyTorch: a correlation) over `[n, in_channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    shape: Conv2dShape,
    weight: Tensor,
    /// Zeros when the layer has none.
    bias: Tensor,
}

impl Conv2d {
    /// Takes `weight [out_channels, in_channels, kernel rows, kernel columns]` and `bias [out_channels]`.
    ///
    /// # Errors
    /// A weight or bias of another shape, or a kernel or stride of 0.
    pub fn new(shape: Conv2dShape, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        if shape.stride == 0 || shape.kernel.0 == 0 || shape.kernel.1 == 0 {
            bail!("a convolution needs a kernel and a stride of at least 1, not {shape:?}");
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
        Ok(Self {
            shape,
            weight: weight.contiguous()?,
            bias,
        })
    }

    /// Reads `weight` and, with `bias`, `bias`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
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

    /// Reads a 1-wide one-dimensional convolution, whose `weight` is stored as `[out, in, 1]`; it is
    /// applied to every pixel.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
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

    /// Shape of the layer.
    #[must_use]
    pub fn shape(&self) -> &Conv2dShape {
        &self.shape
    }

    /// `[n, in_channels, h, w]` to `[n, out_channels, h', w']`.
    ///
    /// # Errors
    /// An input with other channels or smaller than the kernel, and whatever candle reports.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, false)
    }

    /// [`Conv2d::forward`], negative results replaced by 0.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, relu: bool) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        if channels != self.shape.in_channels || self.shape.output_size(height, width).is_none() {
            bail!(
                "input {:?} does not fit a convolution of {:?}",
                x.dims(),
                self.shape
            );
        }
        if cpu::takes(x) && cpu::takes(&self.weight) {
            let op = cpu::ConvOp {
                shape: self.shape,
                relu,
            };
            return x
                .contiguous()?
                .apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        let y = self.run_plain(x)?;
        if relu { y.relu() } else { Ok(y) }
    }

    /// candle's convolution, on any device and in any type.
    fn run_plain(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, columns) = self.shape.padding;
        // candle has one padding for both directions.
        let (padded, padding) = if rows == columns {
            (x.clone(), rows)
        } else {
            let padded = x.pad_with_zeros(2, rows, rows)?;
            (padded.pad_with_zeros(3, columns, columns)?, 0)
        };
        let y = padded
            .contiguous()?
            .conv2d(&self.weight, padding, self.shape.stride, 1, 1)?;
        y.broadcast_add(&self.bias.reshape((1, self.shape.out_channels, 1, 1))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_batch_independent, assert_close, uniform};
    use proptest::prelude::*;

    fn layer(shape: Conv2dShape) -> Conv2d {
        let (rows, columns) = shape.kernel;
        let weight = uniform(&[shape.out_channels, shape.in_channels, rows, columns], 1);
        let bias = uniform(&[shape.out_channels], 2);
        Conv2d::new(shape, weight, Some(bias)).unwrap()
    }

    prop_compose! {
        fn shapes()(
            in_channels in 1usize..20,
            out_channels in 1usize..40,
            kernel in (1usize..6, 1usize..6),
            stride in 1usize..4,
            padding in (0usize..4, 0usize..4),
        ) -> Conv2dShape {
            Conv2dShape { in_channels, out_channels, kernel, stride, padding }
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
            let conv = layer(shape);
            let expected = conv.run_plain(&x).unwrap();
            // At most 475 products, each rounded to 6e-8 of at most 1.
            assert_close(&conv.forward(&x).unwrap(), &expected, 1e-4);
            assert_close(&conv.forward_relu(&x).unwrap(), &expected.relu().unwrap(), 1e-4);
        }
    }

    #[test]
    fn large_images_are_cut_into_blocks() {
        // 70² pixels are more than one block of the first two; the third has a deep kernel.
        for (in_channels, kernel, padding) in [
            (3, (1, 1), (0, 0)),
            (8, (1, 7), (0, 3)),
            (200, (3, 3), (1, 1)),
        ] {
            let shape = Conv2dShape {
                in_channels,
                out_channels: 5,
                kernel,
                stride: 1,
                padding,
            };
            let x = uniform(&[1, in_channels, 70, 70], 4);
            let conv = layer(shape);
            assert_close(
                &conv.forward(&x).unwrap(),
                &conv.run_plain(&x).unwrap(),
                1e-3,
            );
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for (in_channels, out_channels, kernel, size) in [
            (3, 32, 3, 32),
            (64, 64, 1, 4),
            (40, 1, 3, 5),
            (32, 70, 3, 1),
            (96, 33, 3, 17),
        ] {
            let conv = layer(Conv2dShape::same(in_channels, out_channels, kernel));
            let x = uniform(&[7, in_channels, size, size], 5);
            assert_batch_independent(&x, |x| conv.forward(x).unwrap());
        }
    }

    #[test]
    fn strided_views_and_empty_batches_are_taken() {
        let conv = layer(Conv2dShape::same(4, 3, 3));
        let x = uniform(&[2, 6, 7, 4], 6).transpose(2, 3).unwrap();
        let view = x.narrow(1, 1, 4).unwrap();
        let expected = conv.run_plain(&view.contiguous().unwrap()).unwrap();
        assert_close(&conv.forward(&view).unwrap(), &expected, 1e-4);
        let none = conv.forward(&view.narrow(0, 0, 0).unwrap()).unwrap();
        assert_eq!(none.dims(), [0, 3, 4, 7]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let conv = layer(Conv2dShape {
            padding: (0, 0),
            ..Conv2dShape::same(4, 3, 3)
        });
        assert!(conv.forward(&uniform(&[1, 5, 8, 8], 7)).is_err());
        assert!(conv.forward(&uniform(&[1, 4, 2, 8], 7)).is_err());
        let shape = Conv2dShape::same(4, 3, 3);
        assert!(Conv2d::new(shape, uniform(&[3, 4, 3, 1], 1), None).is_err());
        assert!(Conv2d::new(shape.with_stride(0), uniform(&[3, 4, 3, 3], 1), None).is_err());
    }
}
