//! Progress for people: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::units::bytes;
use crate::evolution::Observer;
use crate::net::Watch;

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
            std::process::exit(i32::from(super::codes::INTERRUPTED));
        }
        super::complain("stopping after the current unit; press Ctrl-C again to stop at once");
    })
}

/// Makes Ctrl-C end the process at once, saying that nothing is lost: `dpsyn fetch` leaves nothing half done
/// under its final name.
///
/// # Errors
/// When the system does not let a handler be set.
pub fn stop_on_interrupt() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        super::complain("stopped; the same command goes on from here");
        std::process::exit(i32::from(super::codes::INTERRUPTED));
    })
}

/// What a stage counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Steps,
    Bytes,
}

impl Unit {
    fn show(self, count: u64) -> String {
        match self {
            Self::Steps => count.to_string(),
            Self::Bytes => bytes(count),
        }
    }

    fn template(self, bounded: bool) -> &'static str {
        match (self, bounded) {
            (Self::Steps, _) => "{msg:>22} [{bar:32}] {pos}/{len} {elapsed} elapsed, {eta} left",
            (Self::Bytes, true) => {
                "{msg:>22} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} {eta} left"
            }
            (Self::Bytes, false) => "{msg:>22} {spinner} {decimal_bytes} {elapsed} elapsed",
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
    /// Steps that were already done when the stage began, by an earlier run.
    skipped: Option<u64>,
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

impl Progress {
    fn start(&self, stage: &str, total: Option<u64>, unit: Unit) {
        let bar = self.terminal.then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            let bar = bar.with_message(stage.to_owned());
            if let Ok(style) = ProgressStyle::with_template(unit.template(total.is_some())) {
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
                skipped: None,
                started: now,
                printed: now,
                bar,
            });
        });
    }
}

impl Watch for Progress {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.start(what, total, Unit::Bytes);
    }

    fn advance(&self, done: u64) {
        Observer::advance(self, done);
    }

    fn end(&self) {
        Observer::end(self);
    }

    fn line(&self, text: &str) {
        Observer::line(self, text);
    }
}

impl Observer for Progress {
    fn begin(&self, stage: &str, total: u64) {
        self.start(stage, Some(total), Unit::Steps);
    }

    fn advance(&self, done: u64) {
        self.with(|state| {
            let Some(stage) = state else { return };
            let skipped = *stage.skipped.get_or_insert(done);
            if let Some(bar) = &stage.bar {
                bar.set_position(done);
                return;
            }
            if stage.printed.elapsed() >= LINE_EVERY {
                stage.printed = Instant::now();
                let fresh = done.saturating_sub(skipped);
                let done = stage.unit.show(done);
                let line = match stage.total {
                    Some(total) => {
                        let left = total.saturating_sub(skipped.saturating_add(fresh));
                        let seconds = if fresh == 0 {
                            0.0
                        } else {
                            stage.started.elapsed().as_secs_f64() / fresh as f64 * left as f64
                        };
                        let total = stage.unit.show(total);
                        format!("{}: {done} of {total} ({seconds:.0} s left)", stage.name)
                    }
                    None => format!("{}: {done}", stage.name),
                };
                super::complain(&line);
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

    fn line(&self, text: &str) {
        self.with(|state| match state {
            Some(Stage { bar: Some(bar), .. }) => bar.println(text),
            _ => super::complain(text),
        });
    }

    fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}
