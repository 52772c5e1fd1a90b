//! Products of any rows with a matrix that is packed once: the scores of a search.

use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::Result;
use half::bf16;

use super::bfloat::Bfloat;
use super::element::Element;
use super::micro::{Factor, Finish, Lhs, Out, multiply};
use super::pairs::Pairs;
use super::panels::Panels;
use super::path::Path;
use super::scratch::Scratch;

/// A matrix `[depth, columns]`, packed.
pub(crate) struct PackedColumns(Packed);

enum Packed {
    F32(Panels),
    Bf16(Panels<bf16>),
    Integers(Box<Integers>),
}

/// Columns as integers up to `most`, and what one of each column's is worth.
struct Integers {
    most: f32,
    panels: Panels<i16>,
    units: Vec<f32>,
    /// The least and the largest of them.
    range: (f32, f32),
}

/// What narrow products are made of: vectors that are coarser, and quicker to multiply.
///
/// Their sums are exact, or rounded as those of `f32` are; three roundings may come on top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Narrow {
    /// bf16, number by number.
    Bf16,
    /// Integers that are worth a part of the vector's largest number each.
    Integers {
        /// The largest: no sum of products of as many as a vector has goes beyond 32 bits.
        most: f32,
    },
}

impl Narrow {
    /// Integers must be no coarser than this, or nothing would be ruled out.
    const FEWEST: f64 = 64.0;

    /// The one that this process has for vectors of `depth` numbers.
    pub fn current(depth: usize) -> Option<Self> {
        if Bfloat::current().is_ok() {
            return Some(Self::Bf16);
        }
        Pairs::current().ok()?;
        // Not i16::MIN, whose square and its double would not fit.
        let most = (f64::from(i32::MAX) / depth.max(1) as f64).sqrt().floor();
        (most >= Self::FEWEST).then_some(Self::Integers {
            most: most.min(i16::MAX.into()) as f32,
        })
    }

    /// What `|row − row'|` is at most, `row'` being what a product takes the vector for; where that is known without
    /// looking at each number. Not for vectors with numbers that are not finite.
    pub fn most_lost(self, row: &[f32]) -> Option<f64> {
        match self.taken(row) {
            Taken::Bf16 => None,
            Taken::Integers { unit } => Some(0.51 * f64::from(unit) * (row.len() as f64).sqrt()),
        }
    }

    /// What a product takes the numbers of this vector for.
    pub fn taken(self, row: &[f32]) -> Taken {
        match self {
            Self::Bf16 => Taken::Bf16,
            Self::Integers { most } => Taken::Integers {
                unit: unit(row, most),
            },
        }
    }
}

/// A vector as [`Narrow`] products take it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taken {
    Bf16,
    Integers {
        /// What an integer is worth.
        unit: f32,
    },
}

impl Taken {
    /// What one of its numbers is taken for.
    #[inline(always)]
    pub fn number(self, number: f32) -> f64 {
        match self {
            Self::Bf16 => rounded(number).into(),
            Self::Integers { unit } => f64::from(whole(number, unit.recip())) * f64::from(unit),
        }
    }
}

/// What a product in bf16 takes a number for: the instruction counts numbers below the normal ones as 0.
#[inline(always)]
fn rounded(number: f32) -> f32 {
    let narrow = <bf16 as Element>::of(number).get();
    if narrow.is_subnormal() { 0.0 } else { narrow }
}

/// What an integer is worth, where the largest number becomes `most`; never so little that rounding it could bring
/// an integer beyond `most`.
fn unit(row: &[f32], most: f32) -> f32 {
    let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let unit = largest / most;
    if unit >= f32::MIN_POSITIVE { unit } else { 1.0 }
}

