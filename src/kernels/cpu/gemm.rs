//! Products of a left-hand side with packed panels.
//!
//! Convolutions, linear layers and attention all multiply through here. Each sum is one chain over
//! the depth, in order, whichever tile it is part of: how rows are grouped into tiles does not
//! change a bit of the result.

#![allow(unsafe_code)]

use super::dispatch::Element;
use super::gemm_element::{GemmElement, GemmKernel, MicroKernel};
pub(super) use super::gemm_operands::{Dst, Epilogue, Lhs};
use super::panels::Panel;
use super::simd::Simd;
use super::tile::{TileJob, WIDEST_TILE, tile};

/// Computes `dst = epilogue(lhs · panel)` for `rows` rows and the panel's columns. Sums are `f32`
/// (32-bit integers for `i16` operands), whatever the types of the operands and the destination.
///
/// # Panics
/// When a slice is too short, which would be an error of the calling operator.
pub(super) fn multiply<T: GemmElement, O: Element>(
    token: T::Token,
    rows: usize,
    lhs: Lhs<'_, T>,
    panel: Panel<'_, T>,
    dst: &mut Dst<'_, O>,
    epilogue: Epilogue<'_, O>,
) {
    let product = Product {
        rows,
        lhs,
        panel,
        dst,
        epilogue,
    };
    T::run_gemm(token, product);
}

/// The kernel of [`multiply`].
struct Product<'a, 'b, T, O> {
    rows: usize,
    lhs: Lhs<'a, T>,
    panel: Panel<'a, T>,
    dst: &'a mut Dst<'b, O>,
    epilogue: Epilogue<'a, O>,
}

impl<T: GemmElement, O: Element> GemmKernel<T> for Product<'_, '_, T, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S)
    where
        T: MicroKernel<S>,
    {
        if self.rows == 0 || self.panel.columns == 0 {
            return;
        }
        self.check::<S>();
        let Self {
            rows,
            lhs,
            panel,
            dst,
            epilogue,
        } = self;
        // Tiles of nearly equal height: a low one at the end would leave most of the registers
        // idle.
        let mut first_row = 0;
        for left in (1..=rows.div_ceil(S::ROWS)).rev() {
            let count = (rows - first_row).div_ceil(left);
            let job = TileJob {
                first_row,
                lhs,
                panel,
                epilogue,
            };
            // SAFETY: first_row + count ≤ rows, and `check` holds for all rows.
            unsafe {
                match panel.vectors {
                    4 => tile_of_height::<S, T, O, 4>(simd, count, &job, dst),
                    3 => tile_of_height::<S, T, O, 3>(simd, count, &job, dst),
                    2 => tile_of_height::<S, T, O, 2>(simd, count, &job, dst),
                    _ => tile_of_height::<S, T, O, 1>(simd, count, &job, dst),
                }
            }
            first_row += count;
        }
    }
}

impl<T: GemmElement, O: Element> Product<'_, '_, T, O> {
    /// Checks the three conditions that [`tile`] relies on. Sums saturate, and no slice is as long
    /// as a saturated sum.
    ///
    /// # Panics
    /// If one of them does not hold.
    #[inline(always)]
    fn check<S: Simd>(&self) {
        let Self {
            rows,
            lhs,
            panel,
            dst,
            epilogue,
        } = self;
        let depth = lhs.segments.saturating_mul(lhs.segment_len);
        if depth > 0 {
            let last = (rows - 1)
                .saturating_mul(lhs.row_stride)
                .saturating_add((lhs.segments - 1).saturating_mul(lhs.segment_stride))
                .saturating_add(lhs.segment_len);
            assert!(last <= lhs.data.len(), "left-hand side of a product");
        }
        let width = panel.vectors * S::LANES;
        let steps = lhs
            .segments
            .saturating_mul(lhs.segment_len.div_ceil(T::DEPTH_STEP));
        assert!(
            panel.data.len() == steps.saturating_mul(width * T::DEPTH_STEP)
                && panel.columns <= width
                && (1..=S::VECTORS.min(4)).contains(&panel.vectors)
                && S::VECTORS * S::LANES <= WIDEST_TILE,
            "panel of a product"
        );
        let last = (rows - 1)
            .saturating_mul(dst.row_stride)
            .saturating_add(dst.offset)
            .saturating_add(panel.columns);
        assert!(
            last <= dst.data.len()
                && epilogue.bias.is_none_or(|bias| bias.len() == panel.columns)
                && epilogue.residual.is_none_or(|r| r.len() == dst.data.len())
                && epilogue.partial.is_none_or(|p| p.len() / width >= *rows),
            "result of a product"
        );
    }
}

/// Computes a [`tile`] of `count` rows, 1 to 9. Each height is compiled by itself, so that its sums
/// have fixed registers.
///
/// # Safety
/// As for [`tile`], with `count` for M.
#[inline(always)]
unsafe fn tile_of_height<S: Simd, T: MicroKernel<S>, O: Element, const N: usize>(
    simd: S,
    count: usize,
    job: &TileJob<'_, T, O>,
    dst: &mut Dst<'_, O>,
) {
    // Known when this is compiled: an instruction set gets no code for tiles that it does not use.
    if N > S::VECTORS || count > S::ROWS {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            9 => tile::<S, T, O, 9, N>(simd, job, dst),
            8 => tile::<S, T, O, 8, N>(simd, job, dst),
            7 => tile::<S, T, O, 7, N>(simd, job, dst),
            6 => tile::<S, T, O, 6, N>(simd, job, dst),
            5 => tile::<S, T, O, 5, N>(simd, job, dst),
            4 => tile::<S, T, O, 4, N>(simd, job, dst),
            3 => tile::<S, T, O, 3, N>(simd, job, dst),
            2 => tile::<S, T, O, 2, N>(simd, job, dst),
            _ => tile::<S, T, O, 1, N>(simd, job, dst),
        }
    }
}
