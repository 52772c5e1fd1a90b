//! Samples out of coefficients, and RGB out of samples, with the arithmetic of libjpeg-turbo's
//! accurate integer transform and of its "fancy" upsampling.

use super::super::DecodeError;
use super::damaged;
use super::entropy::{Block, Coefficients};
use super::frame::{Color, Component, Frame};

/// Fraction bits of the constants.
const FRACTION: u32 = 13;
/// Additional bits kept between the two passes.
const KEPT: u32 = 2;
/// Largest accepted magnitude of a coefficient. Sound files stay below 2,048.
const MAX_COEFFICIENT: i32 = 8191;

/// Returns a constant with [`FRACTION`] bits.
const fn fixed(value: f64) -> i32 {
    (value * (1 << FRACTION) as f64 + 0.5) as i32
}

/// Samples of one component.
struct Plane {
    samples: Vec<u8>,
    /// Samples of a row, with those that fill its blocks.
    stride: usize,
    /// Rows and columns of the component.
    rows: usize,
    columns: usize,
    /// Pixels to a sample, horizontally and vertically.
    factors: (usize, usize),
}

/// Makes the image, `[height, width, 3]`.
///
/// # Errors
/// [`DecodeError`] if a coefficient is beyond what sound files have.
pub(super) fn rgb(frame: &Frame, coefficients: Vec<Coefficients>) -> Result<Vec<u8>, DecodeError> {
    let planes = frame
        .components
        .iter()
        .zip(coefficients)
        .map(|(component, coefficients)| plane(frame, component, &coefficients))
        .collect::<Option<Vec<Plane>>>()
        .ok_or_else(damaged)?;
    let mut pixels = vec![0; 3 * frame.width * frame.height];
    let mut rows = vec![vec![0; frame.width]; planes.len()];
    for (y, out) in pixels.chunks_exact_mut(3 * frame.width).enumerate() {
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row);
        }
        convert(frame.color, &rows, out);
    }
    Ok(pixels)
}

fn plane(frame: &Frame, component: &Component, coefficients: &Coefficients) -> Option<Plane> {
    let (rows, columns) = frame.samples(component);
    let stride = 8 * coefficients.columns;
    let mut samples = vec![0; 64 * coefficients.blocks.len()];
    for (index, block) in coefficients.blocks.iter().enumerate() {
        let (row, column) = (index / coefficients.columns, index % coefficients.columns);
        if 8 * row < rows && 8 * column < columns {
            let out = samples.get_mut(8 * row * stride + 8 * column..)?;
            transform(block, &coefficients.quantizer, out, stride)?;
        }
    }
    Some(Plane {
        samples,
        stride,
        rows,
        columns,
        factors: (frame.max.0 / component.h, frame.max.1 / component.v),
    })
}

/// Makes 8x8 samples of a block; nothing if a coefficient is out of range.
fn transform(block: &Block, quantizer: &[u16; 64], out: &mut [u8], stride: usize) -> Option<()> {
    let mut values = [0i32; 64];
    for ((value, coefficient), step) in values.iter_mut().zip(block).zip(quantizer) {
        *value = i32::from(*coefficient) * i32::from(*step);
        if value.abs() > MAX_COEFFICIENT {
            return None;
        }
    }
    for column in 0..8 {
        let input = std::array::from_fn(|row| values[8 * row + column]);
        for (row, value) in pass(input, FRACTION - KEPT).into_iter().enumerate() {
            values[8 * row + column] = value;
        }
    }
    for (row, input) in values.as_chunks::<8>().0.iter().enumerate() {
        let line = out.get_mut(row * stride..row * stride + 8)?;
        for (sample, value) in line.iter_mut().zip(pass(*input, FRACTION + KEPT + 3)) {
            *sample = (value + 128).clamp(0, 255) as u8;
        }
    }
    Some(())
}

/// Transforms eight values. Sums wrap and results saturate at 16 bits, as in the vector code of
/// libjpeg-turbo.
fn pass(input: [i32; 8], shift: u32) -> [i32; 8] {
    let wrap = |value: i32| i32::from(value as i16);
    let [i0, i1, i2, i3, i4, i5, i6, i7] = input;
    let shared = (i2 + i6) * fixed(0.541_196_100);
    let even2 = shared - i6 * fixed(1.847_759_065);
    let even3 = shared + i2 * fixed(0.765_366_865);
    let (sum, difference) = (wrap(i0 + i4) << FRACTION, wrap(i0 - i4) << FRACTION);
    let evens = [
        sum.wrapping_add(even3),
        difference.wrapping_add(even2),
        difference.wrapping_sub(even2),
        sum.wrapping_sub(even3),
    ];
    let (z3, z4) = (wrap(i7 + i3), wrap(i5 + i1));
    let shared = (z3 + z4) * fixed(1.175_875_602);
    let z3 = shared - z3 * fixed(1.961_570_560);
    let z4 = shared - z4 * fixed(0.390_180_644);
    let z1 = -(i7 + i1) * fixed(0.899_976_223);
    let z2 = -(i5 + i3) * fixed(2.562_915_447);
    let odds = [
        (i1 * fixed(1.501_321_110))
            .wrapping_add(z1)
            .wrapping_add(z4),
        (i3 * fixed(3.072_711_026))
            .wrapping_add(z2)
            .wrapping_add(z3),
        (i5 * fixed(2.053_119_869))
            .wrapping_add(z2)
            .wrapping_add(z4),
        (i7 * fixed(0.298_631_336))
            .wrapping_add(z1)
            .wrapping_add(z3),
    ];
    let half = 1 << (shift - 1);
    let scaled = |value: i32| {
        let value = value.wrapping_add(half) >> shift;
        value.clamp(i16::MIN.into(), i16::MAX.into())
    };
    std::array::from_fn(|at| {
        if at < 4 {
            scaled(evens[at].wrapping_add(odds[at]))
        } else {
            scaled(evens[7 - at].wrapping_sub(odds[7 - at]))
        }
    })
}

