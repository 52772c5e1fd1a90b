//! Matrix multiplication on slices: the one place that calls the `gemm` crate.

#![allow(unsafe_code)]

use candle_core::{Result, bail};
use gemm::Parallelism;

/// A matrix in a slice: element (i, j) is `data[i · row_stride + j · col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `[rows, cols]`, row-major.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// Whether every element lies in the slice, at an offset that fits an `isize`.
    fn fits(&self) -> bool {
        if self.rows == 0 || self.cols == 0 {
            return true;
        }
        let reach = |count: usize, stride: usize| (count - 1).checked_mul(stride);
        let last = reach(self.rows, self.row_stride)
            .zip(reach(self.cols, self.col_stride))
            .and_then(|(down, right)| down.checked_add(right));
        // A slice of `f32` has at most `isize::MAX / 4` elements. A stride is only ever multiplied by an
        // index, but it must fit an `isize` even where the only index is 0.
        last.is_some_and(|last| last < self.data.len())
            && isize::try_from(self.row_stride).is_ok()
            && isize::try_from(self.col_stride).is_ok()
    }
}

#[cfg(test)]
impl Matrix<'_> {
    /// Rows as columns.
    fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// Overwrites `out`, `[lhs.rows, rhs.cols]` row-major, with `lhs · rhs`, on this thread.
pub(crate) fn multiply(out: &mut [f32], lhs: Matrix<'_>, rhs: Matrix<'_>) -> Result<()> {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    if rhs.rows != k || m.checked_mul(n) != Some(out.len()) || !lhs.fits() || !rhs.fits() {
        bail!(
            "matrices {m}x{k} and {}x{n} do not multiply into {} elements",
            rhs.rows,
            out.len()
        );
    }
    // SAFETY: `gemm` reads lhs(i, p) for i < m, p < k and rhs(p, j) for p < k, j < n, and writes
    // out(i, j) = out[i · n + j] for i < m, j < n, which it does not read, as `read_dst` is false.
    // `fits` shows that all reads are within their slices (the dimensions were compared above, so its
    // rows and columns are these), and m · n = out.len() that all writes are. The strides fit an
    // `isize`: for `out` because n ≤ out.len() unless m = 0, when there is no element. `out` is
    // borrowed mutably and cannot overlap the others. All of it stays on this thread.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_matrices() {
        let a: Vec<f32> = (0..12).map(|v| v as f32).collect();
        // [[0, 1, 2], [3, 4, 5]] times itself transposed.
        let lhs = Matrix::new(&a[..6], 2, 3);
        let mut out = [f32::NAN; 4];
        multiply(&mut out, lhs, lhs.transposed()).unwrap();
        assert_eq!(out, [5.0, 14.0, 14.0, 50.0]);
        // Every other column of a 2 × 6 matrix.
        let sparse = Matrix {
            data: &a,
            rows: 2,
            cols: 3,
            row_stride: 6,
            col_stride: 2,
        };
        multiply(&mut out, sparse, lhs.transposed()).unwrap();
        assert_eq!(out, [10.0, 28.0, 28.0, 100.0]);
    }

    #[test]
    fn matrices_beyond_their_slices_are_refused() {
        let a = [1f32; 6];
        let good = Matrix::new(&a, 2, 3);
        let mut out = [0f32; 4];
        let beyond = [
            Matrix::new(&a[..5], 2, 3),
            Matrix {
                row_stride: 4,
                ..good
            },
            Matrix {
                col_stride: 3,
                ..good
            },
            Matrix {
                row_stride: usize::MAX,
                ..good
            },
            Matrix { cols: 4, ..good },
        ];
        for bad in beyond {
            assert!(multiply(&mut out, bad, good.transposed()).is_err());
            assert!(multiply(&mut out, good, bad.transposed()).is_err());
        }
        assert!(multiply(&mut out[..3], good, good.transposed()).is_err());
    }
}
