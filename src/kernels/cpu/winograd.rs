//! Convolution by Winograd's minimal filtering F(4×4, 3×3) and F(2×2, 3×3) (Lavin & Gray 2016,
//! arXiv
//! 1509.09308).
//!
//! A tile of 6×6 (4×4) pixels becomes 36 (16) numbers per channel, which as many products multiply
//! with the transformed weight; each result becomes 4×4 (2×2) pixels. That is a quarter (four
//! ninths) of the multiplications of a 3×3 convolution, for 4 (1.8) times the memory of its weight.

use candle_core::Result;
use rayon::prelude::*;

use super::conv_call::ConvCall;
use super::dispatch::Element;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::isa::Isa;
use super::panels::Panels;
use super::scratch::Scratch;
use super::tasks;
use super::winograd_transform::{
    GROUP, LARGE, LARGE_WEIGHT, MAX_POINTS, POINT_PADDING, PixelTransform, ProductTile,
    ProductTransform, SMALL, SMALL_WEIGHT, group_stride,
};
use crate::kernels::shapes::Conv2dShape;

/// Bytes of transformed tiles and results that stay in a core's own cache.
const CORE_CACHE: usize = 704 << 10;

/// Bytes of transformed tiles and results that all threads together hold at a time, so that they
/// stay in the last-level cache.
const SHARED_CACHE: usize = 6 << 20;

/// Channels come in multiples of this, so that the vectors of every instruction set divide them.
const CHANNELS: usize = 16;

/// The transformed weight: for each point of a tile a matrix `[in, out]`.
///
/// All of it is `f32`, whatever the type of the maps: the transforms would amplify any coarser
/// rounding.
#[derive(Debug)]
pub(super) struct Winograd<E: Element> {
    token: E::Token,
    /// Instruction set of the products.
    isa: Isa,
    /// Numbers on a side of a tile.
    tile: usize,
    points: Vec<Panels>,
}

/// A row of tiles in the result.
struct TileRow<'a, E> {
    /// Index of its first tile in the batch.
    tile: usize,
    /// Offset of its pixels in the whole result.
    offset: usize,
    out: &'a mut [E],
}

/// Returns true if the products, which grow as the product of the channels, outweigh the
/// transforms, which grow as their sum, although a direct convolution in bf16 multiplies twice as
/// fast. Measured with large tiles: both take equally long at 32 channels to 32, and at 192 to 192
/// tiles take seven tenths of the time.
fn wide_enough_for_bf16(shape: &Conv2dShape) -> bool {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    2 * inputs * outputs >= 48 * (inputs + outputs)
}

impl<E: Element> Winograd<E> {
    /// Returns the side of the tiles for a layer, or `None` where the transforms cost more than
    /// they save: few channels, or few tiles.
    ///
    /// Small maps of many channels take small tiles: their time goes into reading the weight, which
    /// is less than half as large for small tiles. In bf16, small tiles save too little.
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

    /// Transforms and packs `weight [out, in, 3, 3]`.
    ///
    /// # Errors
    /// As [`Isa::current`].
    pub fn new(token: E::Token, tile: usize, shape: &Conv2dShape, weight: &[f32]) -> Result<Self> {
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let isa = Isa::current()?;
        let kernels = weight.as_chunks::<9>().0;
        let sides: &[[f64; 3]] = if tile == SMALL {
            &SMALL_WEIGHT
        } else {
            &LARGE_WEIGHT
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
            Panels::new(isa, (inputs, outputs), inputs, &matrix, inputs, |k| k)
        };
        Ok(Self {
            token,
            isa,
            tile,
            points: points.into_par_iter().map(point).collect(),
        })
    }

    /// Runs the convolution.
    pub fn run(&self, call: &ConvCall<'_, E>, out: &mut [E]) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (height, width) = call.output;
        let (points, side) = (self.points.len(), self.tile - 2);
        let across = width.div_ceil(side);
        let mut offset = 0;
        let mut tile_rows = Vec::new();
        for image in out.chunks_exact_mut(height * width * outputs) {
            for out in image.chunks_mut(side * width * outputs) {
                let len = out.len();
                let tile = tile_rows.len() * across;
                tile_rows.push(TileRow { tile, offset, out });
                offset += len;
            }
        }
        let tile_bytes = points * size_of::<f32>() * (inputs + outputs);
        if GROUP * tile_bytes <= CORE_CACHE {
            // Each thread computes some rows of tiles through all steps; they never leave its
            // cache.
            let rows = (CORE_CACHE / tile_bytes / across).max(1);
            let work = tile_rows.len() * across * points * inputs * outputs;
            let mut blocks = Vec::new();
            while !tile_rows.is_empty() {
                let rest = tile_rows.split_off(rows.min(tile_rows.len()));
                blocks.push(std::mem::replace(&mut tile_rows, rest));
            }
            tasks::for_each(work, blocks, |tile_rows| {
                self.run_block(call, tile_rows, false)
            });
        } else {
            // All threads share each step, so that each part of the weight is read once, by one
            // thread.
            let rows = ((SHARED_CACHE / tile_bytes).clamp(32, 512) / across).max(1);
            while !tile_rows.is_empty() {
                let rest = tile_rows.split_off(rows.min(tile_rows.len()));
                self.run_block(call, tile_rows, true);
                tile_rows = rest;
            }
        }
    }

