//! The micro-kernel: a tile of sums that stays in registers while a product runs through its depth.
//!
//! Everything that multiplies goes through here: convolutions, linear layers, attention. Each sum is
//! one chain over the depth, in order, whichever tile it is part of: how rows are grouped does not
//! change a bit of the result.

#![allow(unsafe_code)]

use super::panels::Panel;
use super::path::{Kernel, Path};
use super::simd::Simd;

/// The left-hand side: rows that lie anywhere in a slice, each made of equal runs of numbers.
///
/// Number `i` of run `s` of row `r` is `data[r · row + s · segment + i]`: with a run for each row of a
/// convolution's kernel, an image is its own unfolding.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub segments: usize,
    pub segment: usize,
    pub run: usize,
}

impl<'a> Lhs<'a> {
    /// Rows of `depth` numbers, `row` apart.
    pub fn rows(data: &'a [f32], row: usize, depth: usize) -> Self {
        Self {
            data,
            row,
            segments: 1,
            segment: 0,
            run: depth,
        }
    }
}

/// Where the result goes: element (r, j) is `data[at + r · row + j]`.
pub(super) struct Out<'a> {
    pub data: &'a mut [f32],
    pub at: usize,
    pub row: usize,
}

/// What happens to a sum before it is stored.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// What was stored before is added.
    pub accumulate: bool,
    /// One number for each of the panel's columns.
    pub bias: Option<&'a [f32]>,
    /// Added element by element; lies as the result does.
    pub residual: Option<&'a [f32]>,
    /// Negative results become 0.
    pub relu: bool,
}

/// `out = lhs · panel`, finished, for `rows` rows and the panel's columns.
///
/// # Panics
/// When a slice is too short, which would be a mistake in the calling operator.
pub(super) fn multiply(
    path: Path,
    rows: usize,
    lhs: Lhs<'_>,
    panel: Panel<'_>,
    out: &mut Out<'_>,
    finish: Finish<'_>,
) {
    path.run(Multiply {
        rows,
        lhs,
        panel,
        out,
        finish,
    });
}

struct Multiply<'a, 'b> {
    rows: usize,
    lhs: Lhs<'a>,
    panel: Panel<'a>,
    out: &'a mut Out<'b>,
    finish: Finish<'a>,
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            rows,
            lhs,
            panel,
            out,
            finish,
        } = self;
        if rows == 0 || panel.columns == 0 {
            return;
        }
        // The three conditions that `tile` rests on. No slice is as long as a saturated sum.
        let depth = lhs.segments.saturating_mul(lhs.run);
        if depth > 0 {
            let last = (rows - 1)
                .saturating_mul(lhs.row)
                .saturating_add((lhs.segments - 1).saturating_mul(lhs.segment))
                .saturating_add(lhs.run);
            assert!(last <= lhs.data.len(), "left-hand side of a product");
        }
        let width = panel.vectors * S::LANES;
        assert!(
            panel.data.len() == depth.saturating_mul(width)
                && panel.columns <= width
                && (1..=S::VECTORS.min(4)).contains(&panel.vectors)
                && S::VECTORS * S::LANES <= WIDEST,
            "panel of a product"
        );
        let last = (rows - 1)
            .saturating_mul(out.row)
            .saturating_add(out.at)
            .saturating_add(panel.columns);
        assert!(
            last <= out.data.len()
                && finish.bias.is_none_or(|bias| bias.len() == panel.columns)
                && finish.residual.is_none_or(|r| r.len() == out.data.len()),
            "result of a product"
        );
        // Tiles of nearly equal height: a low one at the end would leave most of the registers idle.
        let mut from = 0;
        for left in (1..=rows.div_ceil(S::ROWS)).rev() {
            let count = (rows - from).div_ceil(left);
            let job = Job {
                from,
                lhs,
                panel,
                finish,
            };
            // SAFETY: from + count ≤ rows, and the conditions above hold for all rows.
            unsafe {
                match panel.vectors {
                    4 => tiles::<S, 4>(simd, count, &job, out),
                    3 => tiles::<S, 3>(simd, count, &job, out),
                    2 => tiles::<S, 2>(simd, count, &job, out),
                    _ => tiles::<S, 1>(simd, count, &job, out),
                }
            }
            from += count;
        }
    }
}

