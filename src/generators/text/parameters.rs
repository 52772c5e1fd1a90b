//! The parameters of one image: how they are drawn and varied.

use serde::{Deserialize, Serialize};

use super::config::{Color, Config, Shares, limits};
use super::range::Range;
use crate::generators::{GeneratorError, Parameters};
use crate::streams::KeyedRng;

/// The parameters of an image of a text, as `samples.npz` stores them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextParameters {
    /// The text, for the reader: a variation takes it from the condition of its request.
    pub text: String,
    /// Name of the font.
    pub font: String,
    /// Size of the text, in the unit of the key `size`.
    pub size: f64,
    /// Mean width of the strokes as a fraction of the size; `None`: that of the font.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Rotation in degrees, clockwise.
    pub rotation: f64,
    /// Slant in degrees, to the right.
    pub shear: f64,
    /// Ratio by which the text is wider than the font has it.
    pub stretch: f64,
    /// Distance from the center to the right, as a fraction of the width of the image.
    pub x: f64,
    /// Distance from the center downwards, as a fraction of the height of the image.
    pub y: f64,
    /// Displacements of the nodes of the warp, in x and then in y.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warp: Vec<f64>,
    /// Standard deviation of the blur in pixels.
    pub blur: f64,
    /// Color of the text: gray, or red, green and blue.
    pub foreground: Color,
    /// Color behind the text.
    pub background: Color,
}

impl TextParameters {
    /// Reads stored parameters.
    ///
    /// # Errors
    /// [`GeneratorError::Input`] if they are not those of a text, or a number is beyond what a
    /// configuration can have.
    pub(super) fn read(parameters: &Parameters) -> Result<Self, GeneratorError> {
        let read: Self = parameters.read()?;
        let numbers = [
            ("size", read.size, limits::SIZE),
            (
                "weight",
                read.weight.unwrap_or(limits::WEIGHT.high),
                limits::WEIGHT,
            ),
            ("rotation", read.rotation, Range::new(-360.0, 360.0)),
            ("shear", read.shear, limits::SHEAR),
            ("stretch", read.stretch, limits::STRETCH),
            ("x", read.x, limits::SHIFT),
            ("y", read.y, limits::SHIFT),
            ("blur", read.blur, limits::BLUR),
        ];
        let shifts = Range::new(-limits::WARP.high, limits::WARP.high);
        let warp = read.warp.iter().map(|value| ("warp", *value, shifts));
        let mut all = numbers.into_iter().chain(warp);
        match all.find(|(_, value, range)| !range.contains(*value)) {
            None => Ok(read),
            Some((name, value, range)) => Err(GeneratorError::Input(format!(
                "an image has {name} = {value} among its parameters: expected {} to {}",
                range.low, range.high
            ))),
        }
    }

    /// Draws all parameters but the font from their ranges.
    pub(super) fn draw(config: &Config, text: &str, font: &str, rng: &mut KeyedRng) -> Self {
        let warp = (config.warp > 0.0).then(|| warp_range(config));
        let nodes = 2 * config.warp_nodes * config.warp_nodes;
        Self {
            text: text.to_owned(),
            font: font.to_owned(),
            size: config.size.draw(rng),
            weight: config.weight.map(|weight| weight.draw(rng)),
            rotation: config.rotation.draw(rng),
            shear: config.shear.draw(rng),
            stretch: config.stretch.draw(rng),
            x: config.x.draw(rng),
            y: config.y.draw(rng),
            warp: match warp {
                Some(range) => (0..nodes).map(|_| range.draw(rng)).collect(),
                None => Vec::new(),
            },
            blur: config.blur.draw(rng),
            foreground: config.foreground.draw(rng),
            background: config.background.draw(rng),
        }
    }

    /// Moves each parameter but the font within its range, by at most its share of the range.
    pub(super) fn vary(&self, config: &Config, shares: &Shares, rng: &mut KeyedRng) -> Self {
        let warp = warp_range(config);
        let mut step = |range: &Range, value: f64, share: f64| range.step(value, share, rng);
        Self {
            text: self.text.clone(),
            font: self.font.clone(),
            size: step(&config.size, self.size, shares.size),
            weight: match (config.weight, self.weight) {
                (Some(range), Some(weight)) => Some(step(&range, weight, shares.weight)),
                (_, weight) => weight,
            },
            rotation: step(&config.rotation, self.rotation, shares.rotation),
            shear: step(&config.shear, self.shear, shares.shear),
            stretch: step(&config.stretch, self.stretch, shares.stretch),
            x: step(&config.x, self.x, shares.position),
            y: step(&config.y, self.y, shares.position),
            warp: self
                .warp
                .iter()
                .map(|displacement| step(&warp, *displacement, shares.warp))
                .collect(),
            blur: step(&config.blur, self.blur, shares.blur),
            foreground: config.foreground.step(&self.foreground, shares.color, rng),
            background: config.background.step(&self.background, shares.color, rng),
        }
    }
}

fn warp_range(config: &Config) -> Range {
    Range::new(-config.warp, config.warp)
}
