//! Logging: the events of a command, and the places to which they are written.
//!
//! | place | content | times |
//! |---|---|---|
//! | `log.txt` in the result folder | public messages, one plain line each | none |
//! | `private/log.txt` | every event of this program, with the duration of each stage | yes |
//! | the terminal, with `--log-format json` | messages, progress and errors as JSON lines | yes |
//!
//! The published log contains no times, because the time of a stage depends on the private images:
//! on their number and on the work of decoding them.
//!
//! The published log is not a `tracing` layer: a line reaches it only through [`append_line`], so
//! no event of a dependency, and no event that this program emits elsewhere, can be published by
//! accident. The other two places are layers that accept the events of this program only, whose
//! target is `dpsyn` or begins with `dpsyn::`. The terminal shows only the targets [`TERMINAL`] and
//! [`PROGRESS`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::atomic;

/// Target of messages and errors, which a terminal shows in both formats.
pub(crate) const TERMINAL: &str = "dpsyn::terminal";
/// Target of the progress of a stage, which a terminal shows as a bar or as JSON.
pub(crate) const PROGRESS: &str = "dpsyn::progress";
/// Target of events that are written to `private/log.txt` only.
pub(crate) const PRIVATE: &str = "dpsyn::private";

/// Bytes of events that are kept until `private/log.txt` is open. A run emits a few kilobytes
/// before that; commands that have no such file discard the rest.
const BUFFER: usize = 1 << 16;

/// `--log-format`: the form of messages on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Plain lines and a progress bar.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("expected human or json".to_owned()),
        }
    }
}

/// Appends one line to the published log at `path`, which it creates if necessary, and sets the
/// constant time of published files.
///
/// The line is a single write, so a killed process leaves at most one incomplete line; the next
/// call ends that line first.
///
/// # Errors
/// Returns the error of the file system.
pub(crate) fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).read(true).append(true).open(path)?;
    let newline = if is_torn(&mut file)? { "\n" } else { "" };
    file.write_all(format!("{newline}{line}\n").as_bytes())?;
    atomic::set_time(&file)
}

/// Returns true if the last line of the file has no newline. Moves the read position.
fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Installs the layers for the rest of the process. Called once, before the first event.
pub(crate) fn init(format: LogFormat) {
    let json = (format == LogFormat::Json).then_some(io::stderr as fn() -> io::Stderr);
    // An embedding program may have installed a subscriber of its own, which then stays.
    let _ = tracing::subscriber::set_global_default(subscriber(&PRIVATE_LOG, json));
}

/// Directs events to `file`, the `private/log.txt` of a run, beginning with those before this call.
///
/// # Errors
/// Returns the error of the file system.
pub(crate) fn open_private(mut file: File) -> io::Result<()> {
    if is_torn(&mut file)? {
        file.write_all(b"\n")?;
    }
    PRIVATE_LOG.open(file)
}

static PRIVATE_LOG: Sink = Sink(Mutex::new(State::Buffer(Vec::new())));

/// The destination of the private layer.
struct Sink(Mutex<State>);

enum State {
    /// Events before the file is open.
    Buffer(Vec<u8>),
    Open(File),
}

impl Sink {
    fn open(&self, mut file: File) -> io::Result<()> {
        let mut state = self.lock();
        if let State::Buffer(bytes) = &*state {
            file.write_all(bytes)?;
        }
        *state = State::Open(file);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Events must still be written after a panic in another thread.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Sink {
    /// Writes one formatted event, which the layer passes in a single call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        match &mut *self.lock() {
            State::Buffer(bytes) if bytes.len() + event.len() <= BUFFER => bytes.extend(event),
            State::Buffer(_) => {}
            // One write call and a file opened for appending: events of two processes do not mix.
            State::Open(file) => file.write_all(event)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Sink {
    type Writer = &'static Sink;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Returns the subscriber with the private layer and, for JSON, the terminal's.
fn subscriber<P, T>(private: P, terminal: Option<T>) -> impl Subscriber + Send + Sync
where
    P: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    T: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A closed standard error or a full disk must not end the run: errors of writing are ignored.
    let private = fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(private)
        .with_filter(filter_fn(is_ours));
    let terminal = terminal.map(|writer| {
        fmt::layer()
            .json()
            // The times of messages depend on the private images; the private log has them.
            .without_time()
            .log_internal_errors(false)
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .with_filter(filter_fn(is_for_the_terminal))
    });
    tracing_subscriber::registry().with(private).with(terminal)
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == "dpsyn" || target.starts_with("dpsyn::")
}

fn is_for_the_terminal(metadata: &Metadata<'_>) -> bool {
    [TERMINAL, PROGRESS].contains(&metadata.target())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{error, info, warn};

    use super::*;

    /// A writer whose bytes the test reads.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Captured {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// The lines of the private log and of the terminal after `emit`.
    fn captured(emit: impl FnOnce()) -> (Vec<String>, Vec<String>) {
        let (private, terminal) = (Captured::default(), Captured::default());
        let subscriber = subscriber(private.clone(), Some(terminal.clone()));
        tracing::subscriber::with_default(subscriber, emit);
        (private.lines(), terminal.lines())
    }

    #[test]
    fn events_of_dependencies_are_written_nowhere() {
        let (private, terminal) = captured(|| {
            info!(target: "ureq::unversioned", "a secret of a dependency");
            error!(target: "dpsynthesis", "a name with our prefix");
            warn!(target: "tokenizers", "pixels");
        });
        assert!(
            private.is_empty() && terminal.is_empty(),
            "{private:?} {terminal:?}"
        );
    }

    #[test]
    fn the_private_log_has_everything_and_the_terminal_messages_only() {
        let (private, terminal) = captured(|| {
            info!(target: TERMINAL, "population 0 is complete");
            info!(target: PROGRESS, stage = "vote", done = 3, "progress");
            info!(target: PRIVATE, stage = "vote", seconds = 1.5, "stage finished");
            info!("an event with the default target");
        });
        assert_eq!(private.len(), 4, "{private:?}");
        assert!(private[2].contains("seconds=1.5"), "{private:?}");
        assert!(
            private[0].contains("INFO") && private[0].starts_with("20"),
            "{private:?}"
        );
        let parsed: Vec<serde_json::Value> = terminal
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(parsed.len(), 2, "{terminal:?}");
        assert_eq!(parsed[0]["message"], "population 0 is complete");
        assert_eq!(parsed[0]["level"], "INFO");
        assert_eq!(parsed[1]["stage"], "vote");
        assert_eq!(parsed[0]["timestamp"], serde_json::Value::Null);
    }

    #[test]
    fn early_events_are_kept_until_the_file_is_open_and_not_without_bound() {
        let top = tempfile::tempdir().unwrap();
        let sink = Sink(Mutex::new(State::Buffer(Vec::new())));
        let path = top.path().join("log.txt");
        (&sink).write_all(b"early\n").unwrap();
        (&sink).write_all(&[b'x'; BUFFER]).unwrap();
        sink.open(File::create(&path).unwrap()).unwrap();
        (&sink).write_all(b"late\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "early\nlate\n");
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("log.txt");
        append_line(&path, "first").unwrap();
        append_line(&path, "second").unwrap();
        std::fs::write(&path, "first\nsec").unwrap();
        append_line(&path, "third").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "first\nsec\nthird\n");
    }
}
