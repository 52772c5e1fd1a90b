//! Transform of vectors before they are compared, error bounds of approximate scores, and exact
//! scores.

use rayon::prelude::*;

use super::{Metric, NearestError};
use crate::kernels::{QuantKind, QuantizedRow};

/// Candidates, and the transform that a metric applies to each vector before approximate scoring:
/// centering for L2 (it keeps distances, and rounding errors shrink with the norms), scaling to
/// unit length for cosine.
pub(super) struct MetricTransform<'a> {
    metric: Metric,
    dimension: usize,
    /// Original vectors, `[candidates, dimension]`.
    candidates: &'a [f32],
    /// Mean of the candidates for L2, zero otherwise.
    center: Vec<f32>,
    /// `|p|²/2` of each transformed candidate for L2, zero otherwise.
    offsets: Vec<f32>,
    /// Largest `|p|` of a transformed candidate.
    max_norm: f64,
    /// Number format of 16-bit products, if the processor has them.
    quantization: Option<QuantKind>,
    /// Largest `|p − p'|` of a transformed candidate, where `p'` is `p` rounded for a 16-bit
    /// product.
    max_loss: f64,
}

impl<'a> MetricTransform<'a> {
    /// Prepares the transform and its error bounds.
    ///
    /// # Errors
    /// [`NearestError::NotFinite`].
    pub(super) fn new(
        candidates: &'a [f32],
        dimension: usize,
        metric: Metric,
    ) -> Result<Self, NearestError> {
        let rows = || candidates.par_chunks_exact(dimension);
        if let Some(index) = rows().position_first(|row| row.iter().any(|v| !v.is_finite())) {
            return Err(NearestError::NotFinite { index });
        }
        let mut transform = Self {
            metric,
            dimension,
            candidates,
            center: match metric {
                Metric::L2 => mean(candidates, dimension),
                Metric::InnerProduct | Metric::Cosine => vec![0.0; dimension],
            },
            offsets: Vec::new(),
            max_norm: 0.0,
            quantization: QuantKind::current(dimension),
            max_loss: 0.0,
        };
        let (squares, losses): (Vec<f64>, Vec<f64>) = rows()
            .map_with(vec![0f32; dimension], |moved, row| {
                moved.copy_from_slice(row);
                transform.apply(moved);
                let loss = transform.quantization.map(|kind| squared_loss(moved, kind));
                (squared_norm(moved), loss.unwrap_or(0.0))
            })
            .unzip();
        transform.max_norm = squares.iter().copied().fold(0.0, f64::max).sqrt();
        // Where a number is too large for a 16-bit product, the loss is infinite, and so is every
        // coarse slack: no query is then resolved by the coarse pass.
        transform.max_loss = losses.iter().copied().fold(0.0, f64::max).sqrt();
        transform.offsets = match metric {
            Metric::L2 => squares.iter().map(|s| (s / 2.0) as f32).collect(),
            Metric::InnerProduct | Metric::Cosine => vec![0.0; squares.len()],
        };
        Ok(transform)
    }

    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    pub(super) fn candidates(&self) -> &[f32] {
        self.candidates
    }

    pub(super) fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// Transforms one vector in place.
    pub(super) fn apply(&self, row: &mut [f32]) {
        match self.metric {
            Metric::L2 => {
                for (value, center) in row.iter_mut().zip(&self.center) {
                    *value -= center;
                }
            }
            Metric::InnerProduct => {}
            Metric::Cosine => {
                let norm = squared_norm(row).sqrt();
                if norm > 0.0 {
                    for value in row {
                        *value = (f64::from(*value) / norm) as f32;
                    }
                }
            }
        }
    }

    /// Returns the slack that a shortlist of this query needs: twice the largest error of an
    /// approximate score.
    ///
    /// An approximate score is a sum of n = `dimension` products. Each operation rounds by at most
    /// u = 2⁻²⁴ of its result, so in any order of summation the error is at most nu/(1 − nu)·|q||p|
    /// (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1). Real errors
    /// come close to the bound: those of equal terms, as two flat images have, all have the same
    /// sign. Transforming both vectors, halving the square and subtracting add less than eight
    /// roundings of (|q| + |p|)|p|. A product below the normal numbers may count as 0. The slack is
    /// infinite where `f32` could overflow, or where the roundings reach the size of the sum
    /// itself.
    pub(super) fn slack(&self, query: &[f32]) -> f64 {
        self.rounding(squared_norm(query).sqrt(), self.max_norm)
    }

    fn rounding(&self, query: f64, max_norm: f64) -> f64 {
        let scale = (query + max_norm) * max_norm;
        let roundings = (self.dimension + 8) as f64 * f64::from(f32::EPSILON) / 2.0;
        if scale < f64::from(f32::MAX) / 4.0 && roundings < 0.5 {
            let flushed = self.dimension as f64 * f64::from(f32::MIN_POSITIVE);
            2.0 * (roundings / (1.0 - roundings) * scale + flushed)
        } else {
            f64::INFINITY
        }
    }

