//! Values of the configuration that may change from population to population, or from iteration to
//! iteration.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A schedule as the configuration has it: one value, a list, or a range whose end is included. An
/// element of a list may stand for several: `{ value = …, times = … }`.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule<T> {
    /// The same value everywhere.
    Constant(T),
    /// One value for each population, beginning with the initial one, or for each iteration.
    List(Vec<T>),
}

impl<T: Clone> Schedule<T> {
    /// Returns the number of values; `None` for a constant.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::Constant(_) => None,
            Self::List(values) => Some(values.len()),
        }
    }

    /// Returns `count` values, or `None` if a list has another length.
    #[must_use]
    pub fn expand(&self, count: usize) -> Option<Vec<T>> {
        match self {
            Self::Constant(value) => Some(vec![value.clone(); count]),
            Self::List(values) => (values.len() == count).then(|| values.clone()),
        }
    }

    /// Returns the value at `index`, or `None` beyond the end of a list.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        match self {
            Self::Constant(value) => Some(value),
            Self::List(values) => values.get(index),
        }
    }

    /// Returns the values that occur: the constant, or all of a list.
    #[must_use]
    pub fn values(&self) -> &[T] {
        match self {
            Self::Constant(value) => std::slice::from_ref(value),
            Self::List(values) => values,
        }
    }

    /// Returns the constant or the last value of a list; `None` for an empty list.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.values().last()
    }

    /// Returns the schedule of the first `count` values.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value.clone()),
            Self::List(values) => Self::List(values.iter().take(count).cloned().collect()),
        }
    }

    /// Returns the schedule of the converted values.
    #[must_use]
    pub fn map<U>(&self, convert: impl Fn(&T) -> U) -> Schedule<U> {
        match self {
            Self::Constant(value) => Schedule::Constant(convert(value)),
            Self::List(values) => Schedule::List(values.iter().map(convert).collect()),
        }
    }
}

impl<T> From<T> for Schedule<T> {
    fn from(value: T) -> Self {
        Self::Constant(value)
    }
}

/// Formats a constant as its value, and a list in brackets.
impl<T: fmt::Display> fmt::Display for Schedule<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(value) => value.fmt(f),
            Self::List(values) => {
                let texts: Vec<String> = values.iter().map(T::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

impl<T: Default> Default for Schedule<T> {
    fn default() -> Self {
        Self::Constant(T::default())
    }
}

/// A TOML value that is neither a list nor a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// An integer.
    Integer(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(String),
}

impl Scalar {
    fn unexpected(&self) -> de::Unexpected<'_> {
        match self {
            Self::Integer(value) => de::Unexpected::Signed(*value),
            Self::Float(value) => de::Unexpected::Float(*value),
            Self::Bool(value) => de::Unexpected::Bool(*value),
            Self::Text(value) => de::Unexpected::Str(value),
        }
    }
}

/// Returns an integer of JSON, which has unsigned ones, unlike TOML.
fn unsigned(value: u64) -> Scalar {
    i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Integer)
}

/// A value that a schedule can hold.
pub trait Scheduled: Clone + Serialize {
    /// Description of the expected value, for error messages.
    const EXPECTED: &'static str;
    /// Converts a TOML value; `None` if it is not [`Scheduled::EXPECTED`].
    fn from_scalar(scalar: &Scalar) -> Option<Self>;
}

macro_rules! scheduled_integers {
    ($($type:ty),+) => {
        $(impl Scheduled for $type {
            const EXPECTED: &'static str = "a non-negative integer";
            fn from_scalar(scalar: &Scalar) -> Option<Self> {
                match scalar {
                    Scalar::Integer(value) => Self::try_from(*value).ok(),
                    _ => None,
                }
            }
        })+
    };
}
scheduled_integers!(u32, u64);

impl Scheduled for f64 {
    const EXPECTED: &'static str = "a finite number";
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Integer(value) => Some(*value as f64),
            Scalar::Float(value) => value.is_finite().then_some(*value),
            _ => None,
        }
    }
}

impl Scheduled for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl Scheduled for String {
    const EXPECTED: &'static str = "a string";
    fn from_scalar(scalar: &Scalar) -> Option<Self> {
        match scalar {
            Scalar::Text(value) => Some(value.clone()),
            _ => None,
        }
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

/// Longest list that ranges and repetitions are expanded to, so that a mistyped number does not
/// exhaust the memory.
const MAX_LEN: usize = 1_000_000;

/// One element of a list: a value, or a value and how often it is repeated.
struct Element<T> {
    value: T,
    times: usize,
}

impl<'de, T: Scheduled> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor(PhantomData))
    }
}

