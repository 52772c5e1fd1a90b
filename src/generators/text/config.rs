//! The `[model]` section of the generator of text.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::range::Range;
use super::texts::TextsConfig;
use crate::generators::{GeneratorError, Operation, Variation, evaluations_of_share};
use crate::images::ImageSize;
use crate::schedule::Schedule;
use crate::sections::InvalidKey;
use crate::streams::KeyedRng;

/// Texts drawn with fonts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Font files, and folders that are searched for them.
    pub fonts: Vec<PathBuf>,
    /// Parts of names of font files that are not used, in any case.
    #[serde(default)]
    pub exclude_fonts: Vec<String>,
    /// Height and width of the images in pixels.
    pub image_size: ImageSize,
    /// The texts of each private class.
    pub texts: TextsConfig,
    /// The meaning of `size`.
    #[serde(default)]
    pub fit: Fit,
    /// The point of the text that is placed at the center of the image.
    #[serde(default)]
    pub center: Center,
    /// Size as a fraction of the image.
    #[serde(default = "defaults::size")]
    pub size: Range,
    /// Mean width of the strokes as a fraction of the size; by default that of the font.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Range>,
    /// Rotation in degrees, clockwise.
    #[serde(default = "defaults::zero")]
    pub rotation: Range,
    /// Slant in degrees, to the right.
    #[serde(default = "defaults::zero")]
    pub shear: Range,
    /// Ratio by which a text is wider than the font has it.
    #[serde(default = "defaults::stretch")]
    pub stretch: Range,
    /// Horizontal distance from the center of the image, as a fraction of its width.
    #[serde(default = "defaults::zero")]
    pub x: Range,
    /// Vertical distance from the center of the image, as a fraction of its height.
    #[serde(default = "defaults::zero")]
    pub y: Range,
    /// Greatest displacement of a node of the warp in each direction, as a fraction of the size.
    #[serde(default)]
    pub warp: f64,
    /// Nodes of the warp in each direction.
    #[serde(default = "defaults::warp_nodes")]
    pub warp_nodes: usize,
    /// Standard deviation of a Gaussian blur in pixels.
    #[serde(default = "defaults::zero")]
    pub blur: Range,
    /// Color of the text.
    #[serde(default = "defaults::white")]
    pub foreground: ColorRange,
    /// Color behind the text.
    #[serde(default = "defaults::black")]
    pub background: ColorRange,
    /// Factors of the variation degree for each parameter.
    #[serde(default)]
    // Boxed, because sections of other types are much smaller.
    pub steps: Box<Steps>,
    /// Images per batch. Results do not depend on it.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
}

mod defaults {
    use super::{ColorRange, Range, Schedule};

    pub(super) fn size() -> Range {
        Range::new(0.7, 0.7)
    }
    pub(super) fn zero() -> Range {
        Range::new(0.0, 0.0)
    }
    pub(super) fn stretch() -> Range {
        Range::new(1.0, 1.0)
    }
    pub(super) fn warp_nodes() -> usize {
        4
    }
    pub(super) fn white() -> ColorRange {
        ColorRange::Gray(Range::new(255.0, 255.0))
    }
    pub(super) fn black() -> ColorRange {
        ColorRange::Gray(Range::new(0.0, 0.0))
    }
    pub(super) fn one() -> Schedule<f64> {
        Schedule::Constant(1.0)
    }
    pub(super) fn batch_size() -> usize {
        1000
    }
}

/// The meaning of a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The text, strokes included, just fits into this fraction of width and height.
    #[default]
    Box,
    /// The em of the font is this fraction of the height, so texts of one size differ in extent.
    Em,
}

/// The point of a text that is placed at the center of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Center {
    /// The center of its bounding box.
    #[default]
    Box,
    /// The center of mass of its outline.
    Mass,
    /// The middle of its advance width, 0.35 em above its baseline.
    None,
}

/// A range of colors: gray `[low, high]`, or one range each for red, green and blue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a gray level, [low, high], or three of them for red, green and blue"
)]
pub enum ColorRange {
    /// A gray level.
    Gray(Range),
    /// Red, green and blue.
    Rgb([Range; 3]),
}

