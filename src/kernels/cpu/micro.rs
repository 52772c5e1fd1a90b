//! The micro-kernel: a tile of sums that stays in registers while a product runs through its depth.
//!
//! Everything that multiplies goes through here: convolutions, linear layers, attention. Each sum is
//! one chain over the depth, in order, whichever tile it is part of: how rows are grouped does not
//! change a bit of the result.

#![allow(unsafe_code)]

use half::bf16;

use super::element::Element;
use super::isa::{Isa, Kernel};
use super::panels::Panel;
use super::simd::Simd;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512Bf16};

/// A type of factors: what a product is made of.
pub(super) trait GemmElement: Element {
    /// Numbers of the depth that are multiplied and added in one step.
    const DEPTH_STEP: usize;

    /// Runs a product as compiled for the path.
    fn multiply<O: Element>(token: Self::Token, product: Product<'_, '_, Self, O>);
}

impl GemmElement for f32 {
    const DEPTH_STEP: usize = 1;

    #[inline(always)]
    fn multiply<O: Element>(token: Isa, product: Product<'_, '_, f32, O>) {
        token.run(product);
    }
}

impl GemmElement for bf16 {
    const DEPTH_STEP: usize = 2;

    #[inline(always)]
    fn multiply<O: Element>(token: Self::Token, product: Product<'_, '_, bf16, O>) {
        token.multiply(product);
    }
}

impl GemmElement for i16 {
    const DEPTH_STEP: usize = 2;

    #[inline(always)]
    fn multiply<O: Element>(token: Self::Token, product: Product<'_, '_, i16, O>) {
        token.multiply(product);
    }
}

/// One step of a product on the vectors of a path.
pub(super) trait MicroKernel<S: Simd>: GemmElement {
    type Factors: Copy;

    /// `LANES` groups of `DEPTH_STEP` numbers.
    ///
    /// # Safety
    /// `from` points to as many readable numbers.
    unsafe fn columns(simd: S, from: *const Self) -> Self::Factors;

    /// A group of `DEPTH_STEP` numbers, for every lane.
    ///
    /// # Safety
    /// `from` points to as many readable numbers.
    unsafe fn row(simd: S, from: *const Self) -> Self::Factors;

    /// A group of which there is only the first number; the others are 0.
    fn rest(simd: S, first: Self) -> Self::Factors;

    /// Adds products to a sum, in a form that begins as all bits 0.
    fn multiply_add(simd: S, row: Self::Factors, columns: Self::Factors, sum: S::V) -> S::V;

    /// The sum as numbers.
    #[inline(always)]
    fn finish_sum(_: S, sum: S::V) -> S::V {
        sum
    }
}

impl<S: Simd> MicroKernel<S> for f32 {
    type Factors = S::V;

    #[inline(always)]
    unsafe fn columns(simd: S, from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    unsafe fn row(simd: S, from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { simd.broadcast(from) }
    }

    #[inline(always)]
    fn rest(simd: S, first: f32) -> S::V {
        simd.splat(first)
    }

    #[inline(always)]
    fn multiply_add(simd: S, row: S::V, columns: S::V, sum: S::V) -> S::V {
        simd.mul_add(row, columns, sum)
    }
}

#[cfg(target_arch = "x86_64")]
impl MicroKernel<Avx512Bf16> for bf16 {
    type Factors = std::arch::x86_64::__m512i;

    #[inline(always)]
    unsafe fn columns(simd: Avx512Bf16, from: *const bf16) -> Self::Factors {
        // SAFETY: the caller promises 16 · 2 numbers.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn row(simd: Avx512Bf16, from: *const bf16) -> Self::Factors {
        // SAFETY: the caller promises two numbers.
        unsafe { simd.broadcast_pair(from) }
    }

    #[inline(always)]
    fn rest(simd: Avx512Bf16, first: bf16) -> Self::Factors {
        simd.broadcast_single(first)
    }

    #[inline(always)]
    fn multiply_add(
        simd: Avx512Bf16,
        row: Self::Factors,
        columns: Self::Factors,
        sum: <Avx512Bf16 as Simd>::V,
    ) -> <Avx512Bf16 as Simd>::V {
        simd.dot(row, columns, sum)
    }
}

/// Sums are integers of 32 bits until they are finished.
#[cfg(target_arch = "x86_64")]
impl MicroKernel<Avx2> for i16 {
    type Factors = std::arch::x86_64::__m256i;

