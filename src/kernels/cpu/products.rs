//! Products of any rows with a matrix that is packed once: the scores of a search.

use candle_core::Result;

use super::micro::{Finish, Lhs, Out, multiply};
use super::panels::Panels;
use super::path::Path;
use super::scratch::Scratch;

/// A matrix `[depth, columns]`, packed.
pub(crate) struct PackedColumns(Panels);

impl PackedColumns {
    /// Packs the matrix whose column `j` is what `write(j, ..)` writes: `depth` numbers, all of them.
    /// Several threads write at once.
    ///
    /// # Errors
    /// As for every operator: `DPSYN_CPU` names instructions that there are not.
    pub fn new(
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self> {
        let path = Path::current()?;
        Ok(Self(Panels::from_columns(path, (depth, columns), write)))
    }

    /// Multiplies `rows`, row-major, with the matrix on this thread. `take(first, width, products)` gets
    /// `[rows, width]` of the columns from `first` on, while they are in the cache; every column once,
    /// in order.
    pub fn multiply(&self, rows: &[f32], mut take: impl FnMut(usize, usize, &[f32])) {
        let depth = self.0.depth();
        if depth == 0 {
            return;
        }
        let count = rows.len() / depth;
        let widest = self.0.iter().map(|panel| panel.columns).max();
        let mut products = Scratch::<f32>::new(count * widest.unwrap_or(0));
        for panel in self.0.iter() {
            let mut out = Out {
                data: &mut products,
                at: 0,
                row: panel.columns,
            };
            let lhs = Lhs::rows(rows, depth, depth);
            let finish = Finish::default();
            multiply(self.0.path(), count, lhs, panel, &mut out, finish);
            let products = products.get(..count * panel.columns).unwrap_or_default();
            take(panel.first, panel.columns, products);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_is_seen_once() {
        let (depth, columns, count) = (5, 131, 11);
        let number = |i: usize| ((i * 29) % 17) as f32 - 8.0;
        let rows: Vec<f32> = (0..count * depth).map(number).collect();
        for path in Path::all() {
            let packed = path.within(|| {
                PackedColumns::new((depth, columns), |j, column| {
                    for (k, to) in column.iter_mut().enumerate() {
                        *to = number(j * depth + k + 3);
                    }
                })
            });
            let mut seen = 0;
            packed.unwrap().multiply(&rows, |first, width, products| {
                assert_eq!((first, products.len()), (seen, count * width));
                seen += width;
                for (r, products) in products.chunks_exact(width).enumerate() {
                    for (j, product) in products.iter().enumerate() {
                        let terms = (0..depth)
                            .map(|k| rows[r * depth + k] * number((first + j) * depth + k + 3));
                        assert_eq!(*product, terms.sum::<f32>());
                    }
                }
            });
            assert_eq!(seen, columns);
        }
    }
}
