//! Geometry of convolutions and pools: what the layers and the operators of each device share.

use candle_core::{Result, Tensor, bail};

/// Shape of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Step in both directions.
    pub stride: usize,
    /// Zeros added above and below, and left and right.
    pub padding: (usize, usize),
    /// Rows and columns of the result, if the layer is meant for small results of one size. Selects
    /// the form of the packed weights; other sizes work, only more slowly.
    pub side: Option<usize>,
}

impl Conv2dShape {
    /// Returns a square kernel of odd size with stride 1 that keeps the image's size.
    #[must_use]
    pub fn same(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: (kernel, kernel),
            stride: 1,
            padding: (kernel / 2, kernel / 2),
            side: None,
        }
    }

    /// Returns this shape for results of `side` rows and columns.
    #[must_use]
    pub fn giving(self, side: usize) -> Self {
        Self {
            side: Some(side),
            ..self
        }
    }

    /// Returns this shape with another stride.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Returns rows and columns of the result for an input of `height` × `width`; `None` if the
    /// kernel does not fit.
    #[must_use]
    pub fn output_size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let along = |size: usize, kernel: usize, padding: usize| {
            let free = size
                .checked_add(padding.checked_mul(2)?)?
                .checked_sub(kernel)?;
            Some(free.checked_div(self.stride)? + 1)
        };
        Some((
            along(height, self.kernel.0, self.padding.0)?,
            along(width, self.kernel.1, self.padding.1)?,
        ))
    }
}

/// A square pooling window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Rows and columns of the window.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Rows and columns added on each side; they do not count in a mean or a maximum.
    pub padding: usize,
}

impl Pool {
    /// Returns the number of windows along a side of `len` pixels; `None` if not even one fits, or
    /// if one could lie in the padding alone, where it has no value.
    pub(super) fn output_len(&self, len: usize) -> Option<usize> {
        let padded = len.checked_add(self.padding.checked_mul(2)?)?;
        let steps = padded.checked_sub(self.kernel)?.checked_div(self.stride)?;
        (self.padding < self.kernel && len > 0).then_some(steps + 1)
    }

    /// Checks that the window fits the maps `x`.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check(&self, x: &Tensor) -> Result<()> {
        let (_, _, height, width) = x.dims4()?;
        if self.output_len(height).is_none() || self.output_len(width).is_none() {
            bail!("input {:?} does not fit a {self:?}", x.dims());
        }
        Ok(())
    }
}
