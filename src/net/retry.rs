//! How long to wait before asking again.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// Exponential backoff with full jitter: before attempt k + 1 a uniform time below `first`·2^(k−1), at
/// most `most`. Source: the "full jitter" of exponential backoff; the original's `wait_random_exponential`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The bound of the first wait.
    pub first: Duration,
    /// The bound of any wait.
    pub most: Duration,
}

impl Backoff {
    /// The wait after `failures` in a row; `jitter` is uniform in `[0, 1)`.
    pub(crate) fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let bound = self.first.saturating_mul(1 << doublings).min(self.most);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// A number in `[0, 1)` for waits only. No result depends on it.
pub(crate) fn jitter() -> f64 {
    // Without random numbers everybody waits as long as allowed: safe, only slower.
    getrandom::u64().map_or(1.0, |bits| (bits >> 11) as f64 / (1_u64 << 53) as f64)
}

/// How long the server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date.
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
        // A date that has passed asks for no wait.
        Some(date.duration_since(now).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(headers: &[(&'static str, &str)], now: SystemTime) -> Option<f64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        retry_after(&map, now).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
        };
        let bounds: Vec<u64> = (1..=8).map(|k| backoff.wait(k, 1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.wait(4000, 1.0).as_secs(), 60);
        assert_eq!(backoff.wait(3, 0.25), Duration::from_secs(1));
        assert_eq!(backoff.wait(0, 1.0).as_secs(), 1);
    }

    #[test]
    fn all_spellings_of_retry_after() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(asked(&[("retry-after", " 7 ")], now), Some(7.0));
        assert_eq!(asked(&[("retry-after", "0.5")], now), Some(0.5));
        assert_eq!(
            asked(&[("retry-after", "9"), ("retry-after-ms", "250")], now),
            Some(0.25)
        );
        let date = "Sun, 06 Nov 1994 08:50:00 GMT";
        assert_eq!(asked(&[("retry-after", date)], now), Some(23.0));
        assert_eq!(
            asked(&[("retry-after", date)], now + Duration::from_secs(60)),
            Some(0.0)
        );
        for nonsense in ["soon", "-3", "nan", "1e300", ""] {
            assert_eq!(asked(&[("retry-after", nonsense)], now), None, "{nonsense}");
        }
        assert_eq!(asked(&[], now), None);
    }

    #[test]
    fn jitter_is_in_its_range_and_varies() {
        let draws: Vec<f64> = (0..64).map(|_| jitter()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!(draws.windows(2).any(|pair| pair[0] != pair[1]));
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "[ -~]{0,40}") {
            let _ = asked(&[("retry-after", text.as_str())], SystemTime::UNIX_EPOCH);
        }
    }
}
