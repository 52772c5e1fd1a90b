//! Delays between attempts.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// Exponential backoff with full jitter: the delay before attempt k + 1 is uniform between 0 and
/// min(`initial`·2^(k−1), `max`). The reference implementation of Private Evolution uses the same
/// rule (tenacity's `wait_random_exponential`).
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Upper bound of the first delay.
    pub initial: Duration,
    /// Upper bound of every delay.
    pub max: Duration,
}

impl Backoff {
    /// Returns the delay after `failures` consecutive failures; `jitter` is uniform in `[0, 1)`.
    pub(crate) fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let bound = self.initial.saturating_mul(1 << doublings).min(self.max);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// Returns a random number in `[0, 1)` for delays. No result depends on it.
pub(crate) fn jitter() -> f64 {
    // Without a random source, the longest delay is safe, only slower.
    getrandom::u64().map_or(1.0, |bits| (bits >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Returns the delay that the server requests: `retry-after-ms` in milliseconds, or `Retry-After`
/// in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str, unit: f64| {
        let value: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(value * unit).ok()
    };
    if let Some(wait) = text("retry-after-ms").and_then(|text| number(text, 1e-3)) {
        return Some(wait);
    }
    let text = text("retry-after")?;
    number(text, 1.0).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        // A date in the past requests no delay.
        Some(date.duration_since(now).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(headers: &[(&'static str, &str)], now: SystemTime) -> Option<f64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        retry_after(&map, now).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn delays_double_up_to_the_bound() {
        let backoff = Backoff {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
        };
        let bounds: Vec<u64> = (1..=8).map(|k| backoff.delay(k, 1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(4000, 1.0).as_secs(), 60);
        assert_eq!(backoff.delay(3, 0.25), Duration::from_secs(1));
        assert_eq!(backoff.delay(0, 1.0).as_secs(), 1);
    }

    #[test]
    fn all_spellings_of_retry_after() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(requested(&[("retry-after", " 7 ")], now), Some(7.0));
        assert_eq!(requested(&[("retry-after", "0.5")], now), Some(0.5));
        assert_eq!(
            requested(&[("retry-after", "9"), ("retry-after-ms", "250")], now),
            Some(0.25)
        );
        let date = "Sun, 06 Nov 1994 08:50:00 GMT";
        assert_eq!(requested(&[("retry-after", date)], now), Some(23.0));
        assert_eq!(
            requested(&[("retry-after", date)], now + Duration::from_secs(60)),
            Some(0.0)
        );
        for nonsense in ["soon", "-3", "nan", "1e300", ""] {
            assert_eq!(
                requested(&[("retry-after", nonsense)], now),
                None,
                "{nonsense}"
            );
        }
        assert_eq!(requested(&[], now), None);
    }

    #[test]
    fn jitter_is_in_its_range_and_varies() {
        let draws: Vec<f64> = (0..64).map(|_| jitter()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!(draws.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
