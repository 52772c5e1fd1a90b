//! Drawing of one text.

use tiny_skia::{FillRule, LineJoin, Mask, Path, PathBuilder, Stroke, Transform};

use super::config::{Center, Config, Fit};
use super::outline::{Glyph, Point};
use super::parameters::TextParameters;
use super::warp::Warp;
use crate::generators::GeneratorError;

/// Share of its width that a stroke keeps when it is thinned most.
const THINNEST: f32 = 0.35;

/// Ratio of the widths of a stroke after and before it is thickened most.
const THICKEST: f32 = 6.0;

/// Blurs with less than this standard deviation, in pixels, change no level.
const NO_BLUR: f64 = 0.05;

/// Strokes of less than this width, in pixels, have beveled corners.
const BEVELED: f32 = 6.0;

/// Height above the baseline, in em, of the middle of a text that is not centered itself: half the
/// height of usual capital letters.
const MIDDLE: f32 = 0.35;

/// The polygons of a text and the point at its center, in em and then in pixels.
struct Shape {
    contours: Vec<Vec<Point>>,
    middle: Point,
}

/// A rectangle around points.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    low: Point,
    high: Point,
}

impl Bounds {
    fn width(&self) -> f32 {
        self.high[0] - self.low[0]
    }

    fn height(&self) -> f32 {
        self.high[1] - self.low[1]
    }

    fn longer(&self) -> f32 {
        self.width().max(self.height())
    }

    fn center(&self) -> Point {
        [
            (self.low[0] + self.high[0]) / 2.0,
            (self.low[1] + self.high[1]) / 2.0,
        ]
    }
}

impl Shape {
    /// Places characters beside each other.
    fn new<'a>(glyphs: impl IntoIterator<Item = &'a Glyph>) -> Self {
        let (mut contours, mut x) = (Vec::new(), 0.0);
        for glyph in glyphs {
            let moved = glyph.contours.iter().map(|contour| {
                let points = contour.iter().map(|point| [point[0] + x, point[1]]);
                points.collect()
            });
            contours.extend(moved);
            x += glyph.advance;
        }
        Self {
            contours,
            middle: [x / 2.0, -MIDDLE],
        }
    }

    fn map(&mut self, map: impl Fn(Point) -> Point) {
        for point in self.contours.iter_mut().flatten() {
            *point = map(*point);
        }
    }

    fn bounds(&self) -> Bounds {
        let mut bounds = Bounds {
            low: [f32::MAX; 2],
            high: [f32::MIN; 2],
        };
        for [x, y] in self.contours.iter().flatten().copied() {
            bounds.low = [bounds.low[0].min(x), bounds.low[1].min(y)];
            bounds.high = [bounds.high[0].max(x), bounds.high[1].max(y)];
        }
        bounds
    }

    /// Returns the length of all contours, their area, and the center of mass of the area; holes
    /// count negatively.
    fn measure(&self) -> (f32, f32, Option<Point>) {
        let (mut length, mut area) = (0.0f32, 0.0f32);
        let mut moment = [0.0f32; 2];
        for contour in &self.contours {
            let Some(mut last) = contour.last().copied() else {
                continue;
            };
            for point in contour.iter().copied() {
                length += (point[0] - last[0]).hypot(point[1] - last[1]);
                let cross = last[0] * point[1] - point[0] * last[1];
                area += cross / 2.0;
                moment[0] += cross * (last[0] + point[0]) / 6.0;
                moment[1] += cross * (last[1] + point[1]) / 6.0;
                last = point;
            }
        }
        let center = (area != 0.0).then(|| [moment[0] / area, moment[1] / area]);
        (length, area.abs(), center)
    }

    fn path(&self) -> Option<Path> {
        let mut path = PathBuilder::new();
        for contour in &self.contours {
            let mut points = contour.iter();
            if let Some([x, y]) = points.next() {
                path.move_to(*x, *y);
                points.for_each(|[x, y]| path.line_to(*x, *y));
                path.close();
            }
        }
        path.finish()
    }
}

