//! Convolution by Winograd's minimal filtering F(4×4, 3×3) and F(2×2, 3×3) (Lavin & Gray 2016, arXiv
//! 1509.09308).
//!
//! Tiles of 6×6 (4×4) pixels become 36 (16) numbers a channel, which meet the transformed weight in as
//! many products; each result becomes 4×4 (2×2) pixels. That is a quarter (four ninths) of the
//! multiplications of a 3×3 convolution, for 4 (1.8) times the memory of its weight.
//!
//! The transforms of a tile evaluate polynomials at points of which the paper takes 0, ±1, ±2, ∞ for large
//! tiles. Those are quick to write and round badly. We take 0, ±5/8, ±3/2, ∞, whose powers that are
//! needed are exact in `f32` too: on random channels the root mean square of the rounding falls from 3.7
//! times a plain sum's to 1.7 times, the largest to a sixth. Avx2MaddToken ±p share half of their work at any p.

#![allow(unsafe_code)]

use candle_core::Result;
use rayon::prelude::*;

use super::conv::Call;
use super::element::Element;
use super::isa::{Isa, Kernel};
use super::micro::{Dst, Epilogue, Lhs, multiply};
use super::panels::Panels;
use super::scratch::Scratch;
use super::simd::Simd;
use super::tasks;
use crate::kernels::Conv2dShape;

/// Numbers on a side of a large tile, and of a small one. A tile's result has two less.
const LARGE: usize = 6;
const SMALL: usize = 4;

/// The most numbers of a transformed tile.
const MOST: usize = LARGE * LARGE;

/// Tiles that lie together: three register tiles of 8 rows with AVX-512, six or four of the others'.
const GROUP: usize = 24;

/// Numbers that are left free behind each point's. Without them the points of a tile, which are read and
/// written together, would often lie a power of two apart, and so in one place of the cache.
const APART: usize = 16;

/// Numbers from one point of a group of tiles to the next.
fn group_step(channels: usize) -> usize {
    GROUP * channels + APART
}

/// Bytes of transformed tiles and results that stay in a core's own cache.
const CACHED: usize = 704 << 10;

/// Bytes of the same that are held at a time by all threads together, to stay in the last cache.
const HELD: usize = 6 << 20;

/// Channels come in multiples of this, so that every path's vectors divide them.
const CHANNELS: usize = 16;

/// The transformed weight: for each point of a tile a matrix `[in, out]`.
///
/// All of it is `f32`, whatever the type of the maps: the transforms would enlarge any coarser rounding.
#[derive(Debug)]
pub(super) struct Winograd<E: Element> {
    token: E::Token,
    product: Isa,
    /// Numbers on a side of a tile.
    tile: usize,
    points: Vec<Panels>,
}

/// The points of a large tile are 0, ±`NEAR`, ±`FAR` and ∞.
const NEAR: f64 = 0.625;
const FAR: f64 = 1.5;

