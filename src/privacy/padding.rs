//! Padding of the time that private images take, for observers of the time.
//!
//! The files of a run have no times, but who watches it while it runs sees when it goes on: above
//! all the vendor of a hosted model, who receives the last request before the private images are
//! read and the first one after the votes are released. With `privacy.pad_release_to`, this time is
//! a multiple of a public duration, the same for all data sets that take at most one.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::evaluation::{PrivateEvaluationConsent, print_marked_private};
use super::sensitive::Sensitive;
use crate::progress::{Cancelled, Observer};

/// Longest period: a longer one is a typing error.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Longest time without a look for cancellation.
const STEP: Duration = Duration::from_millis(50);

/// The value of `privacy.pad_release_to`: a whole number of seconds (`"60s"`), minutes (`"5m"`) or
/// hours (`"1h"`), from one second to one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PadPeriod {
    /// As in the configuration.
    text: String,
    duration: Duration,
}

impl PadPeriod {
    /// Parses a period; `None` where the text is none.
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits)?;
        let duration = Duration::from_secs(number.checked_mul(seconds)?);
        let permitted = !duration.is_zero() && duration <= LONGEST;
        permitted.then(|| Self {
            text: text.to_owned(),
            duration,
        })
    }
}

impl Serialize for PadPeriod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for PadPeriod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format_args!(
                "pad_release_to: expected a whole number with s, m or h, such as \"60s\", from 1s \
                 to 24h, found `{text}`"
            ))
        })
    }
}

/// A source of time, which a test replaces.
pub(crate) trait Clock: Sync {
    /// Returns the time since an arbitrary, fixed moment.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The monotonic clock of the system.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// Pads spans of work with private data to multiples of a period.
pub(crate) struct Padding<'a> {
    period: Option<Duration>,
    clock: &'a dyn Clock,
}

impl<'a> Padding<'a> {
    /// Pads to multiples of `period`; without one, nothing is padded.
    pub(crate) fn new(period: Option<&PadPeriod>, clock: &'a dyn Clock) -> Self {
        Self {
            period: period.map(|period| period.duration),
            clock,
        }
    }

    /// Begins a span. To be called when the last step that uses public data only is done.
    pub(crate) fn begin(&self) -> PaddedSpan<'_> {
        PaddedSpan {
            padding: self,
            begun: self.clock.now(),
        }
    }
}

/// A span of work with private data, which has begun.
#[must_use = "end it: until then nothing is padded"]
pub(crate) struct PaddedSpan<'a> {
    padding: &'a Padding<'a>,
    begun: Duration,
}

impl PaddedSpan<'_> {
    /// Waits until the time since [`Padding::begin`] is a multiple of the period, at least one.
    /// `name` describes the work. A span that took longer than one period is reported for the
    /// owner alone: how many periods it took depends on the private images, and an observer of the
    /// time sees it.
    ///
    /// # Errors
    /// [`Cancelled`] if the user requests to stop meanwhile.
    pub(crate) fn end(self, name: &str, observer: &dyn Observer) -> Result<(), Cancelled> {
        let Some(period) = self.padding.period else {
            return Ok(());
        };
        let clock = self.padding.clock;
        let elapsed = clock.now().saturating_sub(self.begun);
        let periods = elapsed.as_nanos().div_ceil(period.as_nanos()).max(1);
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 1 {
            report(name, elapsed, period, observer);
        }
        let end = self.begun + period.saturating_mul(periods);
        loop {
            observer.check()?;
            let left = end.saturating_sub(clock.now());
            if left.is_zero() {
                return Ok(());
            }
            clock.sleep(left.min(STEP));
        }
    }
}

