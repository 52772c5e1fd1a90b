//! Convolution by Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray 2016, arXiv 1509.09308).
//!
//! Tiles of 6×6 pixels become 36 numbers a channel, which meet the transformed weight in 36 products;
//! each result becomes 4×4 pixels. That is a quarter of the multiplications of a 3×3 convolution, for
//! four times the memory of its weight.

#![allow(unsafe_code)]

use super::conv::Call;
use super::micro::{Finish, Lhs, Out, multiply};
use super::panels::Panels;
use super::path::{Kernel, Path};
use super::scratch::Scratch;
use super::simd::Simd;
use super::tasks;
use crate::kernels::Conv2dShape;
use rayon::prelude::*;

/// Pixels on a side of a tile's result.
const SIDE: usize = 4;

/// Numbers of a transformed tile.
const POINTS: usize = 36;

/// Tiles that lie together, a multiple of every register tile's rows.
const GROUP: usize = 24;

/// Bytes of transformed tiles and results that stay in a core's own cache.
const CACHED: usize = 704 << 10;

/// Bytes of the same that are held at a time by all threads together, to stay in the last cache.
const HELD: usize = 6 << 20;

/// Channels come in multiples of this, so that every path's vectors divide them.
const CHANNELS: usize = 16;

/// The transformed weight: for each of the 36 points a matrix `[in, out]`.
#[derive(Debug)]
pub(super) struct Winograd {
    path: Path,
    points: Vec<Panels>,
}