/// The integer nearest to a number in units, whose inverse is given; at most 0.503 away, as rounding the inverse and the
/// product moves it by less than 2⁻⁸.
#[inline(always)]
fn whole(number: f32, per_unit: f32) -> i16 {
    // Adding this rounds anything below 2²² to an integer, which is then in the last bits; in vector instructions that
    // every CPU has.
    const ROUND: f32 = 1.5 * (1u32 << 23) as f32;
    (number * per_unit + ROUND).to_bits() as i16
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

    /// [`PackedColumns::new`] for products of narrow vectors; `None` where the CPU has none.
    pub fn narrow(
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Option<Self> {
        let packed = match Narrow::current(depth)? {
            Narrow::Bf16 => {
                let path = Bfloat::current().ok()?;
                Packed::Bf16(Panels::from_columns(path, (depth, columns), write))
            }
            Narrow::Integers { most } => {
                let path = Pairs::current().ok()?;
                let units: Vec<AtomicU32> = (0..columns).map(|_| AtomicU32::new(0)).collect();
                let panels = Panels::from_columns(path, (depth, columns), |index, column| {
                    write(index, column);
                    let unit = unit(column, most);
                    let per_unit = unit.recip();
                    for number in column {
                        *number = whole(*number, per_unit).into();
                    }
                    if let Some(to) = units.get(index) {
                        to.store(unit.to_bits(), Ordering::Relaxed);
                    }
                });
                let units = units
                    .into_iter()
                    .map(|unit| f32::from_bits(unit.into_inner()));
                let units: Vec<f32> = units.collect();
                let range = units
                    .iter()
                    .fold((f32::INFINITY, 0f32), |(least, most), unit| {
                        (least.min(*unit), most.max(*unit))
                    });
                Packed::Integers(Box::new(Integers {
                    most,
                    panels,
                    units,
                    range,
                }))
            }
        };
        Some(Self(packed))
    }

    /// Multiplies `rows`, row-major, with the matrix on this thread. `take(first, width, products)` gets
    /// `[rows, width]` of the columns from `first` on, while they are in the cache; every column once,
    /// in order. A matrix of depth 0 has no products.
    pub fn multiply(&self, rows: &[f32], mut take: impl FnMut(usize, usize, &[f32])) {
        match &self.0 {
            Packed::F32(panels) => products(panels, rows, |first, width, products| {
                take(first, width, products);
            }),
            Packed::Bf16(panels) => {
                let mut narrow = Scratch::<bf16>::new(rows.len());
                for (to, from) in narrow.iter_mut().zip(rows) {
                    *to = Element::of(*from);
                }
                products(panels, &narrow, |first, width, products| {
                    take(first, width, products);
                });
            }
            Packed::Integers(integers) => integers.multiply(rows, take),
        }
    }
}

impl Integers {
    fn multiply(&self, rows: &[f32], mut take: impl FnMut(usize, usize, &[f32])) {
        let depth = self.panels.depth().max(1);
        let mut narrow = Scratch::<i16>::new(rows.len());
        let mut units = Vec::with_capacity(rows.len() / depth);
        let rows = rows.chunks_exact(depth);
        for (to, row) in narrow.chunks_exact_mut(depth).zip(rows) {
            let unit = unit(row, self.most);
            let per_unit = unit.recip();
            for (to, number) in to.iter_mut().zip(row) {
                *to = whole(*number, per_unit);
            }
            units.push(unit);
        }
        products(&self.panels, &narrow, |first, width, products| {
            let columns = self.units.get(first..first + width).unwrap_or_default();
            for (products, unit) in products.chunks_exact_mut(width).zip(&units) {
                self.scale(products, *unit, columns);
            }
            take(first, width, products);
        });
    }

    /// Multiplies a row of products by what they are worth.
    fn scale(&self, products: &mut [f32], row: f32, columns: &[f32]) {
        // A product of integers is 0 or at least 1, so that none of these is lost below the normal numbers.
        let plain = row * self.range.0 > 1e-30 && row * self.range.1 < 1e+20;
        for (product, column) in products.iter_mut().zip(columns) {
            *product = if plain {
                *product * (row * column)
            } else {
                (f64::from(*product) * (f64::from(row) * f64::from(*column))) as f32
            };
        }
    }
}

fn products<T: Factor>(
    panels: &Panels<T>,
    rows: &[T],
    mut take: impl FnMut(usize, usize, &mut [f32]),
) {
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
        let products = products
            .get_mut(..count * panel.columns)
            .unwrap_or_default();
        take(panel.first, panel.columns, products);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(i: usize) -> f32 {
        ((i * 29) % 17) as f32 - 8.0
    }

    /// Each path's, wide and narrow.
    fn packed(
        size: (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Vec<(Option<Narrow>, PackedColumns)> {
        let of_path = |path: Path| {
            path.within(|| {
                let wide = (None, PackedColumns::new(size, &write).unwrap());
                let narrow = PackedColumns::narrow(size, &write);
                let narrow = narrow.map(|packed| (Narrow::current(size.0), packed));
                std::iter::once(wide).chain(narrow).collect::<Vec<_>>()
            })
        };
        Path::all().flat_map(of_path).collect()
    }

    #[test]
    fn every_product_is_seen_once() {
        let (depth, columns, count) = (5, 131, 11);
        let rows: Vec<f32> = (0..count * depth).map(number).collect();
        let write = |j: usize, column: &mut [f32]| {
            for (k, to) in column.iter_mut().enumerate() {
                *to = number(j * depth + k + 3);
            }
        };
        for (narrow, packed) in packed((depth, columns), write) {
            // In bf16 these numbers are what they are.
            let tolerance = match narrow {
                Some(Narrow::Integers { .. }) => 0.02,
                _ => 0.0,
            };
            let mut seen = 0;
            packed.multiply(&rows, |first, width, products| {
                assert_eq!((first, products.len()), (seen, count * width));
                seen += width;
                for (r, products) in products.chunks_exact(width).enumerate() {
                    for (j, product) in products.iter().enumerate() {
                        let terms = (0..depth)
                            .map(|k| rows[r * depth + k] * number((first + j) * depth + k + 3));
                        let error = (product - terms.sum::<f32>()).abs();
                        assert!(error <= tolerance, "{narrow:?} row {r} column {j}: {error}");
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
        for (narrow, packed) in packed(size, |j, column| column.fill(numbers[j])) {
            let Some(narrow) = narrow else { continue };
            let taken = |v: f32| narrow.taken(&[v]).number(v);
            packed.multiply(&numbers, |first, width, products| {
                for (row, products) in products.chunks_exact(width).enumerate() {
                    for (j, product) in products.iter().enumerate() {
                        let expected = taken(numbers[row]) * taken(numbers[first + j]);
                        let error = (f64::from(*product) - expected).abs();
                        let bound = 3.0 * f64::from(f32::EPSILON) * expected.abs()
                            + f64::from(f32::MIN_POSITIVE);
                        assert!(
                            error <= bound || expected > f64::from(f32::MAX),
                            "{row}, {j}"
                        );
                    }
                }
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// With numbers of many magnitudes: sums of as large products as there can be, too.
        #[test]
        fn narrow_products_are_those_of_the_numbers_that_they_take(
            (rows, depth, columns) in (1usize..20, 1usize..600, 1usize..70),
            (scale, flat) in (-30i32..30, any::<bool>()),
            seed in any::<u64>(),
        ) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
                if flat { 1.0 } else { number * number * number }
            };
            let left: Vec<f32> = (0..rows * depth).map(|_| next()).collect();
            let right: Vec<f32> = (0..columns * depth).map(|_| next() * 2f32.powi(scale)).collect();
            let column = |j: usize| &right[j * depth..(j + 1) * depth];
            for (narrow, packed) in packed((depth, columns), |j, to| to.copy_from_slice(column(j))) {
                let Some(narrow) = narrow else { continue };
                let take = |row: &[f32]| -> Vec<f64> {
                    let taken = narrow.taken(row);
                    row.iter().map(|v| taken.number(*v)).collect()
                };
                packed.multiply(&left, |first, width, products| {
                    for (row, products) in left.chunks_exact(depth).zip(products.chunks_exact(width)) {
                        let row = take(row);
                        for (j, product) in products.iter().enumerate() {
                            let column = take(column(first + j));
                            let terms = || row.iter().zip(&column).map(|(a, b)| a * b);
                            let magnitude: f64 = terms().map(f64::abs).sum();
                            let error = (f64::from(*product) - terms().sum::<f64>()).abs();
                            let bound = (depth + 3) as f64 * magnitude * 2f64.powi(-24);
                            assert!(error <= bound, "{narrow:?}: {error:e} above {bound:e}");
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn no_sum_of_integers_goes_beyond_32_bits() {
        let avx2 = Path::named("avx2");
        for depth in [1, 2, 3, 512, 2048, 196_608] {
            let narrow = avx2.map(|path| path.within(|| Narrow::current(depth)).unwrap());
            let Some(Narrow::Integers { most }) = narrow else {
                return;
            };
            let most = most as i64;
            assert!(most * most * depth as i64 <= i32::MAX.into());
            for largest in [1.0, 3.3e-38, 1.2e-38, 2.0e-42, 1e-45, 3.4e38] {
                let row = [largest, -largest, largest / 3.0];
                let unit = unit(&row, most as f32);
                let wholes = row.map(|v| i64::from(whole(v, unit.recip())));
                assert!(wholes.iter().all(|whole| whole.abs() <= most), "{row:?}");
                let Some(bound) = narrow.and_then(|narrow| narrow.most_lost(&row)) else {
                    panic!("no bound")
                };
                let taken = narrow.map(|narrow| narrow.taken(&row)).unwrap();
                let losses = row.map(|v| (f64::from(v) - taken.number(v)).powi(2));
                assert!(losses.iter().sum::<f64>().sqrt() <= bound, "{row:?}");
            }
        }
    }
}
