//! The micro-kernel: a tile of sums that stays in registers while a product goes through its depth.

#![allow(unsafe_code)]

use super::dispatch::Element;
use super::gemm_element::MicroKernel;
use super::gemm_operands::{Dst, Epilogue, Lhs};
use super::panels::Panel;
use super::simd::Simd;

/// Columns of the widest register tile of all instruction sets: 3 vectors of 16 with AVX-512.
pub(super) const WIDEST_TILE: usize = 48;

/// The part of a product that one tile computes.
pub(super) struct TileJob<'a, T, O> {
    /// First of the tile's rows.
    pub first_row: usize,
    pub lhs: Lhs<'a, T>,
    pub panel: Panel<'a, T>,
    pub epilogue: Epilogue<'a, O>,
}

/// The sums of a tile: M rows of N vectors, in registers.
type Sums<S, const M: usize, const N: usize> = [[<S as Simd>::V; N]; M];

/// Computes rows `first_row` to `first_row + M` and all columns of a panel of `N` vectors.
///
/// # Safety
/// For all of these rows r, segments s and i < segment_len,
/// `r · row_stride + s · segment_stride + i` lies in `lhs.data`; `panel.data` has
/// `segments · ⌈segment_len / DEPTH_STEP⌉ · N · LANES · DEPTH_STEP` numbers; for all of these rows
/// and the panel's columns j, `offset + r · row_stride + j` lies in `dst.data` and, if given, in
/// `residual`, and j in `bias`; `partial`, if given, has a row of `N · LANES` numbers for all of
/// these rows.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "plain indices are what compilers keep in registers"
)]
pub(super) unsafe fn tile<
    S: Simd,
    T: MicroKernel<S>,
    O: Element,
    const M: usize,
    const N: usize,
>(
    simd: S,
    job: &TileJob<'_, T, O>,
    dst: &mut Dst<'_, O>,
) {
    // SAFETY: the caller's promise for `lhs` and `panel`.
    let sums = unsafe { accumulate::<S, T, O, M, N>(simd, job) };
    let TileJob {
        first_row,
        panel,
        epilogue,
        ..
    } = job;
    if epilogue.is_identity() && panel.columns == N * S::LANES {
        for m in 0..M {
            for j in 0..N {
                let at = dst.offset + (first_row + m) * dst.row_stride + j * S::LANES;
                // SAFETY: `LANES` of the panel's columns in a row of the tile, which lie in `dst`
                // by the caller's promise.
                unsafe { O::store(simd, dst.data.as_mut_ptr().add(at), sums[m][j]) };
            }
        }
        return;
    }
    // The tile leaves the registers as a whole. The code below indexes it at run time, and would
    // force it into memory for the whole loop of `accumulate`.
    let mut stored = [[0f32; WIDEST_TILE]; M];
    for m in 0..M {
        for j in 0..N {
            // SAFETY: N · LANES ≤ VECTORS · LANES ≤ WIDEST_TILE, the length of a row, with every
            // instruction set.
            unsafe { simd.store(stored[m].as_mut_ptr().add(j * S::LANES), sums[m][j]) };
        }
    }
    for (m, sums) in stored.iter().enumerate() {
        let row = first_row + m;
        if panel.columns < N * S::LANES {
            store_edge_row(sums, (row, N * S::LANES, panel.columns), dst, epilogue);
        } else {
            // SAFETY: the caller's promise, of which this is row `row`.
            unsafe { store_row::<S, O, N>(simd, sums, row, dst, epilogue) };
        }
    }
}

