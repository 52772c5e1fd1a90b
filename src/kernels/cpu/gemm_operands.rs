//! The left-hand side, the destination and the epilogue of a matrix product.

/// The left-hand side: rows anywhere in a slice, each made of equally long segments.
///
/// Number `i` of segment `s` of row `r` is `data[r · row_stride + s · segment_stride + i]`. With
/// one segment for each row of a convolution's kernel, an image is its own unfolding (im2col
/// without a copy).
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a, T = f32> {
    pub data: &'a [T],
    pub row_stride: usize,
    pub segments: usize,
    pub segment_stride: usize,
    pub segment_len: usize,
}

impl<'a, T> Lhs<'a, T> {
    /// Rows of `depth` numbers, `row_stride` apart.
    pub fn rows(data: &'a [T], row_stride: usize, depth: usize) -> Self {
        Self {
            data,
            row_stride,
            segments: 1,
            segment_stride: 0,
            segment_len: depth,
        }
    }
}

/// The destination of a product: element (r, j) is `data[offset + r · row_stride + j]`.
pub(super) struct Dst<'a, O = f32> {
    pub data: &'a mut [O],
    pub offset: usize,
    pub row_stride: usize,
}

/// Operations that are applied to a sum before it is stored, in the order of the fields.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a, O = f32> {
    /// Added first: an earlier part of the same sums, in rows of all numbers of the panel's
    /// vectors.
    pub partial: Option<&'a [f32]>,
    /// Added: one number for each of the panel's columns.
    pub bias: Option<&'a [f32]>,
    /// Added element by element; has the layout of the destination.
    pub residual: Option<&'a [O]>,
    /// Replaces negative results by 0.
    pub relu: bool,
}

impl<O> Epilogue<'_, O> {
    /// Returns true if sums are stored unchanged.
    #[inline(always)]
    pub fn is_identity(&self) -> bool {
        self.partial.is_none() && self.bias.is_none() && self.residual.is_none() && !self.relu
    }
}

impl<O> Default for Epilogue<'_, O> {
    /// Returns the epilogue that stores sums unchanged.
    fn default() -> Self {
        Self {
            partial: None,
            bias: None,
            residual: None,
            relu: false,
        }
    }
}