    #[inline(always)]
    unsafe fn columns(simd: Avx2, from: *const i16) -> Self::Factors {
        // SAFETY: the caller promises 8 · 2 numbers.
        unsafe { simd.load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn row(simd: Avx2, from: *const i16) -> Self::Factors {
        // SAFETY: the caller promises two numbers.
        unsafe { simd.broadcast_pair(from) }
    }

    #[inline(always)]
    fn rest(simd: Avx2, first: i16) -> Self::Factors {
        simd.broadcast_single(first)
    }

    #[inline(always)]
    fn multiply_add(
        simd: Avx2,
        row: Self::Factors,
        columns: Self::Factors,
        sum: <Avx2 as Simd>::V,
    ) -> <Avx2 as Simd>::V {
        simd.dot(row, columns, sum)
    }

    #[inline(always)]
    fn finish_sum(simd: Avx2, sum: <Avx2 as Simd>::V) -> <Avx2 as Simd>::V {
        simd.numbers(sum)
    }
}

/// The left-hand side: rows that lie anywhere in a slice, each made of equal runs of numbers.
///
/// Number `i` of run `s` of row `r` is `data[r · row + s · segment + i]`: with a run for each row of a
/// convolution's kernel, an image is its own unfolding.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a, T = f32> {
    pub data: &'a [T],
    pub row: usize,
    pub segments: usize,
    pub segment: usize,
    pub run: usize,
}

impl<'a, T> Lhs<'a, T> {
    /// Rows of `depth` numbers, `row` apart.
    pub fn rows(data: &'a [T], row: usize, depth: usize) -> Self {
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
pub(super) struct Dst<'a, O = f32> {
    pub data: &'a mut [O],
    pub at: usize,
    pub row: usize,
}

/// What happens to a sum before it is stored.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a, O = f32> {
    /// Added: an earlier part of the same sums, rows of all the numbers of the panel's vectors.
    pub partial: Option<&'a [f32]>,
    /// One number for each of the panel's columns.
    pub bias: Option<&'a [f32]>,
    /// Added element by element; lies as the result does.
    pub residual: Option<&'a [O]>,
    /// Negative results become 0.
    pub relu: bool,
}

impl<O> Epilogue<'_, O> {
    /// Whether sums are stored as they are.
    #[inline(always)]
    fn is_identity(&self) -> bool {
        self.partial.is_none() && self.bias.is_none() && self.residual.is_none() && !self.relu
    }
}

impl<O> Default for Epilogue<'_, O> {
    /// Sums are stored as they are.
    fn default() -> Self {
        Self {
            partial: None,
            bias: None,
            residual: None,
            relu: false,
        }
    }
}

/// `out = lhs · panel`, finished, for `rows` rows and the panel's columns. Sums are `f32`, whatever the
/// factors and the result are kept as.
///
/// # Panics
/// When a slice is too short, which would be a mistake in the calling operator.
pub(super) fn multiply<T: GemmElement, O: Element>(
    token: T::Token,
    rows: usize,
    lhs: Lhs<'_, T>,
    panel: Panel<'_, T>,
    out: &mut Dst<'_, O>,
    finish: Epilogue<'_, O>,
) {
    let product = Product {
        rows,
        lhs,
        panel,
        out,
        finish,
    };
    T::multiply(token, product);
}

/// What [`multiply`] does.
pub(super) struct Product<'a, 'b, T, O> {
    rows: usize,
    lhs: Lhs<'a, T>,
    panel: Panel<'a, T>,
    out: &'a mut Dst<'b, O>,
    finish: Epilogue<'a, O>,
}

impl<O: Element> Kernel for Product<'_, '_, f32, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.run_on(simd);
    }
}

impl<T: GemmElement, O: Element> Product<'_, '_, T, O> {
    /// Must only be called in code that is compiled for the path of `S`.
    #[inline(always)]
    pub(super) fn run_on<S: Simd>(self, simd: S)
    where
        T: MicroKernel<S>,
    {
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
        let steps = lhs.segments.saturating_mul(lhs.run.div_ceil(T::DEPTH_STEP));
        assert!(
            panel.data.len() == steps.saturating_mul(width * T::DEPTH_STEP)
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
                && finish.residual.is_none_or(|r| r.len() == out.data.len())
                && finish.partial.is_none_or(|p| p.len() / width >= rows),
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
                    4 => tiles::<S, T, O, 4>(simd, count, &job, out),
                    3 => tiles::<S, T, O, 3>(simd, count, &job, out),
                    2 => tiles::<S, T, O, 2>(simd, count, &job, out),
                    _ => tiles::<S, T, O, 1>(simd, count, &job, out),
                }
            }
            from += count;
        }
    }
}

