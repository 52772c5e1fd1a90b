//! The right-hand side of a product, packed once for the micro-kernel.

use super::dtype::Number;
use super::gemm_element::GemmElement;
use super::isa::TileShape;
use super::scratch::{Scratch, uninit_output};
use super::tasks;

/// Rows that are transposed at a time: one cache line of `f32` of each column.
const ROWS: usize = 16;

/// A matrix `[depth, columns]` cut into panels of as many columns as the register tile has, each
/// panel row by row; missing columns of the last panel are 0.
///
/// For operands of which one step multiplies several (`DEPTH_STEP`), that many rows of the matrix
/// are interleaved, column by column. A step stays within one segment of the left-hand side: where
/// `DEPTH_STEP` does not divide the segment, the missing rows are 0.
#[derive(Debug, Clone)]
pub(super) struct Panels<T: GemmElement = f32> {
    token: T::Token,
    tile: TileShape,
    depth: usize,
    steps: usize,
    columns: usize,
    panels: Vec<PanelPosition>,
    data: Vec<T>,
}

/// Position of one panel.
#[derive(Debug, Clone, Copy)]
struct PanelPosition {
    first: usize,
    vectors: usize,
    offset: usize,
}

/// One panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a, T = f32> {
    /// First column in the matrix.
    pub first: usize,
    /// Columns in the matrix: at most `width`, fewer in the last panel.
    pub columns: usize,
    /// Vectors per row.
    pub vectors: usize,
    /// Numbers per row, a multiple of the lanes.
    pub width: usize,
    /// For each step, `vectors` vectors of `LANES · DEPTH_STEP` numbers.
    pub data: &'a [T],
}