/// The transform of a weight's row or column.
const WEIGHT: [[f64; 3]; 6] = [
    [0.25, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

impl Winograd {
    /// Whether a layer is computed this way: not where the transforms cost more than they save (few
    /// channels), nor on small maps: there the weight, four times as large, serves few tiles, and the
    /// rounding, some ten times that of a plain sum, is no longer small beside the network's own.
    pub fn pays(shape: &Conv2dShape) -> bool {
        let fits = |channels: usize| channels >= 32 && channels.is_multiple_of(CHANNELS);
        shape.kernel == (3, 3)
            && shape.stride == 1
            && fits(shape.in_channels)
            && fits(shape.out_channels)
            && shape.side.is_none_or(|side| side > 3 * SIDE)
    }

    pub fn new(path: Path, shape: &Conv2dShape, weight: &[f32]) -> Self {
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let kernels = weight.as_chunks::<9>().0;
        let point = |index: usize| {
            let (down, across) = (WEIGHT[index / 6], WEIGHT[index % 6]);
            let mut taps = [0f64; 9];
            for (tap, value) in taps.iter_mut().enumerate() {
                *value = down[tap / 3] * across[tap % 3];
            }
            let mut matrix = Scratch::new(inputs * outputs);
            for (to, kernel) in matrix.iter_mut().zip(kernels) {
                let terms = kernel.iter().zip(taps).map(|(w, tap)| f64::from(*w) * tap);
                *to = terms.sum::<f64>() as f32;
            }
            // The matrix is [out, in].
            Panels::new(path, (inputs, outputs), &matrix, inputs, |k| k)
        };
        Self {
            path,
            points: (0..POINTS).into_par_iter().map(point).collect(),
        }
    }

    pub fn run(&self, call: &Call<'_>, out: &mut [f32]) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (height, width) = call.output;
        let across = width.div_ceil(SIDE);
        // Four rows of pixels at a time are a row of tiles.
        let mut at = 0;
        let mut strips = Vec::new();
        for image in out.chunks_exact_mut(height * width * outputs) {
            for out in image.chunks_mut(SIDE * width * outputs) {
                let len = out.len();
                let tile = strips.len() * across;
                strips.push(Strip { tile, at, out });
                at += len;
            }
        }
        let of_tile = POINTS * size_of::<f32>() * (inputs + outputs);
        if GROUP * of_tile <= CACHED {
            // Each thread takes some tiles all the way, and they never leave its own cache.
            let rows = (CACHED / of_tile / across).max(1);
            let work = strips.len() * across * POINTS * inputs * outputs;
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
    fn block(&self, call: &Call<'_>, strips: Vec<Strip<'_>>, together: bool) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (down, across) = (call.output.0.div_ceil(SIDE), call.output.1.div_ceil(SIDE));
        let first = strips.first().map_or(0, |strip| strip.tile);
        let tiles = strips.len() * across;
        let work = |amount: usize| if together { tiles * amount } else { 0 };
        let mut transformed = Scratch::new(tiles.next_multiple_of(GROUP) * POINTS * inputs);
        let mut products = Scratch::new(tiles * POINTS * outputs);

        let groups = transformed.chunks_exact_mut(POINTS * GROUP * inputs);
        let groups = groups.enumerate().collect();
        tasks::each(
            work(4 * POINTS * inputs),
            groups,
            |(group, to): (usize, &mut [f32])| {
                let begin = group * GROUP;
                for tile in begin..(begin + GROUP).min(tiles) {
                    let place = (first + tile, down, across);
                    self.gather(call, place, to, (tile - begin) * inputs);
                }
            },
        );

        let points = products.chunks_exact_mut(tiles * outputs);
        let points = points.zip(&self.points).enumerate().collect();
        type Point<'a> = (usize, (&'a mut [f32], &'a Panels));
        tasks::each(
            work(POINTS * inputs * outputs),
            points,
            |(point, (to, weight)): Point<'_>| {
                for panel in weight.iter() {
                    for begin in (0..tiles).step_by(GROUP) {
                        let from = (begin / GROUP * POINTS + point) * GROUP * inputs;
                        let data = transformed.get(from..).unwrap_or_default();
                        let lhs = Lhs::rows(data, inputs, inputs);
                        let rows = GROUP.min(tiles - begin);
                        let mut out = Out {
                            data: to,
                            at: begin * outputs + panel.first,
                            row: outputs,
                        };
                        multiply(self.path, rows, lhs, panel, &mut out, Finish::default());
                    }
                }
            },
        );

        tasks::each(work(4 * POINTS * outputs), strips, |strip: Strip<'_>| {
            self.scatter(call, &products, (strip.tile - first, tiles), strip);
        });
    }

    /// Transforms tile number `tile` of the batch into `to[at..]`, points `GROUP · inputs` apart.
    fn gather(
        &self,
        call: &Call<'_>,
        (tile, down, across): (usize, usize, usize),
        to: &mut [f32],
        at: usize,
    ) {
        let channels = call.shape.in_channels;
        let (height, width) = call.input;
        let (image, row, column) = (tile / (down * across), tile / across % down, tile % across);
        let zeros = [0f32; 4096];
        let many;
        let zeros = match zeros.get(..channels) {
            Some(zeros) => zeros,
            None => {
                many = vec![0f32; channels];
                &many
            }
        };
        let mut pixels = [zeros; POINTS];
        for (point, pixel) in pixels.iter_mut().enumerate() {
            let y = (row * SIDE + point / 6).checked_sub(call.shape.padding.0);
            let x = (column * SIDE + point % 6).checked_sub(call.shape.padding.1);
            if let (Some(y), Some(x)) = (y, x)
                && y < height
                && x < width
            {
                let from = ((image * height + y) * width + x) * channels;
                *pixel = call.x.get(from..from + channels).unwrap_or(zeros);
            }
        }
        self.path.run(Gather {
            pixels: &pixels,
            channels,
            to,
            at,
        });
    }

    /// Turns a row of tiles, the first of them number `tile` of `tiles`, into pixels.
    fn scatter(
        &self,
        call: &Call<'_>,
        products: &[f32],
        (tile, tiles): (usize, usize),
        strip: Strip<'_>,
    ) {
        let channels = call.shape.out_channels;
        let width = call.output.1;
        let rows = strip.out.len() / (width * channels);
        let residual = call
            .residual
            .and_then(|r| r.get(strip.at..strip.at + strip.out.len()));
        for column in 0..width.div_ceil(SIDE) {
            let mut points: [&[f32]; POINTS] = [&[]; POINTS];
            for (point, values) in points.iter_mut().enumerate() {
                let from = (point * tiles + tile + column) * channels;
                *values = products.get(from..from + channels).unwrap_or_default();
            }
            self.path.run(Scatter {
                points: &points,
                channels,
                bias: call.bias,
                residual,
                relu: call.relu,
                to: strip.out,
                at: column * SIDE * channels,
                row: width * channels,
                size: (rows, SIDE.min(width - column * SIDE)),
            });
        }
    }
}

/// A row of tiles in the result.
struct Strip<'a> {
    /// Number of the first of them in the batch.
    tile: usize,
    /// Where it begins in the whole result.
    at: usize,
    out: &'a mut [f32],
}

/// The transform of six pixels.
#[inline(always)]
fn forward<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
    let times = |factor: f32, x: S::V, y: S::V| s.mul_add(s.splat(factor), x, y);
    let (even, odd) = (times(-4.0, d[2], d[4]), times(-4.0, d[1], d[3]));
    let (near, far) = (s.sub(d[4], d[2]), s.sub(d[3], d[1]));
    let far = s.add(far, far);
    [
        times(4.0, d[0], times(-5.0, d[2], d[4])),
        s.add(even, odd),
        s.sub(even, odd),
        s.add(near, far),
        s.sub(near, far),
        times(4.0, d[1], times(-5.0, d[3], d[5])),
    ]
}

