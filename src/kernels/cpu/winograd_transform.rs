//! The transforms of Winograd's convolution, vectorized over the channels.
//!
//! The paper's transforms evaluate polynomials at the points 0, ±1, ±2 and ∞ for large tiles. Those
//! are cheap to write and round badly. The points here are 0, ±5/8, ±3/2 and ∞, whose required
//! powers are exact in `f32`, too. On random channels the root mean square of the rounding error
//! falls from
//! 3.7 times that of a plain sum to 1.7 times, the largest error to a sixth. A pair ±p shares half
//! of its work for any p.

#![allow(unsafe_code)]

use super::dispatch::Element;
use super::isa::Kernel;
use super::simd::Simd;

/// Numbers on a side of a large tile, and of a small one. A tile's result has two fewer.
pub(super) const LARGE: usize = 6;
pub(super) const SMALL: usize = 4;

/// Most points of a transformed tile.
pub(super) const MAX_POINTS: usize = LARGE * LARGE;

/// Tiles that lie together: three register tiles of 8 rows with AVX-512, six of 4 or four of 6 rows
/// with the other instruction sets.
pub(super) const GROUP: usize = 24;

/// Unused numbers after each point's. Without them the points of a tile, which are read and written
/// together, would often lie a power of two apart, and so compete for the same cache set.
pub(super) const POINT_PADDING: usize = 16;

/// Returns the stride between the points of a group of tiles, in numbers.
pub(super) fn group_stride(channels: usize) -> usize {
    GROUP * channels + POINT_PADDING
}

/// The points of a large tile are 0, ±`NEAR`, ±`FAR` and ∞.
const NEAR: f64 = 0.625;
const FAR: f64 = 1.5;

/// Transform of a weight's row or column for large tiles: its polynomial at each point, divided by
/// the product of the point's distances to the others.
pub(super) const LARGE_WEIGHT: [[f64; 3]; LARGE] = {
    const fn at(point: f64, scale: f64) -> [f64; 3] {
        [scale, scale * point, scale * point * point]
    }
    let near = 0.5 / (NEAR * NEAR * (NEAR * NEAR - FAR * FAR));
    let far = 0.5 / (FAR * FAR * (FAR * FAR - NEAR * NEAR));
    [
        at(0.0, 1.0 / (NEAR * NEAR * FAR * FAR)),
        at(NEAR, near),
        at(-NEAR, near),
        at(FAR, far),
        at(-FAR, far),
        [0.0, 0.0, 1.0],
    ]
};

/// The same for small tiles, whose points are 0, ±1 and ∞.
pub(super) const SMALL_WEIGHT: [[f64; 3]; SMALL] = [
    [1.0, 0.0, 0.0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0.0, 0.0, 1.0],
];

/// Transforms a row or column of a tile's pixels.
#[inline(always)]
fn transform_pixels<S: Simd, const N: usize>(s: S, d: [S::V; N]) -> [S::V; N] {
    let mut t = d;
    if N == SMALL {
        t[0] = s.sub(d[0], d[2]);
        t[1] = s.add(d[1], d[2]);
        t[2] = s.sub(d[2], d[1]);
        t[3] = s.sub(d[1], d[3]);
    } else {
        [t[0], t[5]] = transform_pixel_pair::<S, N, 0>(s, d);
        [t[1], t[2]] = transform_pixel_pair::<S, N, 1>(s, d);
        [t[3], t[4]] = transform_pixel_pair::<S, N, 2>(s, d);
    }
    t
}

/// Computes the results of [`transform_pixels`] for a large tile that share work: pair 0 is the
/// ends 0 and ∞, pairs 1 and 2 the points ±p.
#[inline(always)]
fn transform_pixel_pair<S: Simd, const N: usize, const PAIR: usize>(
    s: S,
    d: [S::V; N],
) -> [S::V; 2] {
    const NEAR_2: f32 = (NEAR * NEAR) as f32;
    const FAR_2: f32 = (FAR * FAR) as f32;
    let times = |factor: f32, x: S::V, y: S::V| s.mul_add(s.splat(factor), x, y);
    if PAIR == 0 {
        let ends = |a, b, c| times(NEAR_2 * FAR_2, a, times(-(NEAR_2 + FAR_2), b, c));
        return [ends(d[0], d[2], d[4]), ends(d[1], d[3], d[5])];
    }
    let (point, other_2) = match PAIR {
        1 => (NEAR as f32, FAR_2),
        _ => (FAR as f32, NEAR_2),
    };
    let (even, odd) = (times(-other_2, d[2], d[4]), times(-other_2, d[1], d[3]));
    [times(point, odd, even), times(-point, odd, even)]
}