struct Job<'a, T, O> {
    from: usize,
    lhs: Lhs<'a, T>,
    panel: Panel<'a, T>,
    finish: Epilogue<'a, O>,
}

/// [`tile`] of `count` rows, 1 to 9.
///
/// # Safety
/// As for [`tile`], with `count` for M.
#[inline(always)]
unsafe fn tiles<S: Simd, T: MicroKernel<S>, O: Element, const N: usize>(
    simd: S,
    count: usize,
    job: &Job<'_, T, O>,
    out: &mut Dst<'_, O>,
) {
    if N > S::VECTORS || count > S::ROWS {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            9 => tile::<S, T, O, 9, N>(simd, job, out),
            8 => tile::<S, T, O, 8, N>(simd, job, out),
            7 => tile::<S, T, O, 7, N>(simd, job, out),
            6 => tile::<S, T, O, 6, N>(simd, job, out),
            5 => tile::<S, T, O, 5, N>(simd, job, out),
            4 => tile::<S, T, O, 4, N>(simd, job, out),
            3 => tile::<S, T, O, 3, N>(simd, job, out),
            2 => tile::<S, T, O, 2, N>(simd, job, out),
            _ => tile::<S, T, O, 1, N>(simd, job, out),
        }
    }
}

/// Rows `from` to `from + M`, all columns of a panel of `N` vectors.
///
/// # Safety
/// For all of these rows r, runs s and i < run, `r · row + s · segment + i` lies in `lhs.data`;
/// `panel.data` has `segments · ⌈run / DEPTH_STEP⌉ · N · LANES · DEPTH_STEP` numbers; for all of these rows and the
/// panel's columns, `at + r · row + j` lies in `out.data` and, if given, in `residual`, and j in `bias`;
/// `partial`, if given, has a row of `N · LANES` numbers for all of these rows.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "plain indices are what compilers keep in registers"
)]
unsafe fn tile<S: Simd, T: MicroKernel<S>, O: Element, const M: usize, const N: usize>(
    simd: S,
    job: &Job<'_, T, O>,
    out: &mut Dst<'_, O>,
) {
    let Job {
        from,
        lhs,
        panel,
        finish,
    } = job;
    let mut sums = [[simd.splat(0.0); N]; M];
    // SAFETY: step d of run s, with ⌈run / DEPTH_STEP⌉ steps a run, reads row s · ⌈run / DEPTH_STEP⌉ + d of the panel's
    // N · LANES · DEPTH_STEP numbers, of which there are that many by the caller's promise; row m of the tile is
    // row `from + m` of the left-hand side, of which a step reads numbers d · DEPTH_STEP to (d + 1) · DEPTH_STEP of
    // run s where all of these are in the run, else only the first, which lie in its slice by the
    // caller's promise. `wrapping_add` only makes pointers that are not read, past the last run.
    unsafe {
        let mut b = panel.data.as_ptr();
        for s in 0..lhs.segments {
            let mut a = lhs
                .data
                .as_ptr()
                .wrapping_add(from * lhs.row + s * lhs.segment);
            for _ in 0..lhs.run / T::DEPTH_STEP {
                let columns: [T::Factors; N] =
                    std::array::from_fn(|j| T::columns(simd, b.add(j * S::LANES * T::DEPTH_STEP)));
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = T::row(simd, a.add(m * lhs.row));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = T::multiply_add(simd, value, column, *sum);
                    }
                }
                b = b.wrapping_add(N * S::LANES * T::DEPTH_STEP);
                a = a.wrapping_add(T::DEPTH_STEP);
            }
            if !lhs.run.is_multiple_of(T::DEPTH_STEP) {
                let columns: [T::Factors; N] =
                    std::array::from_fn(|j| T::columns(simd, b.add(j * S::LANES * T::DEPTH_STEP)));
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = T::rest(simd, *a.add(m * lhs.row));
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
            sums[m][j] = T::finish_sum(simd, sums[m][j]);
        }
    }
    if finish.is_identity() && panel.columns == N * S::LANES {
        for m in 0..M {
            for j in 0..N {
                let at = out.at + (from + m) * out.row + j * S::LANES;
                // SAFETY: as below: `LANES` of the panel's columns in a row of the tile.
                unsafe { O::store(simd, out.data.as_mut_ptr().add(at), sums[m][j]) };
            }
        }
        return;
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
            let partial = finish
                .partial
                .and_then(|p| p.get((from + m) * N * S::LANES..));
            finish_edge(sums, (partial, panel.columns), row, out, finish);
            continue;
        }
        for j in 0..N {
            let (column, at) = (j * S::LANES, row + j * S::LANES);
            // SAFETY: these are `LANES` of the panel's columns, so by the caller's promise they
            // lie in `out`, `residual`, `bias` and `partial`, and in `sums` as above. `out` is borrowed mutably
            // and overlaps none of them.
            unsafe {
                let to = out.data.as_mut_ptr().add(at);
                let mut value = simd.load(sums.as_ptr().add(column));
                if let Some(partial) = finish.partial {
                    let at = (from + m) * N * S::LANES + column;
                    value = simd.add(simd.load(partial.as_ptr().add(at)), value);
                }
                if let Some(bias) = finish.bias {
                    value = simd.add(value, simd.load(bias.as_ptr().add(column)));
                }
                if let Some(residual) = finish.residual {
                    value = simd.add(value, O::load(simd, residual.as_ptr().add(at)));
                }
                if finish.relu {
                    value = simd.relu(value);
                }
                O::store(simd, to, value);
            }
        }
    }
}

