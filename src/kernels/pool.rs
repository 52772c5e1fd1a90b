//! Pooling with padding, which candle's own pools lack.

use candle_core::{Result, Tensor, bail};

/// A square pooling window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Rows and columns of the window.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Rows and columns added on each side; they never count towards a result.
    pub padding: usize,
}

impl Pool {
    fn check(&self, x: &Tensor) -> Result<()> {
        let (_, _, height, width) = x.dims4()?;
        if self.stride == 0
            // A window that could lie in the padding alone has no value.
            || self.padding >= self.kernel
            || height.min(width) + 2 * self.padding < self.kernel
        {
            bail!("input {:?} does not fit a {self:?}", x.dims());
        }
        Ok(())
    }
}

/// The mean over each window, the padding not counted (`count_include_pad=False`):
/// `[n, c, h, w]` to `[n, c, h', w']`.
///
/// # Errors
/// A window that does not fit the input, and whatever candle reports.
pub fn avg_pool(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool.check(x)?;
    let Pool {
        kernel,
        stride,
        padding,
    } = pool;
    let pad = |t: &Tensor| {
        t.pad_with_zeros(2, padding, padding)?
            .pad_with_zeros(3, padding, padding)
    };
    let mean = pad(x)?.avg_pool2d_with_stride(kernel, stride)?;
    if padding == 0 {
        return Ok(mean);
    }
    // The share of each window that lies inside the image.
    let (_, _, height, width) = x.dims4()?;
    let ones = Tensor::ones((1, 1, height, width), x.dtype(), x.device())?;
    mean.broadcast_div(&pad(&ones)?.avg_pool2d_with_stride(kernel, stride)?)
}

/// The largest value in each window: `[n, c, h, w]` to `[n, c, h', w']`.
///
/// # Errors
/// A window that does not fit the input, and whatever candle reports.
pub fn max_pool(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool.check(x)?;
    let Pool {
        kernel,
        stride,
        padding,
    } = pool;
    // A repeated border value is never larger than the border pixel, which lies in every window that
    // reaches over it.
    let padded = x
        .pad_with_same(2, padding, padding)?
        .pad_with_same(3, padding, padding)?;
    padded.max_pool2d_with_stride(kernel, stride)
}