/// Transforms a row or column of a tile's products; for a small tile, the first two results count.
#[inline(always)]
fn transform_products<S: Simd, const N: usize>(s: S, m: [S::V; N]) -> [S::V; 4] {
    let times = |factor: f32, x: S::V, y: S::V| s.mul_add(s.splat(factor), x, y);
    let (sum1, difference1) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    if N == SMALL {
        let (first, second) = (s.add(m[0], sum1), s.sub(difference1, m[3]));
        return [first, second, second, second];
    }
    let (sum2, difference2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    // The second to fourth pixel weight the pairs by powers of their points.
    let pair = |near: f64, x: S::V, far: f64, y: S::V| {
        times(far as f32, y, times(near as f32, x, s.splat(0.0)))
    };
    let cubes = pair(
        NEAR * NEAR * NEAR,
        difference1,
        FAR * FAR * FAR,
        difference2,
    );
    [
        s.add(m[0], s.add(sum1, sum2)),
        pair(NEAR, difference1, FAR, difference2),
        pair(NEAR * NEAR, sum1, FAR * FAR, sum2),
        s.add(cubes, m[5]),
    ]
}

/// Kernel that transforms a tile of N×N pixels.
pub(super) struct PixelTransform<'a, E, const N: usize> {
    /// The channels of each pixel, row by row; N² of them.
    pub pixels: &'a [&'a [E]; MAX_POINTS],
    pub channels: usize,
    /// Destination: point `p` starts at `offset + p · group_stride(channels)`.
    pub to: &'a mut [f32],
    pub offset: usize,
}

impl<E: Element, const N: usize> Kernel for PixelTransform<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let stride = group_stride(self.channels);
        let end = self
            .offset
            .saturating_add((N * N - 1) * stride + self.channels);
        assert!(
            N <= LARGE
                && self
                    .pixels
                    .iter()
                    .take(N * N)
                    .all(|pixel| pixel.len() >= self.channels)
                && end <= self.to.len()
                && self.channels.is_multiple_of(S::LANES),
            "pixels of a tile"
        );
        let to = self.to.as_mut_ptr();
        for channel in (0..self.channels).step_by(S::LANES) {
            // SAFETY: the conditions above; channel + LANES ≤ channels, as LANES divides channels.
            unsafe {
                if N == SMALL {
                    let mut columns = [[simd.splat(0.0); N]; N];
                    for (j, transformed) in columns.iter_mut().enumerate() {
                        *transformed = transform_pixels(simd, self.column(simd, j, channel));
                    }
                    for i in 0..N {
                        let row = transform_pixels(simd, columns.map(|column| column[i]));
                        self.store(simd, to, (i, channel), row);
                    }
                } else {
                    self.rows::<S, 0>(simd, to, (0, 5), channel);
                    self.rows::<S, 1>(simd, to, (1, 2), channel);
                    self.rows::<S, 2>(simd, to, (3, 4), channel);
                }
            }
        }
    }
}

impl<E: Element, const N: usize> PixelTransform<'_, E, N> {
    /// Computes two rows of a large tile. A pixel is loaded once per pair that needs it; everything
    /// else stays in registers, because loads cost less than stores.
    ///
    /// # Safety
    /// As for [`PixelTransform::column`] and, of both rows, [`PixelTransform::store`]; N is
    /// `LARGE`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const PAIR: usize>(
        &self,
        simd: S,
        to: *mut f32,
        (first, second): (usize, usize),
        channel: usize,
    ) {
        let mut columns = [[simd.splat(0.0); 2]; N];
        // SAFETY: the caller's.
        unsafe {
            for (j, transformed) in columns.iter_mut().enumerate() {
                *transformed =
                    transform_pixel_pair::<S, N, PAIR>(simd, self.column(simd, j, channel));
            }
            let row = transform_pixels(simd, columns.map(|[value, _]| value));
            self.store(simd, to, (first, channel), row);
            let row = transform_pixels(simd, columns.map(|[_, value]| value));
            self.store(simd, to, (second, channel), row);
        }
    }

    /// Loads column `j` of the tile's pixels, `LANES` channels of each.
    ///
    /// # Safety
    /// There are N² pixels of at least channel + `LANES` numbers.
    #[inline(always)]
    unsafe fn column<S: Simd>(&self, simd: S, j: usize, channel: usize) -> [S::V; N] {
        let mut column = [simd.splat(0.0); N];
        for (i, value) in column.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *value = unsafe { E::load(simd, self.pixels[i * N + j].as_ptr().add(channel)) };
        }
        column
    }

    /// Stores row `i` of the transformed tile.
    ///
    /// # Safety
    /// i < N; from `to` on, offset + (N² - 1) · [`group_stride`] + channel + `LANES` numbers are
    /// writable and overlap no pixel.
    #[inline(always)]
    unsafe fn store<S: Simd>(
        &self,
        simd: S,
        to: *mut f32,
        (i, channel): (usize, usize),
        row: [S::V; N],
    ) {
        let stride = group_stride(self.channels);
        for (j, value) in row.into_iter().enumerate() {
            // SAFETY: j < N, and the caller's promises.
            unsafe { simd.store(to.add(self.offset + (i * N + j) * stride + channel), value) };
        }
    }
}