impl<T: GemmElement> Panels<T> {
    /// Returns panels of an empty matrix.
    pub fn empty(token: T::Token) -> Self {
        Self {
            token,
            tile: T::tile(token),
            depth: 0,
            steps: 0,
            columns: 0,
            panels: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Packs the matrix whose row `k` begins at `source[at(k)]` and whose columns are `stride`
    /// apart, for a left-hand side with segments of `segment_len` numbers.
    pub fn new<E: Number>(
        token: T::Token,
        (depth, columns): (usize, usize),
        segment_len: usize,
        source: &[E],
        stride: usize,
        at: impl Fn(usize) -> usize,
    ) -> Self {
        let mut packed = Self::empty(token);
        packed.fill((depth, columns), segment_len, source, stride, at);
        packed
    }

    /// Packs another matrix as [`Panels::new`] does, in the memory of this one.
    pub fn fill<E: Number>(
        &mut self,
        (depth, columns): (usize, usize),
        segment_len: usize,
        source: &[E],
        stride: usize,
        at: impl Fn(usize) -> usize,
    ) {
        let tile = self.tile;
        let segment_steps = segment_len.div_ceil(T::DEPTH_STEP);
        self.steps = depth.checked_div(segment_len).unwrap_or(0) * segment_steps;
        (self.depth, self.columns) = (depth, columns);
        self.panels = places(columns, self.steps * T::DEPTH_STEP, tile);
        let vectors: usize = self.panels.iter().map(|panel| panel.vectors).sum();
        self.data.clear();
        let zero = T::narrow(0.0);
        let count = vectors * tile.lanes * T::DEPTH_STEP * self.steps;
        self.data.resize(count, zero);
        let mut rest = self.data.as_mut_slice();
        for place in &self.panels {
            let width = place.vectors * tile.lanes;
            let (panel, others) = rest.split_at_mut(width * T::DEPTH_STEP * self.steps);
            rest = others;
            let inside = width.min(columns - place.first);
            for (index, row) in panel.chunks_exact_mut(width * T::DEPTH_STEP).enumerate() {
                let segment = index / segment_steps;
                let within = index % segment_steps * T::DEPTH_STEP;
                for deep in 0..T::DEPTH_STEP.min(segment_len - within) {
                    let k = segment * segment_len + within + deep;
                    let from = source
                        .get(at(k) + place.first * stride..)
                        .unwrap_or_default();
                    let to = row
                        .iter_mut()
                        .skip(deep)
                        .step_by(T::DEPTH_STEP)
                        .take(inside);
                    // A loop of its own for contiguous columns, which the compiler vectorizes.
                    if stride == 1 {
                        for (to, from) in to.zip(from) {
                            *to = T::narrow(from.widen());
                        }
                    } else {
                        for (to, from) in to.zip(from.iter().step_by(stride)) {
                            *to = T::narrow(from.widen());
                        }
                    }
                }
            }
        }
    }

    /// Returns the token of the instruction set that the matrix was packed for.
    pub fn token(&self) -> T::Token {
        self.token
    }

    /// Returns the number of rows of the matrix.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Returns the number of columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Iterates over the panels from left to right.
    pub fn iter(&self) -> impl Iterator<Item = Panel<'_, T>> {
        let lanes = self.tile.lanes;
        self.panels.iter().map(move |place| {
            let width = place.vectors * lanes;
            let len = width * T::DEPTH_STEP * self.steps;
            let data = self.data.get(place.offset..place.offset + len);
            Panel {
                first: place.first,
                columns: width.min(self.columns - place.first),
                vectors: place.vectors,
                width,
                data: data.unwrap_or_default(),
            }
        })
    }
}

impl<T: GemmElement> Panels<T> {
    /// Packs the matrix whose column `j` `write(j, column)` writes: all of its `depth` numbers.
    pub fn from_columns(
        token: T::Token,
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let tile = T::tile(token);
        let (lanes, steps) = (tile.lanes, depth.div_ceil(T::DEPTH_STEP));
        let panels = places(columns, steps * T::DEPTH_STEP, tile);
        let vectors: usize = panels.iter().map(|panel| panel.vectors).sum();
        let mut data = uninit_output::<T>(vectors * lanes * T::DEPTH_STEP * steps);
        let mut rest = data.as_mut_slice();
        let mut parts = Vec::with_capacity(panels.len());
        for place in &panels {
            let (part, others) = rest.split_at_mut(place.vectors * lanes * T::DEPTH_STEP * steps);
            parts.push((place, part));
            rest = others;
        }
        let pack = |(place, part): (&PanelPosition, &mut [T])| {
            let width = place.vectors * lanes;
            let mut together = Scratch::<f32>::new(lanes * depth);
            for first in (0..width).step_by(lanes) {
                for (lane, column) in together.chunks_exact_mut(depth.max(1)).enumerate() {
                    let index = place.first + first + lane;
                    if index < columns {
                        write(index, column);
                    } else {
                        column.fill(0.0);
                    }
                }
                // A few rows at a time, so that both the source and the panel stay in the cache.
                for from in (0..depth).step_by(ROWS) {
                    for k in from..(from + ROWS).min(steps * T::DEPTH_STEP) {
                        let row = k / T::DEPTH_STEP * width + first;
                        let to = part
                            .iter_mut()
                            .skip(row * T::DEPTH_STEP + k % T::DEPTH_STEP);
                        let to = to.step_by(T::DEPTH_STEP).take(lanes);
                        if k < depth {
                            let values = together.iter().skip(k).step_by(depth);
                            for (to, value) in to.zip(values) {
                                *to = T::narrow(*value);
                            }
                        } else {
                            to.for_each(|to| *to = T::narrow(0.0));
                        }
                    }
                }
            }
        };
        tasks::for_each(2 * columns * depth, parts, pack);
        Self {
            token,
            tile,
            depth,
            steps,
            columns,
            panels,
            data,
        }
    }
}

impl<T> Panel<'_, T> {
    /// Returns part `index` of `parts` equal ones, from top to bottom.
    pub fn part(&self, index: usize, parts: usize) -> Self {
        let len = self.data.len() / parts.max(1);
        let data = self.data.get(index * len..(index + 1) * len);
        Self {
            data: data.unwrap_or_default(),
            ..*self
        }
    }
}

