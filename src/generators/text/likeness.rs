//! Fonts that look alike, so that a small variation changes to a similar font.

use super::config::{Center, Color, Config, Fit};
use super::outline::Glyph;
use super::parameters::TextParameters;
use super::render;
use crate::generators::GeneratorError;
use crate::images::ImageSize;

/// Height and width of the picture of a text by which fonts are compared.
const SIDE: usize = 12;

/// Small pictures of one text in several fonts, all with the same weight and size.
pub(super) struct Likeness {
    /// `[fonts, SIDE²]`.
    pictures: Vec<[u8; SIDE * SIDE]>,
}

impl Likeness {
    /// Draws the text with each font, which is given by the outlines of its characters.
    ///
    /// # Errors
    /// As [`render::coverage`].
    pub(super) fn new<'a, G>(
        config: &Config,
        fonts: impl Iterator<Item = G>,
    ) -> Result<Self, GeneratorError>
    where
        G: IntoIterator<Item = &'a Glyph>,
    {
        let small = Config {
            image_size: ImageSize::square(SIDE),
            fit: Fit::Box,
            center: Center::Box,
            ..config.clone()
        };
        let neutral = TextParameters {
            text: String::new(),
            font: String::new(),
            size: 0.9,
            weight: Some(0.12),
            rotation: 0.0,
            shear: 0.0,
            stretch: 1.0,
            x: 0.0,
            y: 0.0,
            warp: Vec::new(),
            blur: 0.8,
            foreground: Color::Gray(255),
            background: Color::Gray(0),
        };
        let picture = |glyphs: G| {
            let mut picture = [0; SIDE * SIDE];
            let levels = render::coverage(&small, &neutral, glyphs)?;
            picture
                .iter_mut()
                .zip(levels)
                .for_each(|(to, from)| *to = from);
            Ok(picture)
        };
        let pictures: Result<_, GeneratorError> = fonts.map(picture).collect();
        Ok(Self {
            pictures: pictures?,
        })
    }

    /// Returns the `count` fonts most like font `index`, without itself, in no particular order.
    pub(super) fn nearest(&self, index: usize, count: usize) -> Vec<usize> {
        let Some(picture) = self.pictures.get(index) else {
            return Vec::new();
        };
        let mut others: Vec<(u32, usize)> = self
            .pictures
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(other, candidate)| (distance(picture, candidate), other))
            .collect();
        if count < others.len() {
            // The index breaks ties, so the choice is determined.
            others.select_nth_unstable(count);
            others.truncate(count);
        }
        others.sort_unstable();
        others.into_iter().map(|(_, other)| other).collect()
    }
}

fn distance(a: &[u8; SIDE * SIDE], b: &[u8; SIDE * SIDE]) -> u32 {
    let squares = a
        .iter()
        .zip(b)
        .map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2));
    squares.sum()
}
