//! Numbers as text, rounded in the safe direction.

use serde::{Serialize, Serializer};

/// Formats `value` with `decimals` digits after the point, rounded up: the text parses to a number
/// of at least `value`.
///
/// This is the safe direction for ε, where a smaller number would claim more privacy than there
/// is, and for noise multipliers: one that a user copies from a table into a configuration still
/// reaches its target. `value` must not be negative; infinity becomes `infinite`.
#[must_use]
pub fn round_up(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "infinite".to_owned();
    }
    let nearest = format!("{value:.decimals$}");
    match nearest.parse::<f64>() {
        Ok(parsed) if parsed < value => next_decimal(&nearest),
        _ => nearest,
    }
}

/// An ε in ledger and statement: a JSON number with six digits after the point, rounded up, or the
/// text `infinite`, because JSON has no infinite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ShownEpsilon(pub(super) f64);

impl Serialize for ShownEpsilon {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = round_up(self.0, 6);
        match text.parse::<f64>() {
            Ok(number) => serializer.serialize_f64(number),
            Err(_) => serializer.serialize_str(&text),
        }
    }
}

/// Adds one unit in the last place to a decimal number, exactly.
fn next_decimal(text: &str) -> String {
    let mut digits: Vec<u8> = text.bytes().collect();
    for digit in digits.iter_mut().rev() {
        match *digit {
            b'.' => {}
            b'9' => *digit = b'0',
            _ => {
                *digit += 1;
                return String::from_utf8_lossy(&digits).into_owned();
            }
        }
    }
    format!("1{}", String::from_utf8_lossy(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_up_and_keeps_what_is_exact() {
        assert_eq!(round_up(0.4969753, 3), "0.497");
        assert_eq!(round_up(2.5943834, 3), "2.595");
        assert_eq!(round_up(2.5943834, 2), "2.60");
        assert_eq!(round_up(9.9991, 3), "10.000");
        assert_eq!(round_up(0.25, 2), "0.25");
        assert_eq!(round_up(0.1, 3), "0.100");
        assert_eq!(round_up(1.01, 0), "2");
        assert_eq!(round_up(0.0, 3), "0.000");
        assert_eq!(round_up(1e-9, 3), "0.001");
        assert_eq!(round_up(f64::INFINITY, 3), "infinite");
    }

    #[test]
    fn epsilon_in_json() {
        let json = |epsilon| serde_json::to_string(&ShownEpsilon(epsilon)).unwrap();
        assert_eq!(json(2.594_383_380_5), "2.594384");
        assert_eq!(json(0.0), "0.0");
        assert_eq!(json(f64::INFINITY), "\"infinite\"");
    }

    proptest! {
        #[test]
        fn never_below_and_within_one_unit(value in 0.0f64..1e6, decimals in 0usize..8) {
            let shown: f64 = round_up(value, decimals).parse().unwrap();
            prop_assert!(shown >= value);
            prop_assert!(shown - value <= 10f64.powi(-(decimals as i32)) * (1.0 + 1e-6));
        }
    }
}
