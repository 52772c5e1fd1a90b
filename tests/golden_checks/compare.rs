//! Comparing numbers and reporting the first divergence.

use super::Outcome;

/// Allowed difference of two numbers: `|found - expected| <= absolute + relative * |expected|`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

#[allow(dead_code)]
impl Tolerance {
    pub const fn absolute(absolute: f64) -> Self {
        Self {
            absolute,
            relative: 0.0,
        }
    }

    /// Compares element by element; the message names the first divergence and the worst.
    pub fn check(self, what: &str, found: &[f64], expected: &[f64]) -> Outcome {
        if found.len() != expected.len() {
            return Err(format!(
                "{what}: {} values where {} were expected",
                found.len(),
                expected.len()
            )
            .into());
        }
        let mut first = None;
        let mut worst = (0, 0.0f64);
        let mut count = 0usize;
        for (index, (f, e)) in found.iter().zip(expected).enumerate() {
            let distance = if f == e { 0.0 } else { (f - e).abs() };
            let allowed = self.absolute + self.relative * e.abs();
            if distance.is_nan() || distance > allowed {
                first.get_or_insert((index, *f, *e));
                count += 1;
            }
            if distance.is_nan() || distance > worst.1 {
                worst = (index, distance);
            }
        }
        match first {
            None => Ok(()),
            Some((index, f, e)) => Err(format!(
                "{what}: {count} of {} values diverge; the first at {index}: found {f:e}, expected {e:e}; \
                 the worst at {} by {:e}; allowed {:e} + {:e} relative",
                expected.len(),
                worst.0,
                worst.1,
                self.absolute,
                self.relative
            )
            .into()),
        }
    }
}

/// 8-bit results: at most one level off in at most this share of the values.
#[allow(dead_code)]
pub fn check_bytes(what: &str, found: &[u8], expected: &[u8], share: f64) -> Outcome {
    if found.len() != expected.len() {
        return Err(format!(
            "{what}: {} bytes where {} were expected",
            found.len(),
            expected.len()
        )
        .into());
    }
    let mut off = 0usize;
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        match f.abs_diff(*e) {
            0 => {}
            1 => off += 1,
            _ => {
                return Err(format!("{what}: byte {index} is {f} where {e} was expected").into());
            }
        }
    }
    if off as f64 > share * expected.len() as f64 {
        return Err(format!(
            "{what}: {off} of {} bytes are one level off",
            expected.len()
        )
        .into());
    }
    Ok(())
}
