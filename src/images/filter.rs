//! Weights of Pillow's antialiased filters along one axis.
//!
//! Source: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's `libImaging/Resample.c`. The
//! order of the floating-point operations is kept, because it affects the result.

use std::ops::Range;

/// Fraction bits of the 8-bit weights: 32, less 8 for the pixel, less 2 for sign and overshoot.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Resampling kernel; widened by the scale when it reduces an image, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The triangle of radius 1: `T.Resize`'s default.
    Bilinear,
    /// Keys' cubic of radius 2 with `a = -0.5`: clean-fid's and CLIP's.
    Bicubic,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Weights of one axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// First input pixel of each output pixel, and the range of its weights.
    windows: Vec<(usize, Range<usize>)>,
    weights: Vec<f64>,
    /// Weights in fixed point with [`PRECISION_BITS`] fraction bits.
    fixed: Vec<i32>,
}

impl Axis {
    /// Computes the weights from `input` to `output` pixels; both must be positive.
    pub(super) fn new(filter: Filter, input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let widening = scale.max(1.0);
        let radius = filter.radius() * widening;
        let mut windows = Vec::with_capacity(output);
        let mut weights: Vec<f64> = Vec::new();
        for index in 0..output {
            let center = (index as f64 + 0.5) * scale;
            // Casts from negative numbers give 0, and towards 0 otherwise, as Pillow's clamps do.
            let first = (center - radius + 0.5) as usize;
            let end = ((center + radius + 0.5) as usize).min(input);
            let place = weights.len();
            let shrink = 1.0 / widening;
            weights.extend((first..end).map(|x| filter.weight((x as f64 - center + 0.5) * shrink)));
            let window = &mut weights[place..];
            let total: f64 = window.iter().fold(0.0, |sum, weight| sum + weight);
            if total != 0.0 {
                window.iter_mut().for_each(|weight| *weight /= total);
            }
            windows.push((first, place..weights.len()));
        }
        let one = f64::from(1u32 << PRECISION_BITS);
        let fixed = weights
            .iter()
            .map(|weight| (weight * one + 0.5f64.copysign(*weight)) as i32)
            .collect();
        Self {
            windows,
            weights,
            fixed,
        }
    }

    /// Returns for each output pixel the first input pixel and the weights from there on.
    pub(super) fn windows(&self) -> impl ExactSizeIterator<Item = (usize, &[f64])> {
        self.windows
            .iter()
            .map(|(first, place)| (*first, &self.weights[place.clone()]))
    }

    /// Returns the window of output pixel `index`.
    #[inline(always)]
    pub(super) fn window(&self, index: usize) -> (usize, &[f64]) {
        let (first, place) = &self.windows[index];
        (*first, &self.weights[place.clone()])
    }

    /// Returns [`Axis::windows`] in fixed point.
    pub(super) fn fixed_windows(&self) -> impl ExactSizeIterator<Item = (usize, &[i32])> {
        self.windows
            .iter()
            .map(|(first, place)| (*first, &self.fixed[place.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (input, output) in [(1, 1), (1, 9), (9, 1), (32, 299), (299, 32), (37, 64)] {
                let axis = Axis::new(filter, input, output);
                assert_eq!(axis.windows().len(), output);
                for (first, weights) in axis.windows() {
                    assert!(!weights.is_empty());
                    assert!(first + weights.len() <= input);
                    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn doubling_with_the_triangle_takes_three_quarters_and_one() {
        let axis = Axis::new(Filter::Bilinear, 4, 8);
        let windows: Vec<_> = axis.windows().collect();
        assert_eq!(windows[3], (1, [0.75, 0.25].as_slice()));
    }

    #[test]
    fn fixed_point_rounds_half_away_from_zero() {
        let axis = Axis::new(Filter::Bicubic, 8, 5);
        for ((_, weights), (_, fixed)) in axis.windows().zip(axis.fixed_windows()) {
            for (weight, fixed) in weights.iter().zip(fixed) {
                assert_eq!((weight * 4_194_304.0).round(), f64::from(*fixed));
            }
        }
    }
}
