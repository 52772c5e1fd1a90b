//! Products of any rows with a matrix that is packed once: the scores of a search.

use candle_core::Result;
use half::bf16;

use super::bfloat::Bfloat;
use super::element::Element;
use super::micro::{Factor, Finish, Lhs, Out, multiply};
use super::panels::Panels;
use super::path::Path;
use super::scratch::Scratch;

/// A matrix `[depth, columns]`, packed.
pub(crate) struct PackedColumns(Packed);

enum Packed {
    F32(Panels),
    Bf16(Panels<bf16>),
}

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
        let panels = Panels::from_columns(path, (depth, columns), write);
        Ok(Self(Packed::F32(panels)))
    }

    /// [`PackedColumns::new`] with both sides of the product rounded to bf16 ([`PackedColumns::rounded`]) and
    /// its sums in `f32`, which takes half of the time; `None` where the CPU cannot.
    pub fn narrow(
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Option<Self> {
        let path = Bfloat::current().ok()?;
        let panels = Panels::from_columns(path, (depth, columns), write);
        Some(Self(Packed::Bf16(panels)))
    }

    /// What a narrow product takes a number for: the instruction counts numbers below the normal ones as 0.
    pub fn rounded(number: f32) -> f32 {
        let narrow = <bf16 as Element>::of(number).get();
        if narrow.is_subnormal() { 0.0 } else { narrow }
    }

    /// Multiplies `rows`, row-major, with the matrix on this thread. `take(first, width, products)` gets
    /// `[rows, width]` of the columns from `first` on, while they are in the cache; every column once,
    /// in order.
    pub fn multiply(&self, rows: &[f32], take: impl FnMut(usize, usize, &[f32])) {
        match &self.0 {
            Packed::F32(panels) => products(panels, rows, take),
            Packed::Bf16(panels) => {
                let mut narrow = Scratch::<bf16>::new(rows.len());
                for (to, from) in narrow.iter_mut().zip(rows) {
                    *to = Element::of(*from);
                }
                products(panels, &narrow, take);
            }
        }
    }
}

fn products<T: Factor>(panels: &Panels<T>, rows: &[T], mut take: impl FnMut(usize, usize, &[f32])) {
    let depth = panels.depth();
    if depth == 0 {
        return;
    }
    let count = rows.len() / depth;
    let widest = panels.iter().map(|panel| panel.columns).max();
    let mut products = Scratch::<f32>::new(count * widest.unwrap_or(0));
    for panel in panels.iter() {
        let mut out = Out {
            data: &mut products,
            at: 0,
            row: panel.columns,
        };
        let lhs = Lhs::rows(rows, depth, depth);
        let finish = Finish::default();
        multiply(panels.path(), count, lhs, panel, &mut out, finish);
        let products = products.get(..count * panel.columns).unwrap_or_default();
        take(panel.first, panel.columns, products);
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
        let write = |j: usize, column: &mut [f32]| {
            for (k, to) in column.iter_mut().enumerate() {
                *to = number(j * depth + k + 3);
            }
        };
        let size = (depth, columns);
        let wide = Path::all().map(|path| path.within(|| PackedColumns::new(size, write)).unwrap());
        for packed in wide.chain(PackedColumns::narrow(size, write)) {
            let mut seen = 0;
            packed.multiply(&rows, |first, width, products| {
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

    #[test]
    fn a_narrow_product_is_of_the_rounded_numbers() {
        // One product a sum, so that nothing else rounds; subnormal and huge numbers among them.
        let numbers = [
            1.0,
            -1.003_906_3,
            1.0e-3,
            3.0e38,
            1.0e-38,
            -7.0e-39,
            1.1e-40,
            0.0,
        ];
        let size = (1, numbers.len());
        let Some(packed) = PackedColumns::narrow(size, |j, column| column.fill(numbers[j])) else {
            return;
        };
        packed.multiply(&numbers, |first, width, products| {
            for (row, products) in products.chunks_exact(width).enumerate() {
                for (j, product) in products.iter().enumerate() {
                    let expected = PackedColumns::rounded(numbers[row])
                        * PackedColumns::rounded(numbers[first + j]);
                    let expected = if expected.is_subnormal() {
                        0.0
                    } else {
                        expected
                    };
                    assert_eq!(*product, expected, "{row}, {j}");
                }
            }
        });
    }
}