/// The transform of six products.
#[inline(always)]
fn backward<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    let times = |factor: f32, x: S::V, y: S::V| s.mul_add(s.splat(factor), x, y);
    let (sum1, difference1) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum2, difference2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(sum1, sum2)),
        times(2.0, difference2, difference1),
        times(4.0, sum2, sum1),
        s.add(times(8.0, difference2, difference1), m[5]),
    ]
}

struct Gather<'a> {
    /// Row by row, each the channels of one pixel.
    pixels: &'a [&'a [f32]; POINTS],
    channels: usize,
    to: &'a mut [f32],
    at: usize,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let step = GROUP * self.channels;
        let end = self.at.saturating_add((POINTS - 1) * step + self.channels);
        assert!(
            self.pixels.iter().all(|pixel| pixel.len() >= self.channels)
                && end <= self.to.len()
                && self.channels.is_multiple_of(S::LANES),
            "pixels of a tile"
        );
        let to = self.to.as_mut_ptr();
        for channel in (0..self.channels).step_by(S::LANES) {
            let mut columns = [[simd.splat(0.0); 6]; 6];
            for (j, transformed) in columns.iter_mut().enumerate() {
                let mut column = [simd.splat(0.0); 6];
                for (i, value) in column.iter_mut().enumerate() {
                    // SAFETY: channel + LANES ≤ channels ≤ the pixel's length, as LANES divides
                    // channels.
                    *value = unsafe { simd.load(self.pixels[i * 6 + j].as_ptr().add(channel)) };
                }
                *transformed = forward(simd, column);
            }
            for i in 0..6 {
                let [a, b, c, d, e, f] = &columns;
                let row = forward(simd, [a[i], b[i], c[i], d[i], e[i], f[i]]);
                for (j, value) in row.into_iter().enumerate() {
                    // SAFETY: the last vector written ends at at + 35 · step + channels, within
                    // `to`, which is borrowed mutably and overlaps no pixel.
                    unsafe { simd.store(to.add(self.at + (i * 6 + j) * step + channel), value) };
                }
            }
        }
    }
}

struct Scatter<'a> {
    /// Row by row, each the channels of one point.
    points: &'a [&'a [f32]; POINTS],
    channels: usize,
    bias: &'a [f32],
    residual: Option<&'a [f32]>,
    relu: bool,
    to: &'a mut [f32],
    at: usize,
    row: usize,
    /// Rows and columns of the tile that lie in the image.
    size: (usize, usize),
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (rows, columns) = self.size;
        let end = (rows.saturating_sub(1))
            .saturating_mul(self.row)
            .saturating_add(self.at)
            .saturating_add(columns * self.channels);
        assert!(
            self.points.iter().all(|point| point.len() >= self.channels)
                && rows <= SIDE
                && columns <= SIDE
                && end <= self.to.len()
                && self.bias.len() >= self.channels
                && self.residual.is_none_or(|r| r.len() == self.to.len())
                && self.channels.is_multiple_of(S::LANES),
            "result of a tile"
        );
        let to = self.to.as_mut_ptr();
        for channel in (0..self.channels).step_by(S::LANES) {
            let mut halves = [[simd.splat(0.0); 4]; 6];
            for (j, half) in halves.iter_mut().enumerate() {
                let mut column = [simd.splat(0.0); 6];
                for (i, value) in column.iter_mut().enumerate() {
                    // SAFETY: channel + LANES ≤ channels ≤ the point's length, as LANES divides
                    // channels.
                    *value = unsafe { simd.load(self.points[i * 6 + j].as_ptr().add(channel)) };
                }
                *half = backward(simd, column);
            }
            // SAFETY: as above, and bias has as many numbers as there are channels.
            let bias = unsafe { simd.load(self.bias.as_ptr().add(channel)) };
            for i in 0..rows {
                let [a, b, c, d, e, f] = &halves;
                let row = backward(simd, [a[i], b[i], c[i], d[i], e[i], f[i]]);
                for (j, value) in row.into_iter().enumerate().take(columns) {
                    let at = self.at + i * self.row + j * self.channels + channel;
                    let mut value = simd.add(value, bias);
                    // SAFETY: i < rows, j < columns and channel + LANES ≤ channels, so at + LANES ≤
                    // `end`, within `to` and the equally long `residual`. `to` is borrowed mutably and
                    // overlaps neither `residual` nor `points`.
                    unsafe {
                        if let Some(residual) = self.residual {
                            value = simd.add(value, simd.load(residual.as_ptr().add(at)));
                        }
                        if self.relu {
                            value = simd.relu(value);
                        }
                        simd.store(to.add(at), value);
                    }
                }
            }
        }
    }
}
