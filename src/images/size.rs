//! Height and width of images, as the configuration has them.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Height and width of images in pixels: `32` for both, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl ImageSize {
    /// Returns the size of square images.
    #[must_use]
    pub const fn square(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }

    /// Returns (height, width).
    #[must_use]
    pub const fn pair(self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Returns true if height and width are equal.
    #[must_use]
    pub const fn is_square(self) -> bool {
        self.height == self.width
    }

    /// Returns true if a test holds for both sides.
    #[must_use]
    pub fn all(self, test: impl Fn(usize) -> bool) -> bool {
        test(self.height) && test(self.width)
    }
}

impl From<usize> for ImageSize {
    fn from(side: usize) -> Self {
        Self::square(side)
    }
}

impl From<(usize, usize)> for ImageSize {
    /// Converts (height, width).
    fn from((height, width): (usize, usize)) -> Self {
        Self { height, width }
    }
}

impl fmt::Display for ImageSize {
    /// Writes `height x width`, without spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_square() {
            self.height.serialize(serializer)
        } else {
            [self.height, self.width].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl<'de> Visitor<'de> for SizeVisitor {
    type Value = ImageSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of pixels, or [height, width]")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ImageSize, E> {
        let side = usize::try_from(value);
        let wrong = |_| E::invalid_value(de::Unexpected::Signed(value), &self);
        side.map(ImageSize::square).map_err(wrong)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ImageSize, E> {
        let side = usize::try_from(value);
        let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(value), &self);
        side.map(ImageSize::square).map_err(wrong)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ImageSize, A::Error> {
        let mut side = |index| {
            let value = seq.next_element::<usize>()?;
            value.ok_or_else(|| de::Error::invalid_length(index, &SizeVisitor))
        };
        let (height, width) = (side(0)?, side(1)?);
        match seq.next_element::<usize>()? {
            None => Ok(ImageSize { height, width }),
            Some(_) => Err(de::Error::invalid_length(3, &SizeVisitor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_height_and_width() {
        #[derive(Serialize, Deserialize)]
        struct Table {
            size: ImageSize,
        }
        for (text, expected) in [("32", (32, 32)), ("[64, 48]", (64, 48)), ("[9, 9]", (9, 9))] {
            let table: Table = toml::from_str(&format!("size = {text}")).unwrap();
            assert_eq!(table.size.pair(), expected);
            // What is written is read back.
            let again: Table = toml::from_str(&toml::to_string(&table).unwrap()).unwrap();
            assert_eq!(again.size, table.size);
        }
        for text in ["-1", "1.5", "[1]", "[1, 2, 3]", "\"32\"", "[]"] {
            let error = toml::from_str::<Table>(&format!("size = {text}"));
            assert!(error.is_err(), "{text}");
        }
    }
}