struct Job<'a> {
    from: usize,
    lhs: Lhs<'a>,
    panel: Panel<'a>,
    finish: Finish<'a>,
}

/// [`tile`] of `count` rows, 1 to 9.
///
/// # Safety
/// As for [`tile`], with `count` for M.
#[inline(always)]
unsafe fn tiles<S: Simd, const N: usize>(simd: S, count: usize, job: &Job<'_>, out: &mut Out<'_>) {
    if N > S::VECTORS || count > S::ROWS {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            9 => tile::<S, 9, N>(simd, job, out),
            8 => tile::<S, 8, N>(simd, job, out),
            7 => tile::<S, 7, N>(simd, job, out),
            6 => tile::<S, 6, N>(simd, job, out),
            5 => tile::<S, 5, N>(simd, job, out),
            4 => tile::<S, 4, N>(simd, job, out),
            3 => tile::<S, 3, N>(simd, job, out),
            2 => tile::<S, 2, N>(simd, job, out),
            _ => tile::<S, 1, N>(simd, job, out),
        }
    }
}

/// Rows `from` to `from + M`, all columns of a panel of `N` vectors.
///
/// # Safety
/// For all of these rows r, runs s and i < run, `r · row + s · segment + i` lies in `lhs.data`;
/// `panel.data` has `segments · run · N · LANES` numbers; for all of these rows and the panel's columns,
/// `at + r · row + j` lies in `out.data` and, if given, in `residual`, and j in `bias`.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "plain indices are what compilers keep in registers"
)]
unsafe fn tile<S: Simd, const M: usize, const N: usize>(simd: S, job: &Job<'_>, out: &mut Out<'_>) {
    let Job {
        from,
        lhs,
        panel,
        finish,
    } = job;
    let mut sums = [[simd.splat(0.0); N]; M];
    // SAFETY: at depth d = s · run + i, `b` is d · N · LANES into the panel, which has that many rows
    // before its end, so N vectors can be read; row m of the tile is row `from + m` of the left-hand
    // side, whose number (s, i) lies in its slice by the caller's promise. `wrapping_add` only makes
    // pointers that are not read, past the last run.
    unsafe {
        let mut b = panel.data.as_ptr();
        for s in 0..lhs.segments {
            let mut a = lhs
                .data
                .as_ptr()
                .wrapping_add(from * lhs.row + s * lhs.segment);
            for _ in 0..lhs.run {
                let mut columns = [simd.splat(0.0); N];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = simd.load(b.add(j * S::LANES));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = simd.broadcast(a.add(m * lhs.row));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = simd.mul_add(value, column, *sum);
                    }
                }
                b = b.wrapping_add(N * S::LANES);
                a = a.wrapping_add(1);
            }
        }
    }
    // The tile leaves the registers as a whole. What follows indexes it at run time, and would force
    // it into memory for the whole loop above.
    let mut stored = [[0f32; WIDEST]; M];
    for m in 0..M {
        for j in 0..N {
            // SAFETY: N · LANES ≤ VECTORS · LANES ≤ WIDEST, the length of a row, on every path.
            unsafe { simd.store(stored[m].as_mut_ptr().add(j * S::LANES), sums[m][j]) };
        }
    }
    for (m, sums) in stored.iter().enumerate() {
        let row = out.at + (from + m) * out.row;
        if panel.columns < N * S::LANES {
            finish_edge(sums, panel.columns, row, out, finish);
            continue;
        }
        for j in 0..N {
            let (column, at) = (j * S::LANES, row + j * S::LANES);
            // SAFETY: these are `LANES` of the panel's columns, so by the caller's promise they
            // lie in `out`, `residual` and `bias`, and in `sums` as above. `out` is borrowed mutably
            // and overlaps none of them.
            unsafe {
                let to = out.data.as_mut_ptr().add(at);
                let mut value = simd.load(sums.as_ptr().add(column));
                if finish.accumulate {
                    value = simd.add(simd.load(to), value);
                }
                if let Some(bias) = finish.bias {
                    value = simd.add(value, simd.load(bias.as_ptr().add(column)));
                }
                if let Some(residual) = finish.residual {
                    value = simd.add(value, simd.load(residual.as_ptr().add(at)));
                }
                if finish.relu {
                    value = simd.relu(value);
                }
                simd.store(to, value);
            }
        }
    }
}

/// Columns of the widest register tile.
const WIDEST: usize = 48;