/// Arguments of [`ProductTransform`]: the products of a tile, and the part of the result that they
/// become.
pub(super) struct ProductTile<'a, E> {
    /// The channels of each point, row by row.
    pub points: &'a [&'a [f32]; MAX_POINTS],
    pub channels: usize,
    pub bias: &'a [f32],
    pub residual: Option<&'a [E]>,
    pub relu: bool,
    /// Destination: pixel (i, j) starts at `offset + i · row_stride + j · channels`.
    pub to: &'a mut [E],
    pub offset: usize,
    pub row_stride: usize,
    /// Rows and columns of the tile that lie in the image.
    pub size: (usize, usize),
}

/// Kernel that turns N×N products of a tile into pixels.
pub(super) struct ProductTransform<'a, E, const N: usize>(pub ProductTile<'a, E>);

impl<E: Element, const N: usize> Kernel for ProductTransform<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let this = self.0;
        let (rows, columns) = this.size;
        let end = (rows.saturating_sub(1))
            .saturating_mul(this.row_stride)
            .saturating_add(this.offset)
            .saturating_add(columns * this.channels);
        assert!(
            N <= LARGE
                && this
                    .points
                    .iter()
                    .take(N * N)
                    .all(|point| point.len() >= this.channels)
                && rows <= N - 2
                && columns <= N - 2
                && end <= this.to.len()
                && this.bias.len() >= this.channels
                && this.residual.is_none_or(|r| r.len() == this.to.len())
                && this.channels.is_multiple_of(S::LANES),
            "result of a tile"
        );
        let to = this.to.as_mut_ptr();
        for channel in (0..this.channels).step_by(S::LANES) {
            let mut halves = [[simd.splat(0.0); 4]; N];
            for (j, half) in halves.iter_mut().enumerate() {
                let mut column = [simd.splat(0.0); N];
                for (i, value) in column.iter_mut().enumerate() {
                    // SAFETY: channel + LANES ≤ channels ≤ the point's length, as LANES divides
                    // channels.
                    *value = unsafe { simd.load(this.points[i * N + j].as_ptr().add(channel)) };
                }
                *half = transform_products(simd, column);
            }
            // SAFETY: as above, and bias has as many numbers as there are channels.
            let bias = unsafe { simd.load(this.bias.as_ptr().add(channel)) };
            // Loop bounds that the compiler knows keep `halves` in registers.
            for i in 0..4 {
                if i >= rows {
                    continue;
                }
                let row = transform_products(simd, halves.map(|half| half[i]));
                for (j, value) in row.into_iter().enumerate() {
                    if j >= columns {
                        continue;
                    }
                    let at = this.offset + i * this.row_stride + j * this.channels + channel;
                    let mut value = simd.add(value, bias);
                    // SAFETY: i < rows, j < columns and channel + LANES ≤ channels, so at + LANES ≤
                    // `end`, within `to` and the equally long `residual`. `to` is borrowed mutably
                    // and overlaps neither `residual` nor `points`.
                    unsafe {
                        if let Some(residual) = this.residual {
                            value = simd.add(value, E::load(simd, residual.as_ptr().add(at)));
                        }
                        if this.relu {
                            value = simd.relu(value);
                        }
                        E::store(simd, to.add(at), value);
                    }
                }
            }
        }
    }
}
