//! Products of many rows with a matrix that is packed once: the scores of a nearest-neighbor
//! search.

use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::Result;
use half::bf16;

use super::avx2_madd::Avx2MaddToken;
use super::avx512_bf16::Avx512Bf16Token;
use super::dtype::Number;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::gemm_element::GemmElement;
use super::isa::Isa;
use super::panels::Panels;
use super::scratch::Scratch;

/// A matrix `[depth, columns]`, packed for products.
pub(crate) struct PackedColumns(Packed);

enum Packed {
    F32(Panels),
    Bf16(Panels<bf16>),
    Int16(Box<Int16Columns>),
}

/// Columns quantized to integers in `[-max_abs, max_abs]`, with one scale per column.
struct Int16Columns {
    max_abs: f32,
    panels: Panels<i16>,
    /// A number of column `j` is its integer times `scales[j]`.
    scales: Vec<f32>,
    /// The smallest and the largest of `scales`.
    scale_range: (f32, f32),
}

/// 16-bit operand formats of the coarse pass: less precise than `f32` and faster to multiply.
///
/// Their sums are exact, or rounded as sums in `f32` are, with at most three more roundings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum QuantKind {
    /// Each number rounded to bf16.
    Bf16,
    /// Integers, with one scale per vector that maps its largest magnitude to `max_abs`.
    Int16 {
        /// Largest magnitude of an integer. It is so small that no sum over the depth of a vector
        /// overflows 32 bits.
        max_abs: f32,
    },
}

impl QuantKind {
    /// Smallest useful `max_abs`: coarser integers would not rule out any candidate.
    const MIN_MAX_ABS: f64 = 64.0;

    /// Returns the format that this process uses for vectors of `depth` numbers, if there is one.
    pub fn current(depth: usize) -> Option<Self> {
        if Avx512Bf16Token::current().is_ok() {
            return Some(Self::Bf16);
        }
        Avx2MaddToken::current().ok()?;
        // depth · max_abs² must stay within an i32. Never i16::MIN: the sum of two of its squares
        // overflows `vpmaddwd` itself.
        let max_abs = (f64::from(i32::MAX) / depth.max(1) as f64).sqrt().floor();
        (max_abs >= Self::MIN_MAX_ABS).then_some(Self::Int16 {
            max_abs: max_abs.min(i16::MAX.into()) as f32,
        })
    }

    /// Returns an upper bound of `|row − row'|`, where `row'` is the quantized vector, if it is
    /// known without reading each number. All numbers of `row` must be finite.
    pub fn max_quantization_error(self, row: &[f32]) -> Option<f64> {
        match self.quantize_row(row) {
            QuantizedRow::Bf16 => None,
            // `quantize` is at most 0.503 of a unit off; 0.51 also covers the rounding of this
            // bound.
            QuantizedRow::Int16 { scale } => {
                Some(0.51 * f64::from(scale) * (row.len() as f64).sqrt())
            }
        }
    }

    /// Returns how a product quantizes the numbers of this vector.
    pub fn quantize_row(self, row: &[f32]) -> QuantizedRow {
        match self {
            Self::Bf16 => QuantizedRow::Bf16,
            Self::Int16 { max_abs } => QuantizedRow::Int16 {
                scale: scale_of(row, max_abs),
            },
        }
    }
}

/// The quantization of one vector by a [`QuantKind`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum QuantizedRow {
    /// Each number rounded to bf16.
    Bf16,
    /// Integers times `scale`.
    Int16 {
        /// Value of the integer 1.
        scale: f32,
    },
}

impl QuantizedRow {
    /// Returns the value that a product uses in place of `number`.
    #[inline(always)]
    pub fn dequantized(self, number: f32) -> f64 {
        match self {
            Self::Bf16 => rounded_to_bf16(number).into(),
            Self::Int16 { scale } => f64::from(quantize(number, scale.recip())) * f64::from(scale),
        }
    }
}