/// Draws `glyphs` beside each other; returns the coverage of each pixel, `[height, width]`, 0 to
/// 255.
///
/// # Errors
/// [`GeneratorError::Input`] if the image size is not supported.
pub(super) fn coverage<'a>(
    config: &Config,
    parameters: &TextParameters,
    glyphs: impl IntoIterator<Item = &'a Glyph>,
) -> Result<Vec<u8>, GeneratorError> {
    let (height, width) = config.image_size.pair();
    let mut mask = Mask::new(width as u32, height as u32).ok_or_else(|| {
        GeneratorError::Input(format!("images of {height}x{width} pixels cannot be drawn"))
    })?;
    if let Some((path, stroke)) = placed(config, parameters, Shape::new(glyphs)) {
        mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
        change_weight(&mut mask, &path, stroke);
    }
    let mut levels = mask.take();
    if parameters.blur >= NO_BLUR {
        blur(&mut levels, width, parameters.blur);
    }
    Ok(levels)
}

/// Transforms a text to its place in the image; returns it and the number of pixels by which its
/// strokes become wider. `None` for a text without extent.
fn placed(config: &Config, parameters: &TextParameters, mut shape: Shape) -> Option<(Path, f32)> {
    let (height, width) = config.image_size.pair();
    let (height, width) = (height as f32, width as f32);
    // The longer side becomes 1 and the center of the box the origin: the square of the warp.
    let bounds = shape.bounds();
    let (unit, origin) = (bounds.longer(), bounds.center());
    if !(unit.is_finite() && unit > 0.0) {
        return None;
    }
    let normalized = |point: Point| [(point[0] - origin[0]) / unit, (point[1] - origin[1]) / unit];
    shape.middle = normalized(shape.middle);
    let affine = Affine::new(parameters);
    match Warp::new(&parameters.warp) {
        Some(warp) => shape.map(|point| affine.apply(warp.displaced(normalized(point)))),
        None => shape.map(|point| affine.apply(normalized(point))),
    }
    let bounds = shape.bounds();
    let (length, area, mass) = shape.measure();
    let size = parameters.size as f32;
    let mut scale = match config.fit {
        Fit::Box => size * (width / bounds.width()).min(height / bounds.height()),
        Fit::Em => size * height * unit,
    };
    let extent = match config.fit {
        Fit::Box => scale * bounds.longer(),
        Fit::Em => size * height,
    };
    // The mean width of the strokes: a long bar has twice its area over the length of its outline.
    let natural = 2.0 * area / length * scale;
    let stroke = parameters.weight.map_or(0.0, |weight| {
        let wanted = weight as f32 * extent;
        wanted.clamp(THINNEST * natural, THICKEST * natural) - natural
    });
    if config.fit == Fit::Box && stroke < 0.5 * extent {
        // The strokes, too, must fit.
        scale *= (extent - stroke) / extent;
    }
    let center = match config.center {
        Center::Box => bounds.center(),
        Center::Mass => mass.unwrap_or(bounds.center()),
        Center::None => affine.apply(shape.middle),
    };
    let left = width * (0.5 + parameters.x as f32) - scale * center[0];
    let top = height * (0.5 + parameters.y as f32) - scale * center[1];
    shape.map(|[x, y]| [scale * x + left, scale * y + top]);
    Some((shape.path()?, stroke))
}

/// A linear map: stretch, then slant, then rotation.
struct Affine([[f32; 2]; 2]);

impl Affine {
    fn new(parameters: &TextParameters) -> Self {
        // The functions of `libm` have the same results on every machine.
        let stretch = libm::sqrt(parameters.stretch);
        // y points down, so a slant to the right moves points with negative y to the right.
        let shear = -libm::tan(parameters.shear.to_radians());
        let (sin, cos) = libm::sincos(parameters.rotation.to_radians());
        let slanted = [[stretch, shear / stretch], [0.0, 1.0 / stretch]];
        let row = |a: f64, b: f64| {
            [0, 1].map(|column| (a * slanted[0][column] + b * slanted[1][column]) as f32)
        };
        Self([row(cos, -sin), row(sin, cos)])
    }