/// Columns of the widest register tile.
const WIDEST: usize = 48;

/// A row of a panel that the matrix does not fill: the same additions, one number after another.
#[inline(never)]
fn finish_edge<O: Element>(
    sums: &[f32; WIDEST],
    (partial, columns): (Option<&[f32]>, usize),
    at: usize,
    out: &mut Dst<'_, O>,
    finish: &Epilogue<'_, O>,
) {
    let place = at..at + columns;
    let Some(to) = out.data.get_mut(place.clone()) else {
        return;
    };
    let residual = finish.residual.and_then(|r| r.get(place));
    for (j, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
        let mut value = *sum;
        if let Some(partial) = partial.and_then(|p| p.get(j)) {
            value += partial;
        }
        if let Some(bias) = finish.bias.and_then(|bias| bias.get(j)) {
            value += bias;
        }
        if let Some(residual) = residual.and_then(|r| r.get(j)) {
            value += residual.get();
        }
        *to = O::of(if finish.relu && value < 0.0 {
            0.0
        } else {
            value
        });
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

    /// A product whose numbers are multiples of 1/32 and few, so that bf16 has them and every sum is exact.
    #[derive(Debug, Clone)]
    struct Case {
        rows: usize,
        segments: usize,
        run: usize,
        columns: usize,
        gaps: (usize, usize),
        finish: [bool; 4],
    }

    prop_compose! {
        fn cases()(
            rows in 1usize..30,
            (segments, run) in (1usize..4, 0usize..20),
            columns in 1usize..120,
            gaps in (0usize..5, 0usize..5),
            finish in any::<[bool; 4]>(),
        ) -> Case {
            Case { rows, segments, run, columns, gaps, finish }
        }
    }

    impl Case {
        fn check<T: GemmElement, O: Element + std::fmt::Debug>(&self, token: T::Token) {
            let &Case {
                rows,
                segments,
                run,
                columns,
                ..
            } = self;
            let [with_partial, with_bias, with_residual, relu] = self.finish;
            let depth = segments * run;
            let segment = run + self.gaps.1;
            let row = segments * segment + self.gaps.0;
            let a: Vec<T> = numbers(rows * row, 1).into_iter().map(T::of).collect();
            let b = numbers(depth * columns, 2);
            let bias = numbers(columns, 3);
            let residual = numbers(rows * columns + 3, 4);
            let of_result: Vec<O> = residual.iter().map(|v| O::of(*v)).collect();
            let partial = numbers(rows * 48, 6);
            let before: Vec<O> = vec![O::of(0.5); rows * columns + 3];
            let mut data = before.clone();
            let panels = Panels::<T>::new(token, (depth, columns), run, &b, 1, |k| k * columns);
            let mut width_of = vec![(0, 0); columns];
            for panel in panels.iter() {
                let of_panel = panel.first..panel.first + panel.columns;
                width_of[of_panel.clone()].fill((panel.first, panel.width));
                let finish = Epilogue {
                    partial: with_partial.then_some(&partial[..]),
                    bias: with_bias.then(|| &bias[of_panel]),
                    residual: with_residual.then_some(&of_result[..]),
                    relu,
                };
                let lhs = Lhs {
                    data: &a,
                    row,
                    segments,
                    segment,
                    run,
                };
                let mut out = Dst {
                    data: &mut data,
                    at: 3 + panel.first,
                    row: columns,
                };
                multiply(token, rows, lhs, panel, &mut out, finish);
            }
            assert_eq!(&data[..3], &before[..3]);
            for r in 0..rows {
                for j in 0..columns {
                    let at = 3 + r * columns + j;
                    let (first, width) = width_of[j];
                    let mut expected = if with_partial {
                        partial[r * width + j - first]
                    } else {
                        0.0
                    };
                    for s in 0..segments {
                        for i in 0..run {
                            let k = s * run + i;
                            expected += a[r * row + s * segment + i].get() * b[k * columns + j];
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
                    assert_eq!(data[at], O::of(expected), "{token:?} row {r} column {j}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn products_are_exact(case in cases()) {
            for token in Isa::all() {
                case.check::<f32, f32>(token);
            }
            if let Ok(token) = bf16::token() {
                case.check::<bf16, f32>(token);
                case.check::<bf16, bf16>(token);
            }
        }

        /// Against `f64`, with numbers of all bits that bf16 has. Each sum is rounded 2⁻²⁴ of what it
        /// has come to, and so at most that of the sum of all magnitudes, at most twice for each pair.
        #[test]
        fn products_in_bf16_are_rounded_as_sums_in_f32(
            rows in 1usize..20,
            depth in 1usize..400,
            columns in 1usize..70,
            seed in any::<u64>(),
        ) {
            let Ok(token) = bf16::token() else { return Ok(()) };
            let mut state = seed;
            let mut draw = |count: usize| -> Vec<bf16> {
                let mut next = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    bf16::of((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
                };
                (0..count).map(|_| next()).collect()
            };
            let (a, b) = (draw(rows * depth), draw(depth * columns));
            let panels = Panels::<bf16>::new(token, (depth, columns), depth, &b, 1, |k| k * columns);
            let mut data = vec![0f32; rows * columns];
            for panel in panels.iter() {
                let mut out = Dst { data: &mut data, at: panel.first, row: columns };
                let lhs = Lhs::rows(&a, depth, depth);
                multiply(token, rows, lhs, panel, &mut out, Epilogue::default());
            }
            for r in 0..rows {
                for j in 0..columns {
                    let products = || (0..depth).map(|k| {
                        f64::from(a[r * depth + k].get()) * f64::from(b[k * columns + j].get())
                    });
                    let sum: f64 = products().sum();
                    let magnitude: f64 = products().map(f64::abs).sum();
                    let tolerance = (depth + 1) as f64 * magnitude * 2f64.powi(-24) + 1e-30;
                    let error = (f64::from(data[r * columns + j]) - sum).abs();
                    prop_assert!(error <= tolerance, "row {r} column {j}: {error:e} above {tolerance:e}");
                }
            }
        }
    }

    #[test]
    fn relu_keeps_nan() {
        for token in Isa::all() {
            for columns in [1, 16] {
                let panels = Panels::<f32>::new(token, (1, columns), 1, &[1f32; 16], 1, |_| 0);
                let mut data = vec![0.0; columns];
                let panel = panels.iter().next().unwrap();
                let finish = Epilogue {
                    relu: true,
                    ..Epilogue::default()
                };
                let lhs = Lhs::rows(&[f32::NAN], 1, 1);
                let (at, row) = (0, columns);
                let mut out = Dst {
                    data: &mut data,
                    at,
                    row,
                };
                multiply(token, 1, lhs, panel, &mut out, finish);
                assert!(data[0].is_nan(), "{token:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "left-hand side")]
    fn rows_beyond_their_slice_are_noticed() {
        let token = Isa::named("scalar").unwrap();
        let panels = Panels::<f32>::new(token, (2, 1), 2, &[1f32; 2], 1, |k| k);
        let panel = panels.iter().next().unwrap();
        let mut data = [0.0; 3];
        let mut out = Dst {
            data: &mut data,
            at: 0,
            row: 1,
        };
        multiply(
            token,
            3,
            Lhs::rows(&[1.0; 5], 2, 2),
            panel,
            &mut out,
            Epilogue::default(),
        );
    }
}