/// Returns the positions of panels as wide as the tile. The columns left at the end are split
/// evenly rather than into a full panel and a narrow one, which would leave most of the tile idle.
fn places(columns: usize, depth: usize, tile: TileShape) -> Vec<PanelPosition> {
    let mut left = columns.div_ceil(tile.lanes);
    let mut places = Vec::with_capacity(left.div_ceil(tile.vectors));
    let (mut first, mut offset) = (0, 0);
    while left > 0 {
        let vectors = if left == tile.vectors + 1 {
            left.div_ceil(2)
        } else {
            left.min(tile.vectors)
        };
        places.push(PanelPosition {
            first,
            vectors,
            offset,
        });
        first += vectors * tile.lanes;
        offset += vectors * tile.lanes * depth;
        left -= vectors;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Dispatch;
    use super::super::isa::Isa;
    use super::*;
    use half::bf16;

    /// Packs `segments` segments of `run` rows each, row by row or column by column in the source.
    fn check<T: GemmElement>(token: T::Token, (segments, run, columns): (usize, usize, usize)) {
        let depth = segments * run;
        // Few enough that bf16 has them.
        let source: Vec<f32> = (0..depth * columns).map(|v| (v % 251 + 1) as f32).collect();
        for transposed in [false, true] {
            let (step, row) = if transposed { (depth, 1) } else { (1, columns) };
            let packed = Panels::<T>::new(token, (depth, columns), run, &source, step, |k| k * row);
            let mut seen = 0;
            for panel in packed.iter() {
                assert_eq!(panel.first, seen);
                seen += panel.columns;
                for segment in 0..segments {
                    let part = panel.part(segment, segments).data;
                    assert_eq!(
                        part.len(),
                        run.div_ceil(T::DEPTH_STEP) * T::DEPTH_STEP * panel.width
                    );
                    for (index, value) in part.iter().enumerate() {
                        let (step_of, within) = (
                            index / (panel.width * T::DEPTH_STEP),
                            index % (panel.width * T::DEPTH_STEP),
                        );
                        let (j, deep) = (within / T::DEPTH_STEP, within % T::DEPTH_STEP);
                        let i = step_of * T::DEPTH_STEP + deep;
                        let expected = if i < run && j < panel.columns {
                            source[(segment * run + i) * row + (panel.first + j) * step]
                        } else {
                            0.0
                        };
                        assert_eq!(value.widen(), expected);
                    }
                }
            }
            assert_eq!(seen, columns);
        }
    }

    fn check_columns<T: GemmElement>(token: T::Token, (depth, columns): (usize, usize)) {
        let source: Vec<f32> = (0..depth * columns).map(|v| (v % 251 + 1) as f32).collect();
        let matrix = Panels::<T>::new(token, (depth, columns), depth, &source, depth, |k| k);
        let by_columns = Panels::<T>::from_columns(token, (depth, columns), |j, column| {
            column.copy_from_slice(&source[j * depth..(j + 1) * depth]);
        });
        assert!(matrix.data == by_columns.data);
        assert_eq!(matrix.iter().count(), by_columns.iter().count());
        for (a, b) in matrix.iter().zip(by_columns.iter()) {
            assert!((a.first, a.data) == (b.first, b.data));
        }
    }

    #[test]
    fn columns_are_packed_as_a_matrix_is() {
        for size in [
            (1, 1),
            (3, 16),
            (2, 47),
            (5, 64),
            (4, 97),
            (37, 130),
            (16, 3),
            (0, 5),
            (5, 0),
        ] {
            for token in Isa::all() {
                check_columns::<f32>(token, size);
            }
            if let Ok(token) = bf16::token() {
                check_columns::<bf16>(token, size);
            }
        }
    }

    #[test]
    fn every_element_is_packed_once() {
        for size in [
            (1, 1, 1),
            (1, 3, 16),
            (2, 1, 47),
            (3, 5, 64),
            (2, 4, 97),
            (1, 0, 5),
            (1, 5, 0),
        ] {
            for token in Isa::all() {
                check::<f32>(token, size);
            }
            if let Ok(token) = bf16::token() {
                check::<bf16>(token, size);
            }
        }
    }
}
