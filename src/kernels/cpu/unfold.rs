//! Windows of an image as rows of a matrix, so that the gradients of a convolution are matrix
//! products.

use crate::kernels::shapes::Conv2dShape;

/// The windows of a convolution in an image `[height, width, in_channels]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    shape: Conv2dShape,
    input: (usize, usize),
    output: (usize, usize),
}

impl Windows {
    /// Returns `None` where the kernel does not fit an image of `input` rows and columns.
    pub fn new(shape: Conv2dShape, input: (usize, usize)) -> Option<Self> {
        let output = shape.output_size(input.0, input.1)?;
        Some(Self {
            shape,
            input,
            output,
        })
    }

    /// Rows and columns of the results, one for each window.
    pub fn output(&self) -> (usize, usize) {
        self.output
    }

    /// Number of windows of an image.
    pub fn count(&self) -> usize {
        self.output.0 * self.output.1
    }

    /// Numbers of a window.
    pub fn depth(&self) -> usize {
        self.shape.kernel.0 * self.shape.kernel.1 * self.shape.in_channels
    }

    /// Numbers of an image.
    pub fn image_len(&self) -> usize {
        self.input.0 * self.input.1 * self.shape.in_channels
    }

    /// Writes the windows of `image` to `rows [count, depth]`, with zeros outside of the image.
    pub fn unfold(&self, image: &[f32], rows: &mut [f32]) {
        let channels = self.shape.in_channels;
        self.each(|to, from| {
            let Some(to) = rows.get_mut(to..to + channels) else {
                return;
            };
            match from.and_then(|from| image.get(from..from + channels)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0.0),
            }
        });
    }

    /// Adds `rows [count, depth]` to the pixels of `image` that the windows cover: the adjoint of
    /// [`Windows::unfold`].
    pub fn fold(&self, rows: &[f32], image: &mut [f32]) {
        let channels = self.shape.in_channels;
        self.each(|from, to| {
            let to = to.and_then(|to| image.get_mut(to..to + channels));
            if let (Some(to), Some(from)) = (to, rows.get(from..from + channels)) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to += from;
                }
            }
        });
    }

    /// Calls `visit(in the rows, in the image)` for each element of each window with the index of
    /// the first of its channels; `None` outside of the image.
    #[inline]
    fn each(&self, mut visit: impl FnMut(usize, Option<usize>)) {
        let Conv2dShape {
            in_channels,
            kernel,
            stride,
            padding,
            ..
        } = self.shape;
        let (height, width) = self.input;
        let inside = |at: usize, padding: usize, size: usize| {
            at.checked_sub(padding).filter(|at| *at < size)
        };
        let mut number = 0;
        for row in 0..self.output.0 {
            for column in 0..self.output.1 {
                for tap_row in 0..kernel.0 {
                    let y = inside(row * stride + tap_row, padding.0, height);
                    for tap_column in 0..kernel.1 {
                        let x = inside(column * stride + tap_column, padding.1, width);
                        let pixel = y.zip(x).map(|(y, x)| (y * width + x) * in_channels);
                        visit(number, pixel);
                        number += in_channels;
                    }
                }
            }
        }
    }
}
