//! Two-dimensional convolution.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

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
    bias: Option<Tensor>,
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
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, self.shape.out_channels, 1, 1))?),
            None => Ok(y),
        }
    }
}