/// The transform of a weight's row or column, for large tiles and for small ones: its polynomial at each
/// point, divided by the product of the point's distances to the others.
const WEIGHT: [[f64; 3]; LARGE] = {
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
const SMALL_WEIGHT: [[f64; 3]; SMALL] = [
    [1.0, 0.0, 0.0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0.0, 0.0, 1.0],
];

/// Whether the products, which grow as the product of the channels, outweigh the transforms, which grow as
/// their sum, although a direct convolution in bf16 multiplies twice as fast: measured with large tiles,
/// the two are equal at some 32 channels to 32, and at 192 to 192 tiles take seven tenths of the time.
fn wide_enough_for_bf16(shape: &Conv2dShape) -> bool {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    2 * inputs * outputs >= 48 * (inputs + outputs)
}

impl<E: Element> Winograd<E> {
    /// Numbers on a side of the tiles that a layer is computed by, if it is: not where the transforms
    /// cost more than they save (few channels, or few tiles). Small maps of many channels take small tiles:
    /// there the time goes into reading the weight, of which they have less than half. In bf16, small
    /// tiles save too little.
    pub fn tile(shape: &Conv2dShape) -> Option<usize> {
        let fits = |channels: usize| channels >= 32 && channels.is_multiple_of(CHANNELS);
        let pays = shape.kernel == (3, 3)
            && shape.stride == 1
            && fits(shape.in_channels)
            && fits(shape.out_channels);
        let narrow = size_of::<E>() < size_of::<f32>();
        match shape.side {
            _ if !pays => None,
            _ if narrow && !wide_enough_for_bf16(shape) => None,
            Some(..=12) if narrow => None,
            Some(..=3) => None,
            Some(..=12) if shape.in_channels >= 256 => Some(SMALL),
            _ => Some(LARGE),
        }
    }

    pub fn new(token: E::Token, tile: usize, shape: &Conv2dShape, weight: &[f32]) -> Result<Self> {
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let product = Isa::current()?;
        let kernels = weight.as_chunks::<9>().0;
        let sides: &[[f64; 3]] = if tile == SMALL {
            &SMALL_WEIGHT
        } else {
            &WEIGHT
        };
        let points: Vec<_> = sides
            .iter()
            .flat_map(|down| sides.iter().map(move |across| (down, across)))
            .collect();
        let point = |(down, across): (&[f64; 3], &[f64; 3])| {
            let mut taps = [0f64; 9];
            for (tap, value) in taps.iter_mut().enumerate() {
                *value = down[tap / 3] * across[tap % 3];
            }
            let mut matrix = Scratch::<f32>::new(inputs * outputs);
            for (to, kernel) in matrix.iter_mut().zip(kernels) {
                let terms = kernel.iter().zip(taps).map(|(w, tap)| f64::from(*w) * tap);
                *to = terms.sum::<f64>() as f32;
            }
            // The matrix is [out, in].
            Panels::new(product, (inputs, outputs), inputs, &matrix, inputs, |k| k)
        };
        Ok(Self {
            token,
            product,
            tile,
            points: points.into_par_iter().map(point).collect(),
        })
    }

    pub fn run(&self, call: &Call<'_, E>, out: &mut [E]) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (height, width) = call.output;
        let (points, side) = (self.points.len(), self.tile - 2);
        let across = width.div_ceil(side);
        // So many rows of pixels at a time are a row of tiles.
        let mut at = 0;
        let mut strips = Vec::new();
        for image in out.chunks_exact_mut(height * width * outputs) {
            for out in image.chunks_mut(side * width * outputs) {
                let len = out.len();
                let tile = strips.len() * across;
                strips.push(Strip { tile, at, out });
                at += len;
            }
        }
        let of_tile = points * size_of::<f32>() * (inputs + outputs);
        if GROUP * of_tile <= CACHED {
            // Each thread takes some tiles all the way, and they never leave its own cache.
            let rows = (CACHED / of_tile / across).max(1);
            let work = strips.len() * across * points * inputs * outputs;
            let mut blocks = Vec::new();
            while !strips.is_empty() {
                let rest = strips.split_off(rows.min(strips.len()));
                blocks.push(std::mem::replace(&mut strips, rest));
            }
            tasks::each(work, blocks, |strips| self.block(call, strips, false));
        } else {
            // The threads share each step, so that each part of the weight is read by one of them, once.
            let rows = ((HELD / of_tile).clamp(32, 512) / across).max(1);
            while !strips.is_empty() {
                let rest = strips.split_off(rows.min(strips.len()));
                self.block(call, strips, true);
                strips = rest;
            }
        }
    }

    /// Computes some rows of tiles, on several threads or on this one alone.
    fn block(&self, call: &Call<'_, E>, strips: Vec<Strip<'_, E>>, together: bool) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (count, side) = (self.points.len(), self.tile - 2);
        let (down, across) = (call.output.0.div_ceil(side), call.output.1.div_ceil(side));
        let first = strips.first().map_or(0, |strip| strip.tile);
        let tiles = strips.len() * across;
        let work = |amount: usize| if together { tiles * amount } else { 0 };
        let of_group = count * group_step(inputs);
        let of_point = tiles * outputs + APART;
        let mut transformed = Scratch::new(tiles.div_ceil(GROUP) * of_group);
        let mut products = Scratch::new(count * of_point);

        let groups = transformed.chunks_exact_mut(of_group);
        let groups = groups.enumerate().collect();
        tasks::each(
            work(4 * count * inputs),
            groups,
            |(group, to): (usize, &mut [f32])| {
                let begin = group * GROUP;
                for tile in begin..(begin + GROUP).min(tiles) {
                    let place = (first + tile, down, across);
                    self.gather(call, place, to, (tile - begin) * inputs);
                }
            },
        );

        let points = products.chunks_exact_mut(of_point);
        let points = points.zip(&self.points).enumerate().collect();
        type Point<'a> = (usize, (&'a mut [f32], &'a Panels));
        tasks::each(
            work(count * inputs * outputs),
            points,
            |(point, (to, weight)): Point<'_>| {
                for panel in weight.iter() {
                    for begin in (0..tiles).step_by(GROUP) {
                        let from = begin / GROUP * of_group + point * group_step(inputs);
                        let data = transformed.get(from..).unwrap_or_default();
                        let lhs = Lhs::rows(data, inputs, inputs);
                        let rows = GROUP.min(tiles - begin);
                        let mut out = Dst {
                            data: to,
                            at: begin * outputs + panel.first,
                            row: outputs,
                        };
                        multiply(
                            self.product,
                            rows,
                            lhs,
                            panel,
                            &mut out,
                            Epilogue::default(),
                        );
                    }
                }
            },
        );

        tasks::each(work(4 * count * outputs), strips, |strip: Strip<'_, E>| {
            self.scatter(call, &products, (strip.tile - first, of_point), strip);
        });
    }

    /// Transforms tile number `tile` of the batch into `to[at..]`, points [`group_step`] apart.
    fn gather(
        &self,
        call: &Call<'_, E>,
        (tile, down, across): (usize, usize, usize),
        to: &mut [f32],
        at: usize,
    ) {
        let channels = call.shape.in_channels;
        let (height, width) = call.input;
        let (image, row, column) = (tile / (down * across), tile / across % down, tile % across);
        let many;
        let zeros = match E::zeros().get(..channels) {
            Some(zeros) => zeros,
            None => {
                many = vec![E::of(0.0); channels];
                &many
            }
        };
        let side = self.tile - 2;
        let mut pixels = [zeros; MOST];
        for (point, pixel) in pixels.iter_mut().enumerate().take(self.points.len()) {
            let y = (row * side + point / self.tile).checked_sub(call.shape.padding.0);
            let x = (column * side + point % self.tile).checked_sub(call.shape.padding.1);
            if let (Some(y), Some(x)) = (y, x)
                && y < height
                && x < width
            {
                let from = ((image * height + y) * width + x) * channels;
                *pixel = call.x.get(from..from + channels).unwrap_or(zeros);
            }
        }
        let pixels = &pixels;
        if self.tile == SMALL {
            let gather = Gather::<E, SMALL> {
                pixels,
                channels,
                to,
                at,
            };
            E::run(self.token, gather);
        } else {
            let gather = Gather::<E, LARGE> {
                pixels,
                channels,
                to,
                at,
            };
            E::run(self.token, gather);
        }
    }

    /// Turns a row of tiles, the first of them number `tile` of those in `products`, whose points are
    /// `of_point` apart, into pixels.
    fn scatter(
        &self,
        call: &Call<'_, E>,
        products: &[f32],
        (tile, of_point): (usize, usize),
        strip: Strip<'_, E>,
    ) {
        let channels = call.shape.out_channels;
        let width = call.output.1;
        let rows = strip.out.len() / (width * channels);
        let residual = call
            .residual
            .and_then(|r| r.get(strip.at..strip.at + strip.out.len()));
        let side = self.tile - 2;
        for column in 0..width.div_ceil(side) {
            let mut points: [&[f32]; MOST] = [&[]; MOST];
            for (point, values) in points.iter_mut().enumerate().take(self.points.len()) {
                let from = point * of_point + (tile + column) * channels;
                *values = products.get(from..from + channels).unwrap_or_default();
            }
            let scatter = Scatter {
                points: &points,
                channels,
                bias: call.bias,
                residual,
                relu: call.relu,
                to: strip.out,
                at: column * side * channels,
                row: width * channels,
                size: (rows, side.min(width - column * side)),
            };
            if self.tile == SMALL {
                E::run(self.token, ScatterTile::<E, SMALL>(scatter));
            } else {
                E::run(self.token, ScatterTile::<E, LARGE>(scatter));
            }
        }
    }
}