struct ElementVisitor<T>(PhantomData<T>);

impl<T: Scheduled> ElementVisitor<T> {
    fn once<E: de::Error>(&self, scalar: &Scalar) -> Result<Element<T>, E> {
        let value = T::from_scalar(scalar);
        let value = value.ok_or_else(|| E::invalid_value(scalar.unexpected(), self))?;
        Ok(Element { value, times: 1 })
    }
}

impl<'de, T: Scheduled> Visitor<'de> for ElementVisitor<T> {
    type Value = Element<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.once(&Scalar::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.once(&unsigned(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.once(&Scalar::Float(value))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.once(&Scalar::Bool(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        self.once(&Scalar::Text(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, bound = "T: Scheduled")]
        struct Repeated<T> {
            value: Single<T>,
            times: usize,
        }
        let repeated = Repeated::<T>::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Element {
            value: repeated.value.0,
            times: repeated.times,
        })
    }
}

/// A value alone.
struct Single<T>(T);

impl<'de, T: Scheduled> Deserialize<'de> for Single<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let element = Element::deserialize(deserializer)?;
        if element.times != 1 {
            return Err(de::Error::custom("a repetition within a repetition"));
        }
        Ok(Self(element.value))
    }
}

struct ScheduleVisitor<T>(PhantomData<T>);

impl<T: Scheduled> ScheduleVisitor<T> {
    fn constant<E: de::Error>(scalar: &Scalar) -> Result<Schedule<T>, E> {
        let element = ElementVisitor(PhantomData).once(scalar)?;
        Ok(Schedule::Constant(element.value))
    }
}

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
        Self::constant(&Scalar::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Self::constant(&unsigned(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Self::constant(&Scalar::Float(value))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Self::constant(&Scalar::Bool(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Self::constant(&Scalar::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Element::<T> { value, times }) = seq.next_element()? {
            if times > MAX_LEN - values.len() {
                return Err(de::Error::custom(format_args!(
                    "expected at most {MAX_LEN} values"
                )));
            }
            values.extend(std::iter::repeat_n(value, times));
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
            T::from_scalar(&if value.fract() == 0.0 && value.abs() < 9e15 {
                Scalar::Integer(value as i64)
            } else {
                Scalar::Float(value)
            })
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
        assert_eq!(range.len(), Some(21));
        assert_eq!(range.expand(21).unwrap()[20], 40.0);
        assert_eq!(range.expand(20), None);
        let down = parse::<f64>("{ start = 1.0, stop = 0.7, step = -0.1 }").unwrap();
        assert_eq!(down.len(), Some(4));
    }

    #[test]
    fn elements_of_a_list_can_stand_for_several() {
        let text = "[{ value = \"ddim10\", times = 2 }, \"40\"]";
        let schedule = parse::<String>(text).unwrap();
        assert_eq!(schedule.values(), ["ddim10", "ddim10", "40"]);
        assert_eq!(schedule.get(2).unwrap(), "40");
        assert_eq!(schedule.get(3), None);
        assert_eq!(schedule.last().unwrap(), "40");
        let constant = parse::<bool>("true").unwrap();
        assert_eq!((constant.get(9), constant.len()), (Some(&true), None));
        for text in [
            "[{ value = 1, times = 2000000 }]",
            "[{ value = { value = 1, times = 2 }, times = 2 }]",
            "[{ value = 1 }]",
            "[{ value = \"x\", times = 1 }]",
        ] {
            assert!(parse::<u32>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_and_text() {
        let list = Schedule::List(vec![3u32, 4]);
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, "[3,4]");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(Schedule::<u32>::deserialize(&value).unwrap(), list);
        let five = serde_json::json!(5);
        assert_eq!(Schedule::<u32>::deserialize(&five).unwrap(), 5.into());
        let large = serde_json::json!(u64::MAX);
        assert!(Schedule::<u32>::deserialize(&large).is_err());
        assert_eq!(list.map(|k| f64::from(*k) / 2.0).to_string(), "[1.5, 2]");
        assert_eq!(Schedule::from(7.5).to_string(), "7.5");
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