    fn apply(&self, [x, y]: Point) -> Point {
        self.0.map(|[a, b]| a * x + b * y)
    }
}

/// Widens the strokes of a filled outline by `pixels`, or narrows them by a negative number.
fn change_weight(mask: &mut Mask, path: &Path, pixels: f32) {
    let width = pixels.abs();
    // Round joins take twice the time. In narrow strokes, bevels at corners look the same.
    let line_join = match width < BEVELED {
        true => LineJoin::Miter,
        false => LineJoin::Round,
    };
    let stroke = Stroke {
        width,
        miter_limit: 1.3,
        line_join,
        ..Stroke::default()
    };
    // Narrower strokes change no level.
    if stroke.width < 0.02 {
        return;
    }
    let Some(outline) = path.stroke(&stroke, 1.0) else {
        return;
    };
    if pixels > 0.0 {
        mask.fill_path(&outline, FillRule::Winding, true, Transform::identity());
        return;
    }
    let Some(mut edge) = Mask::new(mask.width(), mask.height()) else {
        return;
    };
    edge.fill_path(&outline, FillRule::Winding, true, Transform::identity());
    for (level, edge) in mask.data_mut().iter_mut().zip(edge.data()) {
        *level = level.saturating_sub(*edge);
    }
}

/// Blurs `[height, width]` levels by a Gaussian; pixels outside are 0.
fn blur(levels: &mut [u8], width: usize, sigma: f64) {
    let radius = (3.0 * sigma).ceil() as usize;
    let weight = |offset: usize| libm::exp(-0.5 * (offset as f64 / sigma).powi(2)) as f32;
    let mut kernel: Vec<f32> = (0..=2 * radius)
        .map(|i| weight(i.abs_diff(radius)))
        .collect();
    let sum: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|weight| *weight /= sum);
    let height = levels.len() / width.max(1);
    let source: Vec<f32> = levels.iter().map(|level| f32::from(*level)).collect();
    let mut rows = vec![0f32; source.len()];
    convolve(&source, &mut rows, width, 1, &kernel, height);
    let mut both = vec![0f32; source.len()];
    convolve(&rows, &mut both, height, width, &kernel, width);
    for (level, value) in levels.iter_mut().zip(both) {
        *level = value.round().clamp(0.0, 255.0) as u8;
    }
}

/// Convolves `lines` lines of `length` values with a distance of `stride`.
fn convolve(
    source: &[f32],
    out: &mut [f32],
    length: usize,
    stride: usize,
    kernel: &[f32],
    lines: usize,
) {
    let radius = kernel.len() / 2;
    let line_stride = if stride == 1 { length } else { 1 };
    for line in 0..lines {
        for at in 0..length {
            let first = at.saturating_sub(radius);
            let last = (at + radius).min(length - 1);
            let taps = kernel.iter().skip(first + radius - at);
            let values = source.iter().skip(line * line_stride + first * stride);
            let values = values.step_by(stride).take(last + 1 - first);
            let sum = taps.zip(values).map(|(weight, value)| weight * value).sum();
            if let Some(out) = out.get_mut(line * line_stride + at * stride) {
                *out = sum;
            }
        }
    }
}

/// Appends the pixels of an image, `[height, width, 3]`.
pub(super) fn paint(levels: &[u8], parameters: &TextParameters, out: &mut Vec<u8>) {
    let (front, back) = (parameters.foreground.rgb(), parameters.background.rgb());
    for level in levels {
        let level = u32::from(*level);
        for (front, back) in front.iter().zip(back) {
            let sum = u32::from(*front) * level + u32::from(back) * (255 - level);
            out.push(((sum + 127) / 255) as u8);
        }
    }
}