/// A row of tiles in the result.
struct Strip<'a, E> {
    /// Number of the first of them in the batch.
    tile: usize,
    /// Where it begins in the whole result.
    at: usize,
    out: &'a mut [E],
}

/// The transform of a tile's row or column of pixels.
#[inline(always)]
fn forward<S: Simd, const N: usize>(s: S, d: [S::V; N]) -> [S::V; N] {
    let mut t = d;
    if N == SMALL {
        t[0] = s.sub(d[0], d[2]);
        t[1] = s.add(d[1], d[2]);
        t[2] = s.sub(d[2], d[1]);
        t[3] = s.sub(d[1], d[3]);
    } else {
        [t[0], t[5]] = forward_pair::<S, N, 0>(s, d);
        [t[1], t[2]] = forward_pair::<S, N, 1>(s, d);
        [t[3], t[4]] = forward_pair::<S, N, 2>(s, d);
    }
    t
}

/// Those of [`forward`]'s results for a large tile that share work: the ends, or the points ±p.
#[inline(always)]
fn forward_pair<S: Simd, const N: usize, const PAIR: usize>(s: S, d: [S::V; N]) -> [S::V; 2] {
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

/// The transform of a tile's row or column of products; of small tiles, into the first two.
#[inline(always)]
fn backward<S: Simd, const N: usize>(s: S, m: [S::V; N]) -> [S::V; 4] {
    let times = |factor: f32, x: S::V, y: S::V| s.mul_add(s.splat(factor), x, y);
    let (sum1, difference1) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    if N == SMALL {
        let (first, second) = (s.add(m[0], sum1), s.sub(difference1, m[3]));
        return [first, second, second, second];
    }
    let (sum2, difference2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    // The second to fourth pixel weigh the pairs by powers of their points.
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

/// Transforms a tile of N×N pixels.
struct Gather<'a, E, const N: usize> {
    /// Row by row, each the channels of one pixel; N² of them.
    pixels: &'a [&'a [E]; MOST],
    channels: usize,
    to: &'a mut [f32],
    at: usize,
}

impl<E: Element, const N: usize> Kernel for Gather<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let step = group_step(self.channels);
        let end = self.at.saturating_add((N * N - 1) * step + self.channels);
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
                        *transformed = forward(simd, self.column(simd, j, channel));
                    }
                    for i in 0..N {
                        let row = forward(simd, columns.map(|column| column[i]));
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

impl<E: Element, const N: usize> Gather<'_, E, N> {
    /// Two rows of a large tile: a pixel is read for each pair that needs it, but all stays in registers, and
    /// reading costs less than writing.
    ///
    /// # Safety
    /// As for [`Gather::column`] and, of both rows, [`Gather::store`]; N is `LARGE`.
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
                *transformed = forward_pair::<S, N, PAIR>(simd, self.column(simd, j, channel));
            }
            let row = forward(simd, columns.map(|[value, _]| value));
            self.store(simd, to, (first, channel), row);
            let row = forward(simd, columns.map(|[_, value]| value));
            self.store(simd, to, (second, channel), row);
        }
    }

    /// Column `j` of the tile's pixels, `LANES` channels of each.
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

    /// Writes row `i` of the transformed tile.
    ///
    /// # Safety
    /// i < N; from `to`, at + (N² - 1) · [`group_step`] + channel + `LANES` numbers can be written, which no pixel
    /// shares.
    #[inline(always)]
    unsafe fn store<S: Simd>(
        &self,
        simd: S,
        to: *mut f32,
        (i, channel): (usize, usize),
        row: [S::V; N],
    ) {
        let step = group_step(self.channels);
        for (j, value) in row.into_iter().enumerate() {
            // SAFETY: j < N, and the caller's promises.
            unsafe { simd.store(to.add(self.at + (i * N + j) * step + channel), value) };
        }
    }
}