/// Tells the owner, with the private mark, that one period was too short.
fn report(name: &str, elapsed: Duration, period: Duration, observer: &dyn Observer) {
    let line = format!(
        "{name} took {:.1} s, longer than privacy.pad_release_to ({} s): an observer of the time \
         sees the number of periods, so choose a longer one",
        elapsed.as_secs_f64(),
        period.as_secs()
    );
    // The owner asked for the padding, and this line is how they learn that it is too short.
    let consent = PrivateEvaluationConsent::given_by_owner();
    print_marked_private(
        &consent,
        &Sensitive::new(line),
        |line| vec![line.clone()],
        &mut |line| observer.message(line),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::progress::{Cancellation, Progress, Unit};

    /// Advances only when someone sleeps.
    #[derive(Default)]
    struct FakeClock {
        now: Mutex<Duration>,
        longest: Mutex<Duration>,
    }

    impl FakeClock {
        fn advance(&self, time: Duration) {
            *self.now.lock().unwrap() += time;
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            let mut longest = self.longest.lock().unwrap();
            *longest = longest.max(time);
            self.advance(time);
        }
    }

    /// Keeps messages; is cancelled from a moment of the clock on.
    struct Owner<'a> {
        clock: &'a FakeClock,
        cancelled_from: Duration,
        lines: Mutex<Vec<String>>,
    }

    impl Progress for Owner<'_> {
        fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
        fn resume(&self, _: u64) {}
        fn advance(&self, _: u64) {}
        fn end(&self) {}
        fn message(&self, text: &str) {
            self.lines.lock().unwrap().push(text.to_owned());
        }
    }

    impl Cancellation for Owner<'_> {
        fn is_cancelled(&self) -> bool {
            self.clock.now() >= self.cancelled_from
        }
    }

    /// Works for `work` in a span with this period: the time at its end, the lines, the longest
    /// sleep, and whether it was cancelled.
    fn padded(
        period: Option<&str>,
        work: Duration,
        cancelled_from: Duration,
    ) -> (Duration, Vec<String>, Duration, bool) {
        let clock = FakeClock::default();
        clock.advance(Duration::from_millis(12_345));
        let begun = clock.now();
        let owner = Owner {
            clock: &clock,
            cancelled_from,
            lines: Mutex::default(),
        };
        let period = period.map(|text| PadPeriod::parse(text).unwrap());
        let padding = Padding::new(period.as_ref(), &clock);
        let span = padding.begin();
        clock.advance(work);
        let ended = span.end("the vote", &owner);
        let lines = owner.lines.lock().unwrap().clone();
        let longest = *clock.longest.lock().unwrap();
        (clock.now() - begun, lines, longest, ended.is_err())
    }

    const NEVER: Duration = Duration::MAX;

    #[test]
    fn every_span_up_to_one_period_takes_exactly_one() {
        let second = Duration::from_secs(1);
        for work in [0, 1, 999, 30_000, 59_999, 60_000].map(Duration::from_millis) {
            let (took, lines, longest, _) = padded(Some("60s"), work, NEVER);
            assert_eq!(took, 60 * second, "{work:?}");
            assert!(lines.is_empty() && longest <= STEP);
        }
        let (took, lines, ..) = padded(None, 7 * second, NEVER);
        assert_eq!((took, lines.len()), (7 * second, 0));
    }

    #[test]
    fn a_longer_span_ends_at_a_multiple_and_its_owner_is_told() {
        let work = Duration::from_millis(60_001);
        let (took, lines, ..) = padded(Some("1m"), work, NEVER);
        assert_eq!(took, Duration::from_secs(120));
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        let expected = "[private, not for release] the vote took 60.0 s, longer than \
                        privacy.pad_release_to (60 s)";
        assert!(line.starts_with(expected), "{line}");
    }

    #[test]
    fn a_sleep_can_be_cancelled() {
        let from = Duration::from_millis(13_345);
        let (took, _, _, cancelled) = padded(Some("24h"), Duration::ZERO, from);
        assert!(cancelled && took <= Duration::from_secs(1) + STEP);
    }

    #[test]
    fn periods_are_whole_numbers_with_a_unit() {
        for (text, seconds) in [("1s", 1), ("60s", 60), ("5m", 300), ("24h", 86_400)] {
            let period = PadPeriod::parse(text).unwrap();
            assert_eq!(period.duration, Duration::from_secs(seconds));
            assert_eq!(
                serde_json::to_string(&period).unwrap(),
                format!("\"{text}\"")
            );
        }
        for text in [
            "",
            "s",
            "60",
            "0s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "60S",
            "1d",
            "25h",
            "1ms",
            "é",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(PadPeriod::parse(text), None, "{text}");
        }
        let error = serde_json::from_str::<PadPeriod>("\"soon\"").unwrap_err();
        assert!(error.to_string().contains("pad_release_to"), "{error}");
    }
}
