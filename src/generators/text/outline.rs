//! Outlines of characters as polygons.

use skrifa::font::charmap::Charmap;
use skrifa::{DrawMemory, Font, GlyphId, PathSink, ScalerFont};

/// A point: x to the right and y down, in em before a text is laid out.
pub(super) type Point = [f32; 2];

/// Segments that one curve is divided into at most.
const MAX_SEGMENTS: f32 = 64.0;

/// The closed polygons of a character, filled by the nonzero winding rule, and its width in em.
/// y is 0 on the baseline.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Glyph {
    pub(super) contours: Vec<Vec<Point>>,
    pub(super) advance: f32,
}

/// The outlines of one font.
pub(super) struct FontOutlines<'a> {
    charmap: Charmap<'a>,
    scaler: ScalerFont,
    em: f32,
    /// Greatest distance of a curve from its polygon, in em.
    tolerance: f32,
    /// Greatest length of a segment, in em.
    longest: f32,
    /// The outline of characters that the font lacks.
    missing: Option<Glyph>,
}

impl<'a> FontOutlines<'a> {
    /// Returns `None` for a font without tables of outlines, such as one of bitmaps.
    pub(super) fn new(font: &'a Font, tolerance: f32, longest: f32) -> Option<Self> {
        let scaler = ScalerFont::unhinted(font.clone(), None);
        scaler.outline_source()?;
        let mut outlines = Self {
            charmap: font.charmap(),
            scaler,
            em: f32::from(font.units_per_em().max(1)),
            tolerance,
            longest,
            missing: None,
        };
        outlines.missing = outlines.draw(GlyphId::new(0));
        Some(outlines)
    }

    /// Returns the outline of a character. `None` if the font lacks it: it has no glyph, one that
    /// cannot be read, one that looks like that of missing characters, or an empty one for a
    /// character that is not white space.
    pub(super) fn glyph(&self, character: char) -> Option<Glyph> {
        let id = self.charmap.map_unicode(character)?;
        if id == GlyphId::new(0) {
            return None;
        }
        let glyph = self.draw(id)?;
        if glyph.contours.is_empty() {
            return character.is_whitespace().then_some(glyph);
        }
        let is_missing = |missing: &Glyph| missing.contours == glyph.contours;
        (!self.missing.as_ref().is_some_and(is_missing)).then_some(glyph)
    }

    fn draw(&self, id: GlyphId) -> Option<Glyph> {
        let mut polygons = Polygons {
            scale: 1.0 / self.em,
            tolerance: self.tolerance,
            longest: self.longest,
            contours: Vec::new(),
            at: [0.0; 2],
        };
        let outline = self.scaler.outline(id)?;
        let metrics = outline.draw(DrawMemory::Scratch, &mut polygons).ok()?;
        let mut contours = polygons.contours;
        contours.retain(|contour| contour.len() > 2);
        let finite = |point: &Point| point.iter().all(|value| value.abs() < 100.0);
        let advance = metrics.h_advance.unwrap_or(0.0) / self.em;
        // The comparisons are false for NaN.
        let valid = contours.iter().flatten().all(finite) && advance.abs() < 100.0;
        valid.then_some(Glyph { contours, advance })
    }
}

/// Receives an outline in units of the font, y up, and keeps it as polygons in em, y down.
struct Polygons {
    scale: f32,
    tolerance: f32,
    longest: f32,
    contours: Vec<Vec<Point>>,
    at: Point,
}

impl Polygons {
    fn scaled(&self, x: f32, y: f32) -> Point {
        [x * self.scale, -y * self.scale]
    }

    fn push(&mut self, point: Point) {
        if let Some(contour) = self.contours.last_mut() {
            contour.push(point);
        }
    }

    /// Appends a curve as at least `count` segments. `curve` maps 0…1 to its points.
    fn divide(&mut self, count: f32, end: Point, curve: impl Fn(f32) -> Point) {
        let chord = distance(self.at, end) / self.longest;
        let count = count.max(chord).ceil().clamp(1.0, MAX_SEGMENTS);
        let steps = count as u32;
        for step in 1..steps {
            let point = curve(step as f32 / count);
            self.push(point);
        }
        self.push(end);
        self.at = end;
    }
}

fn distance(a: Point, b: Point) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn mix(weights: &[f32], points: &[Point]) -> Point {
    let mut sum = [0.0; 2];
    for (weight, point) in weights.iter().zip(points) {
        sum[0] += weight * point[0];
        sum[1] += weight * point[1];
    }
    sum
}

impl PathSink for Polygons {
    fn move_to(&mut self, x: f32, y: f32) {
        self.at = self.scaled(x, y);
        self.contours.push(vec![self.at]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (start, end) = (self.at, self.scaled(x, y));
        self.divide(1.0, end, |t| mix(&[1.0 - t, t], &[start, end]));
    }

    fn quad_to(&mut self, cx: f32, cy: f32, x: f32, y: f32) {
        let points = [self.at, self.scaled(cx, cy), self.scaled(x, y)];
        // n segments deviate by |p₀ − 2p₁ + p₂| / (4n²).
        let [a, b, c] = points;
        let bend = distance([a[0] + c[0], a[1] + c[1]], [2.0 * b[0], 2.0 * b[1]]);
        let count = (bend / (4.0 * self.tolerance)).sqrt();
        self.divide(count, c, |t| {
            let s = 1.0 - t;
            mix(&[s * s, 2.0 * s * t, t * t], &points)
        });
    }

    fn curve_to(&mut self, cx0: f32, cy0: f32, cx1: f32, cy1: f32, x: f32, y: f32) {
        let points = [
            self.at,
            self.scaled(cx0, cy0),
            self.scaled(cx1, cy1),
            self.scaled(x, y),
        ];
        // n segments deviate by at most 3/4 of the greater second difference of the points over n².
        let [a, b, c, d] = points;
        let second = |p: Point, q: Point, r: Point| {
            distance([p[0] + r[0], p[1] + r[1]], [2.0 * q[0], 2.0 * q[1]])
        };
        let bend = second(a, b, c).max(second(b, c, d));
        let count = (0.75 * bend / self.tolerance).sqrt();
        self.divide(count, d, |t| {
            let s = 1.0 - t;
            let weights = [s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t];
            mix(&weights, &points)
        });
    }

    fn close(&mut self) {
        // The last segment, which closes the polygon, must not be longer than the others either.
        let first = self.contours.last().and_then(|contour| contour.first());
        if let Some(first) = first.copied() {
            let start = self.at;
            if distance(start, first) > 0.0 {
                self.divide(1.0, first, |t| mix(&[1.0 - t, t], &[start, first]));
            }
        }
        if let Some(contour) = self.contours.last_mut()
            && contour.len() > 1
            && contour.first() == contour.last()
        {
            contour.pop();
        }
    }
}
