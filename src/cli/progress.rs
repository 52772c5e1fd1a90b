//! Progress and cancellation of a command: a bar on a terminal, plain lines elsewhere, or JSON.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use tracing::info;

use super::output::{eprint_line, is_human, log_message, report};
use super::units::bytes;
use crate::exit_code;
use crate::images::shown_lines;
use crate::logging::{PRIVATE, PROGRESS};
use crate::progress::{Cancellation, PRIVATE_MARK, Progress, Unit};

/// Set by Ctrl-C; the run stops after the current unit of work.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Time between two progress lines where there is no bar: frequent enough to show that a run
/// is alive, and rare enough that the log of a batch system stays short.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Makes Ctrl-C a request to stop after the current unit; a second Ctrl-C ends the process.
///
/// # Errors
/// Returns an error if the system does not permit a handler.
pub fn catch_interrupts() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            // Everything that was finished is on disk already.
            std::process::exit(i32::from(exit_code::INTERRUPTED));
        }
        report("stopping after the current unit; press Ctrl-C again to stop at once");
    })
}

/// Makes Ctrl-C end the process at once. `dpsyn fetch` never leaves a partial file under its final
/// name, so the same command resumes the download.
///
/// # Errors
/// Returns an error if the system does not permit a handler.
pub fn stop_on_interrupt() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        report("stopped; run the same command to resume");
        std::process::exit(i32::from(exit_code::INTERRUPTED));
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

/// Reports the progress of a command on standard error, and every message and stage to the logs.
pub struct TerminalProgress {
    /// A bar is drawn: standard error is a terminal, and the format is human.
    bars: bool,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    /// The name, with [`PRIVATE_MARK`] before it if the counts are private.
    name: String,
    unit: Unit,
    /// `None` for some downloads, whose size is unknown.
    total: Option<u64>,
    /// The work of an earlier run, before this stage began.
    before: u64,
    done: u64,
    started: Instant,
    printed: Instant,
    bar: Option<ProgressBar>,
}

impl Stage {
    /// Returns a plain line: the work done and, from the speed of this run, the time left.
    fn describe(&self, done: u64, after: Duration) -> String {
        let shown = show(self.unit, done);
        let Some(total) = self.total else {
            return format!("{}: {shown}", self.name);
        };
        let line = format!("{}: {shown} of {}", self.name, show(self.unit, total));
        let share = total.saturating_sub(done) as f64 / done.saturating_sub(self.before) as f64;
        // The conversion fails if this run has done nothing yet, or if the result is too large.
        match Duration::try_from_secs_f64(after.as_secs_f64() * share) {
            Ok(left) => format!("{line} ({} left)", HumanDuration(left)),
            Err(_) => line,
        }
    }

    /// Reports progress where there is no bar.
    fn report(&self) {
        if is_human() {
            eprint_line(&self.describe(self.done, self.started.elapsed()));
        }
        let Self { done, total, .. } = *self;
        info!(target: PROGRESS, stage = %self.name, done, total, "progress");
    }

    /// Returns the bar of the stage.
    fn new_bar(name: &str, total: Option<u64>, unit: Unit) -> ProgressBar {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let bar = bar.with_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template(unit, total.is_some())) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

impl TerminalProgress {
    /// Draws a bar if standard error is a terminal, and writes lines otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bars: is_human() && std::io::stderr().is_terminal(),
            stage: Mutex::new(None),
        }
    }

    /// Begins a stage; `in_bar` is its name in a bar.
    fn start(&self, name: String, in_bar: &str, total: Option<u64>, unit: Unit) {
        info!(target: PRIVATE, stage = %name, total, "stage started");
        let now = Instant::now();
        let bar = self.bars.then(|| Stage::new_bar(in_bar, total, unit));
        self.with(|stage| {
            *stage = Some(Stage {
                name,
                unit,
                total,
                before: 0,
                done: 0,
                started: now,
                printed: now,
                bar,
            });
        });
    }

    fn with(&self, act: impl FnOnce(&mut Option<Stage>)) {
        // A panic in another thread must not end all progress.
        let mut stage = self
            .stage
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut stage);
    }
}

impl Progress for TerminalProgress {
    fn begin(&self, name: &str, total: Option<u64>, unit: Unit) {
        self.start(name.to_owned(), name, total, unit);
    }

    fn begin_private(&self, name: &str, total: Option<u64>, unit: Unit) {
        // A bar is gone when the stage ends. Lines stay, and are redirected into files.
        self.start(format!("{PRIVATE_MARK} {name}"), name, total, unit);
    }

    fn resume(&self, done: u64) {
        self.with(|stage| {
            let Some(stage) = stage else { return };
            (stage.before, stage.done) = (done, done);
            if let Some(bar) = &stage.bar {
                bar.set_position(done);
                bar.reset_eta();
            }
        });
    }

    fn advance(&self, done: u64) {
        self.with(|stage| {
            let Some(stage) = stage else { return };
            stage.done = done;
            if let Some(bar) = &stage.bar {
                bar.set_position(done);
            } else if stage.printed.elapsed() >= LINE_EVERY {
                stage.printed = Instant::now();
                stage.report();
            }
        });
    }

    fn end(&self) {
        self.with(|stage| {
            let Some(stage) = stage.take() else { return };
            let seconds = stage.started.elapsed().as_secs_f64();
            let Stage { name, done, .. } = &stage;
            info!(target: PRIVATE, stage = %name, done, seconds, "stage ended");
            if let Some(bar) = stage.bar {
                bar.finish_and_clear();
            }
        });
    }

    fn message(&self, text: &str) {
        self.with(|stage| {
            log_message(text);
            match stage {
                Some(Stage { bar: Some(bar), .. }) => bar.println(shown_lines(text)),
                _ if is_human() => eprint_line(text),
                _ => {}
            }
        });
    }
}

impl Cancellation for TerminalProgress {
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
            done: 0,
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
        // An estimated size may be too small.
        assert_eq!(
            line(Some(1000), 0, 1200),
            "embedding samples: 1200 of 1000 (0 seconds left)"
        );
        assert_eq!(line(None, 0, 7), "embedding samples: 7");
    }

    #[test]
    fn lines_about_stages_of_private_images_are_marked() {
        let progress = TerminalProgress {
            bars: false,
            stage: Mutex::new(None),
        };
        let line = |progress: &TerminalProgress| {
            let mut line = String::new();
            progress.with(|stage| {
                let stage = stage.as_ref().unwrap();
                line = stage.describe(3, Duration::ZERO);
            });
            line
        };
        progress.begin_private("vote", Some(10), Unit::Steps);
        assert!(line(&progress).starts_with("[private, not for release] vote: 3 of 10"));
        progress.begin("population 1", Some(10), Unit::Steps);
        assert!(line(&progress).starts_with("population 1: 3 of 10"));
    }

    #[test]
    fn nothing_done_of_nothing_has_no_time_left() {
        assert_eq!(
            stage(Some(0), 0).describe(0, Duration::ZERO),
            "embedding samples: 0 of 0"
        );
    }
}
