//! Unfolding of feature maps to rows of a matrix, so that a convolution is a matrix product, with
//! its gradient.
//!
//! Written by hand because the gradient of candle's convolution is slow on the CPU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Square windows of a feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Windows {
    /// Number of windows along a side.
    fn along(self, side: usize) -> Result<usize> {
        match (side + 2 * self.padding).checked_sub(self.kernel) {
            Some(room) if self.stride > 0 => Ok(room / self.stride + 1),
            _ => bail!("{side} pixels are too few for {self:?}"),
        }
    }

    /// Unfolds `[n, h, w, c]` to `[n, h', w', kernel · kernel · c]`, with zeros outside of the
    /// image.
    pub fn unfold(self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(Unfold(self))
    }

    /// Calls `visit(window, pixel)` for each element of a window that lies in the image, with the
    /// indices of the first of its `channels` numbers in the unfolded row and in the image.
    #[inline]
    fn each(
        self,
        (height, width): (usize, usize),
        channels: usize,
        mut visit: impl FnMut(usize, usize),
    ) -> Result<()> {
        let (rows, columns) = (self.along(height)?, self.along(width)?);
        let mut to = 0;
        for row in 0..rows {
            for column in 0..columns {
                for tap in 0..self.kernel * self.kernel {
                    let y = row * self.stride + tap / self.kernel;
                    let x = column * self.stride + tap % self.kernel;
                    let inside = |at: usize, side: usize| {
                        at.checked_sub(self.padding).filter(|at| *at < side)
                    };
                    if let (Some(y), Some(x)) = (inside(y, height), inside(x, width)) {
                        visit(to, (y * width + x) * channels);
                    }
                    to += channels;
                }
            }
        }
        Ok(())
    }
}

struct Unfold(Windows);

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, height, width, channels) = layout.shape().dims4()?;
        let x = contiguous(x, layout)?;
        let (rows, columns) = (self.0.along(height)?, self.0.along(width)?);
        let depth = self.0.kernel * self.0.kernel * channels;
        let mut out = vec![0f32; n * rows * columns * depth];
        if !out.is_empty() {
            out.par_chunks_exact_mut(rows * columns * depth)
                .zip(x.par_chunks_exact(height * width * channels))
                .try_for_each(|(out, image)| {
                    self.0.each((height, width), channels, |to, from| {
                        let to = out.get_mut(to..to + channels);
                        if let (Some(to), Some(from)) = (to, image.get(from..from + channels)) {
                            to.copy_from_slice(from);
                        }
                    })
                })?;
        }
        let shape = Shape::from((n, rows, columns, depth));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, channels) = arg.dims4()?;
        let fold = Fold {
            windows: self.0,
            size: (height, width),
            channels,
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&fold)?))
    }
}

/// Adjoint of [`Unfold`]: adds up the numbers of all windows that contain a pixel.
struct Fold {
    windows: Windows,
    size: (usize, usize),
    channels: usize,
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, rows, columns, depth) = layout.shape().dims4()?;
        let x = contiguous(x, layout)?;
        let ((height, width), channels) = (self.size, self.channels);
        let mut out = vec![0f32; n * height * width * channels];
        if !out.is_empty() {
            out.par_chunks_exact_mut(height * width * channels)
                .zip(x.par_chunks_exact(rows * columns * depth))
                .try_for_each(|(out, windows)| {
                    self.windows.each(self.size, channels, |from, to| {
                        let to = out.get_mut(to..to + channels);
                        if let (Some(to), Some(from)) = (to, windows.get(from..from + channels)) {
                            for (to, from) in to.iter_mut().zip(from) {
                                *to += from;
                            }
                        }
                    })
                })?;
        }
        Ok((
            CpuStorage::F32(out),
            Shape::from((n, height, width, channels)),
        ))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| data.get(start..end))
    {
        Some(elements) => Ok(elements),
        None => bail!("an argument with layout {layout:?} is not contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::models::testing::uniform;

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn convolutions_and_their_gradients_are_candle_s() {
        let kinds = [(3, 1, 1), (3, 2, 1), (1, 2, 0), (1, 1, 0)];
        let sizes = [(7, 7), (6, 6), (7, 6)];
        for ((kernel, stride, padding), (height, width)) in kinds
            .into_iter()
            .flat_map(|kind| sizes.map(|size| (kind, size)))
        {
            let windows = Windows {
                kernel,
                stride,
                padding,
            };
            let x = Var::from_tensor(&uniform(&[2, height, width, 3], 1)).unwrap();
            let weight = uniform(&[kernel * kernel * 3, 5], 2);
            let unfolded = windows.unfold(&x).unwrap();
            let (n, rows, columns, depth) = unfolded.dims4().unwrap();
            let ours = unfolded.reshape(((), depth)).unwrap();
            let ours = ours.matmul(&weight).unwrap();
            let ours = ours.reshape((n, rows, columns, 5)).unwrap();

            let planes = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let kernels = weight.reshape((kernel, kernel, 3, 5)).unwrap();
            let kernels = kernels.permute((3, 2, 0, 1)).unwrap().contiguous().unwrap();
            let theirs = planes.conv2d(&kernels, padding, stride, 1, 1).unwrap();
            let theirs = theirs.permute((0, 2, 3, 1)).unwrap();
            assert_eq!(ours.dims(), theirs.dims());
            let close = |ours: Vec<f32>, theirs: Vec<f32>| {
                assert_eq!(ours.len(), theirs.len());
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!((a - b).abs() < 1e-4, "{windows:?}: {a}, {b}");
                }
            };
            close(numbers(&ours), numbers(&theirs.contiguous().unwrap()));

            // candle's gradient fails if rows and columns have different remainders under the
            // stride.
            if height == width {
                let pull = uniform(ours.dims(), 3);
                let gradient = |y: &Tensor| {
                    let sum = (y * &pull).unwrap().sum_all().unwrap();
                    numbers(sum.backward().unwrap().get(&x).unwrap())
                };
                close(gradient(&ours), gradient(&theirs));
            }
        }
    }

    #[test]
    fn maps_smaller_than_a_window_are_refused() {
        let windows = Windows {
            kernel: 3,
            stride: 1,
            padding: 0,
        };
        let x = Tensor::zeros((1, 2, 2, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(windows.unfold(&x).is_err());
    }
}
