//! RGB out of the samples of the components: libjpeg-turbo's "fancy" upsampling, its conversion of
//! colors, and Pillow's of CMYK.

use super::frame::{Color, Component, Frame};

/// Samples of one component.
pub(super) struct Plane {
    pub samples: Vec<u8>,
    /// Samples of a row, with those that fill its blocks.
    pub stride: usize,
    /// Rows and columns of the component.
    pub size: (usize, usize),
    /// Pixels to a sample, horizontally and vertically.
    factors: (usize, usize),
}

impl Plane {
    /// Makes room for the samples of a component.
    pub fn new(frame: &Frame, component: &Component) -> Self {
        let (rows, columns) = frame.mcus();
        let (rows, stride) = (8 * rows * component.v, 8 * columns * component.h);
        Self {
            samples: vec![0; rows * stride],
            stride,
            size: frame.samples(component),
            factors: (frame.max.0 / component.h, frame.max.1 / component.v),
        }
    }

    fn row(&self, row: usize) -> &[u8] {
        let start = row.min(self.size.0 - 1) * self.stride;
        &self.samples[start..start + self.size.1]
    }

    /// Returns row `y` of the image: its samples, or interpolated ones in `buffers`. Factors of two
    /// interpolate by a triangle, others repeat.
    fn upsampled<'a>(&'a self, y: usize, buffers: &'a mut Buffers) -> &'a [u8] {
        let (h, v) = self.factors;
        let near = self.row(y / v);
        let upper = y.is_multiple_of(2);
        // The next row: above for the upper of two rows, below for the lower.
        let other = if upper {
            self.row((y / 2).saturating_sub(1))
        } else {
            self.row(y / 2 + 1)
        };
        let Buffers { sums, out } = buffers;
        match (h, v) {
            (1, 1) => return near,
            (2, 1) if near.len() > 2 => {
                sums.clear();
                sums.extend(near.iter().map(|near| u16::from(*near)));
                double::<2>(sums, [1, 2], out);
            }
            (1, 2) => {
                let bias = if upper { 1 } else { 2 };
                for ((out, near), other) in out.iter_mut().zip(near).zip(other) {
                    *out = ((3 * u16::from(*near) + u16::from(*other) + bias) >> 2) as u8;
                }
            }
            (2, 2) if near.len() > 2 => {
                sums.clear();
                let sum = |(near, other): (&u8, &u8)| 3 * u16::from(*near) + u16::from(*other);
                sums.extend(near.iter().zip(other).map(sum));
                double::<4>(sums, [8, 7], out);
            }
            _ => {
                for (samples, sample) in out.chunks_mut(h).zip(near) {
                    samples.fill(*sample);
                }
            }
        }
        out
    }
}

/// Room for one upsampled row.
struct Buffers {
    sums: Vec<u16>,
    out: Vec<u8>,
}

/// Doubles a row by a triangle: three parts of the near value and one of the next one, scaled by
/// `2^SHIFT`. The outermost pixels have one neighbor only.
fn double<const SHIFT: u32>(values: &[u16], [left, right]: [u16; 2], out: &mut [u8]) {
    let pair = |before: u16, near: u16, after: u16| {
        let first = (3 * near + before + left) >> SHIFT;
        let second = (3 * near + after + right) >> SHIFT;
        [first as u8, second as u8]
    };
    let (Some(&first), Some(&last)) = (values.first(), values.last()) else {
        return;
    };
    let (pairs, rest) = out.as_chunks_mut::<2>();
    let inner = pairs.iter_mut().skip(1);
    let neighbors = values.iter().zip(&values[1..]).zip(&values[2..]);
    for (out, ((before, near), after)) in inner.zip(neighbors) {
        *out = pair(*before, *near, *after);
    }
    let before_last = values[values.len() - 2];
    if let Some(out) = pairs.first_mut() {
        *out = pair(first, first, values[1]);
    }
    if let [out] = rest {
        *out = pair(before_last, last, last)[0];
    } else if let Some(out) = pairs.last_mut() {
        *out = pair(before_last, last, last);
    }
}

/// Makes the image, `[height, width, 3]`.
pub(super) fn rgb(frame: &Frame, planes: &[Plane]) -> Vec<u8> {
    let mut pixels = vec![0; 3 * frame.width * frame.height];
    let buffers = || Buffers {
        sums: Vec::new(),
        out: vec![0; frame.width],
    };
    let mut buffers: Vec<Buffers> = planes.iter().map(|_| buffers()).collect();
    let mut colors = [(); 3].map(|()| vec![0; frame.width]);
    for (y, out) in pixels.chunks_exact_mut(3 * frame.width).enumerate() {
        let rows = planes.iter().zip(&mut buffers);
        let rows: Vec<&[u8]> = rows.map(|(plane, room)| plane.upsampled(y, room)).collect();
        match (frame.color, &rows[..]) {
            (Color::Gray, [gray]) => interleave([gray, gray, gray], out),
            (Color::Rgb, [r, g, b]) => interleave([r, g, b], out),
            (Color::Cmyk, [c, m, y, k]) => {
                interleave([c, m, y], out);
                // By Adobe's convention the file has the inverse of the ink.
                blacken(out, k, |level| 255 - level);
            }
            (color, [y, cb, cr, rest @ ..]) => {
                from_ycc(y, cb, cr, &mut colors);
                interleave(std::array::from_fn(|at| &colors[at][..]), out);
                if let (Color::Ycck, [k]) = (color, rest) {
                    blacken(out, k, |ink| ink);
                }
            }
            _ => {}
        }
    }
    pixels
}

fn interleave([r, g, b]: [&[u8]; 3], out: &mut [u8]) {
    let pixels = out.as_chunks_mut::<3>().0;
    for (((pixel, r), g), b) in pixels.iter_mut().zip(r).zip(g).zip(b) {
        *pixel = [*r, *g, *b];
    }
}

/// Replaces levels, of which `ink` makes the ink, by the light that it leaves of white, as Pillow
/// computes it.
fn blacken(out: &mut [u8], white: &[u8], ink: impl Fn(u16) -> u16) {
    for (pixel, white) in out.as_chunks_mut::<3>().0.iter_mut().zip(white) {
        for level in pixel {
            let product = u32::from(ink((*level).into())) * u32::from(*white) + 128;
            *level = white.saturating_sub((((product >> 8) + product) >> 8) as u8);
        }
    }
}

/// Converts one row from YCbCr, with 16 bits of fraction.
fn from_ycc(y: &[u8], cb: &[u8], cr: &[u8], [r, g, b]: &mut [Vec<u8>; 3]) {
    let clamp = |value: i16| value.clamp(0, 255) as u8;
    // What is added beside whole multiples: 1.402 = 1 + 26,345 / 65,536, and so on. The factors
    // have 16 bits, which vector units multiply fast.
    let part = |a: i16, by_a: i16, b: i16, by_b: i16| {
        let sum = i32::from(a) * i32::from(by_a) + i32::from(b) * i32::from(by_b);
        ((sum + (1 << 15)) >> 16) as i16
    };
    let outputs = r.iter_mut().zip(g).zip(b);
    for ((((r, g), b), y), (cb, cr)) in outputs.zip(y).zip(cb.iter().zip(cr)) {
        let y = i16::from(*y);
        let (cb, cr) = (i16::from(*cb) - 128, i16::from(*cr) - 128);
        *r = clamp(y + cr + part(cr, 26_345, 0, 0));
        *g = clamp(y - cr + part(cb, -22_554, cr, 18_734));
        *b = clamp(y + 2 * cb + part(cb, -14_942, 0, 0));
    }
}
