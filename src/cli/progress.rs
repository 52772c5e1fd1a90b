//! Progress for people: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::units::bytes;
use crate::progress::{Cancellation, Progress as Report, Unit};

/// Set by Ctrl-C; the run stops after the unit that it is in.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a plain progress line is printed.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Makes Ctrl-C a request to stop after the current unit; a second one ends the process.
///
/// # Errors
/// When the system does not let a handler be set.
pub fn catch_interrupts() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            // Everything finished is on disk already.
            std::process::exit(i32::from(crate::exit_code::INTERRUPTED));
        }
        super::eprint_line("stopping after the current unit; press Ctrl-C again to stop at once");
    })
}

/// Makes Ctrl-C end the process at once, saying that nothing is lost: `dpsyn fetch` leaves nothing half done
/// under its final name.
///
/// # Errors
/// When the system does not let a handler be set.
pub fn stop_on_interrupt() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        super::eprint_line("stopped; the same command goes on from here");
        std::process::exit(i32::from(crate::exit_code::INTERRUPTED));
    })
}

fn show(unit: Unit, count: u64) -> String {
    match unit {
        Unit::Steps => count.to_string(),
        Unit::Bytes => bytes(count),
    }
}

fn template(unit: Unit, bounded: bool) -> &'static str {
    match (unit, bounded) {
        (Unit::Steps, _) => "{msg:>22} [{bar:32}] {pos}/{len} {elapsed} elapsed, {eta} left",
        (Unit::Bytes, true) => {
            "{msg:>22} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {eta} left"
        }
        (Unit::Bytes, false) => "{msg:>22} {spinner} {decimal_bytes} {elapsed} elapsed",
    }
}

impl Stage {
    /// A plain line: what is done after so much time, and, from what this run did itself, how long the rest takes.
    fn describe(&self, done: u64, after: Duration) -> String {
        let shown = show(self.unit, done);
        let Some(total) = self.total else {
            return format!("{}: {shown}", self.name);
        };
        let line = format!("{}: {shown} of {}", self.name, show(self.unit, total));
        let share = total.saturating_sub(done) as f64 / done.saturating_sub(self.before) as f64;
        // What is not a duration: nothing was done yet, or it takes longer than the universe has existed.
        match Duration::try_from_secs_f64(after.as_secs_f64() * share) {
            Ok(left) => format!("{line} ({} left)", HumanDuration(left)),
            Err(_) => line,
        }
    }
}

/// Shows a run's progress on standard error.
pub struct Progress {
    terminal: bool,
    state: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    unit: Unit,
    /// Unknown for some downloads.
    total: Option<u64>,
    /// What was done before the stage began, by an earlier run.
    before: u64,
    started: Instant,
    printed: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar if standard error is a terminal, plain lines otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            state: Mutex::new(None),
        }
    }

    fn with(&self, act: impl FnOnce(&mut Option<Stage>)) {
        // A panic elsewhere must not silence progress.
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut state);
    }
}

impl Report for Progress {
    fn begin(&self, stage: &str, total: Option<u64>, unit: Unit) {
        let bar = self.terminal.then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            let bar = bar.with_message(stage.to_owned());
            if let Ok(style) = ProgressStyle::with_template(template(unit, total.is_some())) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let now = Instant::now();
        self.with(|state| {
            *state = Some(Stage {
                name: stage.to_owned(),
                unit,
                total,
                before: 0,
                started: now,
                printed: now,
                bar,
            });
        });
    }

    fn resume(&self, done: u64) {
        self.with(|state| {
            let Some(stage) = state else { return };
            stage.before = done;
            if let Some(bar) = &stage.bar {
                bar.set_position(done);
                bar.reset_eta();
            }
        });
    }

    fn advance(&self, done: u64) {
        self.with(|state| {
            let Some(stage) = state else { return };
            if let Some(bar) = &stage.bar {
                bar.set_position(done);
            } else if stage.printed.elapsed() >= LINE_EVERY {
                stage.printed = Instant::now();
                super::eprint_line(&stage.describe(done, stage.started.elapsed()));
            }
        });
    }

    fn end(&self) {
        self.with(|state| {
            if let Some(Stage { bar: Some(bar), .. }) = state.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn message(&self, text: &str) {
        self.with(|state| match state {
            Some(Stage { bar: Some(bar), .. }) => bar.println(text),
            _ => super::eprint_line(text),
        });
    }
}

impl Cancellation for Progress {
    fn is_cancelled(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(total: Option<u64>, before: u64) -> Stage {
        let now = Instant::now();
        Stage {
            name: "embedding samples".to_owned(),
            unit: Unit::Steps,
            total,
            before,
            started: now,
            printed: now,
            bar: None,
        }
    }

    #[test]
    fn the_time_left_counts_what_this_run_did() {
        let minute = Duration::from_secs(60);
        let line = |total, before, done| stage(total, before).describe(done, minute);
        assert_eq!(
            line(Some(1000), 0, 100),
            "embedding samples: 100 of 1000 (9 minutes left)"
        );
        assert_eq!(
            line(Some(1000), 400, 500),
            "embedding samples: 500 of 1000 (5 minutes left)"
        );
        assert_eq!(line(Some(1000), 400, 400), "embedding samples: 400 of 1000");
        assert_eq!(
            line(Some(1000), 0, 1000),
            "embedding samples: 1000 of 1000 (0 seconds left)"
        );
        // A guess at a size may be too small.
        assert_eq!(
            line(Some(1000), 0, 1200),
            "embedding samples: 1200 of 1000 (0 seconds left)"
        );
        assert_eq!(line(None, 0, 7), "embedding samples: 7");
    }

    #[test]
    fn nothing_done_of_nothing_has_no_time_left() {
        assert_eq!(
            stage(Some(0), 0).describe(0, Duration::ZERO),
            "embedding samples: 0 of 0"
        );
    }
}