/// A color: one gray level, or red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Color {
    /// A gray level.
    Gray(u8),
    /// Red, green and blue.
    Rgb([u8; 3]),
}

impl Color {
    /// Returns red, green and blue.
    pub(super) fn rgb(self) -> [u8; 3] {
        match self {
            Self::Gray(gray) => [gray; 3],
            Self::Rgb(rgb) => rgb,
        }
    }
}

impl ColorRange {
    fn check(&self, key: &str) -> Result<(), InvalidKey> {
        let levels = Range::new(0.0, 255.0);
        match self {
            Self::Gray(range) => range.check(key, levels),
            Self::Rgb(ranges) => ranges.iter().try_for_each(|range| range.check(key, levels)),
        }
    }

    pub(super) fn draw(&self, rng: &mut KeyedRng) -> Color {
        match self {
            Self::Gray(range) => Color::Gray(range.draw(rng).round() as u8),
            Self::Rgb(ranges) => {
                Color::Rgb(std::array::from_fn(|i| ranges[i].draw(rng).round() as u8))
            }
        }
    }

    pub(super) fn step(&self, color: &Color, share: f64, rng: &mut KeyedRng) -> Color {
        let mut step =
            |range: &Range, level: u8| range.step(f64::from(level), share, rng).round() as u8;
        match (self, *color) {
            (Self::Gray(range), Color::Gray(gray)) => Color::Gray(step(range, gray)),
            (Self::Rgb(ranges), color) => {
                let rgb = color.rgb();
                let stepped = std::array::from_fn(|i| step(&ranges[i], rgb[i]));
                // A color that does not move keeps its form, too.
                if stepped == rgb {
                    color
                } else {
                    Color::Rgb(stepped)
                }
            }
            (Self::Gray(range), Color::Rgb([red, ..])) if share > 0.0 => {
                Color::Gray(step(range, red))
            }
            (Self::Gray(_), color) => color,
        }
    }
}

/// Factors of the variation degree for each parameter: constants, or one for each population. The
/// degree times the factor is the share of a range by which the parameter moves at most; of the
/// font, the probability of another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steps {
    /// Another font.
    pub font: Schedule<f64>,
    /// Size.
    pub size: Schedule<f64>,
    /// Width of the strokes.
    pub weight: Schedule<f64>,
    /// Rotation.
    pub rotation: Schedule<f64>,
    /// Slant.
    pub shear: Schedule<f64>,
    /// Stretch.
    pub stretch: Schedule<f64>,
    /// Position in x and y.
    pub position: Schedule<f64>,
    /// Displacements.
    pub warp: Schedule<f64>,
    /// Blur.
    pub blur: Schedule<f64>,
    /// Foreground and background.
    pub color: Schedule<f64>,
}

impl Default for Steps {
    fn default() -> Self {
        let one = defaults::one;
        Self {
            font: one(),
            size: one(),
            weight: one(),
            rotation: one(),
            shear: one(),
            stretch: one(),
            position: one(),
            warp: one(),
            blur: one(),
            color: one(),
        }
    }
}

impl Steps {
    /// Returns each factor with its key.
    pub(super) fn all(&self) -> [(&'static str, &Schedule<f64>); 10] {
        [
            ("steps.font", &self.font),
            ("steps.size", &self.size),
            ("steps.weight", &self.weight),
            ("steps.rotation", &self.rotation),
            ("steps.shear", &self.shear),
            ("steps.stretch", &self.stretch),
            ("steps.position", &self.position),
            ("steps.warp", &self.warp),
            ("steps.blur", &self.blur),
            ("steps.color", &self.color),
        ]
    }
}

/// The share of its range by which a variation moves each parameter at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) font: f64,
    pub(super) size: f64,
    pub(super) weight: f64,
    pub(super) rotation: f64,
    pub(super) shear: f64,
    pub(super) stretch: f64,
    pub(super) position: f64,
    pub(super) warp: f64,
    pub(super) blur: f64,
    pub(super) color: f64,
}