/// Turns the products of a tile into pixels.
struct Scatter<'a, E> {
    /// Row by row, each the channels of one point.
    points: &'a [&'a [f32]; MOST],
    channels: usize,
    bias: &'a [f32],
    residual: Option<&'a [E]>,
    relu: bool,
    to: &'a mut [E],
    at: usize,
    row: usize,
    /// Rows and columns of the tile that lie in the image.
    size: (usize, usize),
}

/// [`Scatter`] of a tile of N×N products.
struct ScatterTile<'a, E, const N: usize>(Scatter<'a, E>);

impl<E: Element, const N: usize> Kernel for ScatterTile<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let this = self.0;
        let (rows, columns) = this.size;
        let end = (rows.saturating_sub(1))
            .saturating_mul(this.row)
            .saturating_add(this.at)
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
                *half = backward(simd, column);
            }
            // SAFETY: as above, and bias has as many numbers as there are channels.
            let bias = unsafe { simd.load(this.bias.as_ptr().add(channel)) };
            // Bounds known to the compiler keep `halves` in registers.
            for i in 0..4 {
                if i >= rows {
                    continue;
                }
                let row = backward(simd, halves.map(|half| half[i]));
                for (j, value) in row.into_iter().enumerate() {
                    if j >= columns {
                        continue;
                    }
                    let at = this.at + i * this.row + j * this.channels + channel;
                    let mut value = simd.add(value, bias);
                    // SAFETY: i < rows, j < columns and channel + LANES ≤ channels, so at + LANES ≤
                    // `end`, within `to` and the equally long `residual`. `to` is borrowed mutably and
                    // overlaps neither `residual` nor `points`.
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