/// Returns the value that a product in bf16 uses in place of `number`: `vdpbf16ps` treats
/// subnormal inputs as 0.
#[inline(always)]
fn rounded_to_bf16(number: f32) -> f32 {
    let narrow = <bf16 as Number>::narrow(number).widen();
    if narrow.is_subnormal() { 0.0 } else { narrow }
}

/// Returns the scale that maps the largest magnitude of `row` to `max_abs`. It is never so small
/// that rounding it could carry an integer beyond `max_abs`.
fn scale_of(row: &[f32], max_abs: f32) -> f32 {
    let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let scale = largest / max_abs;
    if scale >= f32::MIN_POSITIVE {
        scale
    } else {
        1.0
    }
}

/// Returns the integer nearest to `number · inverse_scale`. It is at most 0.503 away from the exact
/// quotient, because rounding the inverse and the product moves it by less than 2⁻⁸.
#[inline(always)]
fn quantize(number: f32, inverse_scale: f32) -> i16 {
    // Adding 1.5 · 2²³ rounds any magnitude below 2²² to an integer, which then stands in the last
    // bits. Every CPU has vector instructions for that, unlike for the conversion to i16.
    const ROUND: f32 = 1.5 * (1u32 << 23) as f32;
    (number * inverse_scale + ROUND).to_bits() as i16
}