impl Shares {
    /// Returns the shares of a variation. A list that is too short for the population ends with
    /// its last value.
    pub(super) fn new(steps: &Steps, variation: Variation) -> Self {
        let share = |schedule: &Schedule<f64>| {
            let factor = schedule
                .get(variation.population as usize)
                .or(schedule.last());
            variation.degree * factor.copied().unwrap_or(1.0)
        };
        Self {
            font: share(&steps.font),
            size: share(&steps.size),
            weight: share(&steps.weight),
            rotation: share(&steps.rotation),
            shear: share(&steps.shear),
            stretch: share(&steps.stretch),
            position: share(&steps.position),
            warp: share(&steps.warp),
            blur: share(&steps.blur),
            color: share(&steps.color),
        }
    }
}

/// Pixels of the longer side of an image.
const MAX_SIDE: usize = 2048;

/// Nodes of a warp in each direction.
const NODES: std::ops::RangeInclusive<usize> = 2..=8;

/// Limits of the parameters, of configurations as of stored images.
pub(super) mod limits {
    use super::Range;

    pub const SIZE: Range = Range::new(0.05, 4.0);
    pub const WEIGHT: Range = Range::new(0.001, 0.5);
    pub const SHEAR: Range = Range::new(-60.0, 60.0);
    pub const STRETCH: Range = Range::new(0.1, 10.0);
    pub const SHIFT: Range = Range::new(-1.0, 1.0);
    /// Of the largest shift of a node.
    pub const WARP: Range = Range::new(0.0, 0.5);
    pub const BLUR: Range = Range::new(0.0, 50.0);
}

impl Config {
    /// Checks every key as far as this is possible without the fonts.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.fonts.is_empty() || self.fonts.iter().any(|path| path.as_os_str().is_empty()) {
            let message = "is empty: expected font files, or folders of them";
            return Err(InvalidKey::new("fonts", message));
        }
        if self.exclude_fonts.iter().any(|part| part.is_empty()) {
            let message =
                "has an empty text, which is a part of all names: expected parts of names";
            return Err(InvalidKey::new("exclude_fonts", message));
        }
        if !self.image_size.all(|side| (1..=MAX_SIDE).contains(&side)) {
            let message = format!("is {}: expected 1 to {MAX_SIDE} pixels", self.image_size);
            return Err(InvalidKey::new("image_size", message));
        }
        self.texts.validate()?;
        let ranges = [
            ("size", self.size, limits::SIZE),
            ("rotation", self.rotation, Range::new(-180.0, 180.0)),
            ("shear", self.shear, limits::SHEAR),
            ("stretch", self.stretch, limits::STRETCH),
            ("x", self.x, limits::SHIFT),
            ("y", self.y, limits::SHIFT),
            ("warp", Range::new(self.warp, self.warp), limits::WARP),
            ("blur", self.blur, limits::BLUR),
        ];
        for (key, range, within) in ranges {
            range.check(key, within)?;
        }
        if let Some(weight) = self.weight {
            weight.check("weight", limits::WEIGHT)?;
        }
        self.foreground.check("foreground")?;
        self.background.check("background")?;
        if !NODES.contains(&self.warp_nodes) {
            let (least, most) = (NODES.start(), NODES.end());
            let message = format!("is {}: expected {least} to {most}", self.warp_nodes);
            return Err(InvalidKey::new("warp_nodes", message));
        }
        for (key, schedule) in self.steps.all() {
            let valid = |factor: &f64| (0.0..=100.0).contains(factor);
            if !schedule.values().iter().all(valid) {
                return Err(InvalidKey::new(key, "expected numbers from 0 to 100"));
            }
        }
        if self.batch_size == 0 {
            return Err(InvalidKey::new("batch_size", "is 0: expected at least 1"));
        }
        Ok(())
    }
}

/// Returns the cost of one image, in images.
///
/// # Errors
/// [`GeneratorError::Degree`] for a degree that is no share.
pub(super) fn evaluations(operation: Operation) -> Result<u64, GeneratorError> {
    let expected = "a share from 0 (no change) to 1 (most change)";
    evaluations_of_share(operation, expected)
}
