//! Ranges of numeric parameters.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sections::InvalidKey;
use crate::streams::KeyedRng;

/// Values of parameters are multiples of this, so that few digits describe them exactly.
const RESOLUTION: f64 = 1e4;

/// The range of a parameter: a number, which is its only value, or `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The least value.
    pub low: f64,
    /// The greatest value.
    pub high: f64,
}

impl Range {
    /// Returns the range from `low` to `high`.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    /// Checks that the range is not empty and lies within `limits`.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `key`.
    pub fn check(&self, key: &str, limits: Range) -> Result<(), InvalidKey> {
        // The comparisons are false for NaN.
        if limits.low <= self.low && self.low <= self.high && self.high <= limits.high {
            return Ok(());
        }
        let message = format!(
            "is {self}: expected a number from {} to {}, or [low, high] with such numbers",
            limits.low, limits.high
        );
        Err(InvalidKey::new(key, message))
    }

    /// Returns true if `value` is in the range.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Draws a value uniformly.
    pub fn draw(&self, rng: &mut KeyedRng) -> f64 {
        self.rounded(self.low + rng.uniform() * (self.high - self.low))
    }

    /// Moves `value` by at most `share` of the range, uniformly in both directions, and reflects
    /// it at the ends. A share of 0 returns `value`, even one outside of the range.
    pub fn step(&self, value: f64, share: f64, rng: &mut KeyedRng) -> f64 {
        let span = self.high - self.low;
        let shift = share * span * (2.0 * rng.uniform() - 1.0);
        if share == 0.0 {
            return value;
        }
        self.rounded(reflect(value.clamp(self.low, self.high) + shift - self.low, span) + self.low)
    }

    fn rounded(&self, value: f64) -> f64 {
        ((value * RESOLUTION).round() / RESOLUTION).clamp(self.low, self.high)
    }
}

/// Reflects `value` at 0 and `span` until it lies between them.
fn reflect(value: f64, span: f64) -> f64 {
    if span <= 0.0 {
        return 0.0;
    }
    let folded = value.rem_euclid(2.0 * span);
    folded.min(2.0 * span - folded)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "[{}, {}]", self.low, self.high)
        }
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high {
            self.low.serialize(serializer)
        } else {
            [self.low, self.high].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RangeVisitor)
    }
}

struct RangeVisitor;

impl<'de> Visitor<'de> for RangeVisitor {
    type Value = Range;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or [low, high]")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Range, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Range, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Range, E> {
        Ok(Range::new(value, value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Range, A::Error> {
        let mut end = |index| {
            let value = seq.next_element::<f64>()?;
            value.ok_or_else(|| de::Error::invalid_length(index, &RangeVisitor))
        };
        let (low, high) = (end(0)?, end(1)?);
        match seq.next_element::<f64>()? {
            None => Ok(Range::new(low, high)),
            Some(_) => Err(de::Error::invalid_length(3, &RangeVisitor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Phase, RngKey};

    fn rng(sample: u64) -> KeyedRng {
        let key = RngKey {
            seed: 1,
            phase: Phase::Vary,
            iteration: 0,
            repeat: 0,
            sample,
        };
        key.rng()
    }

    #[test]
    fn values_stay_within_the_range_and_within_a_step() {
        let range = Range::new(-0.3, 0.5);
        let (mut least, mut greatest) = (f64::MAX, f64::MIN);
        for sample in 0..2000 {
            let mut rng = rng(sample);
            let value = range.draw(&mut rng);
            assert!((-0.3..=0.5).contains(&value));
            (least, greatest) = (least.min(value), greatest.max(value));
            let near = range.step(value, 0.1, &mut rng);
            assert!((-0.3..=0.5).contains(&near));
            assert!((near - value).abs() <= 0.08 + 1e-4, "{value} {near}");
            let far = range.step(value, 3.0, &mut rng);
            assert!((-0.3..=0.5).contains(&far));
            assert_eq!(range.step(value, 0.0, &mut rng), value);
        }
        assert!(least < -0.29 && greatest > 0.49);
        assert_eq!(range.step(7.0, 0.0, &mut rng(0)), 7.0);
        assert!(range.step(7.0, 0.1, &mut rng(0)) <= 0.5);
        assert_eq!(Range::new(2.0, 2.0).step(2.0, 1.0, &mut rng(0)), 2.0);
    }

    #[test]
    fn a_range_is_a_number_or_two() {
        #[derive(Serialize, Deserialize)]
        struct Table {
            range: Range,
        }
        for (text, low, high) in [
            ("3", 3.0, 3.0),
            ("-0.5", -0.5, -0.5),
            ("[0, 1.5]", 0.0, 1.5),
        ] {
            let table: Table = toml::from_str(&format!("range = {text}")).unwrap();
            assert_eq!(table.range, Range::new(low, high));
            let again: Table = toml::from_str(&toml::to_string(&table).unwrap()).unwrap();
            assert_eq!(again.range, table.range);
        }
        for text in ["\"1\"", "[1]", "[1, 2, 3]", "true"] {
            assert!(
                toml::from_str::<Table>(&format!("range = {text}")).is_err(),
                "{text}"
            );
        }
        let limits = Range::new(0.0, 1.0);
        assert!(Range::new(0.0, 1.0).check("k", limits).is_ok());
        for (low, high) in [
            (0.5, 0.4),
            (-0.1, 0.5),
            (0.5, 1.1),
            (f64::NAN, 0.5),
            (0.0, f64::NAN),
        ] {
            let error = Range::new(low, high).check("k", limits).unwrap_err();
            assert!(error.to_string().contains("from 0 to 1"), "{error}");
        }
    }
}