impl PackedColumns {
    /// Packs a matrix in `f32`. `write(j, column)` must write all `depth` numbers of column `j`; it
    /// is called from several threads at once.
    ///
    /// # Errors
    /// `DPSYN_CPU` names an instruction set that does not exist here.
    pub fn new(
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self> {
        let isa = Isa::current()?;
        let panels = Panels::from_columns(isa, (depth, columns), write);
        Ok(Self(Packed::F32(panels)))
    }

    /// Packs a matrix as [`PackedColumns::new`] does, in the 16-bit format of
    /// [`QuantKind::current`]. Returns `None` where the CPU has no such products.
    pub fn quantized(
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Option<Self> {
        let packed = match QuantKind::current(depth)? {
            QuantKind::Bf16 => {
                let token = Avx512Bf16Token::current().ok()?;
                Packed::Bf16(Panels::from_columns(token, (depth, columns), write))
            }
            QuantKind::Int16 { max_abs } => {
                let token = Avx2MaddToken::current().ok()?;
                let int16 = Int16Columns::new(token, max_abs, (depth, columns), write);
                Packed::Int16(Box::new(int16))
            }
        };
        Some(Self(packed))
    }

    /// Multiplies `rows`, row-major, with the matrix on this thread.
    ///
    /// `consume(first, width, products)` gets `[rows, width]` products with the columns from
    /// `first` on, while they are in the cache; every column once, in order. A matrix of depth 0
    /// has no products.
    pub fn multiply(&self, rows: &[f32], mut consume: impl FnMut(usize, usize, &[f32])) {
        match &self.0 {
            Packed::F32(panels) => products(panels, rows, |first, width, products| {
                consume(first, width, products);
            }),
            Packed::Bf16(panels) => {
                let mut narrow = Scratch::<bf16>::new(rows.len());
                for (to, from) in narrow.iter_mut().zip(rows) {
                    *to = Number::narrow(*from);
                }
                products(panels, &narrow, |first, width, products| {
                    consume(first, width, products);
                });
            }
            Packed::Int16(columns) => columns.multiply(rows, consume),
        }
    }
}

impl Int16Columns {
    fn new(
        token: Avx2MaddToken,
        max_abs: f32,
        (depth, columns): (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        // Bits of an f32 each: several threads write, each the scales of its own columns.
        let scales: Vec<AtomicU32> = (0..columns).map(|_| AtomicU32::new(0)).collect();
        let panels = Panels::from_columns(token, (depth, columns), |index, column| {
            write(index, column);
            let scale = scale_of(column, max_abs);
            let inverse_scale = scale.recip();
            for number in column {
                *number = quantize(*number, inverse_scale).into();
            }
            if let Some(to) = scales.get(index) {
                to.store(scale.to_bits(), Ordering::Relaxed);
            }
        });
        let scales: Vec<f32> = scales
            .into_iter()
            .map(|scale| f32::from_bits(scale.into_inner()))
            .collect();
        let scale_range = scales
            .iter()
            .fold((f32::INFINITY, 0f32), |(least, most), scale| {
                (least.min(*scale), most.max(*scale))
            });
        Self {
            max_abs,
            panels,
            scales,
            scale_range,
        }
    }

    fn multiply(&self, rows: &[f32], mut consume: impl FnMut(usize, usize, &[f32])) {
        let depth = self.panels.depth().max(1);
        let mut narrow = Scratch::<i16>::new(rows.len());
        let mut scales = Vec::with_capacity(rows.len() / depth);
        let rows = rows.chunks_exact(depth);
        for (to, row) in narrow.chunks_exact_mut(depth).zip(rows) {
            let scale = scale_of(row, self.max_abs);
            let inverse_scale = scale.recip();
            for (to, number) in to.iter_mut().zip(row) {
                *to = quantize(*number, inverse_scale);
            }
            scales.push(scale);
        }
        products(&self.panels, &narrow, |first, width, products| {
            let columns = self.scales.get(first..first + width).unwrap_or_default();
            for (products, scale) in products.chunks_exact_mut(width).zip(&scales) {
                self.rescale(products, *scale, columns);
            }
            consume(first, width, products);
        });
    }

    /// Multiplies the integer products of one row by the scales of the row and of each column.
    fn rescale(&self, products: &mut [f32], row: f32, columns: &[f32]) {
        // An integer product is 0 or at least 1, so with these bounds nothing becomes subnormal or
        // infinite in f32; outside of them, the scales are multiplied in f64.
        let in_f32 = row * self.scale_range.0 > 1e-30 && row * self.scale_range.1 < 1e+20;
        for (product, column) in products.iter_mut().zip(columns) {
            *product = if in_f32 {
                *product * (row * column)
            } else {
                (f64::from(*product) * (f64::from(row) * f64::from(*column))) as f32
            };
        }
    }
}

/// Multiplies `rows` with each panel in turn and hands the products to `consume`.
fn products<T: GemmElement>(
    panels: &Panels<T>,
    rows: &[T],
    mut consume: impl FnMut(usize, usize, &mut [f32]),
) {
    let depth = panels.depth();
    if depth == 0 {
        return;
    }
    let count = rows.len() / depth;
    let widest = panels.iter().map(|panel| panel.columns).max();
    let mut products = Scratch::<f32>::new(count * widest.unwrap_or(0));
    for panel in panels.iter() {
        let mut dst = Dst {
            data: &mut products,
            offset: 0,
            row_stride: panel.columns,
        };
        let lhs = Lhs::rows(rows, depth, depth);
        let epilogue = Epilogue::default();
        multiply(panels.token(), count, lhs, panel, &mut dst, epilogue);
        let products = products
            .get_mut(..count * panel.columns)
            .unwrap_or_default();
        consume(panel.first, panel.columns, products);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(i: usize) -> f32 {
        ((i * 29) % 17) as f32 - 8.0
    }

    /// The matrix packed for each instruction set, in `f32` and quantized.
    fn packed(
        size: (usize, usize),
        write: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Vec<(Option<QuantKind>, PackedColumns)> {
        let of_isa = |isa: Isa| {
            isa.within(|| {
                let wide = (None, PackedColumns::new(size, &write).unwrap());
                let quantized = PackedColumns::quantized(size, &write);
                let quantized = quantized.map(|packed| (QuantKind::current(size.0), packed));
                std::iter::once(wide).chain(quantized).collect::<Vec<_>>()
            })
        };
        Isa::all().flat_map(of_isa).collect()
    }

    #[test]
    fn each_product_is_consumed_once() {
        let (depth, columns, count) = (5, 131, 11);
        let rows: Vec<f32> = (0..count * depth).map(number).collect();
        let write = |j: usize, column: &mut [f32]| {
            for (k, to) in column.iter_mut().enumerate() {
                *to = number(j * depth + k + 3);
            }
        };
        for (quantized, packed) in packed((depth, columns), write) {
            // bf16 represents these numbers exactly.
            let tolerance = match quantized {
                Some(QuantKind::Int16 { .. }) => 0.02,
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
                        assert!(
                            error <= tolerance,
                            "{quantized:?} row {r} column {j}: {error}"
                        );
                    }
                }
            });
            assert_eq!(seen, columns);
        }
    }

    #[test]
    fn a_quantized_product_is_that_of_the_rounded_numbers() {
        // One product per sum, so that nothing else rounds; with subnormal and huge numbers.
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
        for (quantized, packed) in packed(size, |j, column| column.fill(numbers[j])) {
            let Some(quantized) = quantized else { continue };
            let dequantized = |v: f32| quantized.quantize_row(&[v]).dequantized(v);
            packed.multiply(&numbers, |first, width, products| {
                for (row, products) in products.chunks_exact(width).enumerate() {
                    for (j, product) in products.iter().enumerate() {
                        let expected = dequantized(numbers[row]) * dequantized(numbers[first + j]);
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

        /// With numbers of many magnitudes, and with the largest possible products.
        #[test]
        fn quantized_products_are_those_of_the_dequantized_numbers(
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
            let write = |j: usize, to: &mut [f32]| to.copy_from_slice(column(j));
            for (quantized, packed) in packed((depth, columns), write) {
                let Some(quantized) = quantized else { continue };
                let take = |row: &[f32]| -> Vec<f64> {
                    let dequantized = quantized.quantize_row(row);
                    row.iter().map(|v| dequantized.dequantized(*v)).collect()
                };
                packed.multiply(&left, |first, width, products| {
                    let rows = left.chunks_exact(depth);
                    for (row, products) in rows.zip(products.chunks_exact(width)) {
                        let row = take(row);
                        for (j, product) in products.iter().enumerate() {
                            let column = take(column(first + j));
                            let terms = || row.iter().zip(&column).map(|(a, b)| a * b);
                            let magnitude: f64 = terms().map(f64::abs).sum();
                            let error = (f64::from(*product) - terms().sum::<f64>()).abs();
                            let bound = (depth + 3) as f64 * magnitude * 2f64.powi(-24);
                            assert!(error <= bound, "{quantized:?}: {error:e} above {bound:e}");
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn no_sum_of_integers_goes_beyond_32_bits() {
        let avx2 = Isa::named("avx2");
        for depth in [1, 2, 3, 512, 2048, 196_608] {
            let quantized = avx2.map(|isa| isa.within(|| QuantKind::current(depth)).unwrap());
            let Some(QuantKind::Int16 { max_abs }) = quantized else {
                return;
            };
            let max_abs = max_abs as i64;
            assert!(max_abs * max_abs * depth as i64 <= i32::MAX.into());
            for largest in [1.0, 3.3e-38, 1.2e-38, 2.0e-42, 1e-45, 3.4e38] {
                let row = [largest, -largest, largest / 3.0];
                let scale = scale_of(&row, max_abs as f32);
                let integers = row.map(|v| i64::from(quantize(v, scale.recip())));
                assert!(
                    integers.iter().all(|integer| integer.abs() <= max_abs),
                    "{row:?}"
                );
                let Some(bound) =
                    quantized.and_then(|quantized| quantized.max_quantization_error(&row))
                else {
                    panic!("no bound")
                };
                let dequantized = quantized
                    .map(|quantized| quantized.quantize_row(&row))
                    .unwrap();
                let losses = row.map(|v| (f64::from(v) - dequantized.dequantized(v)).powi(2));
                assert!(losses.iter().sum::<f64>().sqrt() <= bound, "{row:?}");
            }
        }
    }
}
