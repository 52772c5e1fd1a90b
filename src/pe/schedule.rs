//! Values that may change from iteration to iteration.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A schedule as the configuration has it: one value, a list, or a range whose end is included.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule<T> {
    /// The same value for every population.
    Constant(T),
    /// One value for each population, beginning with the initial one.
    List(Vec<T>),
}

impl<T: Copy> Schedule<T> {
    /// Returns the number of populations it is for; `None` for a constant.
    #[must_use]
    pub fn populations(&self) -> Option<usize> {
        match self {
            Self::Constant(_) => None,
            Self::List(values) => Some(values.len()),
        }
    }

    /// Returns one value for each of `populations`, or `None` when a list has another length.
    #[must_use]
    pub fn expand(&self, populations: usize) -> Option<Vec<T>> {
        match self {
            Self::Constant(value) => Some(vec![*value; populations]),
            Self::List(values) => (values.len() == populations).then(|| values.clone()),
        }
    }
}

/// A number that a schedule can hold.
pub trait Scheduled: Copy + Serialize {
    /// Name of the expected kind of value, for error messages.
    const EXPECTED: &'static str;
    /// Converts a TOML integer.
    fn from_integer(value: i64) -> Option<Self>;
    /// Converts a TOML float.
    fn from_float(value: f64) -> Option<Self>;
}

impl Scheduled for u64 {
    const EXPECTED: &'static str = "a non-negative integer";
    fn from_integer(value: i64) -> Option<Self> {
        u64::try_from(value).ok()
    }
    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Scheduled for f64 {
    const EXPECTED: &'static str = "a finite number";
    fn from_integer(value: i64) -> Option<Self> {
        Some(value as f64)
    }
    fn from_float(value: f64) -> Option<Self> {
        value.is_finite().then_some(value)
    }
}

impl<T: Scheduled> Serialize for Schedule<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constant(value) => value.serialize(serializer),
            Self::List(values) => values.serialize(serializer),
        }
    }
}

impl<'de, T: Scheduled> Deserialize<'de> for Schedule<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScheduleVisitor(PhantomData))
    }
}

/// Longest range that is expanded, so that a mistyped step does not exhaust the memory.
const MAX_LEN: usize = 1_000_000;

struct Number<T>(T);

impl<'de, T: Scheduled> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(NumberVisitor(PhantomData))
            .map(Number)
    }
}

struct NumberVisitor<T>(PhantomData<T>);

impl<T: Scheduled> Visitor<'_> for NumberVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        T::from_integer(value).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        T::from_float(value).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }
}

struct ScheduleVisitor<T>(PhantomData<T>);

impl<'de, T: Scheduled> Visitor<'de> for ScheduleVisitor<T> {
    type Value = Schedule<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, a list of them, or {{ start = …, stop = …, step = … }}",
            T::EXPECTED
        )
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        NumberVisitor(PhantomData)
            .visit_i64(value)
            .map(Schedule::Constant)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        NumberVisitor(PhantomData)
            .visit_f64(value)
            .map(Schedule::Constant)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Number(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Schedule::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Range {
            start: f64,
            stop: f64,
            step: f64,
        }
        let range = Range::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let steps = (range.stop - range.start) / range.step;
        if !(steps.is_finite() && (0.0..MAX_LEN as f64).contains(&steps)) {
            return Err(de::Error::custom(format_args!(
                "a range from {} by {} never reaches {}",
                range.start, range.step, range.stop
            )));
        }
        // `stop` belongs to the range; the slack forgives 0.1 + 0.1 + 0.1.
        let count = (steps + 1e-9).floor() as usize + 1;
        let values = (0..count).map(|i| {
            let value = range.start + i as f64 * range.step;
            if value.fract() == 0.0 && value.abs() < 9e15 {
                T::from_integer(value as i64)
            } else {
                T::from_float(value)
            }
        });
        let values: Option<Vec<T>> = values.collect();
        values.map(Schedule::List).ok_or_else(|| {
            de::Error::custom(format_args!(
                "every value of the range must be {}",
                T::EXPECTED
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: Scheduled>(text: &str) -> Result<Schedule<T>, toml::de::Error> {
        Schedule::deserialize(toml::de::ValueDeserializer::parse(text)?)
    }

    #[test]
    fn all_three_spellings() {
        assert_eq!(parse::<u64>("7").unwrap().expand(3), Some(vec![7, 7, 7]));
        assert_eq!(
            parse::<f64>("[1, 0.5]").unwrap().expand(2),
            Some(vec![1.0, 0.5])
        );
        let range = parse::<f64>("{ start = 0, stop = 40, step = 2 }").unwrap();
        assert_eq!(range.populations(), Some(21));
        assert_eq!(range.expand(21).unwrap()[20], 40.0);
        assert_eq!(range.expand(20), None);
        let down = parse::<f64>("{ start = 1.0, stop = 0.7, step = -0.1 }").unwrap();
        assert_eq!(down.populations(), Some(4));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for text in [
            "-1",
            "1.5",
            "\"x\"",
            "[1, -2]",
            "{ start = 0, stop = 1, step = 0.5 }",
        ] {
            assert!(parse::<u64>(text).is_err(), "{text}");
        }
        for text in [
            "{ start = 0, stop = 40, step = 0 }",
            "{ start = 0, stop = 40, step = -1 }",
            "{ start = 0, stop = 40 }",
            "{ start = 0, stop = 40, step = 1, by = 2 }",
            "{ start = 0, stop = 4e9, step = 1 }",
            "nan",
        ] {
            assert!(parse::<f64>(text).is_err(), "{text}");
        }
        let message = parse::<u64>("-1").err().unwrap().to_string();
        assert!(message.contains("non-negative integer"), "{message}");
    }
}