/// A row of a panel that the matrix does not fill: the same additions, one number after another.
#[inline(never)]
fn finish_edge(
    sums: &[f32; WIDEST],
    columns: usize,
    at: usize,
    out: &mut Out<'_>,
    finish: &Finish<'_>,
) {
    let place = at..at + columns;
    let Some(to) = out.data.get_mut(place.clone()) else {
        return;
    };
    let residual = finish.residual.and_then(|r| r.get(place));
    for (j, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
        let mut value = *sum;
        if finish.accumulate {
            value += *to;
        }
        if let Some(bias) = finish.bias.and_then(|bias| bias.get(j)) {
            value += bias;
        }
        if let Some(residual) = residual.and_then(|r| r.get(j)) {
            value += residual;
        }
        *to = if finish.relu && value < 0.0 {
            0.0
        } else {
            value
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::Panels;
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The numbers are multiples of 1/32 and few, so that every sum is exact.
        #[test]
        fn products_are_exact(
            rows in 1usize..30,
            (segments, run) in (1usize..4, 0usize..20),
            columns in 1usize..120,
            (row_gap, segment_gap) in (0usize..5, 0usize..5),
            (accumulate, with_bias, with_residual, relu) in any::<(bool, bool, bool, bool)>(),
        ) {
            let depth = segments * run;
            let (segment, row) = (run + segment_gap, segments * (run + segment_gap) + row_gap);
            let a = numbers(rows * row, 1);
            let b = numbers(depth * columns, 2);
            let bias = numbers(columns, 3);
            let residual = numbers(rows * columns + 3, 4);
            for path in Path::all() {
                let panels = Panels::new(path, (depth, columns), &b, 1, |k| k * columns);
                let before = numbers(rows * columns + 3, 5);
                let mut data = before.clone();
                for panel in panels.iter() {
                    let of_panel = panel.first..panel.first + panel.columns;
                    let finish = Finish {
                        accumulate,
                        bias: with_bias.then(|| &bias[of_panel]),
                        residual: with_residual.then_some(&residual[..]),
                        relu,
                    };
                    let lhs = Lhs { data: &a, row, segments, segment, run };
                    let mut out = Out { data: &mut data, at: 3 + panel.first, row: columns };
                    multiply(path, rows, lhs, panel, &mut out, finish);
                }
                prop_assert_eq!(&data[..3], &before[..3]);
                for r in 0..rows {
                    for j in 0..columns {
                        let at = 3 + r * columns + j;
                        let mut expected = if accumulate { before[at] } else { 0.0 };
                        for s in 0..segments {
                            for i in 0..run {
                                let k = s * run + i;
                                expected += a[r * row + s * segment + i] * b[k * columns + j];
                            }
                        }
                        if with_bias {
                            expected += bias[j];
                        }
                        if with_residual {
                            expected += residual[at];
                        }
                        if relu {
                            expected = expected.max(0.0);
                        }
                        prop_assert_eq!(data[at], expected, "{:?} row {} column {}", path, r, j);
                    }
                }
            }
        }
    }

    #[test]
    fn relu_keeps_nan() {
        for path in Path::all() {
            for columns in [1, 16] {
                let panels = Panels::new(path, (1, columns), &[1.0; 16], 1, |_| 0);
                let mut data = vec![0.0; columns];
                let panel = panels.iter().next().unwrap();
                let finish = Finish {
                    relu: true,
                    ..Finish::default()
                };
                let lhs = Lhs::rows(&[f32::NAN], 1, 1);
                let (at, row) = (0, columns);
                let mut out = Out {
                    data: &mut data,
                    at,
                    row,
                };
                multiply(path, 1, lhs, panel, &mut out, finish);
                assert!(data[0].is_nan(), "{path:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "left-hand side")]
    fn rows_beyond_their_slice_are_noticed() {
        let path = Path::named("scalar").unwrap();
        let panels = Panels::new(path, (2, 1), &[1.0; 2], 1, |k| k);
        let panel = panels.iter().next().unwrap();
        let mut data = [0.0; 3];
        let mut out = Out {
            data: &mut data,
            at: 0,
            row: 1,
        };
        multiply(
            path,
            3,
            Lhs::rows(&[1.0; 5], 2, 2),
            panel,
            &mut out,
            Finish::default(),
        );
    }
}
