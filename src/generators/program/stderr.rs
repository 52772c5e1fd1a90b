//! The standard error of a program: its last lines for messages of errors, and new lines for the
//! user. Both are bounded, whatever the program writes.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::images::shown_text;

/// Lines that an error shows.
const LAST_LINES: usize = 20;
/// Lines that are kept until they are shown.
const NEW_LINES: usize = 20;
/// Bytes of a line that are kept; the rest is dropped.
const MAX_LINE: usize = 400;

/// The lines of one program, of all its processes.
#[derive(Default)]
pub(super) struct Notes(Mutex<NotesState>);

#[derive(Default)]
struct NotesState {
    lines: Vec<String>,
    left_out: u64,
}

impl Notes {
    /// Adds a line for the user.
    pub(super) fn add(&self, line: String) {
        let mut state = lock(&self.0);
        if state.lines.len() < NEW_LINES {
            state.lines.push(line);
        } else {
            state.left_out += 1;
        }
    }

    /// Returns the lines since the last call, and a line about those that were left out.
    pub(super) fn drain(&self) -> Vec<String> {
        let mut state = lock(&self.0);
        let mut lines = std::mem::take(&mut state.lines);
        let left_out = std::mem::take(&mut state.left_out);
        if left_out > 0 {
            lines.push(format!(
                "{left_out} further lines of the program are not shown"
            ));
        }
        lines
    }
}

/// The last lines of one process.
#[derive(Default)]
pub(super) struct Tail {
    state: Mutex<TailState>,
    changed: Condvar,
}

#[derive(Default)]
struct TailState {
    lines: VecDeque<String>,
    ended: bool,
}

impl Tail {
    /// Reads standard error until it ends. Each line is added to `notes` as well.
    pub(super) fn read(self: &Arc<Self>, mut input: impl BufRead, notes: &Notes) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut input)
                .take(MAX_LINE as u64)
                .read_until(b'\n', &mut line)
            {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let is_cut = line.last() != Some(&b'\n');
            let text = String::from_utf8_lossy(&line);
            let mut text = shown_text(text.trim_end());
            if is_cut && line.len() >= MAX_LINE {
                text.push('…');
                if !skip_line(&mut input) {
                    self.add(text, notes);
                    break;
                }
            }
            if !text.is_empty() {
                self.add(text, notes);
            }
        }
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    fn add(&self, text: String, notes: &Notes) {
        notes.add(format!("program: {text}"));
        let mut state = lock(&self.state);
        if state.lines.len() == LAST_LINES {
            state.lines.pop_front();
        }
        state.lines.push_back(text);
    }

    /// Returns the last lines, once standard error has ended or `patience` has passed.
    pub(super) fn last_lines(&self, patience: Duration) -> Vec<String> {
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, patience, |state| !state.ended);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.lines.iter().cloned().collect()
    }
}

/// Reads to the end of the line; returns false at the end of the input.
fn skip_line(input: &mut impl BufRead) -> bool {
    loop {
        let Ok(buffer) = input.fill_buf() else {
            return false;
        };
        if buffer.is_empty() {
            return false;
        }
        match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                input.consume(at + 1);
                return true;
            }
            None => {
                let all = buffer.len();
                input.consume(all);
            }
        }
    }
}

/// Locks a mutex; a panic of another thread does not make the lines invalid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let (tail, notes) = (Arc::new(Tail::default()), Notes::default());
        tail.read(bytes, &notes);
        (tail.last_lines(Duration::ZERO), notes.drain())
    }

    #[test]
    fn lines_are_kept_within_bounds() {
        let (last, new) = read(b"one\n\ntwo \x1b[31m\nno line feed");
        assert_eq!(last, ["one", "two \\u{1b}[31m", "no line feed"]);
        assert_eq!(new[0], "program: one");
        let flood: String = (0..10_000).map(|line| format!("{line}\n")).collect();
        let (last, new) = read(flood.as_bytes());
        assert_eq!((last.len(), last[19].as_str()), (LAST_LINES, "9999"));
        assert_eq!(new.len(), NEW_LINES + 1);
        assert!(new[NEW_LINES].starts_with("9980 further lines"), "{new:?}");
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_read() {
        let mut bytes = vec![b'x'; 1_000_000];
        bytes.extend(b"\nlast\n");
        let (last, _) = read(&bytes);
        assert_eq!(last[0].chars().count(), MAX_LINE + 1);
        assert_eq!(last[1..], ["last"]);
        let (last, _) = read(&vec![0xff; 1000]);
        assert_eq!(last.len(), 1);
    }
}