    /// Computes some rows of tiles, on several threads or on this one alone.
    fn run_block(&self, call: &ConvCall<'_, E>, tile_rows: Vec<TileRow<'_, E>>, together: bool) {
        let (inputs, outputs) = (call.shape.in_channels, call.shape.out_channels);
        let (count, side) = (self.points.len(), self.tile - 2);
        let (down, across) = (call.output.0.div_ceil(side), call.output.1.div_ceil(side));
        let first = tile_rows.first().map_or(0, |tile_row| tile_row.tile);
        let tiles = tile_rows.len() * across;
        // Work 0 keeps the tasks on this thread.
        let work = |amount: usize| if together { tiles * amount } else { 0 };
        let group_len = count * group_stride(inputs);
        let point_stride = tiles * outputs + POINT_PADDING;
        let mut transformed = Scratch::new(tiles.div_ceil(GROUP) * group_len);
        let mut products = Scratch::new(count * point_stride);

        let groups = transformed.chunks_exact_mut(group_len);
        let groups = groups.enumerate().collect();
        tasks::for_each(
            work(4 * count * inputs),
            groups,
            |(group, to): (usize, &mut [f32])| {
                let begin = group * GROUP;
                for tile in begin..(begin + GROUP).min(tiles) {
                    let place = (first + tile, down, across);
                    self.transform_tile(call, place, to, (tile - begin) * inputs);
                }
            },
        );

        let points = products.chunks_exact_mut(point_stride);
        let points = points.zip(&self.points).enumerate().collect();
        type Point<'a> = (usize, (&'a mut [f32], &'a Panels));
        tasks::for_each(
            work(count * inputs * outputs),
            points,
            |(point, (to, weight)): Point<'_>| {
                for panel in weight.iter() {
                    for begin in (0..tiles).step_by(GROUP) {
                        let from = begin / GROUP * group_len + point * group_stride(inputs);
                        let data = transformed.get(from..).unwrap_or_default();
                        let lhs = Lhs::rows(data, inputs, inputs);
                        let rows = GROUP.min(tiles - begin);
                        let mut dst = Dst {
                            data: to,
                            offset: begin * outputs + panel.first,
                            row_stride: outputs,
                        };
                        multiply(self.isa, rows, lhs, panel, &mut dst, Epilogue::default());
                    }
                }
            },
        );

        tasks::for_each(
            work(4 * count * outputs),
            tile_rows,
            |tile_row: TileRow<'_, E>| {
                self.store_tile_row(
                    call,
                    &products,
                    (tile_row.tile - first, point_stride),
                    tile_row,
                );
            },
        );
    }

    /// Transforms tile `tile` of the batch into `to[offset..]`, its points [`group_stride`] apart.
    fn transform_tile(
        &self,
        call: &ConvCall<'_, E>,
        (tile, down, across): (usize, usize, usize),
        to: &mut [f32],
        offset: usize,
    ) {
        let channels = call.shape.in_channels;
        let (height, width) = call.input;
        let (image, row, column) = (tile / (down * across), tile / across % down, tile % across);
        let many;
        let zeros = match E::zeros().get(..channels) {
            Some(zeros) => zeros,
            None => {
                many = vec![E::narrow(0.0); channels];
                &many
            }
        };
        let side = self.tile - 2;
        // Pixels outside of the image are the padding.
        let mut pixels = [zeros; MAX_POINTS];
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
            let transform = PixelTransform::<E, SMALL> {
                pixels,
                channels,
                to,
                offset,
            };
            E::run(self.token, transform);
        } else {
            let transform = PixelTransform::<E, LARGE> {
                pixels,
                channels,
                to,
                offset,
            };
            E::run(self.token, transform);
        }
    }

    /// Turns a row of tiles into pixels. Its first tile is tile `tile` of `products`, whose points
    /// are `point_stride` apart.
    fn store_tile_row(
        &self,
        call: &ConvCall<'_, E>,
        products: &[f32],
        (tile, point_stride): (usize, usize),
        tile_row: TileRow<'_, E>,
    ) {
        let channels = call.shape.out_channels;
        let width = call.output.1;
        let rows = tile_row.out.len() / (width * channels);
        let residual = call
            .residual
            .and_then(|r| r.get(tile_row.offset..tile_row.offset + tile_row.out.len()));
        let side = self.tile - 2;
        for column in 0..width.div_ceil(side) {
            let mut points: [&[f32]; MAX_POINTS] = [&[]; MAX_POINTS];
            for (point, values) in points.iter_mut().enumerate().take(self.points.len()) {
                let from = point * point_stride + (tile + column) * channels;
                *values = products.get(from..from + channels).unwrap_or_default();
            }
            let products = ProductTile {
                points: &points,
                channels,
                bias: call.bias,
                residual,
                relu: call.relu,
                to: tile_row.out,
                offset: column * side * channels,
                row_stride: width * channels,
                size: (rows, side.min(width - column * side)),
            };
            if self.tile == SMALL {
                E::run(self.token, ProductTransform::<E, SMALL>(products));
            } else {
                E::run(self.token, ProductTransform::<E, LARGE>(products));
            }
        }
    }
}
