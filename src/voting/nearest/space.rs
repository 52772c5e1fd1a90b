//! The vectors as they are compared, and their exact scores.

use rayon::prelude::*;

use super::{Metric, NearestError};
use crate::kernels::{QuantKind, QuantizedRow};

/// The candidates, and how a vector is placed among them: centred for L2 (distances do not change,
/// rounding shrinks with the norms), of unit length for cosine.
pub(super) struct MetricTransform<'a> {
    metric: Metric,
    dimension: usize,
    /// As they came: `[candidates, dimension]`.
    candidates: &'a [f32],
    centre: Vec<f32>,
    /// `|p|²/2` of each placed candidate for L2, zero otherwise.
    offsets: Vec<f32>,
    /// The largest `|p|` of a placed candidate.
    longest: f64,
    /// What narrow products are made of, if there are any.
    narrow: Option<QuantKind>,
    /// The largest `|p − p'|` of a placed candidate, `p'` being what a narrow product takes it for.
    coarsest: f64,
}

impl<'a> MetricTransform<'a> {
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
        let mut space = Self {
            metric,
            dimension,
            candidates,
            centre: match metric {
                Metric::L2 => mean(candidates, dimension),
                Metric::InnerProduct | Metric::Cosine => vec![0.0; dimension],
            },
            offsets: Vec::new(),
            longest: 0.0,
            narrow: QuantKind::current(dimension),
            coarsest: 0.0,
        };
        let (squares, losses): (Vec<f64>, Vec<f64>) = rows()
            .map_with(vec![0f32; dimension], |placed, row| {
                placed.copy_from_slice(row);
                space.place(placed);
                let loss = space.narrow.map(|narrow| squared_loss(placed, narrow));
                (squared_norm(placed), loss.unwrap_or(0.0))
            })
            .unzip();
        space.longest = squares.iter().copied().fold(0.0, f64::max).sqrt();
        // Where a number is too large for a narrow product, the loss is infinite, and so is every coarse slack.
        space.coarsest = losses.iter().copied().fold(0.0, f64::max).sqrt();
        space.offsets = match metric {
            Metric::L2 => squares.iter().map(|s| (s / 2.0) as f32).collect(),
            Metric::InnerProduct | Metric::Cosine => vec![0.0; squares.len()],
        };
        Ok(space)
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

    /// Brings one vector to its place.
    pub(super) fn place(&self, row: &mut [f32]) {
        match self.metric {
            Metric::L2 => {
                for (value, centre) in row.iter_mut().zip(&self.centre) {
                    *value -= centre;
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

    /// The slack that a shortlist of this query needs: twice the largest error of a rough score.
    ///
    /// A rough score is a sum of `dimension` products, each operation rounded by at most u = 2⁻²⁴ of its result, so
    /// that in any order it errs by at most nu/(1 − nu)·|q||p| with n = dimension (Higham, *Accuracy and Stability of
    /// Numerical Algorithms*, 2002, section 3.1). It can come near to that: the errors of equal terms, as two flat
    /// images have, all go one way. Placing both vectors, halving the square and subtracting cost less than eight
    /// roundings more of (|q| + |p|)|p|. A product below the normal numbers may count as 0. Infinite where
    /// `f32` could overflow, or the roundings reach the sum itself.
    pub(super) fn slack(&self, query: &[f32]) -> f64 {
        self.rounding(squared_norm(query).sqrt(), self.longest)
    }

    fn rounding(&self, query: f64, longest: f64) -> f64 {
        let scale = (query + longest) * longest;
        let roundings = (self.dimension + 8) as f64 * f64::from(f32::EPSILON) / 2.0;
        if scale < f64::from(f32::MAX) / 4.0 && roundings < 0.5 {
            let flushed = self.dimension as f64 * f64::from(f32::MIN_POSITIVE);
            2.0 * (roundings / (1.0 - roundings) * scale + flushed)
        } else {
            f64::INFINITY
        }
    }

    /// The slack of rough scores from narrow products: that of their sums ([`MetricTransform::slack`]), and what making both
    /// vectors narrow adds. Infinite where there are no such products.
    ///
    /// With what they become marked by ', `|q·p − q'·p'| ≤ |q − q'||p| + |q'||p − p'|` (Cauchy and Schwarz), and
    /// `|q'| ≤ |q| + |q − q'|`.
    pub(super) fn coarse_slack(&self, query: &[f32]) -> f64 {
        let Some(narrow) = self.narrow else {
            return f64::INFINITY;
        };
        let norm = squared_norm(query).sqrt();
        let loss = narrow.max_quantization_error(query);
        let loss = loss.unwrap_or_else(|| squared_loss(query, narrow).sqrt());
        let error = loss * self.longest + (norm + loss) * self.coarsest;
        2.0 * error + self.rounding(norm + loss, self.longest + self.coarsest)
    }

    /// Writes the nearest of `shortlist` (of all candidates, where there is none) by exact scores.
    ///
    /// `query` is as it came, not placed: placing rounds, and among close candidates that can decide.
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

    /// The exact score: the squared distance, minus the inner product, or minus the cosine times `|q|`.
    fn score(&self, query: &[f32], index: u32) -> f64 {
        let start = index as usize * self.dimension;
        let candidate = &self.candidates[start..start + self.dimension];
        let score = match self.metric {
            Metric::L2 => sum_over(query, candidate, |q, p| (q - p) * (q - p)),
            Metric::InnerProduct => -sum_over(query, candidate, |q, p| q * p),
            Metric::Cosine => {
                let product = sum_over(query, candidate, |q, p| q * p);
                let norm = squared_norm(candidate).sqrt();
                // A candidate without a direction is at a right angle to everything.
                if norm > 0.0 { -product / norm } else { 0.0 }
            }
        };
        // Zeros of either sign are a tie.
        score + 0.0
    }
}

/// Columns that one thread averages at a time.
const COLUMNS: usize = 128;

/// Numbers summed side by side, so that the processor need not wait for each addition.
const LANES: usize = 8;

/// `Σ term(a[i], b[i])` in `f64`, in an order that depends on the length alone.
fn sum_over(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
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

/// `|row|²`.
pub(super) fn squared_norm(row: &[f32]) -> f64 {
    sum_over(row, row, |a, b| a * b)
}

/// `|row − row'|²`, `row'` being what a narrow product takes it for.
fn squared_loss(row: &[f32], narrow: QuantKind) -> f64 {
    let square = |loss: f64| loss * loss;
    // Which of the two is known in each loop.
    match narrow.quantize_row(row) {
        QuantizedRow::Bf16 => sum_over(row, row, |v, _| {
            square(v - QuantizedRow::Bf16.dequantized(v as f32))
        }),
        QuantizedRow::Int16 { scale } => {
            let taken = QuantizedRow::Int16 { scale };
            sum_over(row, row, |v, _| square(v - taken.dequantized(v as f32)))
        }
    }
}

fn mean(vectors: &[f32], dimension: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; dimension];
    // Threads share the columns, so that each is summed in the order of the rows.
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
