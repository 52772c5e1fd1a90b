//! Samples of 16 bits as bytes.
//!
//! A file of 16 bits says nothing about the range that its samples use. By default a sample keeps
//! its high byte, so that 0 is black and 65,535 is white. The 12-bit values of a scanner, stored as
//! they are, become nearly black that way; their owner declares the range as a window, which maps
//! `low` and everything below to 0, `high` and everything above to 255, and what is between them
//! linearly. A window is part of the configuration, and so public; it is never taken from the
//! images.
//!
//! The chunk `sBIT` of a PNG says that the first *n* bits of a sample are significant. An encoder
//! scales samples of *n* bits up to 16, so the high byte holds their first 8 bits, and `sBIT` only
//! matters below 8: then the *n* bits are repeated to fill the byte, because an encoder may have
//! left the other bits 0. Values that stand at the low end of the sample break the rule of the PNG
//! specification; they need a window like those without `sBIT`.

use serde::{Deserialize, Serialize};

/// Rule by which a sample of 16 bits becomes a byte.
///
/// In TOML: `"high-byte"` or `[low, high]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum SixteenBit {
    /// The high byte.
    #[default]
    HighByte,
    /// The linear map of the two values to 0 and 255, rounded half up, and clamped. Of a DICOM
    /// file, they are values after its rescale slope and intercept, such as Hounsfield units.
    Window(i32, i32),
}

/// Form of [`SixteenBit`] in TOML.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"high-byte\" or [low, high]")]
enum Written {
    Name(Name),
    Window([i32; 2]),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    HighByte,
}

impl TryFrom<Written> for SixteenBit {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Name(Name::HighByte) => Ok(Self::HighByte),
            Written::Window([low, high]) if low < high => Ok(Self::Window(low, high)),
            Written::Window([low, high]) => Err(format!(
                "the window [{low}, {high}] is empty: expected [low, high] with low below high"
            )),
        }
    }
}

impl From<SixteenBit> for Written {
    fn from(rule: SixteenBit) -> Self {
        match rule {
            SixteenBit::HighByte => Self::Name(Name::HighByte),
            SixteenBit::Window(low, high) => Self::Window([low, high]),
        }
    }
}

/// Returns a sample of 16 bits as a byte.
#[must_use]
pub fn sixteen_bit_to_eight(value: u16, rule: &SixteenBit) -> u8 {
    match *rule {
        SixteenBit::HighByte => (value >> 8) as u8,
        SixteenBit::Window(low, high) => windowed(i64::from(value), low, high),
    }
}

/// Maps `low..=high` to `0..=255` linearly, rounded half up, and clamps.
pub(super) fn windowed(value: i64, low: i32, high: i32) -> u8 {
    let span = (i64::from(high) - i64::from(low)).max(1);
    // The clamp keeps every product below 2^42.
    let above = value.saturating_sub(i64::from(low)).clamp(0, span);
    ((2 * 255 * above + span) / (2 * span)) as u8
}

/// Fills 16 bits by repeating the first `significant` bits of a sample, if they are fewer than 8;
/// returns other samples unchanged.
pub(super) fn fill_significant(value: u16, significant: u8) -> u16 {
    if !(1..8).contains(&significant) {
        return value;
    }
    let bits = u32::from(significant);
    let first = value >> (16 - bits);
    let mut filled = 0;
    let mut room = 16;
    while room >= bits {
        room -= bits;
        filled |= first << room;
    }
    filled | (first >> (bits - room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        sixteen_bit: SixteenBit,
    }

    #[test]
    fn the_high_byte_is_the_default() {
        let rule = SixteenBit::default();
        for value in [0, 0xff, 0x100, 0x12ff, 0xfe00, 0xffff] {
            assert_eq!(sixteen_bit_to_eight(value, &rule), (value >> 8) as u8);
        }
    }

    #[test]
    fn a_window_is_linear_clamped_and_rounds_half_up() {
        let rule = SixteenBit::Window(0, 4095);
        for value in 0..=u16::MAX {
            let exact = 255.0 * f64::from(value) / 4095.0;
            let expected = (exact + 0.5).floor().min(255.0) as u8;
            assert_eq!(sixteen_bit_to_eight(value, &rule), expected, "{value}");
        }
        // 255 · 1 / 510 is exactly one half.
        let rule = SixteenBit::Window(100, 610);
        let found = [99, 100, 101, 102, 609, 610, 611].map(|v| sixteen_bit_to_eight(v, &rule));
        assert_eq!(found, [0, 0, 1, 1, 255, 255, 255]);
    }

    #[test]
    fn the_widest_window_does_not_overflow() {
        assert_eq!(windowed(i64::MAX, i32::MIN, i32::MAX), 255);
        assert_eq!(windowed(i64::MIN, i32::MIN, i32::MAX), 0);
        assert_eq!(windowed(0, i32::MIN, i32::MAX), 128);
    }

    #[test]
    fn few_significant_bits_are_repeated() {
        // Five bits left-justified, with the others 0 or filled by the encoder, are one value.
        assert_eq!(fill_significant(0xf800, 5), 0xffff);
        assert_eq!(fill_significant(0x0800, 5), 0b0000_1000_0100_0010);
        for top in 0..32u16 {
            let repeated = top << 11 | top << 6 | top << 1 | top >> 4;
            assert_eq!(fill_significant(top << 11, 5), repeated);
            assert_eq!(fill_significant(repeated, 5), repeated);
        }
        assert_eq!(fill_significant(0x8000, 1), 0xffff);
        assert_eq!(fill_significant(0x1234, 12), 0x1234);
        assert_eq!(fill_significant(0x1234, 16), 0x1234);
        assert_eq!(fill_significant(0x1234, 0), 0x1234);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in [
            "sixteen_bit = \"high-byte\"\n",
            "sixteen_bit = [-160, 240]\n",
        ] {
            let section: Section = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&section).unwrap(), text);
        }
        for (text, word) in [
            ("sixteen_bit = [5, 5]", "is empty"),
            ("sixteen_bit = [9, 5]", "is empty"),
            ("sixteen_bit = [9]", "high-byte"),
            ("sixteen_bit = \"low-byte\"", "high-byte"),
        ] {
            let error = toml::from_str::<Section>(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
