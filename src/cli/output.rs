//! Lines on standard output and standard error.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{error, info, warn};

use crate::images::shown_lines;
use crate::logging::{self, LogFormat, TERMINAL};
use crate::privacy::{PrivateEvaluationConsent, Sensitive, print_marked_private};
use crate::progress::Progress;

/// Set by `--log-format json`: the subscriber of [`crate::logging`] then writes standard error.
static JSON: AtomicBool = AtomicBool::new(false);

/// Begins logging in the given format. Called once, before any line is written.
pub(super) fn init(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    logging::init(format);
}

/// Returns true if standard error has plain lines, and not JSON.
pub(super) fn is_human() -> bool {
    !JSON.load(Ordering::Relaxed)
}

/// Writes a line to standard output. A closed standard output is ignored. Control characters, which
/// names of files and classes may have, are escaped.
pub(super) fn print(text: &dyn Display) {
    let text = text.to_string();
    let _ = writeln!(std::io::stdout(), "{}", shown_lines(&text));
}

/// Writes a line to standard error. A closed standard error is ignored, so that a run outlives the
/// terminal that started it. Control characters are escaped.
pub(super) fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", shown_lines(text));
}

/// Reports a message: an event for the logs and, in the human format, a line.
pub(super) fn report(text: &str) {
    log_message(text);
    if is_human() {
        eprint_line(text);
    }
}

/// Reports an error: an event for the logs and, in the human format, a line.
pub(super) fn report_error(error: &dyn Display) {
    error!(target: TERMINAL, "{error}");
    if is_human() {
        eprint_line(&format!("error: {error}"));
    }
}

/// Shows lines about private images to their owner, each with the private mark.
pub(super) fn show_private(lines: &Sensitive<Vec<String>>, progress: &dyn Progress) {
    // The owner runs this command on the images. Everything published is computed without these
    // lines.
    let consent = PrivateEvaluationConsent::given_by_owner();
    print_marked_private(&consent, lines, Vec::clone, &mut |line| {
        progress.message(line)
    });
}

/// Emits the event of a message without a line. The prefix `warning: ` becomes the level.
pub(super) fn log_message(text: &str) {
    match text.strip_prefix("warning: ") {
        Some(text) => warn!(target: TERMINAL, "{text}"),
        None => info!(target: TERMINAL, "{text}"),
    }
}
