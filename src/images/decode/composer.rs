//! Stored samples as 8-bit RGB: gray, alpha and 16 bits.

use super::sixteen_bit::fill_significant;
use super::{DecodeOptions, Decoded, Rgb, SixteenBit, sixteen_bit_to_eight};

/// Meaning of the samples of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One sample: brightness.
    Gray,
    /// Brightness and alpha.
    GrayAlpha,
    /// Red, green and blue.
    Rgb,
    /// Red, green, blue and alpha.
    Rgba,
}

impl Layout {
    /// Returns the number of samples of a pixel.
    pub fn samples(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// RGB image that is composed row by row.
pub(super) struct Composer {
    layout: Layout,
    rule: SixteenBit,
    background: [u8; 3],
    /// Significant bits of the color samples of a PNG; 0 if they are unknown.
    significant: [u8; 3],
    /// True if colors are multiplied by alpha already.
    premultiplied: bool,
    pixels: Vec<u8>,
    height: usize,
    width: usize,
    largest: Option<u16>,
}

impl Composer {
    /// Creates an image without rows and reserves the memory of all.
    pub fn new(layout: Layout, height: u32, width: u32, options: &DecodeOptions) -> Self {
        let (height, width) = (height as usize, width as usize);
        Self {
            layout,
            rule: options.sixteen_bit,
            background: options.alpha,
            significant: [0; 3],
            premultiplied: false,
            pixels: Vec::with_capacity(3 * height * width),
            height,
            width,
            largest: None,
        }
    }

    /// Sets the significant bits of the color samples.
    pub fn significant(mut self, significant: [u8; 3]) -> Self {
        self.significant = significant;
        self
    }

    /// Sets that colors are multiplied by alpha already.
    #[cfg(any(test, feature = "tiff"))]
    pub fn premultiplied(mut self, premultiplied: bool) -> Self {
        self.premultiplied = premultiplied;
        self
    }

    /// Appends pixels of 8-bit samples.
    pub fn bytes(&mut self, samples: &[u8]) {
        match self.layout {
            Layout::Rgb => self.pixels.extend_from_slice(samples),
            Layout::Gray => self.pixels.extend(samples.iter().flat_map(|v| [*v; 3])),
            Layout::GrayAlpha => {
                for pixel in samples.as_chunks::<2>().0 {
                    self.over([pixel[0]; 3], pixel[1]);
                }
            }
            Layout::Rgba => {
                for [r, g, b, a] in samples.as_chunks::<4>().0 {
                    self.over([*r, *g, *b], *a);
                }
            }
        }
    }

    /// Appends pixels of 16-bit samples.
    pub fn words(&mut self, samples: &[u16]) {
        for pixel in samples.chunks_exact(self.layout.samples()) {
            let (color, alpha) = match *pixel {
                [v] => ([v; 3], u16::MAX),
                [v, a] => ([v; 3], a),
                [r, g, b] => ([r, g, b], u16::MAX),
                [r, g, b, a] => ([r, g, b], a),
                _ => continue,
            };
            let largest = color.into_iter().max().unwrap_or_default();
            self.largest = Some(self.largest.unwrap_or_default().max(largest));
            self.deep(color, alpha);
        }
    }

    fn over(&mut self, color: [u8; 3], alpha: u8) {
        for (color, background) in color.into_iter().zip(self.background) {
            let (alpha, color) = (u32::from(alpha), u32::from(color));
            let weight = if self.premultiplied { 255 } else { alpha };
            let sum = color * weight + u32::from(background) * (255 - alpha);
            self.pixels.push(((sum + 127) / 255).min(255) as u8);
        }
    }

    fn deep(&mut self, color: [u16; 3], alpha: u16) {
        let alpha = u64::from(alpha);
        for (channel, color) in color.into_iter().enumerate() {
            let background = u64::from(self.background[channel]);
            let weight = if self.premultiplied { 65_535 } else { alpha };
            let byte = match self.rule {
                // The background, as 16 bits: 257 · 255 is 65,535.
                SixteenBit::HighByte => {
                    let color = u64::from(fill_significant(color, self.significant[channel]));
                    let sum = color * weight + 257 * background * (65_535 - alpha);
                    ((sum + 32_767) / 65_535).min(65_535) >> 8
                }
                SixteenBit::Window(..) => {
                    let color = u64::from(sixteen_bit_to_eight(color, &self.rule));
                    let sum = color * weight + background * (65_535 - alpha);
                    ((sum + 32_767) / 65_535).min(255)
                }
            };
            self.pixels.push(byte as u8);
        }
    }

    /// Returns the image, or `None` if rows are missing or too many.
    pub fn finish(self) -> Option<Decoded> {
        (self.pixels.len() == 3 * self.height * self.width).then_some(Decoded {
            image: Rgb {
                pixels: self.pixels,
                height: self.height,
                width: self.width,
            },
            sixteen_bit_max: self.largest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer(layout: Layout, options: &DecodeOptions) -> Composer {
        Composer::new(layout, 1, 1, options)
    }

    fn options(alpha: [u8; 3]) -> DecodeOptions {
        DecodeOptions {
            alpha,
            ..DecodeOptions::default()
        }
    }

    #[test]
    fn alpha_is_rounded_to_the_nearest_in_8_and_16_bits() {
        let background = [0, 100, 255];
        for alpha in 0..=255u8 {
            for color in (0..=255u8).step_by(5) {
                let mut image = composer(Layout::GrayAlpha, &options(background));
                image.bytes(&[color, alpha]);
                let found = image.finish().unwrap().image.pixels;
                for (found, background) in found.into_iter().zip(background) {
                    let a = f64::from(alpha) / 255.0;
                    let exact = f64::from(color) * a + f64::from(background) * (1.0 - a);
                    assert_eq!(f64::from(found), exact.round(), "{color} {alpha}");
                }
                // The same values in 16 bits are the same pixel, up to the lost low byte.
                let mut image = composer(Layout::GrayAlpha, &options(background));
                image.words(&[257 * u16::from(color), 257 * u16::from(alpha)]);
                let deep = image.finish().unwrap().image.pixels;
                for (found, background) in deep.into_iter().zip(background) {
                    let a = f64::from(alpha) / 255.0;
                    let exact = f64::from(color) * a + f64::from(background) * (1.0 - a);
                    let expected = ((257.0 * exact).round() / 256.0).floor();
                    assert!(
                        (f64::from(found) - expected).abs() < 1e-9,
                        "{color} {alpha}"
                    );
                }
            }
        }
    }

    #[test]
    fn premultiplied_colors_are_not_multiplied_again() {
        let mut image = composer(Layout::Rgba, &options([100; 3])).premultiplied(true);
        image.bytes(&[50, 0, 200, 51]);
        // 100 · 204 / 255 is 80; the last sample exceeds its alpha.
        assert_eq!(image.finish().unwrap().image.pixels, [130, 80, 255]);
    }

    #[test]
    fn a_window_comes_before_alpha() {
        let mut options = options([10; 3]);
        options.sixteen_bit = SixteenBit::Window(0, 4095);
        let mut image = composer(Layout::Rgba, &options);
        image.words(&[4095, 0, 60_000, 0x8000]);
        let decoded = image.finish().unwrap();
        assert_eq!(decoded.image.pixels, [133, 5, 133]);
        assert_eq!(decoded.sixteen_bit_max, Some(60_000));
    }

    #[test]
    fn a_missing_row_is_noticed() {
        let mut image = Composer::new(Layout::Rgb, 2, 1, &DecodeOptions::default());
        image.bytes(&[1, 2, 3]);
        assert!(image.finish().is_none());
    }
}
