//! The right-hand side of a product, rearranged once for the micro-kernel.

use super::path::{Path, Tile};
use super::scratch::{Scratch, results};
use super::tasks;

/// Rows that are turned together: a cache line of each column.
const ROWS: usize = 16;

/// A matrix `[depth, columns]` cut into panels of as many columns as the register tile has, each
/// panel row by row; missing columns of the last panel are 0.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    path: Path,
    depth: usize,
    columns: usize,
    panels: Vec<Place>,
    data: Vec<f32>,
}

/// Where one panel lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    first: usize,
    vectors: usize,
    offset: usize,
}

/// One panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Its first column in the matrix.
    pub first: usize,
    /// Columns that it has in the matrix: fewer than vectors times lanes in the last panel.
    pub columns: usize,
    /// Vectors in each row.
    pub vectors: usize,
    /// `depth` rows of `vectors` vectors.
    pub data: &'a [f32],
}

impl Panels {
    /// An empty one, to be filled.
    pub fn empty(path: Path) -> Self {
        Self {
            path,
            depth: 0,
            columns: 0,
            panels: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Packs the matrix whose row `k` begins at `source[at(k)]` and whose columns are `step` apart.
    pub fn new(
        path: Path,
        (depth, columns): (usize, usize),
        source: &[f32],
        step: usize,
        at: impl Fn(usize) -> usize,
    ) -> Self {
        let mut packed = Self::empty(path);
        packed.fill((depth, columns), source, step, at);
        packed
    }

    /// [`Panels::new`] in the memory of this one.
    pub fn fill(
        &mut self,
        (depth, columns): (usize, usize),
        source: &[f32],
        step: usize,
        at: impl Fn(usize) -> usize,
    ) {
        let tile = self.path.tile();
        (self.depth, self.columns) = (depth, columns);
        self.panels = places(columns, depth, tile);
        let vectors: usize = self.panels.iter().map(|panel| panel.vectors).sum();
        self.data.clear();
        self.data.resize(vectors * tile.lanes * depth, 0.0);
        let mut rest = self.data.as_mut_slice();
        for place in &self.panels {
            let width = place.vectors * tile.lanes;
            let (panel, others) = rest.split_at_mut(width * depth);
            rest = others;
            let inside = width.min(columns - place.first);
            for (k, row) in panel.chunks_exact_mut(width).enumerate() {
                let from = source.get(at(k) + place.first * step..).unwrap_or_default();
                if step == 1 {
                    for (to, from) in row.iter_mut().zip(from).take(inside) {
                        *to = *from;
                    }
                } else {
                    let from = from.iter().step_by(step);
                    for (to, from) in row.iter_mut().zip(from).take(inside) {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// Packs the matrix whose column `j` is what `write(j, ..)` writes: `depth` numbers, all of them.
    pub fn from_columns(
        path: Path,
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let lanes = path.tile().lanes;
        let panels = places(columns, depth, path.tile());
        let vectors: usize = panels.iter().map(|panel| panel.vectors).sum();
        let mut data = results(vectors * lanes * depth);
        let mut rest = data.as_mut_slice();
        let mut parts = Vec::with_capacity(panels.len());
        for place in &panels {
            let (part, others) = rest.split_at_mut(place.vectors * lanes * depth);
            parts.push((place, part));
            rest = others;
        }
        let pack = |(place, part): (&Place, &mut [f32])| {
            let width = place.vectors * lanes;
            let mut together = Scratch::new(lanes * depth);
            for first in (0..width).step_by(lanes) {
                for (lane, column) in together.chunks_exact_mut(depth.max(1)).enumerate() {
                    let index = place.first + first + lane;
                    if index < columns {
                        write(index, column);
                    } else {
                        column.fill(0.0);
                    }
                }
                // A few rows at a time, so that what is read and written stays in the cache.
                for from in (0..depth).step_by(ROWS) {
                    let rows = part.chunks_exact_mut(width).skip(from).take(ROWS);
                    for (k, row) in rows.enumerate() {
                        let values = together.iter().skip(from + k).step_by(depth);
                        for (to, value) in row.iter_mut().skip(first).zip(values) {
                            *to = *value;
                        }
                    }
                }
            }
        };
        tasks::each(2 * columns * depth, parts, pack);
        Self {
            path,
            depth,
            columns,
            panels,
            data,
        }
    }

    /// The path that it was packed for.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Rows of the matrix.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The panels from left to right.
    pub fn iter(&self) -> impl Iterator<Item = Panel<'_>> {
        let lanes = self.path.tile().lanes;
        self.panels.iter().map(move |place| {
            let width = place.vectors * lanes;
            let data = self
                .data
                .get(place.offset..place.offset + width * self.depth);
            Panel {
                first: place.first,
                columns: width.min(self.columns - place.first),
                vectors: place.vectors,
                data: data.unwrap_or_default(),
            }
        })
    }
}

impl<'a> Panel<'a> {
    /// Rows `from` to `from + count` of the panel.
    pub fn rows(&self, from: usize, count: usize, depth: usize) -> Self {
        let width = self.data.len() / depth.max(1);
        let data = self.data.get(from * width..(from + count) * width);
        Self {
            data: data.unwrap_or_default(),
            ..*self
        }
    }
}

/// Panels as wide as the tile; what remains at the end is split evenly rather than into a full and
/// a narrow one, which would leave most of the tile idle.
fn places(columns: usize, depth: usize, tile: Tile) -> Vec<Place> {
    let mut left = columns.div_ceil(tile.lanes);
    let mut places = Vec::with_capacity(left.div_ceil(tile.vectors));
    let (mut first, mut offset) = (0, 0);
    while left > 0 {
        let vectors = if left == tile.vectors + 1 {
            left.div_ceil(2)
        } else {
            left.min(tile.vectors)
        };
        places.push(Place {
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
    use super::*;

    #[test]
    fn every_element_is_packed_once() {
        for path in Path::all() {
            for (depth, columns) in [(1, 1), (3, 16), (2, 47), (5, 64), (4, 97), (0, 5), (5, 0)] {
                let source: Vec<f32> = (1..=depth * columns).map(|v| v as f32).collect();
                for transposed in [false, true] {
                    let (step, row) = if transposed { (depth, 1) } else { (1, columns) };
                    let packed = Panels::new(path, (depth, columns), &source, step, |k| k * row);
                    let by_columns = Panels::from_columns(path, (depth, columns), |j, column| {
                        for (k, to) in column.iter_mut().enumerate() {
                            *to = source[k * row + j * step];
                        }
                    });
                    assert_eq!(packed.data, by_columns.data);
                    let mut seen = 0;
                    for panel in packed.iter() {
                        assert_eq!(panel.first, seen);
                        seen += panel.columns;
                        for k in 0..depth {
                            let row_of = panel.rows(k, 1, depth);
                            for (j, value) in row_of.data.iter().enumerate() {
                                let expected = if j < panel.columns {
                                    source[k * row + (panel.first + j) * step]
                                } else {
                                    0.0
                                };
                                assert_eq!(*value, expected);
                            }
                        }
                    }
                    assert_eq!(seen, columns);
                }
            }
        }
    }
}
