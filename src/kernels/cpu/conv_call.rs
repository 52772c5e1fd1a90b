//! The geometry and arguments of one convolution call, for each of its algorithms.

use crate::kernels::shapes::Conv2dShape;

/// One call of a convolution of images `[n, rows, columns, channels]`.
#[derive(Clone, Copy)]
pub(super) struct ConvCall<'a, E> {
    pub shape: &'a Conv2dShape,
    /// Rows and columns of an input image.
    pub input: (usize, usize),
    /// Rows and columns of an output image.
    pub output: (usize, usize),
    pub x: &'a [E],
    /// One number per output channel.
    pub bias: &'a [f32],
    /// Added to the result; has the layout of the result.
    pub residual: Option<&'a [E]>,
    pub relu: bool,
}