    /// Returns the slack for scores from 16-bit products: that of their sums
    /// ([`MetricTransform::slack`]) plus the effect of rounding both vectors to 16 bits. Infinite
    /// where there are no such products.
    ///
    /// With rounded vectors marked by ', `|q·p − q'·p'| ≤ |q − q'||p| + |q'||p − p'|`
    /// (Cauchy-Schwarz), and `|q'| ≤ |q| + |q − q'|`.
    pub(super) fn coarse_slack(&self, query: &[f32]) -> f64 {
        let Some(kind) = self.quantization else {
            return f64::INFINITY;
        };
        let norm = squared_norm(query).sqrt();
        let loss = kind.max_quantization_error(query);
        let loss = loss.unwrap_or_else(|| squared_loss(query, kind).sqrt());
        let error = loss * self.max_norm + (norm + loss) * self.max_loss;
        2.0 * error + self.rounding(norm + loss, self.max_norm + self.max_loss)
    }

    /// Writes the nearest candidates of `shortlist` (of all candidates if it is `None`) by exact
    /// scores.
    ///
    /// `query` is the original vector: the transform rounds, which could change the order of close
    /// candidates.
    pub(super) fn rank(&self, query: &[f32], shortlist: Option<Vec<u32>>, nearest: &mut [u32]) {
        if let (Some([only]), [nearest]) = (shortlist.as_deref(), &mut *nearest) {
            *nearest = *only;
            return;
        }
        let all = || (0..self.offsets.len() as u32).collect();
        let mut exact: Vec<(f64, u32)> = shortlist
            .unwrap_or_else(all)
            .into_iter()
            .map(|index| (self.score(query, index), index))
            .collect();
        exact.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (to, (_, index)) in nearest.iter_mut().zip(exact) {
            *to = index;
        }
    }

    /// Returns the exact score: the squared distance, minus the inner product, or minus the cosine
    /// times `|q|`.
    fn score(&self, query: &[f32], index: u32) -> f64 {
        let start = index as usize * self.dimension;
        let candidate = &self.candidates[start..start + self.dimension];
        let score = match self.metric {
            Metric::L2 => sum_over(query, candidate, |q, p| (q - p) * (q - p)),
            Metric::InnerProduct => -sum_over(query, candidate, |q, p| q * p),
            Metric::Cosine => {
                let product = sum_over(query, candidate, |q, p| q * p);
                let norm = squared_norm(candidate).sqrt();
                // A zero vector has no direction; it counts as orthogonal to every query.
                if norm > 0.0 { -product / norm } else { 0.0 }
            }
        };
        // Adding 0 turns −0 into 0, which `total_cmp` would tell apart: they are a tie.
        score + 0.0
    }
}

/// Columns that one thread averages at a time: few enough for the cache, enough to read whole
/// lines.
const COLUMNS: usize = 128;

/// Independent partial sums, so that the processor need not wait for each addition.
const LANES: usize = 8;

/// Returns `Σ term(a[i], b[i])` in `f64`, summed in an order that depends on the length alone.
pub fn sum_over(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += term(f64::from(*a), f64::from(*b));
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    rest.map(|(a, b)| term(f64::from(*a), f64::from(*b)))
        .fold(sums.iter().sum(), |sum: f64, v| sum + v)
}

/// Returns `|row|²`.
pub(super) fn squared_norm(row: &[f32]) -> f64 {
    sum_over(row, row, |a, b| a * b)
}

/// Returns `|row − row'|²`, where `row'` is `row` rounded for a 16-bit product.
fn squared_loss(row: &[f32], kind: QuantKind) -> f64 {
    let square = |loss: f64| loss * loss;
    // Matched outside of the loops, so that the compiler specializes each of them.
    match kind.quantize_row(row) {
        QuantizedRow::Bf16 => sum_over(row, row, |v, _| {
            square(v - QuantizedRow::Bf16.dequantized(v as f32))
        }),
        QuantizedRow::Int16 { scale } => {
            let quantized = QuantizedRow::Int16 { scale };
            sum_over(row, row, |v, _| square(v - quantized.dequantized(v as f32)))
        }
    }
}

/// Returns the mean of the vectors, column by column.
fn mean(vectors: &[f32], dimension: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; dimension];
    // Threads split the columns, not the rows, so that each column is summed in the order of the
    // rows whatever the number of threads.
    sum.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(part, sum)| {
            for row in vectors.chunks_exact(dimension) {
                let row = row.get(part * COLUMNS..).unwrap_or_default();
                for (s, v) in sum.iter_mut().zip(row) {
                    *s += f64::from(*v);
                }
            }
        });
    let count = (vectors.len() / dimension).max(1) as f64;
    sum.into_iter().map(|s| (s / count) as f32).collect()
}