impl Plane {
    fn row(&self, row: usize) -> &[u8] {
        let start = row.min(self.rows - 1) * self.stride;
        &self.samples[start..start + self.columns]
    }

    /// Fills row `y` of the image. Factors of two interpolate by a triangle, others repeat.
    fn upsample(&self, y: usize, out: &mut [u8]) {
        let (h, v) = self.factors;
        let near = self.row(y / v);
        // The next row: above for the upper of two rows, below for the lower.
        let other = if y.is_multiple_of(2) {
            self.row((y / 2).saturating_sub(1))
        } else {
            self.row(y / 2 + 1)
        };
        match (h, v) {
            (1, 1) => out.copy_from_slice(near),
            (2, 1) if self.columns > 2 => {
                let at = |x: usize| u32::from(near[x]);
                interpolate(self.columns, at, [1, 2], 2, out);
            }
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((out, near), other) in out.iter_mut().zip(near).zip(other) {
                    *out = ((3 * u32::from(*near) + u32::from(*other) + bias) >> 2) as u8;
                }
            }
            (2, 2) if self.columns > 2 => {
                let at = |x: usize| 3 * u32::from(near[x]) + u32::from(other[x]);
                interpolate(self.columns, at, [8, 7], 4, out);
            }
            _ => {
                for (samples, sample) in out.chunks_mut(h).zip(near) {
                    samples.fill(*sample);
                }
            }
        }
    }
}

/// Doubles `columns` values by a triangle: three parts of the near, one of the other neighbor. The
/// outermost pixels have one neighbor only.
fn interpolate(
    columns: usize,
    at: impl Fn(usize) -> u32,
    [left, right]: [u32; 2],
    shift: u32,
    out: &mut [u8],
) {
    for (x, pair) in out.chunks_mut(2).enumerate() {
        let near = at(x);
        let before = at(x.saturating_sub(1));
        let after = at((x + 1).min(columns - 1));
        pair[0] = ((3 * near + before + left) >> shift) as u8;
        if let Some(second) = pair.get_mut(1) {
            *second = ((3 * near + after + right) >> shift) as u8;
        }
    }
}

/// Converts one row of components to RGB.
fn convert(color: Color, rows: &[Vec<u8>], out: &mut [u8]) {
    let level = |component: usize, x: usize| i32::from(rows[component][x]);
    for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
        let values = match color {
            Color::Gray => [level(0, x); 3],
            Color::Rgb => [level(0, x), level(1, x), level(2, x)],
            Color::YCbCr => from_ycc(level(0, x), level(1, x), level(2, x)),
            // By Adobe's convention the file has the inverse of the ink.
            Color::Cmyk => {
                let light = |c: usize| over_black(255 - level(c, x), level(3, x));
                [light(0), light(1), light(2)]
            }
            Color::Ycck => {
                let ink = from_ycc(level(0, x), level(1, x), level(2, x));
                ink.map(|ink| over_black(ink, level(3, x)))
            }
        };
        for (out, value) in pixel.iter_mut().zip(values) {
            *out = value as u8;
        }
    }
}

/// Returns the light that an ink leaves of `white`, as Pillow computes it.
fn over_black(ink: i32, white: i32) -> i32 {
    let product = ink * white + 128;
    (white - (((product >> 8) + product) >> 8)).clamp(0, 255)
}

/// Converts one pixel from YCbCr, in 16 bits of fraction.
fn from_ycc(y: i32, cb: i32, cr: i32) -> [i32; 3] {
    const HALF: i32 = 1 << 15;
    let (cb, cr) = (cb - 128, cr - 128);
    let red = (91_881 * cr + HALF) >> 16;
    let green = (-22_554 * cb - 46_802 * cr + HALF) >> 16;
    let blue = (116_130 * cb + HALF) >> 16;
    [y + red, y + green, y + blue].map(|value| value.clamp(0, 255))
}