/// Multiplies the tile's rows with the panel through the whole depth.
///
/// # Safety
/// As for [`tile`], of which only the conditions on `lhs` and `panel` matter.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "plain indices are what compilers keep in registers"
)]
unsafe fn accumulate<S: Simd, T: MicroKernel<S>, O, const M: usize, const N: usize>(
    simd: S,
    job: &TileJob<'_, T, O>,
) -> Sums<S, M, N> {
    let TileJob {
        first_row,
        lhs,
        panel,
        ..
    } = job;
    let mut sums = [[simd.splat(0.0); N]; M];
    // SAFETY: step d of segment s, with ⌈segment_len / DEPTH_STEP⌉ steps a segment, reads row s ·
    // ⌈segment_len / DEPTH_STEP⌉ + d of the panel's N · LANES · DEPTH_STEP numbers, of which there
    // are that many by the caller's promise; row m of the tile is row `first_row + m` of the
    // left-hand side, of which a step reads numbers d · DEPTH_STEP to (d + 1) · DEPTH_STEP of
    // segment s where all of these are in the segment, else only the first, which lie in its slice
    // by the caller's promise. `wrapping_add` only makes pointers that are not read, past the last
    // segment.
    unsafe {
        let mut b = panel.data.as_ptr();
        for s in 0..lhs.segments {
            let mut a = lhs
                .data
                .as_ptr()
                .wrapping_add(first_row * lhs.row_stride + s * lhs.segment_stride);
            for _ in 0..lhs.segment_len / T::DEPTH_STEP {
                let columns: [T::Operand; N] = std::array::from_fn(|j| {
                    T::load_columns(simd, b.add(j * S::LANES * T::DEPTH_STEP))
                });
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = T::broadcast_group(simd, a.add(m * lhs.row_stride));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = T::multiply_add(simd, value, column, *sum);
                    }
                }
                b = b.wrapping_add(N * S::LANES * T::DEPTH_STEP);
                a = a.wrapping_add(T::DEPTH_STEP);
            }
            // The last group of a segment whose length DEPTH_STEP does not divide.
            if !lhs.segment_len.is_multiple_of(T::DEPTH_STEP) {
                let columns: [T::Operand; N] = std::array::from_fn(|j| {
                    T::load_columns(simd, b.add(j * S::LANES * T::DEPTH_STEP))
                });
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = T::broadcast_first(simd, *a.add(m * lhs.row_stride));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = T::multiply_add(simd, value, column, *sum);
                    }
                }
                b = b.wrapping_add(N * S::LANES * T::DEPTH_STEP);
            }
        }
    }
    for m in 0..M {
        for j in 0..N {
            sums[m][j] = T::sum_to_f32(simd, sums[m][j]);
        }
    }
    sums
}

/// Applies the epilogue to row `row` of a full panel and stores it.
///
/// # Safety
/// As for [`tile`], of which only the conditions on `dst` and the epilogue matter, for this row;
/// `N · LANES` is at most [`WIDEST_TILE`].
#[inline(always)]
unsafe fn store_row<S: Simd, O: Element, const N: usize>(
    simd: S,
    sums: &[f32; WIDEST_TILE],
    row: usize,
    dst: &mut Dst<'_, O>,
    epilogue: &Epilogue<'_, O>,
) {
    for j in 0..N {
        let column = j * S::LANES;
        let at = dst.offset + row * dst.row_stride + column;
        // SAFETY: these are `LANES` of the panel's columns, so by the caller's promise they lie in
        // `dst`, `residual`, `bias` and `partial`, and in `sums`. `dst` is borrowed mutably and
        // overlaps none of them.
        unsafe {
            let to = dst.data.as_mut_ptr().add(at);
            let mut value = simd.load(sums.as_ptr().add(column));
            if let Some(partial) = epilogue.partial {
                let at = row * N * S::LANES + column;
                value = simd.add(simd.load(partial.as_ptr().add(at)), value);
            }
            if let Some(bias) = epilogue.bias {
                value = simd.add(value, simd.load(bias.as_ptr().add(column)));
            }
            if let Some(residual) = epilogue.residual {
                value = simd.add(value, O::load(simd, residual.as_ptr().add(at)));
            }
            if epilogue.relu {
                value = simd.relu(value);
            }
            O::store(simd, to, value);
        }
    }
}

/// Applies the epilogue to row `row` of a panel of `width` numbers of which the matrix fills only
/// `columns`, and stores these: the same additions as [`store_row`], one number after another.
#[inline(never)]
fn store_edge_row<O: Element>(
    sums: &[f32; WIDEST_TILE],
    (row, width, columns): (usize, usize, usize),
    dst: &mut Dst<'_, O>,
    epilogue: &Epilogue<'_, O>,
) {
    let start = dst.offset + row * dst.row_stride;
    let place = start..start + columns;
    let Some(to) = dst.data.get_mut(place.clone()) else {
        return;
    };
    let partial = epilogue.partial.and_then(|p| p.get(row * width..));
    let residual = epilogue.residual.and_then(|r| r.get(place));
    for (j, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
        let mut value = *sum;
        if let Some(partial) = partial.and_then(|p| p.get(j)) {
            value += partial;
        }
        if let Some(bias) = epilogue.bias.and_then(|bias| bias.get(j)) {
            value += bias;
        }
        if let Some(residual) = residual.and_then(|r| r.get(j)) {
            value += residual.widen();
        }
        *to = O::narrow(if epilogue.relu && value < 0.0 {
            0.0
        } else {
            value
        });
    }
}
